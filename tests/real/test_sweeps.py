"""Many jobs launched in one step, looked at, ended and collected as one."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from jobs.errors import IdempotencyConflictError, InvalidArgumentError, JobError
from jobs.model import LaunchRequest
from jobs.service import Service
from jobs.settings import load_settings
from jobs.states import State
from jobs.sweeps import Sweep, points
from server.wiring import open_service, rebuild_index
from tests.support.countdown import write_kind


async def launch(service: Service, **request: Any) -> Sweep:
    launched = await service.launch(LaunchRequest(manifest="count", **request), client="test")
    return await service.sweep(launched.job.sweep or "")


async def ended(service: Service, sweep: Sweep) -> Sweep:
    for _ in range(20):
        sweep = await service.sweep(sweep.id, wait_s=20, until=lambda now: now.is_final)
        if sweep.is_final:
            return sweep
    raise AssertionError(sweep.counts)


def test_combinations_and_tables() -> None:
    grid = points({"a": [1, 2], "b": ["x", "y", "z"]})
    assert len(grid) == 6
    assert grid[:2] == [{"a": 1, "b": "x"}, {"a": 1, "b": "y"}]
    assert points([{"a": 1}, {"b": 2}]) == [{"a": 1}, {"b": 2}]
    for bad in ({}, [], {"a": []}, [{}], {"a": list(range(1001))}):
        with pytest.raises(InvalidArgumentError):
            points(bad)  # type: ignore[arg-type]


async def test_two_hundred_jobs_are_launched_in_one_call(service: Service, home: Path) -> None:
    write_kind(home.parent / "manifests")
    sweep = await launch(service, params={"pause_s": 0.0}, sweep={"to": list(range(1, 201))})
    assert len(sweep.jobs) == 200
    page = await service.list_jobs()
    assert [job.sweep for job in page.jobs] == [sweep.id]
    assert sum(page.sweeps[sweep.id].values()) == 200
    sweep = await ended(service, sweep)
    assert sweep.counts == {State.COMPLETED: 200}
    rows = list(csv.DictReader(io.StringIO(sweep.csv())))
    assert [int(row["to"]) for row in rows] == list(range(1, 201))
    assert all(int(row["inner.twice"]) == 2 * int(row["to"]) for row in rows)
    assert all(row["state"] == "completed" for row in rows)
    seventeenth = await service.job(f"{sweep.id}#17")
    assert seventeenth.sweep_values == {"to": 17}
    # The index is only an index of it.
    await service._store.close()
    for path in home.glob("outlast.db*"):
        path.unlink()
    rebuild_index(load_settings())
    async with open_service() as again:
        assert (await again.sweep(sweep.id)).csv() == sweep.csv()


async def test_a_sweep_is_cancelled_as_one(service: Service, home: Path) -> None:
    write_kind(home.parent / "manifests")
    sweep = await launch(service, params={"to": 100_000}, sweep={"pause_s": [0.01] * 30})
    sweep = await service.cancel_sweep(sweep.id, reason="enough", wait_s=20)
    sweep = await ended(service, sweep)
    assert sweep.counts == {State.CANCELLED: 30}
    assert {job.outcome.reason for job in sweep.jobs} == {"Cancelled: enough"}


async def test_all_or_none(service: Service, home: Path) -> None:
    write_kind(home.parent / "manifests")
    with pytest.raises(JobError, match="not valid"):
        await launch(service, sweep={"to": [1, 2, "three"]})
    assert (await service.list_jobs()).jobs == []
    assert list(home.glob("jobs/*/*")) == []
    request = LaunchRequest(command=["true"], sweep={"a": [1]})
    with pytest.raises(InvalidArgumentError, match="goes with a manifest"):
        await service.launch(request, client="test")


async def test_the_same_key_gives_the_same_sweep(service: Service, home: Path) -> None:
    write_kind(home.parent / "manifests")
    first = await launch(service, sweep={"to": [1, 2, 3]}, idempotency_key="k")
    again = await launch(service, sweep={"to": [1, 2, 3]}, idempotency_key="k")
    assert [job.id for job in again.jobs] == [job.id for job in first.jobs]
    with pytest.raises(IdempotencyConflictError, match=first.id):
        await launch(service, sweep={"to": [1, 2]}, idempotency_key="k")
    await ended(service, first)
