"""A plain model of the index: what is known of each job, by the index and by its directory."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import sys
import tempfile
from collections import Counter
from collections.abc import Coroutine
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from jobs import clock
from jobs.model import Job, Outcome, Progress, Resources, StartedRecord
from jobs.rebuild import entries, rebuild
from jobs.settings import load_settings
from jobs.states import ACTIVE, FINAL, MOVES, Event, State
from jobs.store import Store
from tests.support.modelling import Crash, Death

Given = TypeVar("Given")
STORES = 3
MANY = 10_000
Wish = tuple[float, str | None, float | None]  #: when, why, grace


@dataclass
class Facts:
    """What is to be told of a job now, or would be if the index were made anew."""

    state: State = State.QUEUED
    attempt: int = 0
    gpu_ids: list[int] = field(default_factory=list)
    started_at: float | None = None
    ended_at: float | None = None
    outcome: Outcome = field(default_factory=Outcome)
    wish: Wish | None = None
    progress: Progress | None = None
    waits: str | None = None
    events: list[tuple[str, str]] = field(default_factory=lambda: [("accepted", "queued")])


@dataclass
class Known:
    """A job that was accepted."""

    job: Job  #: as it was accepted
    index: Facts = field(default_factory=Facts)
    directory: Facts = field(default_factory=Facts)
    started: StartedRecord | None = None
    named: bool = True  #: its directory has its name
    aside: bool = False  #: its removal has begun
    seen: list[Job] = field(default_factory=list)  #: snapshots, old ones too

    def moved(self, event: Event, **more: Any) -> None:
        state = MOVES[self.index.state, event]
        events = [*self.index.events, (str(event), str(state))]
        self.index = replace(self.index, state=state, events=events, waits=None, **more)


def joined(first: Wish | None, later: Wish) -> Wish:
    """The first wish stands, and the grace only shrinks."""
    if first is None:
        return later
    graces = [grace for grace in (first[2], later[2]) if grace is not None]
    return first[0], first[1], min(graces, default=None)


some = st.integers(0, 11)  #: which store, job or snapshot: counted round
sizes = st.integers(1, 4)
gpus = st.integers(0, 2)


class ModelOfStore(RuleBasedStateMachine):
    """Stores over one state directory, the model beside them, and the comparison of both."""

    def __init__(self, folder: Path, death: Death) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        root = Path(tempfile.mkdtemp(dir=folder))
        self.settings = load_settings(home=root, cores=4, gpus=2)
        self.home = self.settings.state
        self.death = death
        self.jobs: list[Known] = []  #: oldest first
        self.stores: list[Store] = []

    @initialize()
    def open(self) -> None:
        self.stores = [self.do(self.new_store()) for _ in range(STORES)]

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None:
                for number in range(len(self.stores)):
                    self.agrees(number)
                with closing(sqlite3.connect(self.home.database)) as db:
                    assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
                    assert not db.execute("PRAGMA foreign_key_check").fetchall()
        finally:
            for store in self.stores:
                self.do(store.close())
            self.do(self.loop.shutdown_default_executor())
            self.loop.close()
            shutil.rmtree(self.home.root)

    def do(self, work: Coroutine[Any, Any, Given]) -> Given:
        return self.loop.run_until_complete(work)

    def dying(self, point: str, work: Coroutine[Any, Any, Any], number: int) -> None:
        """Do it in a process that dies at this point; another takes its place."""
        self.death.at = point
        with pytest.raises(Crash):
            self.do(work)
        self.open_again(number)

    def open_again(self, number: int) -> None:
        self.do(self.store(number).close())
        self.stores[number % STORES] = self.do(self.new_store())

    async def new_store(self) -> Store:
        return await Store.open(self.home.database, lambda: entries(self.home))

    def store(self, number: int) -> Store:
        return self.stores[number % STORES]

    def look(self, known: Known, number: int) -> Job:
        """A fresh snapshot, which later is a stale one."""
        job = self.do(self.store(number).get(known.job.id))
        assert job is not None
        known.seen.append(job)
        return job

    def by_key(self, key: str | None) -> Known | None:
        return next(
            (known for known in self.jobs if key and known.job.idempotency_key == key), None
        )

    def made_anew(self) -> None:
        """The index was made from the directories."""
        there = [known for known in self.jobs if known.named and not known.aside]
        self.jobs = sorted(there, key=lambda known: known.job.created_at)
        for known in self.jobs:
            known.index = replace(known.directory)

    def agrees(self, number: int) -> None:
        """One store tells of all jobs what the model tells."""
        store = self.store(number)
        listed = self.do(store.newest(project=None, state=None, before=None, limit=MANY))
        there, right = [job.id for job in listed], [known.job.id for known in reversed(self.jobs)]
        assert there == right, f"{there} are there, not {right}"
        for job, known in zip(listed, reversed(self.jobs), strict=True):
            right, told = expected(known), tell(job)
            assert told == right, {key: (told[key], right[key]) for key in differing(told, right)}
        for known in self.jobs:
            events = self.do(store.events(known.job.id))
            assert [(event.event, str(event.state)) for event in events] == known.index.events
            assert events[-1].state is known.index.state

    # What happens to the file of the index.

    @rule(number=some, sure=st.booleans())
    def open_again_or_checkpoint(self, number: int, sure: bool) -> None:
        self.open_again(number) if sure else self.do(self.store(number).checkpoint())

    @rule(links=st.booleans())
    def delete_the_index(self, links: bool) -> None:
        """All of it, or the link alone."""
        for path in self.home.root.glob("outlast.db" if links else "outlast.db*"):
            path.unlink()
        self.made_anew()

    @rule(number=some, killed=st.sampled_from([None, "index_filled", "index_published"]))
    def rebuild(self, number: int, killed: str | None) -> None:
        work = asyncio.to_thread(rebuild, self.home)
        if killed is None:
            assert self.do(work).left_out == []
        else:
            self.dying(f"server.{killed}", work, number)
        self.made_anew()

    @rule(share=st.sampled_from([0.0, 0.01, 0.5, 0.9]), garbage=st.booleans(), number=some)
    def harm_the_index(self, share: float, garbage: bool, number: int) -> None:
        """Whoever notices makes it anew; until a person does, nothing wrong is told."""
        path = self.home.database.resolve()
        with path.open("r+b") as file:
            if garbage:
                file.seek(int(path.stat().st_size * share))
                file.write(b"garbage" * 1000)
            else:
                file.truncate(int(path.stat().st_size * share))
        path.with_name(path.name + "-wal").unlink(missing_ok=True)
        self.open_again(number)
        rebuild(self.home)
        self.made_anew()

    # What is asked.

    @rule(number=some, cores=sizes, gpus=gpus)
    def what_fits(self, number: int, cores: int, gpus: int) -> None:
        def fits(known: Known) -> bool:
            asked = known.job.resources
            waits = known.index.state is State.QUEUED and known.index.wish is None
            return waits and asked.cores <= cores and asked.gpus <= gpus

        store = self.store(number)
        job = self.do(store.next_fitting(Resources(cores=cores, gpus=gpus)))
        first = next((known.job.id for known in self.jobs if fits(known)), None)
        assert (job and job.id) == first
        self.do(store.explain_waiting(Resources(cores=cores, gpus=gpus), "too large", "waits"))
        queued = [known for known in self.jobs if known.index.state is State.QUEUED]
        assert self.do(store.any_queued()) is bool(queued)
        for known in queued:
            asked = known.job.resources
            large = asked.cores > cores or asked.gpus > gpus
            known.index.waits = known.index.waits or ("too large" if large else "waits")

    @rule(number=some, state=st.sampled_from(State), some_states=st.sets(st.sampled_from(State)))
    def lists(self, number: int, state: State, some_states: set[State]) -> None:
        store = self.store(number)
        states = {known.job.id: known.index.state for known in self.jobs}
        ids = list(states)
        listed = self.do(store.in_states(some_states))
        assert [job.id for job in listed] == [id_ for id_ in ids if states[id_] in some_states]
        counted = Counter(state for state in states.values() if state in ACTIVE)
        assert self.do(store.count_active()) == counted
        to_cancel = [k for k in self.jobs if k.index.state is State.QUEUED and k.index.wish]
        asked = self.do(store.queued_to_cancel())
        assert [job.id for job in asked] == [known.job.id for known in to_cancel]
        for project in (None, "p", "q"):
            found: list[str] = []
            before = None
            while page := self.do(
                store.newest(project=project, state=state, before=before, limit=2)
            ):
                found += [job.id for job in page]
                before = page[-1].seq
            inside = [k for k in self.jobs if project in (None, k.job.project)]
            right = [k.job.id for k in inside if k.index.state is state]
            assert found == right[::-1]
        ended = self.do(store.ended_before(clock.now() + 1, limit=MANY))
        assert [job.id for job in ended] == [id_ for id_ in ids if states[id_] in FINAL]


#: What never changes after a job was accepted.
FIXED = {
    "id", "project", "name", "manifest", "engine", "resources", "idempotency_key",
    "request_sha256", "created_at",
}  # fmt: skip


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return [key for key in one if one[key] != other[key]]


def tell(job: Job) -> dict[str, Any]:
    wish = (job.cancel_at, job.cancel_reason, job.cancel_grace_s)
    facts = {
        "wish": wish if job.cancel_at is not None else None,
        "waits": job.wait_reason,
        **{name: getattr(job, name) for name in CHANGING},
    }
    return {**job.model_dump(include=FIXED), **facts}


CHANGING = ("state", "attempt", "gpu_ids", "started_at", "ended_at", "outcome", "progress")


def expected(known: Known) -> dict[str, Any]:
    facts = {name: getattr(known.index, name) for name in ("wish", "waits", *CHANGING)}
    return {**known.job.model_dump(include=FIXED), **facts}
