"""Sweeps on a real cluster: one array, asked about with two calls, cancelled as one."""

from __future__ import annotations

import csv
import io
import itertools
from pathlib import Path
from typing import Any

import pytest

from jobs.model import LaunchRequest
from jobs.service import Service
from jobs.states import State
from jobs.sweeps import Sweep
from tests.support.countdown import write_kind
from tests.support.slurm import Cluster
from tests.support.slurm_engine import alone_on_slurm, batch_of, counted_calls, on_slurm
from tests.support.wait import in_state, until

__all__ = ["alone_on_slurm", "on_slurm"]
pytestmark = pytest.mark.slurm


async def sweep_of(service: Service, **request: Any) -> Sweep:
    wish = LaunchRequest(engine="slurm", manifest="count", **request)
    job = (await service.launch(wish, client="test")).job
    return await service.sweep(job.sweep or "")


async def all_ended(service: Service, sweep: Sweep, seconds: int = 120) -> Sweep:
    async def final() -> Sweep | None:
        now = await service.sweep(sweep.id, wait_s=1)
        return now if now.is_final else None

    ended = await until(final, seconds)
    assert ended is not None
    return ended


async def test_300_jobs_are_one_call_and_all_of_it_two_a_look(
    alone_on_slurm: Cluster, service: Service, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the nodes to itself, because it fills them."""
    write_kind(home.parent / "manifests")
    with counted_calls(home.parent / "bin", monkeypatch) as calls:
        sweep = await sweep_of(service, params={"pause_s": 0.0}, sweep={"to": list(range(1, 301))})
        sweep = await all_ended(service, sweep, 360)
    assert sweep.counts == {State.COMPLETED: 300}
    rows = list(csv.DictReader(io.StringIO(sweep.csv())))
    assert [int(row["to"]) for row in rows] == list(range(1, 301))
    assert all(int(row["inner.twice"]) == 2 * int(row["to"]) for row in rows)
    (submission,) = calls.of("sbatch")
    assert "--array=0-299" in submission
    looks = [at for at, name, _ in calls.all() if name == "squeue"]
    asked = [name for _, name, _ in calls.all() if name != "sbatch"]
    assert len(asked) <= 2 * len(looks)
    assert all(later - at > 9 for at, later in itertools.pairwise(looks))
    ids = [batch_of(service.directory(job)).id or "" for job in sweep.jobs]
    assert ids == [f"{ids[0].partition('_')[0]}_{number}" for number in range(300)]


async def test_of_a_sweep_only_what_slurm_refuses_fails(
    on_slurm: Cluster, service: Service, home: Path
) -> None:
    write_kind(home.parent / "manifests", more='[resources]\ncores = "{to}"\n')
    sweep = await all_ended(service, await sweep_of(service, sweep={"to": [1, 3, 2]}))
    assert [job.state for job in sweep.jobs] == [State.COMPLETED, State.FAILED, State.COMPLETED]
    assert "slurm refused it" in (sweep.jobs[1].outcome.reason or "")


async def test_a_sweep_is_cancelled_as_one(on_slurm: Cluster, service: Service, home: Path) -> None:
    """Those that run stop with a checkpoint, those that wait never run."""
    write_kind(home.parent / "manifests")
    sweep = await sweep_of(service, params={"to": 100_000}, sweep={"pause_s": [0.01] * 8})
    await in_state(service, sweep.jobs[0].id, State.RUNNING, 60)
    await service.cancel_sweep(sweep.id, reason="enough", wait_s=0)
    sweep = await all_ended(service, sweep)
    assert sweep.counts == {State.CANCELLED: 8}
    assert {job.outcome.reason for job in sweep.jobs} == {"Cancelled: enough"}
    assert {job.started_at is None for job in sweep.jobs} == {True, False}
