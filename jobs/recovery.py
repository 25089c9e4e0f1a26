"""Putting right what a crash has left half-made. Runs at each start of the keeper."""

from __future__ import annotations

import asyncio
import shutil

from jobs import clock
from jobs.files import remove_tree
from jobs.paths import GONE_PREFIX, UNBORN_PREFIX, Home
from jobs.store import Store

#: A directory of a launch that nobody finished, once it is older than any launch can take.
ABANDONED_S = 3600.0


async def sweep_abandoned(home: Home, store: Store) -> None:
    """Remove what launches left that were never accepted, and finish prunes that were begun."""
    left = await asyncio.to_thread(list, home.jobs.glob(f"*/{UNBORN_PREFIX}*"))
    for unborn in left:
        try:
            abandoned = unborn.stat().st_mtime < clock.now() - ABANDONED_S
        except FileNotFoundError:
            continue
        if abandoned and await store.get(unborn.name.removeprefix(UNBORN_PREFIX)) is None:
            shutil.rmtree(unborn, ignore_errors=True)
    for gone in await asyncio.to_thread(list, home.jobs.glob(f"*/{GONE_PREFIX}*")):
        await store.delete(gone.name.removeprefix(GONE_PREFIX))
        remove_tree(gone)
