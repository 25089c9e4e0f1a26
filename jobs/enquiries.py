"""What is asked about jobs: one, a sweep, the newest; now, or as soon as something changes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from jobs.arguments import check_text
from jobs.errors import InvalidArgumentError, InvalidCursorError, JobError, JobNotFoundError
from jobs.keeping import ensure_keeper, keeper_info
from jobs.lookup import find_id, not_found
from jobs.model import Job, JobPage
from jobs.paths import Home
from jobs.states import State
from jobs.store import Store
from jobs.sweeps import SWEEP_TABLE, Sweep, is_sweep, place_in_sweep

log = logging.getLogger(__name__)

KEEPER_AGAIN_S = 15.0  #: between attempts of reads to bring a keeper that does not come
MAX_WAIT_S = 20.0  #: clients give up after 60 s, some after 5
SWEEP_LOOK_S = 0.25  #: between looks at a sweep that is waited for
MAX_LIST = 100


class Enquiries:
    """Reads the index, and sees to it that a keeper is there for what has not ended."""

    def __init__(self, *, store: Store, home: Home, keeper_command: Sequence[str]) -> None:
        self._store = store
        self._home = home
        self._keeper_command = keeper_command
        self._keeper_again_at = 0.0

    async def job(self, job_id: str, *, wait_s: float = 0) -> Job:
        """One job now, by its ID or as `SWEEP#17`; with `wait_s`, as soon as its state changes, or
        after that long.

        Raises JobNotFoundError with the most similar ID.
        """
        check_wait(wait_s)
        check_text("job_id", job_id)
        if is_sweep(job_id) and await self._store.sweep(job_id):
            raise InvalidArgumentError(
                f"{job_id} is a sweep of jobs, and one job is asked for.",
                f"Use {job_id}#1 for its first job; job_status, cancel_job and "
                f"read_artifact(path={SWEEP_TABLE!r}) take the sweep itself.",
            )
        job = await self._store.get(job_id)
        if job is None and (place := place_in_sweep(job_id)):
            job = Sweep(place[0], await self._store.sweep(place[0])).job(place[1])
        if job is None:
            raise JobNotFoundError(await not_found(self._store, job_id))
        if not job.is_final:
            await self._revive_keeper()
        first = job.state
        return await self._wait(job, lambda now: now.is_final or now.state != first, wait_s)

    async def sweep(
        self,
        sweep_id: str,
        *,
        wait_s: float = 0,
        until: Callable[[Sweep], bool] | None = None,
    ) -> Sweep:
        """The jobs of a sweep now; with `wait_s`, as soon as one changes its state, or after that
        long. Raises JobNotFoundError."""
        check_wait(wait_s)
        check_text("job_id", sweep_id)
        jobs = await self._store.sweep(sweep_id)
        if not jobs:
            raise JobNotFoundError(await not_found(self._store, sweep_id))
        first = now = Sweep(sweep_id, jobs)
        until = until or (lambda now: now.is_final or now.counts != first.counts)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        while not now.is_final:
            await self._revive_keeper()
            left = deadline - loop.time()
            if left <= 0 or until(now):
                break
            await asyncio.sleep(min(SWEEP_LOOK_S, left))
            now = Sweep(sweep_id, await self._store.sweep(sweep_id))
        return now

    async def find_job_id(self, part: str) -> str:
        """The ID that is `part`, or the only one that contains it.

        Raises JobNotFoundError, or InvalidArgumentError that names the candidates.
        """
        check_text("job_id", part)
        return await find_id(self._store, part)

    async def list_jobs(
        self,
        *,
        project: str | None = None,
        state: State | None = None,
        limit: int = 20,
        cursor: str | None = None,
    ) -> JobPage:
        """The newest jobs; of a sweep the first stands for all, unless a state is asked for.

        `cursor` is one that a page has given; else InvalidCursorError.
        """
        if not 1 <= limit <= MAX_LIST:
            raise InvalidArgumentError(f"limit must be from 1 to {MAX_LIST}.")
        check_text("project", project)
        before = parse_number(cursor, "job_status")
        jobs = await self._store.newest(
            project=project, state=state, before=before, limit=limit + 1
        )
        active = await self._store.count_active()
        if active:
            await self._revive_keeper()
        sweeps = {job.sweep for job in jobs[:limit] if job.sweep} if state is None else set()
        counts = await self._store.count_sweeps(sweeps) if sweeps else {}
        return JobPage(jobs[:limit], len(jobs) > limit, active, counts)

    async def _wait(self, job: Job, until: Any, seconds: float) -> Job:
        """The job once `until(job)` holds, or after `seconds`. The index is asked, not watched:
        a keeper and any number of servers write it."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        pause_s = 0.01
        while not until(job) and (left := deadline - loop.time()) > 0:
            await asyncio.sleep(min(pause_s, left))
            pause_s = min(pause_s * 1.3, 0.25)
            if pause_s > 0.1:
                await self._revive_keeper()
            job = await self._store.get(job.id) or job
        return job

    async def _revive_keeper(self) -> None:
        """Start a keeper if there is none: one that was killed takes the wake-ups it got along.

        What is asked can be answered without one, so that this never fails.
        """
        loop = asyncio.get_running_loop()
        if keeper_info(self._home) is None and loop.time() >= self._keeper_again_at:
            try:
                await ensure_keeper(self._home, self._keeper_command, limit_s=2.0)
            except JobError as error:
                log.warning("%s", error)
                if keeper_info(self._home) is None:  # else it is only slow; a launch tries at once
                    self._keeper_again_at = loop.time() + KEEPER_AGAIN_S


def check_wait(wait_s: float | None) -> None:
    if wait_s is not None and not 0 <= wait_s <= MAX_WAIT_S:
        raise InvalidArgumentError(f"wait_s must be from 0 to {MAX_WAIT_S:g}.")


def parse_number(cursor: str | None, tool: str) -> int | None:
    if cursor is None:
        return None
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) < 19):
        raise InvalidCursorError(f"The cursor is not one that {tool} has given.")
    return int(cursor)
