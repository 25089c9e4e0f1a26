"""The keeper against a simulated machine: whatever happens there, and whenever a keeper dies.

Keeper, index and job directories are the real ones. What happens to commands is up to the rules,
so that it is known, and compared with what the index tells: no slot is given twice, no end is
told that was none, nothing waits that could run, and in the end every job is accounted for.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    invariant,
    rule,
    run_state_machine_as_test,
)

from jobs.acceptance import accept
from jobs.cancel import wish_cancel
from jobs.directory import read_record
from jobs.engines.base import Phase
from jobs.failpoints import POINTS
from jobs.keeper import Keeper
from jobs.manifests import Manifests
from jobs.model import Job, LaunchRequest, Outcome, ResourceWishes, RunRecord
from jobs.rebuild import entries
from jobs.recovery import sweep_abandoned
from jobs.settings import load_settings
from jobs.states import FINAL, HOLDS_SLOTS, State
from jobs.store import Store
from tests.support.modelling import Crash, Death, arm, effort, folder_in_memory
from tests.support.scripted_world import Life, MortalStore, RulesOfWorld, ScriptedEngine, some

Given = TypeVar("Given")
MANY = 10_000
SETTLED_AFTER = 20  #: passes at most


@dataclass
class Accepted:
    promised: bool  #: the server lived to tell of it
    wished: bool = False
    final: tuple[State, Outcome] | None = None
    record: bytes | None = None  #: run.json


class KeeperMachine(RulesOfWorld):
    def __init__(self, home: Path, death: Death) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.settings = load_settings(home=home, cores=4, memory_mb=100, gpus=2)
        self.home = self.settings.state
        self.death = death
        self.death.of_all = self.step
        self.dies_at: str | None = None
        self.accepted: dict[str, Accepted] = {}
        self.life: Life | None = None  #: of the keeper that is at work now
        self.server = self.do(Store.open(self.home.database, lambda: entries(self.home)))
        self.born()

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None:
                self.comes_to_rest()
        finally:
            self.buried()
            self.do(self.server.close())
            self.executor.shutdown()
            self.loop.close()
            for job in self.world.living():
                job.dies()

    def do(self, work: Coroutine[Any, Any, Given]) -> Given:
        return self.loop.run_until_complete(work)

    def step(self, point: str) -> None:
        if self.life is not None:
            self.life.dead = self.life.dead or point == self.dies_at
            self.life.step()

    # The keeper.

    def born(self) -> None:
        self.executor = ThreadPoolExecutor(4)
        self.loop.set_default_executor(self.executor)
        life = Life()
        self.store = self.do(MortalStore.open(self.home.database, lambda: entries(self.home)))
        self.store.life = life
        self.keeper = Keeper(
            store=self.store,
            engine=ScriptedEngine(self.world, life),
            home=self.home,
            settings=self.settings,
        )
        self.do(sweep_abandoned(self.home, self.store))

    def buried(self) -> None:
        """What its process was doing is done no more."""
        self.store.life.dead = True

        async def bury() -> None:
            tasks = list(self.keeper._tasks.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.to_thread(lambda: None)
            await self.store.close()

        self.do(bury())
        self.executor.shutdown()

    async def one_pass(self) -> None:
        """And all that it has begun, but for what waits for the world."""
        await self.keeper._pass()
        tasks = self.keeper._tasks
        while busy := [tasks[key] for key in tasks.keys() - self.world.waited_for]:
            await asyncio.wait(busy, timeout=0.001)
        self.store.life.step()

    def passes(self, count: int) -> bool:
        """Whether it has lived."""
        self.life = self.store.life
        try:
            for _ in range(count):
                self.do(self.one_pass())
        except Crash:
            assert self.life.dead
        finally:
            died, self.life = self.life.dead, None
        if died:
            self.buried()
            self.born()
        return not died

    @rule(steps=st.none() | st.integers(0, 40), count=st.integers(1, 3))
    def the_keeper_passes(self, steps: int | None, count: int) -> None:
        """It dies after so many steps; else it goes on."""
        self.store.life.left = steps
        if self.passes(count):
            self.store.life.left = None

    @rule(point=st.sampled_from(sorted(name for name in POINTS if name.startswith("keeper."))))
    def the_keeper_dies_at(self, point: str) -> None:
        self.dies_at = point
        self.passes(1)
        self.dies_at = None

    @rule()
    def the_keeper_settles(self) -> None:
        before = None
        for _ in range(SETTLED_AFTER):
            assert self.passes(1)
            now = [job.model_dump(exclude={"heartbeat_at"}) for job in self.rows()]
            if now == before:
                break
            before = now
        else:
            raise AssertionError("the keeper does not come to rest")
        rows = self.rows()
        active = [job for job in rows if job.state in HOLDS_SLOTS]
        holders = [job.resources for job in active]
        cores = self.settings.cores - sum(held.cores for held in holders)
        memory = self.settings.memory_mb - sum(held.memory_mb for held in holders)
        gpus = self.settings.gpus - sum(held.gpus for held in holders)
        if any(len(job.gpu_ids) < job.resources.gpus for job in active):
            gpus = 0  # the index was made anew, and cannot tell which are free
        for job in rows:
            asked = job.resources
            fits = asked.cores <= cores and asked.memory_mb <= memory and asked.gpus <= gpus
            waits = job.state is State.QUEUED and job.id not in self.keeper._tasks
            assert not (waits and fits), f"{job.id} waits for nothing"
            assert not (waits and job.cancel_at), f"{job.id} waits though a cancel was wished"
            there = self.world.jobs.get(job.id)
            if there in self.in_phase(Phase.RUNNING) and job.id not in self.world.blind_to:
                assert job.state is (State.CANCELLING if job.cancel_at else State.RUNNING)
                assert there.stop_asked == (job.cancel_at is not None)

    # Servers.

    def rows(self) -> list[Job]:
        listed = self.do(self.server.newest(project=None, state=None, before=None, limit=MANY))
        return listed[::-1]

    @rule(
        cores=st.sampled_from([1, 1, 2, 4]), memory_mb=st.sampled_from([0, 60]),
        gpus=st.sampled_from([0, 1, 2, 2]),
        killed=st.sampled_from([None, None, None, "server.directory_made", "server.accepted"]),
        woken=st.booleans(),
    )  # fmt: skip
    def launch(
        self, cores: int, memory_mb: int, gpus: int, killed: str | None = None, woken: bool = False
    ) -> None:
        wishes = ResourceWishes(cores=cores, memory_mb=memory_mb, gpus=gpus)
        request = LaunchRequest(command=["true"], resources=wishes)
        work = accept(request, self.server, self.settings, Manifests([]), client=None)
        if killed is None:
            self.accepted[self.do(work)[0][0].id] = Accepted(promised=True)
            self.passes(int(woken))
            return
        self.death.at = killed
        with pytest.raises(Crash):
            self.do(work)
        for job in self.rows():
            self.accepted.setdefault(job.id, Accepted(promised=False))

    @rule(which=some, grace_s=st.sampled_from([None, 0.0, 5.0]), woken=st.booleans())
    def cancel(self, which: int, grace_s: float | None, woken: bool = False) -> None:
        rows = self.rows()
        job = rows[which % len(rows)] if rows else None
        if job is not None and not job.is_final:  # as the service does
            self.accepted[job.id].wished = True
            self.accepted[job.id].promised = True
            self.do(wish_cancel(self.server, self.home, job, reason=None, grace_s=grace_s))
            if woken:
                self.the_keeper_settles()

    @rule()
    def the_index_is_deleted(self) -> None:
        for path in self.home.root.glob("outlast.db*"):
            path.unlink()

    @rule(really=st.sampled_from([False, False, True]))
    def the_machine_restarts(self, really: bool) -> None:
        if not really:
            return  # too often nothing else would be seen
        for job in self.world.living():
            job.dies()
            job.runs = False
        self.buried()
        self.born()

    # What must hold.

    @invariant()
    def nothing_is_given_twice(self) -> None:
        living = self.world.living()
        assert sum(job.resources.cores for job in living) <= self.settings.cores
        assert sum(job.resources.memory_mb for job in living) <= self.settings.memory_mb
        gpu_ids = [gpu for job in living for gpu in job.gpu_ids]
        assert len(gpu_ids) == len(set(gpu_ids)), "a GPU is given twice"
        assert set(gpu_ids) <= set(range(self.settings.gpus))
        assert all(len(job.gpu_ids) == job.resources.gpus for job in living)

    @invariant()
    def nothing_false_is_told(self) -> None:
        rows = {job.id: job for job in self.rows()}
        for job_id, accepted in list(self.accepted.items()):
            if job_id not in rows:
                assert not accepted.promised, f"{job_id} is lost"
                del self.accepted[job_id]
                continue
            job = rows[job_id]
            told = (job.state, job.outcome)
            assert accepted.final in (None, told), "a final state has changed"
            path = self.home.job(job.project, job.id).run_record
            record = path.read_bytes() if path.exists() else None
            assert accepted.record in (None, record), "run.json was written again"
            accepted.record = record
            if job.is_final:
                accepted.final = told
                self.is_true(job, accepted)
        assert rows.keys() <= self.accepted.keys()
        stopped = {key for key, job in self.world.jobs.items() if job.stop_asked}
        assert all(self.accepted[job_id].wished for job_id in stopped)

    def is_true(self, job: Job, accepted: Accepted) -> None:
        there = self.world.jobs.get(job.id)
        ran = there is not None and there.started is not None
        end = there.exit if there else None
        assert there is None or not there.is_alive, f"{job.id} is {job.state} but lives"
        if job.state is State.CANCELLED:
            assert accepted.wished
            assert not ran or (end is not None and end.why == "cancelled")
        elif job.state is State.LOST:
            assert ran
            assert end is None
        elif job.state is State.FAILED and not ran:
            assert job.outcome.exit_code is None
            assert end is not None or "3 attempts" in (job.outcome.reason or "")
        else:
            assert end is not None
            assert job.outcome.exit_code == end.exit_code
            right = State.COMPLETED if end.exit_code == 0 else State.FAILED
            assert job.state is (State.TIMED_OUT if end.why == "timeout" else right)

    def comes_to_rest(self) -> None:
        """Whatever runs ends by itself, and the keeper accounts for all."""
        world = self.world
        world.blind_to.clear()
        world.slow, world.refusals = False, 0
        for _ in range(3 + len(self.accepted)):
            for job in self.in_phase(Phase.STARTING):
                job.begins()
            for job in self.in_phase(Phase.RUNNING):
                job.ends("cancelled" if job.stop_asked else "exit", None if job.stop_asked else 0)
            for job in self.in_phase(Phase.ORPHANED):
                job.runs = False
            self.store.life.left = None
            self.the_keeper_settles()
            self.nothing_is_given_twice()
            self.nothing_false_is_told()
        for job in self.rows():
            assert job.state in FINAL, f"{job.id} is {job.state} for ever"
            record = read_record(self.home.job(job.project, job.id).run_record, RunRecord)
            assert record is not None
            assert (record.state, record.outcome) == (job.state, job.outcome)
            assert (record.started_at, record.ended_at) == (job.started_at, job.ended_at)
            events = self.do(self.server.events(job.id))
            told = [(event.event, event.state) for event in record.events]
            assert told == [(event.event, event.state) for event in events]


def test_whatever_happens_and_whoever_dies_the_keeper_tells_the_truth(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    death = Death()
    arm(monkeypatch, death)
    with folder_in_memory(tmp_path) as folder:
        number = iter(range(1 << 30))
        run_state_machine_as_test(
            lambda: KeeperMachine(folder / str(next(number)), death), settings=effort(60, 40)
        )
