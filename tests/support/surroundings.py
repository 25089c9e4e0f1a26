"""What lies around a job's working directory, and whether it was read or written."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from jobs.paths import JOB_ID, PROJECT, Home, JobDir

#: Stands in files outside a job's working directory; in no reply.
SECRET = "what no reply may hold: 5f0c2a"
CANARY = "canary.txt"  #: the name of such a file, in every folder above the working directory

_HOME = Home(Path("/home"))
_JOB = JobDir(Path("/job"))


def _names(places: Home | JobDir) -> set[str]:
    """Every name that the project itself gives in such a directory."""
    values = (getattr(places, name) for name in dir(type(places)) if name[0] != "_")
    return {value.name for value in values if isinstance(value, Path)}


KNOWN_IN_HOME = _names(_HOME)
#: The index, what SQLite lays beside it, and one that is being made or was put aside.
_INDEX = re.compile(re.escape(_HOME.database.name) + r"(\.[0-9a-z-]+)?(-wal|-shm|-journal)?")
#: With the space that is kept for the record of the end.
KNOWN_IN_JOB = _names(_JOB) | {f".{_JOB.exit.name}.reserved"}


def plant_canaries(outside: Path, job_root: Path) -> None:
    """In every folder from the job's own up to `outside`, and in one beside."""
    (outside / "beside").mkdir()
    folder = job_root
    while folder != outside.parent:
        (folder / CANARY).write_text(SECRET, encoding="utf-8")
        folder = folder.parent
    (outside / "beside" / CANARY).write_text(SECRET, encoding="utf-8")


def picture(folder: Path, *, without: Path) -> dict[str, tuple[object, ...]]:
    """Each thing in `folder`, with what it holds and when it was last changed."""
    return dict(_picture(folder, without))


def _picture(folder: Path, without: Path) -> Iterator[tuple[str, tuple[object, ...]]]:
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if Path(entry.path) == without:
            continue
        status = entry.stat(follow_symlinks=False)
        facts: tuple[object, ...] = (status.st_mode, status.st_size, status.st_nlink)
        if stat.S_ISDIR(status.st_mode):
            yield entry.path, facts
            yield from _picture(Path(entry.path), without)
        elif stat.S_ISREG(status.st_mode):
            digest = hashlib.sha256(Path(entry.path).read_bytes()).hexdigest()
            yield entry.path, (*facts, status.st_mtime_ns, digest)
        else:
            yield entry.path, facts


def strangers(home: Path, job_ids: Iterable[str], projects: set[str]) -> list[str]:
    """What lies in the state directory and has no business there."""
    known = set(job_ids)
    found = [
        entry.path
        for entry in os.scandir(home)
        if entry.name not in KNOWN_IN_HOME and not _INDEX.fullmatch(entry.name)
    ]
    for project in os.scandir(home / "jobs"):
        if project.name not in projects or not PROJECT.fullmatch(project.name):
            found.append(project.path)
            continue
        for job in os.scandir(project.path):
            if job.name not in known or not JOB_ID.fullmatch(job.name):
                found.append(job.path)
                continue
            found += [f.path for f in os.scandir(job.path) if f.name not in KNOWN_IN_JOB]
    return [path for path in found if Path(path).name != CANARY]
