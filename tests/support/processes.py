"""Finding and ending the processes that belong to one state directory, by pid."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import time
from pathlib import Path

import psutil

from jobs.engines.confinement import Confinement, Place, find_places
from jobs.engines.shim_system import remove_cgroups
from jobs.paths import Home


def is_running(pid: int) -> bool:
    """Whether there is such a process that is no zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def keeper_pid(home: Path) -> int | None:
    """The keeper that runs for `home`, if one does."""
    try:
        pid = int(json.loads((home / "keeper.lock").read_text(encoding="utf-8"))["pid"])
    except (OSError, ValueError):
        return None
    return pid if is_running(pid) and str(home) in " ".join(psutil.Process(pid).cmdline()) else None


def shim_pids(home: Path) -> list[int]:
    """The shims that run for jobs of `home`; not the command that one of them has just forked."""
    found = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if any(word.endswith("shim.py") for word in words) and str(home) in " ".join(words):
                found[process.pid] = process.ppid()
    return [pid for pid, parent in found.items() if parent not in found]


def all_of(home: Path) -> list[int]:
    """Every process that works for `home`, is a job of it, or has it in its environment."""
    own = os.getpid()
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid == own or process.status() == psutil.STATUS_ZOMBIE:
                continue
            environment = process.environ()
            marks = " ".join([*process.cmdline(), environment.get("OUTLAST_JOB_DIR", "")])
            if str(home) in marks or environment.get("OUTLAST_HOME") == str(home):
                found.append(process.pid)
    return found


@functools.cache
def places() -> list[Place]:
    """Where cgroups for jobs can be made on this machine."""
    return find_places(f"outlast-trial-of-tests-{os.getpid()}")


def cgroups_of(home: Path) -> list[Path]:
    """The cgroups of jobs of `home` that there are."""
    confinement = Confinement(Home(home))
    confinement._places = places()
    return [folder for folder, _ in confinement.leftovers()]


def remove_cgroups_of(home: Path) -> None:
    """Of jobs whose shims were killed, so that nobody else does it."""
    folders = [bytes(folder) for folder in cgroups_of(home)]
    assert remove_cgroups(folders), folders


def kill(*pids: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def end_all_of(home: Path, seconds: float = 10) -> None:
    """Kill what is left of a test; keeper and shims first, so that they start nothing more."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if (keeper := keeper_pid(home)) is not None:
            kill(keeper)
        kill(*shim_pids(home))
        left = all_of(home)
        if not left:
            remove_cgroups_of(home)
            return
        kill(*left)
        time.sleep(0.02)
    raise AssertionError(f"processes survived: {left}")
