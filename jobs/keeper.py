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
from collections.abc import Callable, Mapping

from jobs import clock
from jobs.batch import WAITING_AGAIN
from jobs.batching import LOCAL
from jobs.cancel import wish_cancel
from jobs.directory import read_launch_manifest, read_record
from jobs.ending import Ending
from jobs.engines.base import Engine, Phase, Sighting
from jobs.errors import DiskFullError, StateDirectoryError
from jobs.failpoints import reach
from jobs.files import append_line, open_up
from jobs.finish import conclude
from jobs.inbox import Inbox
from jobs.keeping import is_found
from jobs.log_limit import LogLimit
from jobs.model import Job, RunRecord
from jobs.paths import Home, JobDir
from jobs.progress import ProgressReader
from jobs.recovery import sweep_abandoned
from jobs.settings import Settings
from jobs.starting import Starting, for_want_of
from jobs.states import HOLDS_SLOTS, Event, State
from jobs.store import Store
from jobs.tasks import Tasks

log = logging.getLogger(__name__)

TICK_S = 2.0  #: between looks while jobs run; ends and orders wake the keeper at once
HEARTBEAT_S = 10.0
FINISHERS = 2  #: jobs whose artifacts are hashed at the same time


class Keeper:
    def __init__(
        self, *, store: Store, engines: Mapping[str, Engine], home: Home, settings: Settings
    ) -> None:
        self._store = store
        self._engines = engines
        self._home = home
        self._settings = settings
        self._inbox = Inbox(home)
        #: Jobs that a task of ours is starting or finishing at this moment.
        self._tasks = Tasks(self._inbox.call)
        self._ending = Ending(store, home)
        self._starting = Starting(store, engines, home, settings, self._tasks, self._ending)
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
            if not is_found(self._home):
                log.warning("somebody has made the state directory anew; it is not kept from here")
                return
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
            except DiskFullError as error:  # another job may be what fills it, and is to be ended
                log.error("%s: %s", job.id, error)
            except StateDirectoryError:
                raise
            except Exception:
                # One job that cannot be tended must not keep all others from it.
                log.exception("%s: will look again", job.id)
        self._forget_all_but({job.id for job in active})
        await self._beat(alive)
        holders = [job for job in active if job.id not in self._ended]
        return await self._starting.start_queued(holders) or bool(active) or bool(self._tasks)

    async def _tend(self, job: Job) -> bool:
        """Do what the sighting of one started job calls for; whether it is alive."""
        job_dir = self._home.job(job.project, job.id)
        if job.engine not in self._engines:
            await self._note(job, for_want_of(job.engine))
            return False
        open_up(job_dir.root)
        sighting = await self._engines[job.engine].poll(job_dir)
        match sighting.phase:
            case Phase.ENDED | Phase.VANISHED:
                self._finish_soon(job, sighting)
            case Phase.NEVER_STARTED if job.state is State.STARTING:
                why = "its supervisor ended before it could start it"
                await self._starting.start_again(job, why)
            case Phase.NEVER_STARTED:
                detail = "its records are gone from the job directory"
                self._finish_soon(job, Sighting(Phase.VANISHED, detail=detail))
            case Phase.RUNNING | Phase.ORPHANED:
                await self._tend_living(job, job_dir, sighting)
                return True
            case Phase.WAITING:
                again = WAITING_AGAIN if job.state is State.RUNNING else ""
                await self._note(job, again + (sighting.detail or ""))
                await self._stop_if_wished(job, job_dir)
            case Phase.STARTING | Phase.UNKNOWN:
                await self._note(job, sighting.detail)
                if job.engine != LOCAL:  # a scheduler can end what shows no sign of life
                    await self._stop_if_wished(job, job_dir)
        return False

    async def _note(self, job: Job, detail: str | None) -> None:
        """Keep why a job waits, or since when its scheduler has not answered."""
        if detail != job.wait_reason:
            await self._store.note(job.id, detail)

    async def _stop_if_wished(self, job: Job, job_dir: JobDir, *, waits: bool = False) -> None:
        """Have the job stopped, if somebody wishes that it ends; `waits` says that this takes the
        grace period, as no supervisor waits it out."""
        if job.cancel_at is None and job.id not in self._inbox.to_cancel:
            return
        if job.state is not State.CANCELLING:
            with contextlib.suppress(DiskFullError):  # the job may be what fills the disk
                await self._store.move(job, Event.CANCEL)
                reach("keeper.cancelling_stored")
        stop = self._engines[job.engine].stop(job_dir, grace_s=job.cancel_grace_s)
        if waits:
            self._tasks.run([job.id], stop)
        else:
            await stop
            reach("keeper.stop_ordered")

    async def _tend_living(self, job: Job, job_dir: JobDir, sighting: Sighting) -> None:
        started_at = sighting.started.started_at if sighting.started else None
        if job.id not in self._watches:
            self._watches[job.id] = self._engines[job.engine].adopt(job_dir, self._inbox.call)
        if job.state is State.STARTING:
            gpu_ids = sighting.started.gpu_ids if sighting.started else None
            await self._store.move(job, Event.ALIVE, started_at=started_at, gpu_ids=gpu_ids)
            reach("keeper.alive_stored")
            job = job.model_copy(update={"state": State.RUNNING, "started_at": started_at})
        else:
            await self._note(job, sighting.detail)
        orphaned = sighting.phase is Phase.ORPHANED
        await self._stop_if_wished(job, job_dir, waits=orphaned)
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
                with contextlib.suppress(OSError):  # no sample is worth an end that is not told
                    append_line(job_dir.progress, json.dumps(sample))
                    reach("keeper.sample_written")
            await self._store.set_progress(job.id, progress)

    async def _beat(self, alive: list[str]) -> None:
        """Write down that these locks were just proven to be held."""
        now = asyncio.get_running_loop().time()
        if alive and now - self._heartbeat_at >= HEARTBEAT_S:
            self._heartbeat_at = now
            await self._store.set_heartbeats(alive)

    def _finish_soon(self, job: Job, sighting: Sighting) -> None:
        self._ended.add(job.id)
        self._tasks.run([job.id], self._finish(job, sighting))

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
        await self._ending.make_final(job, job_dir, record)

    def _forget_all_but(self, job_ids: set[str]) -> None:
        for job_id in self._watches.keys() - job_ids:
            self._watches.pop(job_id)()
        for job_id in self._readers.keys() - job_ids:
            del self._readers[job_id]
        self._ended &= job_ids
        self._inbox.to_cancel &= job_ids
