"""Short of descriptors: what cannot be read just now is not taken for what is not there."""

from __future__ import annotations

import asyncio
import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jobs.directory import glimpse, read_record
from jobs.engines.base import Phase
from jobs.engines.local import look
from jobs.model import ExitRecord
from jobs.paths import Home
from jobs.rebuild import entries
from jobs.service import Service
from jobs.states import State
from tests.support.cli import CLI, ROOT
from tests.support.launching import bash
from tests.support.wait import ended, until

NONE_LEFT = "Too many open files"


@contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """So many can be opened meanwhile."""
    first_free = os.dup(0)
    os.close(first_free)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (first_free + count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_an_end_that_cannot_be_read_is_no_loss(service: Service, home: Path) -> None:
    job = await bash(service, "exit 3", wait_s=20)
    assert job.state is State.FAILED
    job_dir = service.directory(job)
    for left in (0, 1):  # the second is enough for the lock, but not for the records behind it
        with descriptors_left(left), pytest.raises(OSError, match=NONE_LEFT):
            look(job_dir)
    with descriptors_left(0):
        assert glimpse(job_dir.exit, ExitRecord) is None
        with pytest.raises(OSError, match=NONE_LEFT):
            read_record(job_dir.exit, ExitRecord)
    assert look(job_dir).phase is Phase.ENDED


async def test_no_index_is_made_anew_without_the_jobs_that_cannot_be_read_just_now(
    service: Service, home: Path
) -> None:
    first = await bash(service, "exit 3", wait_s=20)
    await until(lambda: time.time() >= int(first.created_at) + 1)  # each second is read apart
    await bash(service, "exit 4", wait_s=20)
    found = entries(Home(home))
    with descriptors_left(0), pytest.raises(OSError, match=NONE_LEFT):
        next(found)
    found = entries(Home(home))
    assert next(found).row["id"] == first.id
    with descriptors_left(0), pytest.raises(OSError, match=NONE_LEFT):
        next(found)


async def test_a_keeper_that_is_short_of_them_keeps_every_job(service: Service, home: Path) -> None:
    """It holds one for each job that runs: some have to wait, and none is told falsely."""
    keeps = ["prlimit", "--nofile=24:4096", *CLI, "launch", "--", "sleep", "600"]
    process = await asyncio.create_subprocess_exec(
        *keeps, cwd=ROOT, stdout=asyncio.subprocess.DEVNULL
    )
    assert await asyncio.wait_for(process.wait(), 60) == 0
    go = home.parent / "go"
    script = f"until [ -e {go} ]; do sleep 0.2; done; exit 3"
    jobs = [await bash(service, script) for _ in range(30)]

    async def some_wait() -> bool:
        reasons = [(await service.job(job.id)).wait_reason or "" for job in jobs]
        return any(NONE_LEFT in reason for reason in reasons)

    await until(some_wait, 60)
    go.touch()
    for job in jobs:
        final = await ended(service, job.id, 120)
        assert (final.state, final.outcome.exit_code) == (State.FAILED, 3), final
