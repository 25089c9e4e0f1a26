"""Starting queued jobs: those of this machine as there is room, others in a scheduler's queue."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping

from jobs import disk
from jobs.batching import LOCAL
from jobs.directory import furnish, give_birth, read_launch_manifest
from jobs.ending import Ending
from jobs.engines.base import Engine, Phase, RefusedError, Submission
from jobs.errors import DiskFullError
from jobs.failpoints import reach
from jobs.files import is_passing
from jobs.model import Job, Resources
from jobs.outcome import cancelled_because
from jobs.paths import Home
from jobs.settings import Settings
from jobs.states import Event, State
from jobs.store import Store
from jobs.tasks import Tasks
from jobs.text import shown

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 3  #: of starting a job that has not run yet
PAUSE_S = 1.0  #: before a new attempt, where this machine is short of something
WAITING = "waiting for cores, memory or GPUs that other jobs hold"
NO_ROOM = "waiting for free space on the disk of the state directory"
TOO_LARGE = "waiting in vain: it asks for more than this keeper may give; `outlast doctor` shows it"


def for_want_of(engine: str) -> str:
    """Of a job that was launched by another version, or whose records were edited."""
    return f"waiting for an Outlast that has the engine {shown(engine, 40)!r}, as this one has not"


class Starting:
    """A part of the keeper, and like it without a fact of its own."""

    def __init__(
        self,
        store: Store,
        engines: Mapping[str, Engine],
        home: Home,
        settings: Settings,
        tasks: Tasks,
        ending: Ending,
    ) -> None:
        self._store = store
        self._engines = engines
        self._home = home
        self._settings = settings
        self._tasks = tasks
        self._ending = ending

    async def start_queued(self, holders: list[Job]) -> bool:
        """Start whatever fits beside the jobs that hold slots, oldest first; whether anything is
        still queued.

        A job that does not fit lets smaller ones pass, so that no slot stays free for nothing.
        """
        for job in await self._store.queued_to_cancel():
            if job.id not in self._tasks:
                reason = cancelled_because(job.cancel_reason)
                self._tasks.run([job.id], self._ending.end_unstarted(job, Event.CANCEL, reason))
        await self._submit_elsewhere()
        holders = [job for job in holders if job.engine == LOCAL]
        room = (disk.free_mb(self._home.root) or 0) >= self._settings.disk_refuse_mb
        while room:
            found = await self._store.next_fitting(self._free(holders))
            if found is None or found.id in self._tasks:  # the latter in an index made anew
                break
            job = found
            gpu_ids = self._free_gpus(holders)[: job.resources.gpus]
            claimed = await self._claim(job, gpu_ids)
            if claimed is not None:
                holders.append(claimed)
                self._tasks.run([job.id], self._start([claimed]))
        s = self._settings
        whole = Resources(cores=s.cores, memory_mb=s.memory_mb, gpus=s.gpus)
        with contextlib.suppress(DiskFullError):
            await self._store.explain_waiting(whole, TOO_LARGE, WAITING if room else NO_ROOM)
        return await self._store.any_queued()

    async def _submit_elsewhere(self) -> None:
        """Hand queued jobs to schedulers, which have queues of their own; a sweep at once."""
        batches: dict[tuple[str, str], list[Job]] = {}
        for job in await self._store.queued_elsewhere():
            engine = self._engines.get(job.engine)
            if engine is None:
                if job.wait_reason != for_want_of(job.engine):
                    await self._store.note(job.id, for_want_of(job.engine))
            elif job.id not in self._tasks and engine.is_ready(self._home.job(job.project, job.id)):
                batches.setdefault((job.engine, job.sweep or job.id), []).append(job)
        for batch in batches.values():
            tried = [await self._claim(job, []) for job in batch]
            claimed = [job for job in tried if job is not None]
            if claimed:
                self._tasks.run([job.id for job in claimed], self._start(claimed))

    async def _claim(self, job: Job, gpu_ids: list[int]) -> Job | None:
        """The job as it is once it is stored as starting; none when it moved meanwhile."""
        if not await self._store.claim(job, gpu_ids):
            return None
        reach("keeper.claimed")
        update = {"state": State.STARTING, "gpu_ids": gpu_ids, "attempt": job.attempt + 1}
        return job.model_copy(update=update)

    def _free(self, holders: list[Job]) -> Resources | None:
        """What is free; none when there is no core."""
        cores = self._settings.cores - sum(job.resources.cores for job in holders)
        memory = self._settings.memory_mb - sum(job.resources.memory_mb for job in holders)
        if cores < 1:
            return None
        gpus = len(self._free_gpus(holders))
        return Resources(cores=cores, memory_mb=max(memory, 0), gpus=gpus)

    def _free_gpus(self, holders: list[Job]) -> list[int]:
        if any(len(job.gpu_ids) < job.resources.gpus for job in holders):
            return []  # an index that was made anew does not know yet which it has
        taken = {gpu for job in holders for gpu in job.gpu_ids}
        return [gpu for gpu in range(self._settings.gpus) if gpu not in taken]

    async def _start(self, batch: list[Job]) -> None:
        engine = self._engines[batch[0].engine]
        submissions = []
        short: dict[str, str] = {}  #: what this machine is short of, by the job's ID
        for job in batch:
            try:
                job_dir = give_birth(self._home, job)
                launched = read_launch_manifest(job_dir)
                furnish(job_dir, launched)
            except (OSError, ValueError) as error:
                if is_passing(error):
                    short[job.id] = f"{error}"
                    continue
                detail = f"Its job directory cannot be used: {error}."
                await self._ending.end_unstarted(job, Event.FAIL, detail)
                continue
            submissions.append((job, Submission(launched, job_dir, job.gpu_ids, job.attempt)))
        if short:
            await self._pause(short)
            for job in batch:
                if job.id in short:
                    await self.start_again(job, short[job.id], for_ever=True)
        if not submissions:
            return
        try:
            await engine.submit([submission for _, submission in submissions])
        except RefusedError as error:
            for job, submission in submissions:
                why = error.reasons.get(submission.job_dir.root)
                if why is not None:
                    reason = f"{job.engine} refused it: {why}."
                    await self._ending.end_unstarted(job, Event.FAIL, reason)
        except OSError as error:
            if is_passing(error):
                await self._pause({job.id: f"{error}" for job, _ in submissions})
            for job, submission in submissions:
                job_dir = submission.job_dir
                if (await engine.poll(job_dir)).phase is Phase.NEVER_STARTED:
                    waits = is_passing(error) or not engine.is_ready(job_dir)
                    await self.start_again(job, f"{error}", for_ever=waits)

    async def _pause(self, reasons: dict[str, str]) -> None:
        """Tell of each job what this machine is short of, and wait a little."""
        for job_id, why in reasons.items():
            await self._store.note(job_id, why)
        await asyncio.sleep(PAUSE_S)

    async def start_again(self, job: Job, why: str, *, for_ever: bool = False) -> None:
        """Back to the queue: nothing has run yet. Not for ever, unless a scheduler is silent, or
        this machine short of something."""
        log.warning("%s was not started: %s", job.id, why)
        if job.attempt < MAX_ATTEMPTS or for_ever:
            await self._store.move(job, Event.REQUEUE)
            if for_ever:
                await self._store.note(job.id, why)
        else:
            reason = f"It could not be started in {MAX_ATTEMPTS} attempts: {why}."
            await self._ending.end_unstarted(job, Event.FAIL, reason)
