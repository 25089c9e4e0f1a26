"""Removing ended jobs: by age, and the oldest beyond a size. Never one that has not ended."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from jobs import clock
from jobs.artifacts import Walk
from jobs.failpoints import reach
from jobs.files import open_up, remove_tree
from jobs.model import Job
from jobs.paths import Home
from jobs.states import FINAL, State
from jobs.store import Store


@dataclass(frozen=True)
class Prunable:
    job: Job
    size: int  #: bytes of the disk that the job's directory holds


class Pruner:
    def __init__(self, *, store: Store, home: Home) -> None:
        self._store = store
        self._home = home

    async def choose(
        self,
        *,
        older_than_s: float,
        keep_bytes: int | None,
        states: Collection[State] = FINAL,
    ) -> list[Prunable]:
        """Ended jobs that are older, and the oldest beyond `keep_bytes` in all. Removes nothing.

        Only jobs in one of `states` are counted and chosen.
        """
        now = clock.now()
        ended: list[Prunable] = []
        after = 0
        while page := await self._store.ended_before(now, after_seq=after):
            page_of = [job for job in page if job.state in states]
            ended += [Prunable(job, await asyncio.to_thread(self._size, job)) for job in page_of]
            after = page[-1].seq
        excess = 0
        if keep_bytes is not None:
            excess = sum(item.size for item in ended) - keep_bytes
        chosen = []
        for item in sorted(ended, key=lambda item: item.job.ended_at or now):
            if (item.job.ended_at or now) < now - older_than_s or excess > 0:
                chosen.append(item)
                excess -= item.size
        return chosen

    async def remove(self, job: Job) -> bool:
        """Remove an ended job: set its directory aside, empty it, forget the job.

        Emptied first, because the index cannot be written on a full disk. Killed in between, the
        directory that was set aside tells the next keeper to carry on (`sweep_abandoned`).
        """
        if not job.is_final:
            return False
        gone = self._home.gone(job.project, job.id)
        with contextlib.suppress(FileNotFoundError):
            self._home.job(job.project, job.id).root.rename(gone)
        reach("server.job_set_aside")
        await asyncio.to_thread(_empty, gone)
        reach("server.job_emptied")
        removed = await self._store.delete(job.id)
        reach("server.row_deleted")
        await asyncio.to_thread(remove_tree, gone)
        reach("server.job_removed")
        return removed

    def remains(self, job: Job) -> Path | None:
        """What could not be removed of a job that was, as files of another user cannot."""
        gone = self._home.gone(job.project, job.id)
        return gone if gone.exists() else None

    def _size(self, job: Job) -> int:
        root = self._home.job(job.project, job.id).root
        return round(sum(file.space for file in Walk(root).files()))


def _empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        open_up(folder)
        for item in folder.iterdir():
            if item.is_dir() and not item.is_symlink():
                remove_tree(item)
            else:
                item.unlink(missing_ok=True)
