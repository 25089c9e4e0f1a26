"""The index is lost or made anew between a job's row and the name of its directory."""

from __future__ import annotations

import asyncio
import fcntl
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs import index
from jobs.acceptance import accept
from jobs.manifests import Manifests
from jobs.model import Job, LaunchRequest
from jobs.paths import Home
from jobs.rebuild import rebuild
from jobs.service import Service
from jobs.settings import load_settings
from jobs.states import State
from jobs.store import Store
from server.wiring import open_store
from tests.support.modelling import Death, arm
from tests.support.wait import ended


async def launched(store: Store, key: str | None = None) -> Job:
    request = LaunchRequest(command=["true"], idempotency_key=key)
    (job,), _ = await accept(request, store, load_settings(), Manifests([]), client=None)
    return job


async def launched_elsewhere(home: Path, key: str) -> Job:
    store = await open_store(Home(home))
    try:
        return await launched(store, key)
    finally:
        await store.close()


class Meanwhile:
    """Begins something in a thread when a launch comes to a point, and lets the launch go on when
    that wants to make the index anew."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, point: str, begun: Callable[[], object]):
        self.thread = threading.Thread(target=begun)
        wants_to = threading.Event()
        lock_of = index._lock
        death = Death()
        arm(monkeypatch, death)

        def lock(path: Path, how: int) -> int:
            if how == fcntl.LOCK_EX:
                wants_to.set()
            return lock_of(path, how)

        def begin(reached: str) -> None:
            if reached == point:
                death.of_all = lambda _: None
                self.thread.start()
                assert wants_to.wait(20)

        monkeypatch.setattr(index, "_lock", lock)
        death.of_all = begin


async def test_one_key_is_one_job_though_the_index_is_lost_in_between(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others: list[Job] = []

    def lose() -> None:
        (home / "outlast.db").unlink()
        others.append(asyncio.run(launched_elsewhere(home, "k")))

    meanwhile = Meanwhile(monkeypatch, "server.accepted", lose)
    first = await launched_elsewhere(home, "k")
    await asyncio.to_thread(meanwhile.thread.join)
    assert [other.id for other in others] == [first.id]
    assert [path.name for path in home.glob("jobs/*/job-*")] == [first.id]
    assert rebuild(Home(home)).jobs == 1
    assert (await launched_elsewhere(home, "k")).id == first.id


async def test_a_launch_is_kept_though_another_of_its_server_makes_the_index_anew(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await open_store(Home(home))
    others: list[Job] = []
    loop = asyncio.get_running_loop()

    def lose() -> None:
        (home / "outlast.db").unlink()
        others.append(asyncio.run_coroutine_threadsafe(launched(store), loop).result(20))

    meanwhile = Meanwhile(monkeypatch, "server.accepted", lose)
    try:
        first = await launched(store)
        await asyncio.to_thread(meanwhile.thread.join)
        for job in (first, *others):
            assert await store.get(job.id) is not None
    finally:
        await store.close()


async def test_an_index_is_not_made_anew_before_the_directory_has_its_name(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await open_store(Home(home))
    counts: list[int] = []
    meanwhile = Meanwhile(
        monkeypatch, "server.accepted", lambda: counts.append(rebuild(Home(home)).jobs)
    )
    try:
        job = await launched(store)
        await asyncio.to_thread(meanwhile.thread.join)
        assert counts == [1]
        assert await store.get(job.id) is not None
    finally:
        await store.close()


async def test_an_accepted_job_is_told_though_the_index_cannot_be_asked(
    service: Service, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal would say that there is no job."""
    monkeypatch.setattr(index, "BUSY_S", 0.1)
    death = Death()
    arm(monkeypatch, death)
    held: list[int] = []

    def lose(point: str) -> None:
        if point == "server.keeper_called" and not held:
            held.append(index._lock(home / "outlast.db", fcntl.LOCK_EX))
            (home / "outlast.db").unlink()

    death.of_all = lose
    told = await service.launch(LaunchRequest(command=["true"]), client=None, wait_s=5)
    assert told.warning is not None
    assert "being made anew" in told.warning
    os.close(held[0])
    assert (await ended(service, told.job.id)).state is State.COMPLETED
