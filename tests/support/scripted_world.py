"""The machine outside, as a keeper sees it through an engine: simulated, and on our orders.

It keeps what `Engine` promises: no command starts twice, what has started goes on whoever dies, and
its records (the lock of a living supervisor, `started`) lie in the job directory.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from jobs import clock
from jobs.engines.base import Phase, Sighting, Submission
from jobs.files import write_durable
from jobs.model import ExitRecord, LaunchManifest, Resources, StartedRecord
from jobs.paths import JobDir
from jobs.store import Store
from tests.support.modelling import Crash


class Life:
    """Of one keeper: it dies after so many steps, and then takes none any more."""

    def __init__(self) -> None:
        self.left: int | None = None
        self.dead = False

    def step(self) -> None:
        if self.left is not None:
            self.left -= 1
            self.dead = self.dead or self.left < 0
        if self.dead:
            raise Crash


class MortalStore(Store):
    """The index as a keeper uses it that may die before and after each statement."""

    life = Life()

    async def _run(self, statement: str, **values: object) -> list[object]:  # type: ignore[override]
        self.life.step()
        rows = await super()._run(statement, **values)
        self.life.step()
        return rows  # type: ignore[return-value]


@dataclass
class Supervised:
    """One job's supervisor and command."""

    job_dir: JobDir
    resources: Resources
    gpu_ids: list[int]
    attempt: int
    lock: int = -1  #: held by the supervisor while it lives
    started: StartedRecord | None = None
    runs: bool = False  #: the command
    exit: ExitRecord | None = None
    stop_asked: bool = False
    change: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_alive(self) -> bool:
        return self.lock >= 0 or self.runs

    def lives(self) -> None:
        self.lock = os.open(self.job_dir.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def begins(self) -> None:
        assert self.started is None, "its command starts twice"
        self.started = StartedRecord(
            pid=1, start_ticks="", boot_id="", started_at=clock.now(),
            attempt=self.attempt, gpu_ids=self.gpu_ids,
        )  # fmt: skip
        write_durable(self.job_dir.started, self.started.model_dump_json().encode())
        self.runs = True
        self.change.set()

    def ends(self, why: str, exit_code: int | None = None) -> None:
        """With a record."""
        self.runs = False
        self.exit = ExitRecord.model_validate(
            {
                "why": why,
                "exit_code": exit_code,
                "signal": None,
                "ended_at": clock.now(),
                "wall_s": 0,
                "user_s": 0,
                "system_s": 0,
                "max_rss_kb": 0,
            }
        )
        self.dies()

    def dies(self) -> None:
        """The supervisor, without a further word."""
        if self.lock >= 0:
            os.close(self.lock)
        self.lock = -1
        self.change.set()

    def look(self) -> Sighting:
        if self.exit is not None:
            return Sighting(Phase.ENDED, self.started, self.exit)
        if self.lock >= 0:
            return Sighting(Phase.RUNNING if self.started else Phase.STARTING, self.started)
        if self.started is None:
            return Sighting(Phase.NEVER_STARTED)
        return Sighting(Phase.ORPHANED if self.runs else Phase.VANISHED, self.started)


class World:
    """What is there whatever keeper comes and goes, and what shall happen next."""

    def __init__(self) -> None:
        self.jobs: dict[str, Supervised] = {}
        self.blind_to: set[str] = set()  #: jobs that cannot be asked about
        self.slow = True  #: supervisors are started, commands not yet
        self.refusals = 0  #: starts that the machine will refuse
        self.waited_for: set[str] = set()  #: jobs whose slow start a keeper awaits

    def living(self) -> list[Supervised]:
        return [job for job in self.jobs.values() if job.is_alive]


class ScriptedEngine:
    """Implements `Engine` for one keeper."""

    def __init__(self, world: World, life: Life) -> None:
        self._world = world
        self._life = life

    def is_ready(self, job_dir: JobDir) -> bool:
        return True

    async def submit(self, batch: Sequence[Submission]) -> None:
        for one in batch:
            await self._submit(one.launched, one.job_dir, one.gpu_ids, one.attempt)

    async def _submit(
        self, launched: LaunchManifest, job_dir: JobDir, gpu_ids: list[int], attempt: int
    ) -> None:
        self._life.step()
        world, job_id = self._world, launched.job_id
        job = world.jobs.get(job_id)
        if job is None or job.look().phase is Phase.NEVER_STARTED:
            if world.refusals:
                world.refusals -= 1
                raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
            job = Supervised(job_dir, launched.resources, list(gpu_ids), attempt)
            job.lives()
            world.jobs[job_id] = job
            if not world.slow:
                job.begins()
        self._life.step()
        if job.look().phase is Phase.STARTING:
            world.waited_for.add(job_id)
            try:
                await job.change.wait()
            finally:
                world.waited_for.discard(job_id)

    async def poll(self, job_dir: JobDir) -> Sighting:
        self._life.step()
        if job_dir.root.name in self._world.blind_to:
            return Sighting(Phase.UNKNOWN)
        job = self._world.jobs.get(job_dir.root.name)
        return job.look() if job else Sighting(Phase.NEVER_STARTED)

    async def stop(self, job_dir: JobDir, *, grace_s: float | None) -> None:
        self._life.step()
        job = self._world.jobs[job_dir.root.name]
        job.stop_asked = True
        if job.lock < 0:
            job.runs = False  # nobody is there who would write down how it ends

    def adopt(self, job_dir: JobDir, on_change: Callable[[], None]) -> Callable[[], None]:
        return lambda: None  # changes may go unnoticed: every pass polls


some = st.integers(0, 11)  #: which job: counted round


class RulesOfWorld(RuleBasedStateMachine):
    """What may happen to what runs."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    @rule(slow=st.sampled_from([True, True, False]), refusals=st.sampled_from([0, 0, 1, 4]))
    def starts_become(self, slow: bool, refusals: int) -> None:
        self.world.slow = slow
        self.world.refusals = refusals

    def in_phase(self, *phases: Phase) -> list[Supervised]:
        return [job for job in self.world.jobs.values() if job.look().phase in phases]

    @rule(
        which=some,
        start=st.sampled_from(["begins", "begins", "begins", "fails", "dies", "is long"]),
        run=st.sampled_from(["exit 0", "exit 3", "timeout", "stop", "orphan"]),
    )
    def something_happens(self, which: int, start: str, run: str) -> None:
        """To a start or to a command."""
        living = self.in_phase(Phase.STARTING, Phase.RUNNING, Phase.ORPHANED)
        if not living:
            return
        job = living[which % len(living)]
        match job.look().phase, start, run:
            case Phase.STARTING, "begins", _:
                job.begins()
            case Phase.STARTING, "fails", _:
                job.ends("start_error")
            case Phase.STARTING, "dies", _:
                job.dies()
            case Phase.STARTING, _, _:
                job.change.set()  # the keeper waits no longer for it
            case Phase.ORPHANED, _, _:
                job.runs = False
            case _, _, "timeout":
                job.ends("timeout")
            case _, _, "orphan":
                job.dies()
            case _, _, "stop":
                if job.stop_asked:
                    job.ends("cancelled")
            case _:
                job.ends("exit", int(run[-1]))

    @rule(which=some, seen=st.booleans())
    def a_job_is_out_of_sight(self, which: int, seen: bool) -> None:
        """For a while."""
        ids = list(self.world.jobs)
        if seen:
            self.world.blind_to.clear()
        elif ids:
            self.world.blind_to.add(ids[which % len(ids)])
