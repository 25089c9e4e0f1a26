"""Putting right what a crash has left half-made. Runs at each start of the keeper."""

from __future__ import annotations

import shutil
from pathlib import Path

from jobs import clock
from jobs.paths import UNBORN_PREFIX, Home
from jobs.store import Store

#: A directory of a launch that nobody finished, once it is older than any launch can take.
ABANDONED_S = 3600.0


async def sweep_abandoned(home: Home, store: Store) -> list[Path]:
    """Remove the directories of launches that were never accepted; gives those removed."""
    removed = []
    for unborn in home.jobs.glob(f"*/{UNBORN_PREFIX}*"):
        try:
            abandoned = unborn.stat().st_mtime < clock.now() - ABANDONED_S
        except FileNotFoundError:
            continue
        if abandoned and await store.get(unborn.name.removeprefix(UNBORN_PREFIX)) is None:
            shutil.rmtree(unborn, ignore_errors=True)
            removed.append(unborn)
    return removed
