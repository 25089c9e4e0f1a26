"""How the command line meets its terminal: what it prints where, and how each verb ends."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import os
import re
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console, RenderableType
from rich.text import Text

from jobs.errors import InvalidArgumentError, JobError
from jobs.text import shown

if TYPE_CHECKING:
    from pydantic import BaseModel

    from jobs.service import Service
    from jobs.settings import Settings

Json = Annotated[bool, typer.Option("--json", help="Plain JSON on standard output.")]

INTERRUPTED = 130  #: exit code after ^C, as shells have it
#: Wide enough that a pipe gets one line per row, whatever the terminal's width.
_PIPE_WIDTH = 1000

#: The next step in a person's words, where the error's own speaks of a model's tools.
_FOR_PEOPLE = {
    "job_error": "See `outlast status JOB` for the current facts, then decide.",
    "invalid_argument": "Correct it and try again; nothing was changed.",
    "unknown_manifest": "`outlast manifests` lists the kinds of job that there are.",
    "unknown_parameter": "`outlast manifests NAME` lists its parameters.",
    "invalid_parameter": "`outlast manifests NAME` tells types and ranges.",
    "idempotency_conflict": "Use a new key for a new job, or repeat the first launch unchanged.",
    "job_not_found": "`outlast ps` lists the newest jobs.",
    "file_not_found": "`outlast artifacts JOB` lists the files that there are.",
    "path_refused": "Use a path as `outlast artifacts JOB` gives it.",
    "internal_error": "Try once more; if it stays, report it with what `outlast doctor` says.",
}


def run_app(app: typer.Typer) -> NoReturn:
    """Run the command line; end with its exit code, quietly after ^C or when no one reads on."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        words = sys.argv[1:] or ["--help"]
        code = app(words, prog_name="outlast", standalone_mode=False)
        sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as error:
        code = _usage(error)
    sys.exit(code)


def _usage(error: Exception) -> int:
    """Tell what is wrong with the command line itself, in the form of every other error."""
    message = getattr(error, "format_message", None)
    if message is None:  # not one of typer's
        raise error
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "outlast"
    refusal = InvalidArgumentError(str(message()), f"`{path} --help` shows how.")
    refusal.code = "usage"
    ours = itertools.takewhile(lambda word: word != "--", sys.argv)
    tell(refusal, as_json="--json" in ours)
    return 2


def out() -> Console:
    """Standard output. Text is printed as it is: no markup, no emoji, no highlighting."""
    return _console(stderr=False)


def err() -> Console:
    """Standard error: hints, questions and live progress, so that results can be piped."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    return console


def show(*parts: RenderableType) -> None:
    """Print on standard output: fitted to a terminal, for a pipe a whole line per row.

    Text that is marked to overflow, such as a path, is never broken.
    """
    console = out()
    with console.capture() as captured:
        for part in parts:
            console.print(part, crop=False)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))
    sys.stdout.flush()


def say(text: str, style: str = "") -> None:
    """A line on standard error."""
    _say(Text(text, style=style))


def _say(text: Text) -> None:
    console = err()
    # A terminal gets whole words, anything else whole lines.
    console.print(text, soft_wrap=not console.is_terminal)


def print_json(data: Any) -> None:
    """Plain JSON on standard output."""
    sys.stdout.write(json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def print_reply(reply: BaseModel) -> None:
    """A reply as the MCP tool gives it in its structured content."""
    print_json(reply.model_dump(mode="json", exclude_none=True))


def answer(
    verb: Callable[[Service], Awaitable[int | None]],
    *,
    as_json: bool = False,
    settings: Settings | None = None,
) -> NoReturn:
    """Carry out a verb on the open service, then end with the exit code that it gave, or 0.

    A refusal is told on standard error, with `as_json` on standard output too.
    """
    from server.wiring import open_service

    async def work() -> int | None:
        async with open_service(settings) as service:
            return await verb(service)

    with refusing(as_json=as_json):
        code = asyncio.run(work())
    raise typer.Exit(code or 0)


@contextmanager
def refusing(*, as_json: bool) -> Iterator[None]:
    """Tell any error in words and end with its exit code; never a traceback."""
    try:
        yield
    except (typer.Exit, typer.Abort, BrokenPipeError):
        raise
    except Exception as error:
        from server.refusals import as_job_error, exit_code

        refusal = as_job_error(error)
        tell(refusal, as_json=as_json)
        raise typer.Exit(exit_code(refusal)) from None


def tell(error: JobError, *, as_json: bool) -> None:
    """The error in two lines on standard error, and as JSON on standard output if wished."""
    next_step = error.next_step
    if next_step == type(error).next_step or error.code == "internal_error":
        next_step = _FOR_PEOPLE.get(error.code, next_step)
    next_step = re.sub(r"^(?:Ask|Tell) the user to (\w)", lambda m: m[1].upper(), next_step)
    next_step = next_step.replace("Ask the user whether", "Look whether")
    cause, next_step = shown(error.cause, 4000), shown(next_step, 4000)
    if as_json:
        print_json({"error": {"code": error.code, "cause": cause, "next_step": next_step}})
    _say(Text.assemble((f"error {error.code}:", "bold red"), f" {cause}"))
    _say(Text.assemble(("next:", "bold"), f" {next_step}"))


_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhd]?)")


def seconds(text: str, what: str, *, needs_unit: bool = False) -> float:
    """Seconds of `90`, `30m`, `2h`, `1d` or `1h30m`. Raises InvalidArgumentError."""
    parts = _DURATION.findall(text)
    lacks_unit = needs_unit and any(not unit for _, unit in parts)
    if not parts or "".join(number + unit for number, unit in parts) != text or lacks_unit:
        example = "90d or 12h" if needs_unit else "90 (seconds), 30m, 2h or 1d"
        raise InvalidArgumentError(f"{what} must be a time like {example}, not {text[:80]!r}.")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def pairs(items: list[str], what: str) -> dict[str, str]:
    """`NAME=VALUE` texts as a table. Raises InvalidArgumentError."""
    found = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise InvalidArgumentError(f"{what} needs NAME=VALUE, not {item[:80]!r}.")
        found[name] = value
    return found


def parameters(items: list[str]) -> dict[str, Any]:
    """Parameters whose values are JSON where they parse as JSON, else text."""
    found: dict[str, Any] = pairs(items, "-p")
    for name, value in found.items():
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def values_of(items: list[str]) -> dict[str, list[Any]]:
    """`NAME=A,B,C` as a list for each name, each value as in `parameters`."""
    found: dict[str, list[Any]] = {}
    for name, text in pairs(items, "--sweep").items():
        whole = parameters([f"{name}={text}"])[name]
        values = whole if isinstance(whole, list) else None
        found[name] = values or [parameters([f"{name}={one}"])[name] for one in text.split(",")]
    return found
