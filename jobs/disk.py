"""How much room there is: a warning in time, and no new job when there is none."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from jobs.directory import Placement
from jobs.errors import DiskFullError, InputUnusableError
from jobs.settings import Settings


def free_mb(path: Path) -> int | None:
    """What we may still write there; none when it cannot be told."""
    try:
        found = os.statvfs(path)
    except OSError:
        return None
    return (found.f_bavail * found.f_frsize) >> 20


def check_room(settings: Settings, copied_mb: int = 0) -> None:
    """Raises DiskFullError when a job that is launched now, for which files of that size are to be
    copied, would soon have no room."""
    root = settings.state.root
    free = free_mb(root)
    if free is not None and free - copied_mb < settings.disk_refuse_mb:
        copies = f", and {copied_mb} MB are to be copied" if copied_mb else ""
        raise DiskFullError(
            f"The disk that holds {root} has only {free} MB free{copies}; below disk_refuse_mb = "
            f"{settings.disk_refuse_mb} no job is launched."
        )


def check_copies(settings: Settings, placements: Iterable[Placement]) -> None:
    """Raises InputUnusableError when more is to be copied than the settings allow, and
    DiskFullError when there is no room for it."""
    total = carried = 0
    for item in placements:
        if isinstance(item.source, bytes):
            total += len(item.source)
        elif item.way == "copy" and item.root is None:
            total += item.source.stat().st_size
        elif item.way == "copy":  # of the parent: nobody could name it by its path instead
            carried += item.source.stat().st_size
    limit_mb = settings.copy_limit_mb
    if total > limit_mb << 20:
        raise InputUnusableError(
            f"The inputs hold {total >> 20} MB; at most {limit_mb} MB are copied.",
            "Name large files by absolute path in the command instead, which are read in "
            "place, or raise copy_limit_mb in the configuration.",
        )
    check_room(settings, (total + carried) >> 20)


def warning(settings: Settings) -> str | None:
    """What to tell before it is too late, if anything."""
    root = settings.state.root
    free = free_mb(root)
    if free is None or free >= settings.disk_warn_mb:
        return None
    return f"The disk that holds {root} has only {free} MB free; `outlast prune` removes old jobs."
