"""Where a run of pw.x can go on from: a copy of its files and our tables, and when it is sound."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from qe_log import Log
from script_support import ScriptError, write_json

TABLES = ("scf.csv", "steps.csv")


def save_checkpoint(out: Path, state: dict[str, Any]) -> None:
    """Replace checkpoint/ by what pw.x and the tables need to go on from here."""
    new, old = out / "checkpoint.new", out / "checkpoint.old"
    shutil.rmtree(new, ignore_errors=True)
    shutil.copytree(out / "out", new / "out")
    for table in TABLES:
        shutil.copyfile(out / table, new / table)
    write_json(state, new / "state.json")
    shutil.rmtree(old, ignore_errors=True)
    if (out / "checkpoint").exists():
        os.rename(out / "checkpoint", old)
    os.rename(new, out / "checkpoint")
    shutil.rmtree(old, ignore_errors=True)


def take_up(state: dict[str, Any], out: Path) -> bool:
    """Put the files of checkpoint/ where pw.x looks for them, or, without one, clear the place;
    whether there is one."""
    saved = out / "checkpoint"
    shutil.rmtree(out / "out", ignore_errors=True)
    if not saved.exists():
        for table in TABLES:
            (out / table).unlink(missing_ok=True)
        return False
    try:
        was = json.loads((saved / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ScriptError(
            f"{saved} holds no checkpoint of a run; start in another folder"
        ) from None
    for name, value in state.items():
        if was.get(name) != value:
            raise ScriptError(
                f"a run that goes on cannot change its {name} from {was.get(name)} to {value};"
                " start anew for that"
            )
    shutil.copytree(saved / "out", out / "out")
    for table in TABLES:
        shutil.copyfile(saved / table, out / table)
    return True


def can_go_on(log: Log, code: int) -> bool:
    """Whether what pw.x has left is a place to go on from, which it does not say.

    Stopped within an iteration it goes on exactly there, and an SCF that did not converge goes on
    from its density. But stopped within the first iteration of all, or between SCFs, or before
    the first, it would go on with a wrong density and need many more iterations, or fail.
    """
    if "stopped" in log.seen or "leg_over" in log.seen:
        at = log.seen.get("in_scf")
        return at is not None and (int(at) >= 1 or bool(log.steps))
    return code in (2, 3) and ("unconverged" in log.seen or "out_of_steps" in log.seen)
