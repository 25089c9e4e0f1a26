"""The index against a model of it: whatever the order of events and deaths, its promises hold.

Several stores, as of several processes, share one index and real job directories. Each step is
done to them and to a plain list of jobs, and each store must tell what the list tells. The rules
write what server, shim and keeper write, so that an index that is made anew has to tell it, too.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule, run_state_machine_as_test

from jobs import clock
from jobs.acceptance import accept
from jobs.cancel import wish_cancel
from jobs.directory import give_birth
from jobs.errors import IdempotencyConflictError, IllegalMoveError
from jobs.files import append_line, write_durable
from jobs.finish import write_up
from jobs.manifests import Manifests
from jobs.model import (
    Job,
    LaunchRequest,
    Outcome,
    Progress,
    ResourceWishes,
    StartedRecord,
)
from jobs.outcome import Verdict
from jobs.pruning import Pruner
from jobs.rebuild import rebuild
from jobs.recovery import sweep_abandoned
from jobs.states import ACTIVE, FINAL, MOVES, Event, State
from tests.support.modelling import Death, arm, effort, folder_in_memory
from tests.support.store_model import Known, ModelOfStore, gpus, joined, sizes, some

keys = st.sampled_from([None, None, "a", "b"])
ends = st.sampled_from(sorted({event for (_, event), new in MOVES.items() if new in FINAL}))


class StoreMachine(ModelOfStore):
    steps = 0

    def pick(self, number: int, among: list[Known] | None = None) -> Known:
        if not self.jobs:
            self.launch(number=0, key=None, cores=1, gpus=0)
        found = among or self.jobs
        return found[number % len(found)]

    def pick_in(self, states: Collection[State], number: int) -> Known:
        """Mostly one in these states, if there is any."""
        fitting = [known for known in self.jobs if known.index.state in states]
        return self.pick(number, fitting if number % 4 else None)

    @invariant()
    def the_store_tells_what_the_model_tells(self) -> None:
        self.steps += 1
        if self.stores:
            self.agrees(self.steps)

    # Launch.

    async def accept(
        self, number: int, key: str | None, cores: int = 1, gpus: int = 0
    ) -> tuple[Job, bool]:
        request = LaunchRequest(
            command=["true"],
            project="pq"[cores % 2],
            resources=ResourceWishes(cores=cores, gpus=gpus),
            idempotency_key=key,
        )
        store = self.store(number)
        (job,), reused = await accept(request, store, self.settings, Manifests([]), client="model")
        return job, reused

    @rule(number=some, key=keys, cores=sizes, gpus=gpus)
    def launch(self, number: int, key: str | None, cores: int, gpus: int) -> None:
        known = self.by_key(key)
        if known is not None and number % 3:
            cores, gpus = known.job.resources.cores, known.job.resources.gpus
        wishes = {"cores": cores, "memory_mb": 0, "gpus": gpus}
        if known is not None and known.job.resources.model_dump() != wishes:
            with pytest.raises(IdempotencyConflictError):
                self.do(self.accept(number, key, cores, gpus))
            return
        job, reused = self.do(self.accept(number, key, cores, gpus))
        assert reused == (known is not None)
        if known is None:
            self.jobs.append(Known(job, seen=[job]))
        else:
            assert job.id == known.job.id
            known.named = True  # it was told of: it may not be lost any more

    @rule(first=some, second=some, key=st.sampled_from([None, "c"]), anew=st.booleans())
    def launch_twice_at_once(self, first: int, second: int, key: str | None, anew: bool) -> None:
        """By two servers, while the index is made anew, perhaps."""
        known = self.by_key(key)
        if known is not None and (known.aside or not known.named):
            return  # whether it is known depends on what comes first

        async def both() -> list[Job]:
            launches = self.accept(first, key), self.accept(second, key)
            exchange = [asyncio.to_thread(rebuild, self.home)] if anew else []
            one, other, *_ = await asyncio.gather(*launches, *exchange)
            return [one[0], other[0]]

        told = self.do(both())
        if anew:
            self.made_anew()
        assert len({job.id for job in told}) == (2 if key is None else 1)
        assert known is None or told[0].id == known.job.id
        now = {job.id: self.do(self.store(first).get(job.id)) for job in told}
        assert None not in now.values(), "an accepted job is lost"
        new = [job for job in now.values() if job is not None and known is None]
        for job in sorted(new, key=lambda job: job.seq):
            self.jobs.append(Known(job, seen=[job]))

    @rule(number=some, key=keys, accepted=st.booleans())
    def launch_and_die(self, number: int, key: str | None, accepted: bool) -> None:
        if self.by_key(key) is None:
            point = "server.accepted" if accepted else "server.directory_made"
            self.dying(point, self.accept(number, key, 2, 1), number)
        if self.by_key(key) is None and accepted:
            store = self.store(number)
            (job,) = self.do(store.newest(project=None, state=None, before=None, limit=1))
            assert job.id not in {known.job.id for known in self.jobs}
            self.jobs.append(Known(job, named=False, seen=[job]))

    # What a keeper and a shim do.

    @rule(which=some, first=some, second=some, gpu_ids=st.sampled_from([[], [0], [0, 1]]))
    def claim_twice_at_once(self, which: int, first: int, second: int, gpu_ids: list[int]) -> None:
        known = self.pick_in({State.QUEUED}, which)
        job = known.seen[-1]

        async def both() -> list[bool]:
            stores = self.store(first), self.store(second)
            return await asyncio.gather(*(store.claim(job, gpu_ids) for store in stores))

        can = known.index.state is State.QUEUED and known.index.wish is None
        assert sorted(self.do(both())) == [False, can]
        if can:
            known.moved(Event.START, attempt=known.index.attempt + 1, gpu_ids=gpu_ids)

    @rule(which=some, old=some, number=some, event=st.sampled_from(Event), fresh=st.booleans())
    def move(self, which: int, old: int, number: int, event: Event, fresh: bool) -> None:
        """Any event, on a snapshot that may be old."""
        known = self.pick_in(ACTIVE, which)
        job = self.look(known, old) if fresh else known.seen[old % len(known.seen)]
        store = self.store(number)
        legal = [event for state, event in MOVES if state is job.state]
        if legal and number % 3:
            event = legal[old % len(legal)]
        if (job.state, event) not in MOVES:
            with pytest.raises(IllegalMoveError):
                self.do(store.move(job, event))
        elif job.state is not known.index.state:
            outcome = Outcome(exit_code=99, reason="too late")
            assert not self.do(store.move(job, event, outcome=outcome, ended_at=1.0))
        elif MOVES[job.state, event] in FINAL:
            self.end(known, event, False, number)
        elif known.directory.state not in FINAL:  # else a keeper has judged it, and died
            started = known.started is not None
            if event not in (Event.ALIVE, Event.REQUEUE) or started == (event is Event.ALIVE):
                at = known.started.started_at if known.started and event is Event.ALIVE else None
                assert self.do(store.move(job, event, started_at=at))
                known.moved(event, started_at=at or known.index.started_at)

    @rule(which=some, seen=st.booleans(), number=some)
    def start(self, which: int, seen: bool, number: int) -> None:
        """The shim writes its start down; the keeper sees it, or is dead."""
        known = self.pick(which, [known for known in self.jobs if self.may_start(known)])
        if not self.may_start(known):
            return
        job = self.look(known, number)
        job_dir = give_birth(self.home, job)
        known.named = True
        known.started = record = StartedRecord(
            pid=1, start_ticks="1", boot_id="", started_at=clock.now(),
            attempt=job.attempt, gpu_ids=job.gpu_ids,
        )  # fmt: skip
        write_durable(job_dir.started, record.model_dump_json().encode())
        known.directory = replace(
            known.directory,
            state=State.RUNNING,
            started_at=record.started_at,
            attempt=job.attempt,
            gpu_ids=job.gpu_ids,
            events=[("accepted", "queued"), ("start", "starting"), ("alive", "running")],
        )
        if seen:
            assert self.do(self.store(number).move(job, Event.ALIVE, started_at=record.started_at))
            known.moved(Event.ALIVE, started_at=record.started_at)

    def may_start(self, known: Known) -> bool:
        starting = known.index.state is State.STARTING and known.started is None
        return starting and known.directory.state not in FINAL

    @rule(which=some, event=ends, killed=st.booleans(), number=some)
    def some_job_ends(self, which: int, event: Event, killed: bool, number: int) -> None:
        known = self.pick_in(ACTIVE, which)
        if known.index.state in ACTIVE:
            self.end(known, event, killed, number)

    def end(self, known: Known, event: Event, killed: bool, number: int) -> None:
        """As the keeper does it: the record first, then the move that the record calls for."""
        job, store, facts = self.look(known, number), self.store(number), known.directory
        if facts.state not in FINAL:
            if MOVES.get((job.state, event)) not in FINAL:
                return
            if job.state is State.QUEUED and job.cancel_at is None:
                killed = False  # only a wish is sure to be followed by the next keeper
            job_dir = give_birth(self.home, job)
            known.named = True
            code = {Event.SUCCEED: 0, Event.FAIL: 7}.get(event)
            outcome = Outcome(exit_code=code, reason=None if code == 0 else f"{event}!")
            at = known.started.started_at if known.started else None
            events = self.do(store.events(job.id))
            record = write_up(job, job_dir, Verdict(event, outcome), events, started_at=at)
            known.directory = facts = replace(
                facts,
                state=record.state,
                outcome=outcome,
                attempt=job.attempt,
                started_at=at,
                ended_at=record.ended_at,
                events=[*known.index.events, (str(event), str(record.state))],
            )
        if not killed:
            event = Event(facts.events[-1][0])
            times = {"started_at": facts.started_at, "ended_at": facts.ended_at}
            assert self.do(store.move(job, event, outcome=facts.outcome, **times))
            times["started_at"] = times["started_at"] or known.index.started_at
            known.moved(event, outcome=facts.outcome, **times)

    @rule(which=some, number=some, percent=st.integers(0, 100))
    def progress(self, which: int, number: int, percent: int) -> None:
        known = self.pick(which, [known for known in self.jobs if known.started])
        if known.started is None or known.aside:
            return
        progress = Progress(fraction=percent / 100)
        path = self.home.job(known.job.project, known.job.id).progress
        append_line(path, json.dumps({"at": 1.0, **progress.model_dump(exclude_none=True)}))
        self.do(self.store(number).set_progress(known.job.id, progress))
        self.do(self.store(number).set_heartbeats([known.job.id, "job-of-nobody"]))
        known.index.progress = known.directory.progress = progress

    # Wishes to cancel.

    @rule(
        which=some, old=some, number=some, fresh=st.booleans(),
        reason=st.sampled_from([None, "enough", "wrong"]),
        grace_s=st.sampled_from([None, 0.0, 5.0, 60.0]),
        killed=st.sampled_from([None, None, "server.wish_written", "server.wish_stored"]),
    )  # fmt: skip
    def wish(
        self, which: int, old: int, number: int, fresh: bool, reason: str | None,
        grace_s: float | None, killed: str | None,
    ) -> None:  # fmt: skip
        """By a server that has seen the job now, or some time ago."""
        known = self.pick_in({State.QUEUED, State.RUNNING}, which)
        job = self.look(known, old) if fresh else known.seen[old % len(known.seen)]
        if known.aside:
            killed = None  # there is no directory to write to
        work = wish_cancel(self.store(number), self.home, job, reason=reason, grace_s=grace_s)
        if killed is None:
            self.do(work)
        else:
            self.dying(killed, work, number)
        stored = killed != "server.wish_written"
        new = self.look(known, number).cancel_at, reason, grace_s
        if not known.aside:
            known.named = True
            new = joined(known.directory.wish, (self.written_wish(known), reason, grace_s))
            known.directory.wish = new
        if stored:
            known.index.wish = joined(known.index.wish, new)

    def written_wish(self, known: Known) -> float:
        path = self.home.job(known.job.project, known.job.id).cancel
        return float(json.loads(path.read_text(encoding="ascii"))["at"])

    # Prune.

    @rule(
        which=some, number=some,
        killed=st.sampled_from([None, "server.job_set_aside", "server.row_deleted"]),
        swept=st.booleans(),
    )  # fmt: skip
    def prune(self, which: int, number: int, killed: str | None, swept: bool) -> None:
        known = self.pick_in(FINAL, which)
        store, job = self.store(number), self.look(known, number)
        final = known.index.state in FINAL
        work = Pruner(store=store, home=self.home).remove(job)
        if killed is not None and final:
            self.dying(killed, work, number)
            known.aside = True
        else:
            assert self.do(work) == final
            assert self.do(store.delete(job.id)) is False
        if final and killed != "server.job_set_aside":
            self.jobs.remove(known)
        if swept:
            self.sweep(number)

    @rule(number=some)
    def sweep(self, number: int) -> None:
        """A keeper starts, and finishes the prunes that were begun."""
        self.do(sweep_abandoned(self.home, self.store(number)))
        self.jobs = [known for known in self.jobs if not known.aside]


def test_any_order_of_events_and_deaths_keeps_the_promises_of_the_index(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    death = Death()
    arm(monkeypatch, death)
    with folder_in_memory(tmp_path) as folder:
        run_state_machine_as_test(lambda: StoreMachine(folder, death), settings=effort(60, 40))
