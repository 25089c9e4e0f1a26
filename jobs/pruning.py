"""Removing ended jobs: by age, and the oldest beyond a size. Never one that has not ended."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import dataclass

from jobs import clock
from jobs.artifacts import Walk
from jobs.model import Job
from jobs.paths import Home
from jobs.store import Store


@dataclass(frozen=True)
class Prunable:
    job: Job
    size: int  #: bytes that removing the job's directory frees


class Pruner:
    def __init__(self, *, store: Store, home: Home) -> None:
        self._store = store
        self._home = home

    async def choose(self, *, older_than_s: float, keep_bytes: int | None) -> list[Prunable]:
        """Ended jobs that are older, and the oldest beyond `keep_bytes` in all. Removes nothing."""
        now = clock.now()
        ended: list[Prunable] = []
        after = 0
        while page := await self._store.ended_before(now, after_seq=after):
            ended += [Prunable(job, await asyncio.to_thread(self._size, job)) for job in page]
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
        """Remove an ended job, its directory first: after a crash it is there to prune again."""
        if not job.is_final:
            return False
        root = self._home.job(job.project, job.id).root
        await asyncio.to_thread(shutil.rmtree, root, ignore_errors=True)
        return await self._store.delete(job.id)

    def _size(self, job: Job) -> int:
        root = self._home.job(job.project, job.id).root
        return sum(file.size for file in Walk(root).files())
