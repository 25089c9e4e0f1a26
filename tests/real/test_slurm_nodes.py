"""Nodes and the controller of a real cluster fail; what is told of jobs stays true."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from jobs.engines import slurm_commands
from jobs.engines.base import Phase
from jobs.engines.slurm_commands import Unreachable
from jobs.paths import JobDir
from tests.support.slurm import Cluster, write
from tests.support.wait import until

pytestmark = pytest.mark.slurm


@pytest.fixture
def job_dir(home: Path) -> JobDir:
    return JobDir(home / "jobs" / "job")


async def test_with_its_node_a_job_is_lost(slurm_alone: Cluster, job_dir: JobDir) -> None:
    write(job_dir, "trap '' TERM; sleep 60 & wait; wait")
    job_id = await slurm_alone.submit(job_dir, options=["-w", "n2"])
    await slurm_alone.until(Phase.RUNNING, job_id, job_dir)
    slurm_alone.set_node("n2", "down")
    sighting = await slurm_alone.until(Phase.VANISHED, job_id, job_dir)
    assert sighting.detail == "a node that it ran on has failed (n2)"


async def test_a_job_that_needs_a_drained_node_waits_and_says_so(
    slurm_alone: Cluster, job_dir: JobDir
) -> None:
    write(job_dir, "exit 0")
    slurm_alone.set_node("n2", "drain")
    job_id = await slurm_alone.submit(job_dir, options=["-w", "n2"])

    async def says_so() -> bool:
        sighting = await slurm_alone.look(job_id, job_dir)
        assert sighting.phase is Phase.STARTING
        return sighting.detail == "a node it needs is down, drained or reserved: n2"

    await until(says_so)
    slurm_alone.set_node("n2", "resume")
    assert (await slurm_alone.end(job_id, job_dir)).exit_code == 0


@pytest.mark.parametrize("goes_on", [True, False])
async def test_put_back_into_the_queue_it_goes_on_or_refuses(
    slurm_alone: Cluster, job_dir: JobDir, goes_on: bool
) -> None:
    again = ["bash", "-c", "echo again; exit 6"] if goes_on else None
    write(job_dir, "trap '' TERM; echo first; sleep 60; sleep 60", again=again, grace_s=60.0)
    job_id = await slurm_alone.submit(job_dir, options=["--requeue"])
    await slurm_alone.until(Phase.RUNNING, job_id, job_dir)
    slurm_alone.control("requeue", job_id)
    sighting = await slurm_alone.until(Phase.STARTING, job_id, job_dir)
    assert sighting.detail is not None
    assert "begun anew 1 times already" in sighting.detail
    await slurm_alone.begin_anew(job_id)
    if goes_on:
        record = await slurm_alone.end(job_id, job_dir)
        assert (record.exit_code, record.batch and record.batch.restarts) == (6, 1)
    else:
        sighting = await slurm_alone.until(Phase.VANISHED, job_id, job_dir)
        assert "begun it a second time" in (sighting.detail or "").replace("began", "begun")
    said = job_dir.stdout.read_text(encoding="utf-8")
    assert said == ("first\nagain\n" if goes_on else "first\n")


async def test_without_a_controller_nothing_is_told_falsely(
    slurm_alone: Cluster, home: Path
) -> None:
    """While it is away one job ends and one runs on."""
    ends, stays = JobDir(home / "jobs" / "ends"), JobDir(home / "jobs" / "stays")
    write(ends, "until [ -e go ]; do sleep 0.1; done; exit 3")
    write(stays, "sleep 90")
    ids = {job_dir: await slurm_alone.submit(job_dir) for job_dir in (ends, stays)}
    for job_dir, job_id in ids.items():
        await slurm_alone.until(Phase.RUNNING, job_id, job_dir)
    await slurm_alone.until_saved()
    with slurm_alone.without_controller():
        with pytest.raises(Unreachable):
            await slurm_commands.ping()
        answers = await asyncio.gather(
            slurm_commands.queue(ids.values()),
            slurm_commands.submit("#!/bin/bash\n", "never", ["-o", "/dev/null"]),
            slurm_commands.find("never", since=0),
            slurm_commands.cancel([ids[stays]]),
            return_exceptions=True,
        )
        assert [type(answer) for answer in answers] == [Unreachable] * 4
        assert (await slurm_alone.look(ids[stays], stays)).phase is Phase.UNKNOWN
        (ends.work / "go").touch()
        await until(ends.exit.exists)
        assert (await slurm_alone.end(ids[ends], ends)).exit_code == 3
    assert (await slurm_alone.until(Phase.RUNNING, ids[stays], stays)).started is not None
    assert (await slurm_alone.end(ids[ends], ends)).exit_code == 3
