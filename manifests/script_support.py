"""What the bundled scripts share: how they fail, stop, report, write files and read options."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

EXIT_BAD_INPUT, EXIT_FILES, EXIT_STOPPED = 66, 74, 75
DATA = Path(__file__).resolve().parent / "data"


class ScriptError(Exception):
    """Foreseeable trouble, mostly with the input; the text says what to do."""

    def __init__(self, text: str, code: int = EXIT_BAD_INPUT) -> None:
        super().__init__(text)
        self.code = code


def exit_code(run: Callable[[argparse.Namespace], bool], options: argparse.Namespace) -> int:
    """Call `run`, which says whether it finished; foreseeable trouble is one line on stderr."""
    try:
        return 0 if run(options) else EXIT_STOPPED
    except ScriptError as problem:
        code, text = problem.code, str(problem)
    except OSError as problem:
        code, text = EXIT_FILES, f"cannot read or write: {problem}"
    print(f"[error] {text}", file=sys.stderr, flush=True)
    return code


def listen_for_stop() -> list[str]:
    """A list that receives the name of every TERM, INT and USR1 from now on."""
    names: list[str] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, lambda n, _: names.append(signal.Signals(n).name))
    return names


def say(line: str) -> None:
    print(line, flush=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name that takes the place of `path` when the block ends without an error."""
    part = path.with_name(path.name + ".part")
    yield part
    os.replace(part, path)


def write_json(content: dict[str, Any], path: Path) -> None:
    with replacing(path) as part:
        part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def file_sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def check_same_model(model: dict[str, object], out: Path = Path(), *, begins: bool = False) -> None:
    """model.json in `out` names the model; ScriptError if a former start had another, whose results
    cannot stand in one table with these. Of a run that `begins`, nothing is left of former starts.
    """
    path, before = out / "model.json", model
    with suppress(FileNotFoundError, ValueError):  # begun before there was this record
        if not begins:
            before = json.loads(path.read_text(encoding="utf-8"))
    if changed := [name for name in model if before.get(name) != model[name]]:
        raise ScriptError(
            f"a run goes on with what it was begun with, but this changes {', '.join(changed)}: "
            "start a new run for that, from the last geometry if it fits"
        )
    write_json(model, path)


def save_png(figure: Any, path: Path) -> None:
    """Save a matplotlib figure; a palette halves the bytes of noisy curves."""
    from PIL import Image  # matplotlib brings it along

    with replacing(path) as part, BytesIO() as full:
        figure.savefig(full, format="png")
        Image.open(full).convert("RGB").quantize(128).save(part, format="png")


def script_parser(about: str | None) -> argparse.ArgumentParser:
    """For a script that tells about itself in `about`; takes `--out`, as every one does."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=about, formatter_class=layout)
    parser.add_argument("--out", type=Path, default=Path(), help="output directory")
    return parser


def usual_threads() -> int:
    """As many as the job has cores; 1 where nobody says."""
    cores = os.environ.get("OMP_NUM_THREADS", "")
    return int(cores) if cores.isdecimal() else 1


def positive_int(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def positive_float(text: str) -> float:
    if not 0 < (value := float(text)) < math.inf:
        raise argparse.ArgumentTypeError("must be above 0 and finite")
    return value
