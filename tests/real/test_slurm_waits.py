"""What a real cluster takes a minute for: its time limits, and forgetting."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from jobs.engines import slurm_commands
from jobs.paths import JobDir
from tests.support.slurm import Cluster, write
from tests.support.wait import until

pytestmark = pytest.mark.slurm


@pytest.fixture
def job_dir(home: Path) -> JobDir:
    return JobDir(home / "jobs" / "job")


async def test_what_slurm_has_forgotten_is_known_by_its_record(
    slurm: Cluster, job_dir: JobDir
) -> None:
    write(job_dir, "exit 7")
    token = f"outlast-test-{time.time_ns()}"
    job_id = await slurm.submit(job_dir, token=token)
    await slurm.end(job_id, job_dir)

    async def forgotten() -> bool:
        await asyncio.sleep(1)
        return await slurm_commands.queue([job_id]) == {}

    await until(forgotten, 90)  # MinJobAge is 30 s there, looked at from time to time
    assert (await slurm.end(job_id, job_dir)).exit_code == 7
    found = await slurm_commands.find(token, since=time.time() - 3600)
    assert found == ([job_id] if slurm.has_accounting else [])


async def test_the_time_limit_of_slurm(slurm: Cluster, job_dir: JobDir) -> None:
    write(job_dir, "trap 'exit 5' TERM; while :; do sleep 0.2; done")
    job_id = await slurm.submit(job_dir, options=["-t", "1"])
    record = await slurm.end(job_id, job_dir, seconds=150)
    assert (record.why, record.exit_code) == ("timeout", 5)


async def test_the_signal_before_the_time_limit(slurm: Cluster, job_dir: JobDir) -> None:
    write(job_dir, "trap 'exit 5' TERM; while :; do sleep 0.2; done")
    job_id = await slurm.submit(job_dir, options=["-t", "2", "--signal=B:USR1@60"])
    record = await slurm.end(job_id, job_dir, seconds=120)
    assert (record.why, record.exit_code) == ("timeout", 5)
    assert record.wall_s < 75
