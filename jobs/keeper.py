"""The keeper: the one loop that starts queued jobs, watches running ones and finishes ended ones.

It is the only caller of a move after `queued`, and holds no fact of its own: every pass looks at
the index, the job directories and the kernel, and does what they call for. Killed at any instant,
the next keeper carries on; there is no separate way of recovering.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from jobs import clock, disk
from jobs.cancel import wish_cancel
from jobs.directory import furnish, give_birth, read_launch_manifest, read_record
from jobs.engines.base import Engine, Phase, Sighting
from jobs.errors import DiskFullError, StateDirectoryError
from jobs.failpoints import reach
from jobs.files import append_line
from jobs.finish import conclude, write_up
from jobs.inbox import Inbox
from jobs.log_limit import LogLimit
from jobs.model import Job, Outcome, Resources, RunRecord
from jobs.outcome import Verdict, cancelled_because
from jobs.paths import Home, JobDir
from jobs.progress import ProgressReader
from jobs.recovery import sweep_abandoned
from jobs.settings import Settings
from jobs.states import HOLDS_SLOTS, Event, State, event_towards
from jobs.store import Store

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 3  #: of starting a job that has not run yet
TICK_S = 2.0  #: between looks while jobs run; ends and orders wake the keeper at once
HEARTBEAT_S = 10.0
FINISHERS = 2  #: jobs whose artifacts are hashed at the same time
WAITING = "waiting for cores, memory or GPUs that other jobs hold"
NO_ROOM = "waiting for free space on the disk of the state directory"
TOO_LARGE = "waiting in vain: it asks for more than this keeper may give; `outlast doctor` shows it"


class Keeper:
    def __init__(self, *, store: Store, engine: Engine, home: Home, settings: Settings) -> None:
        self._store = store
        self._engine = engine
        self._home = home
        self._settings = settings
        self._inbox = Inbox(home)
        #: Jobs that a task of ours is starting or finishing at this moment.
        self._tasks: dict[str, asyncio.Task[None]] = {}
        #: Jobs that have ended and only wait to be written up: their slots are free.
        self._ended: set[str] = set()
        self._watches: dict[str, Callable[[], None]] = {}
        self._readers: dict[str, ProgressReader] = {}
        self._log_limit = LogLimit(settings.log_limit_mb, settings.log_limit_action)
        self._finishers = asyncio.Semaphore(FINISHERS)
        self._heartbeat_at = 0.0

    async def run(self) -> None:
        """Keep until nothing has been left to keep for a while, or asked to leave.

        Tasks may still run then: the process is to end at once, as if it were killed.
        Raises StateDirectoryError when the state directory is gone.
        """
        await sweep_abandoned(self._home, self._store)
        self._inbox.open()
        idle_since: float | None = None
        loop = asyncio.get_running_loop()
        while not self._inbox.leave:
            self._inbox.forget_calls()
            busy = await self._pass_or_pause()
            idle_since = None if busy else idle_since or loop.time()
            if idle_since is not None and loop.time() - idle_since >= self._settings.keeper_idle_s:
                # First stop listening, then look once more: what was stored before its sender
                # found nobody listening is seen here; what comes later starts a new keeper.
                self._inbox.close()
                if not await self._pass_or_pause():
                    break
                self._inbox.open()
                idle_since = None
                continue
            await self._inbox.wait(TICK_S if busy else self._settings.keeper_idle_s)
        if self._inbox.leave:
            self._inbox.close()  # what is sent from now on shall find nobody
        await self._store.checkpoint()

    async def _pass_or_pause(self) -> bool:
        """One pass; whether there is anything left to keep. A full disk is waited out."""
        try:
            return await self._pass()
        except StateDirectoryError as error:
            if not self._home.root.is_dir():
                raise
            log.error("%s", error)
            return True

    async def _pass(self) -> bool:
        active = await self._store.in_states(HOLDS_SLOTS)
        if self._log_limit.is_due():  # before anything that a disk full of logs would refuse
            living = [job for job in active if job.id not in self._ended]
            for job, why in await asyncio.to_thread(self._log_limit.enforce, self._home, living):
                await wish_cancel(self._store, self._home, job, reason=why, grace_s=None)
                self._inbox.call()
        alive = []
        for job in active:
            if job.id in self._tasks:
                continue
            try:
                if await self._tend(job):
                    alive.append(job.id)
            except StateDirectoryError:
                raise
            except Exception:
                # One job that cannot be tended must not keep all others from it.
                log.exception("%s: will look again", job.id)
        self._forget_all_but({job.id for job in active})
        await self._beat(alive)
        return await self._start_queued(active) or bool(active) or bool(self._tasks)

    async def _tend(self, job: Job) -> bool:
        """Do what the sighting of one started job calls for; whether it is alive."""
        job_dir = self._home.job(job.project, job.id)
        sighting = await self._engine.poll(job_dir)
        match sighting.phase:
            case Phase.ENDED | Phase.VANISHED:
                self._finish_soon(job, sighting)
            case Phase.NEVER_STARTED if job.state is State.STARTING:
                await self._start_again(job, "its supervisor ended before it could start it")
            case Phase.NEVER_STARTED:
                detail = "its records are gone from the job directory"
                self._finish_soon(job, Sighting(Phase.VANISHED, detail=detail))
            case Phase.RUNNING | Phase.ORPHANED:
                await self._tend_living(job, job_dir, sighting)
                return True
            case Phase.STARTING | Phase.UNKNOWN:
                pass
        return False

    async def _tend_living(self, job: Job, job_dir: JobDir, sighting: Sighting) -> None:
        started_at = sighting.started.started_at if sighting.started else None
        if job.id not in self._watches:
            self._watches[job.id] = self._engine.adopt(job_dir, self._inbox.call)
        if job.state is State.STARTING:
            gpu_ids = sighting.started.gpu_ids if sighting.started else None
            await self._store.move(job, Event.ALIVE, started_at=started_at, gpu_ids=gpu_ids)
            reach("keeper.alive_stored")
            job = job.model_copy(update={"state": State.RUNNING, "started_at": started_at})
        if job.cancel_at is not None or job.id in self._inbox.to_cancel:
            if job.state is not State.CANCELLING:
                with contextlib.suppress(DiskFullError):  # the job may be what fills the disk
                    await self._store.move(job, Event.CANCEL)
                    reach("keeper.cancelling_stored")
            stop = self._engine.stop(job_dir, grace_s=job.cancel_grace_s)
            if sighting.phase is Phase.ORPHANED:
                self._run_task(job.id, stop)  # takes the grace period, as no shim waits it out
            else:
                await stop
                reach("keeper.stop_ordered")
        await self._read_progress(job, job_dir, job.elapsed_s(clock.now()), ended=False)

    async def _read_progress(
        self, job: Job, job_dir: JobDir, elapsed_s: float | None, *, ended: bool
    ) -> None:
        """Keep what the program's logs newly tell."""
        if job.id not in self._readers:
            try:
                self._readers[job.id] = ProgressReader(read_launch_manifest(job_dir), job_dir)
            except (OSError, ValueError):
                return
        reader = self._readers[job.id]
        progress = await asyncio.to_thread(reader.read, elapsed_s, ended=ended)
        if progress is not None:
            if reader.is_sample_due(elapsed_s or 0.0) or ended:
                sample = {"at": round(clock.now(), 3), "elapsed_s": round(elapsed_s or 0.0, 3)}
                sample |= progress.model_dump(exclude_none=True)
                append_line(job_dir.progress, json.dumps(sample))
            await self._store.set_progress(job.id, progress)

    async def _beat(self, alive: list[str]) -> None:
        """Write down that these locks were just proven to be held."""
        now = asyncio.get_running_loop().time()
        if alive and now - self._heartbeat_at >= HEARTBEAT_S:
            self._heartbeat_at = now
            await self._store.set_heartbeats(alive)

    async def _start_queued(self, active: list[Job]) -> bool:
        """Start whatever fits, oldest first; whether anything is still queued.

        A job that does not fit lets smaller ones pass, so that no slot stays free for nothing.
        """
        for job in await self._store.queued_to_cancel():
            if job.id not in self._tasks:
                reason = cancelled_because(job.cancel_reason)
                self._run_task(job.id, self._end_unstarted(job, Event.CANCEL, reason))
        holders = [job for job in active if job.id not in self._ended]
        room = (disk.free_mb(self._home.root) or 0) >= self._settings.disk_refuse_mb
        while room:
            found = await self._store.next_fitting(self._free(holders))
            if found is None or found.id in self._tasks:  # the latter in an index made anew
                break
            job = found
            gpu_ids = self._free_gpus(holders)[: job.resources.gpus]
            if await self._store.claim(job, gpu_ids):
                reach("keeper.claimed")
                job = job.model_copy(
                    update={
                        "state": State.STARTING,
                        "gpu_ids": gpu_ids,
                        "attempt": job.attempt + 1,
                    }
                )
                holders.append(job)
                self._run_task(job.id, self._start(job))
        s = self._settings
        whole = Resources(cores=s.cores, memory_mb=s.memory_mb, gpus=s.gpus)
        with contextlib.suppress(DiskFullError):
            await self._store.explain_waiting(whole, TOO_LARGE, WAITING if room else NO_ROOM)
        return await self._store.any_queued()

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

    async def _start(self, job: Job) -> None:
        try:
            job_dir = give_birth(self._home, job)
            launched = read_launch_manifest(job_dir)
            furnish(job_dir, launched)
        except (OSError, ValueError) as error:
            detail = f"Its job directory cannot be used: {error}."
            await self._end_unstarted(job, Event.FAIL, detail)
            return
        try:
            await self._engine.submit(launched, job_dir, gpu_ids=job.gpu_ids, attempt=job.attempt)
        except OSError as error:
            if (await self._engine.poll(job_dir)).phase is Phase.NEVER_STARTED:
                await self._start_again(job, f"{error}")

    async def _start_again(self, job: Job, why: str) -> None:
        """Back to the queue: nothing has run yet. Not for ever."""
        log.warning("%s was not started: %s", job.id, why)
        if job.attempt < MAX_ATTEMPTS:
            await self._store.move(job, Event.REQUEUE)
        else:
            reason = f"It could not be started in {MAX_ATTEMPTS} attempts: {why}."
            await self._end_unstarted(job, Event.FAIL, reason)

    async def _end_unstarted(self, job: Job, event: Event, reason: str | None) -> None:
        """Write up and make final a job that never ran."""
        with contextlib.suppress(OSError):
            give_birth(self._home, job)
        job_dir = self._home.job(job.project, job.id)
        record = read_record(job_dir.run_record, RunRecord)
        if record is None:
            verdict = Verdict(event, Outcome(reason=reason))
            events = await self._store.events(job.id)
            record = await asyncio.to_thread(write_up, job, job_dir, verdict, events)
        await self._make_final(job, job_dir, record)

    async def _make_final(self, job: Job, job_dir: JobDir, record: RunRecord) -> None:
        job_dir.secrets.unlink(missing_ok=True)
        reach("keeper.secrets_removed")
        await self._store.move(
            job,
            event_towards(job.state, record.state),
            outcome=record.outcome,
            started_at=record.started_at,
            ended_at=record.ended_at,
        )
        reach("keeper.final_stored")

    def _finish_soon(self, job: Job, sighting: Sighting) -> None:
        self._ended.add(job.id)
        self._run_task(job.id, self._finish(job, sighting))

    async def _finish(self, job: Job, sighting: Sighting) -> None:
        """Write the run record, then make the job final. Repeated after a crash, both agree."""
        job_dir = self._home.job(job.project, job.id)
        reach("keeper.end_seen")
        async with self._finishers:
            record = read_record(job_dir.run_record, RunRecord)
            if record is None:
                events = await self._store.events(job.id)
                limit = self._settings.hash_limit_mb << 20
                record = await asyncio.to_thread(
                    conclude, job, job_dir, sighting, events, hash_limit_bytes=limit
                )
        await asyncio.to_thread(self._log_limit.enforce_one, job_dir)  # its last words, too
        if record.started_at is not None:
            elapsed_s = record.ended_at - record.started_at
            await self._read_progress(job, job_dir, elapsed_s, ended=True)
        await self._make_final(job, job_dir, record)

    def _run_task(self, job_id: str, work: Coroutine[Any, Any, None]) -> None:
        """Run beside the loop; a pass follows its end. What goes wrong is tried again by a pass."""

        async def run() -> None:
            try:
                await work
            except Exception:
                # Whatever it is, the loop must go on for the sake of all other jobs.
                log.exception("%s: will look again", job_id)
                await asyncio.sleep(1)
            finally:
                del self._tasks[job_id]
                self._inbox.call()

        self._tasks[job_id] = asyncio.get_running_loop().create_task(run())

    def _forget_all_but(self, job_ids: set[str]) -> None:
        for job_id in self._watches.keys() - job_ids:
            self._watches.pop(job_id)()
        for job_id in self._readers.keys() - job_ids:
            del self._readers[job_id]
        self._ended &= job_ids
        self._inbox.to_cancel &= job_ids
