"""The verbs that look after an installation: doctor, prune."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from jobs.errors import InvalidArgumentError, nearest
from jobs.states import FINAL, State
from jobs.text import shown, size
from server.terminal import Json, answer, err, print_json, refusing, say, seconds, show

if TYPE_CHECKING:
    from jobs.pruning import Prunable
    from jobs.service import Service
    from server.doctor import Check

_MARKS = {"ok": ("✓", "green"), "warn": ("!", "yellow"), "fail": ("✗", "bold red")}


def doctor(
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Make the index anew from the job directories.")
    ] = False,
    engine: Annotated[
        str, typer.Option(metavar="ENGINE", help="local, slurm or slurm:PROFILE.")
    ] = "local",
    wait_s: Annotated[
        float,
        typer.Option(
            "--wait",
            metavar="SECONDS",
            min=1,
            max=86400,
            help="How long the job may wait in a cluster's queue.",
        ),
    ] = 60,
    as_json: Json = False,
) -> None:
    """Tell what works on this machine, what does not, and how to mend it.

    It launches a real job in a throw-away state directory. Exit code 1 if something does not work.
    --rebuild can be used at any time: jobs and servers go on.
    With --engine slurm it asks the cluster, and runs a job of one second on a node.
    """
    with refusing(as_json=as_json):
        if rebuild:
            raise typer.Exit(_rebuild(as_json=as_json))
        raise typer.Exit(_tell_checks(asyncio.run(_checks(engine, wait_s)), as_json=as_json))


async def _checks(engine: str, wait_s: float) -> list[Check]:
    if engine == "local":
        from server.doctor import all_checks

        return await all_checks()
    if engine.partition(":")[0] == "slurm":
        from server.doctor_slurm import slurm_checks

        return await slurm_checks(engine, start_s=wait_s)
    raise InvalidArgumentError(
        f"There is no engine {shown(engine, 80)!r}.{nearest(engine, ('local', 'slurm'))}"
    )


def _rebuild(*, as_json: bool) -> int:
    """1 if a job directory could not be read."""
    from jobs.settings import load_settings
    from server.wiring import rebuild_index

    with err().status("reading the job directories ..."):
        rebuilt = rebuild_index(load_settings())
    if as_json:
        print_json({"jobs": rebuilt.jobs, "left_out": rebuilt.left_out})
    else:
        for reason in rebuilt.left_out:
            say(f"left out: {shown(reason, 500)}", "yellow")
        say(f"The index was made anew; it holds {rebuilt.jobs} jobs.", "green")
    return int(bool(rebuilt.left_out))


def _tell_checks(checks: list[Check], *, as_json: bool) -> int:
    """Print what was found; 1 if anything does not work."""
    failed = sum(found.state == "fail" for found in checks)
    if as_json:
        print_json({"ok": not failed, "checks": [found.as_data() for found in checks]})
        return int(failed > 0)
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for found in checks:
        mark, style = _MARKS[found.state]
        what = Text(shown(found.what, 2000), style="" if found.state == "ok" else style)
        if found.mend:
            what.append(f"\n→ {shown(found.mend, 2000)}", style="default")
        table.add_row(Text(mark, style=style), Text(found.name, style="bold"), what)
    show(table)
    warned = sum(found.state == "warn" for found in checks)
    if failed or warned:
        say(f"{failed} failed, {warned} to look at, {len(checks) - failed - warned} fine")
    else:
        say("Everything works.", "green")
    return int(failed > 0)


def prune(
    older_than: Annotated[
        str | None, typer.Option(metavar="TIME", help="As in 90d. Default: the setting.")
    ] = None,
    keep_gb: Annotated[
        float | None, typer.Option(min=0, help="Also the oldest beyond this size in all.")
    ] = None,
    state: Annotated[
        list[State] | None,
        typer.Option(help="Only jobs that ended so; can be given again. Default: all."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Remove nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Remove the directories and records of jobs that ended long ago, after asking.

    outlast prune --dry-run
    outlast prune --older-than 30d --keep-gb 50
    outlast prune --state failed --state cancelled --older-than 1d
    A job that has not ended is never touched.
    """
    from jobs.settings import load_settings

    with refusing(as_json=as_json):
        if as_json and not (yes or dry_run):
            raise InvalidArgumentError("--json cannot ask: add --yes or --dry-run.")
        if wrong := [one.value for one in state or [] if one not in FINAL]:
            raise InvalidArgumentError(f"A job that is {wrong[0]} has not ended.")
        settings = load_settings()
        older_than_s = settings.prune_after_days * 86400
        if older_than is not None:
            older_than_s = seconds(older_than, "--older-than", needs_unit=True)
        limit_gb = settings.prune_over_gb if keep_gb is None else keep_gb

    async def verb(service: Service) -> int:
        from server import cli_views

        keep_bytes = None if limit_gb is None else int(limit_gb * 1e9)
        items = await service.pruner.choose(
            older_than_s=older_than_s, keep_bytes=keep_bytes, states=state or FINAL
        )
        total = sum(item.size for item in items)
        words = f"{len(items)} job{'' if len(items) == 1 else 's'}, {size(total)}"
        if not as_json:
            if not items:
                say("Nothing to prune.")
                return 0
            show(cli_views.prune_table(items))
        if dry_run and not as_json:
            say(f"{words} would be removed.")
        removed = 0
        left: list[str] = []
        if not dry_run:
            if not yes and not _agreed(f"Remove {words} for ever? [y/N] "):
                say("Nothing was removed.")
                return 1
            for item in items:
                removed += await service.pruner.remove(item.job)
                if (remains := service.pruner.remains(item.job)) is not None:
                    left.append(str(remains))
            if not as_json:
                say(f"{removed} of {words} removed.")
            if left and not as_json:
                say("Forgotten, but not removed, as it holds files of another user:")
                say("\n".join(left))
        if as_json:
            print_json(
                {
                    "dry_run": dry_run,
                    "jobs": [_pruned(item) for item in items],
                    "total_size": total,
                    "removed": removed,
                    "left": left,
                }
            )
        return 0

    answer(verb, as_json=as_json, settings=settings)


def _pruned(item: Prunable) -> dict[str, Any]:
    from jobs.clock import iso

    job = item.job
    ended_at = None if job.ended_at is None else iso(job.ended_at)
    return {
        "job_id": job.id,
        "project": job.project,
        "state": job.state.value,
        "ended_at": ended_at,
        "size": item.size,
    }


def _agreed(question: str) -> bool:
    """Ask on standard error; only a clear yes counts, the end of standard input does not."""
    # The event loop's own way with ^C would wait for the answer first.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    err().print(Text(question), end="", soft_wrap=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
