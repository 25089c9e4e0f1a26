"""Two servers launch with one key while the index is made anew: one job, and nothing beside it."""

from __future__ import annotations

import asyncio
import fcntl
import os
import threading
from pathlib import Path

import pytest

from jobs import index
from jobs.acceptance import accept
from jobs.errors import IndexBusyError
from jobs.manifests import Manifests
from jobs.model import Job, LaunchRequest
from jobs.paths import Home
from jobs.rebuild import rebuild
from jobs.settings import load_settings
from server.wiring import open_store
from tests.support.modelling import Death, arm


async def launched(home: Home) -> Job:
    store = await open_store(home)
    request = LaunchRequest(command=["true"], idempotency_key="k")
    try:
        (job,), _ = await accept(request, store, load_settings(), Manifests([]), client=None)
        return job
    finally:
        await store.close()


def test_one_key_is_one_job_though_the_index_forgets_it_in_between(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first has its row, but its directory no name yet, when the index is made anew."""
    death = Death()
    arm(monkeypatch, death)
    others: list[Job] = []

    def forget(point: str) -> None:
        if point == "server.accepted" and not others:
            death.of_all = lambda _: None
            rebuild(Home(home))
            other = threading.Thread(
                target=lambda: others.append(asyncio.run(launched(Home(home))))
            )
            other.start()
            other.join()

    death.of_all = forget
    first = asyncio.run(launched(Home(home)))
    assert [other.id for other in others] == [first.id]
    assert [path.name for path in home.glob("jobs/*/job-*")] == [first.id]
    assert rebuild(Home(home)).jobs == 1
    assert asyncio.run(launched(Home(home))).id == first.id


async def test_a_launch_is_kept_though_another_of_its_server_has_opened_the_new_index(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first has its row in the old index, and its directory no name when that is made anew."""
    death = Death()
    arm(monkeypatch, death)
    store = await open_store(Home(home))
    others: list[Job] = []

    async def launch() -> Job:
        request = LaunchRequest(command=["true"])
        return (await accept(request, store, load_settings(), Manifests([]), client=None))[0][0]

    def forget(point: str) -> None:
        if point == "server.accepted" and not others:
            death.of_all = lambda _: None
            rebuild(Home(home))
            others.append(asyncio.run_coroutine_threadsafe(launch(), loop).result())

    loop = asyncio.get_running_loop()
    death.of_all = forget
    try:
        first = await launch()
        assert others
        assert await store.get(first.id) is not None
    finally:
        await store.close()


async def test_a_launch_that_has_its_directory_waits_for_an_index_in_the_making(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal would say that there is no job, and the next index would hold it all the same."""
    monkeypatch.setattr(index, "BUSY_S", 0.1)
    death = Death()
    arm(monkeypatch, death)
    store = await open_store(Home(home))
    refused = threading.Event()
    lock_of = index._lock

    def lock(path: Path, how: int) -> int:
        try:
            return lock_of(path, how)
        except IndexBusyError:
            refused.set()
            raise

    def replace_and_hold(point: str) -> None:
        if point == "server.named":
            death.of_all = lambda _: None
            rebuild(Home(home))
            (home / "outlast.db").unlink()  # as if somebody was about to make the next one
            held = lock_of(home / "outlast.db", fcntl.LOCK_EX)
            threading.Thread(target=lambda: (refused.wait(20), os.close(held))).start()

    monkeypatch.setattr(index, "_lock", lock)
    death.of_all = replace_and_hold
    request = LaunchRequest(command=["true"])
    try:
        (job,), _ = await accept(request, store, load_settings(), Manifests([]), client=None)
        assert refused.is_set()
        assert await store.get(job.id) is not None
    finally:
        await store.close()
