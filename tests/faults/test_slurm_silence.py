"""Slurm's controller is down for a while: nothing false is told, and nobody has to help."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from jobs.model import Job
from jobs.service import Service
from jobs.states import State
from server.wiring import open_service
from tests.support.launching import bash, launch
from tests.support.slurm import Cluster
from tests.support.slurm_engine import alone_on_slurm, batch_of
from tests.support.wait import ended, in_state, until

__all__ = ["alone_on_slurm"]
pytestmark = pytest.mark.slurm

LATER = '[engines.slurm.profiles.later]\noptions = ["--begin=now+1hour"]\n'
SOON_S = 5.0  #: a busy machine may take so long for an answer of milliseconds


async def quickly(service: Service, job: Job) -> Job:
    asked_at = time.monotonic()
    job = await service.job(job.id)
    assert time.monotonic() - asked_at < SOON_S
    return job


async def until_told(service: Service, job: Job, words: str) -> None:
    async def told() -> bool:
        return words in ((await quickly(service, job)).wait_reason or "")

    await until(told, 60, words)


async def test_no_job_changes_its_state_falsely(alone_on_slurm: Cluster, home: Path) -> None:
    (home.parent / "config.toml").write_text(LATER, encoding="utf-8")
    go = "until [ -e go ]; do sleep 0.1; done; exit 7"
    async with open_service() as service:
        stays, ends = [await bash(service, go, engine="slurm") for _ in range(2)]
        waits = await launch(service, "true", engine="slurm:later")
        for job in (stays, ends):
            await in_state(service, job.id, State.RUNNING, 60)
        await until_told(service, waits, "expected start")
        alone_on_slurm._ids.append(str(batch_of(service.directory(waits)).id))
        await alone_on_slurm.until_saved()
        with alone_on_slurm.without_controller():
            asked_at = time.monotonic()
            meanwhile = await launch(service, "bash", "-c", "exit 5", engine="slurm")
            here = await launch(service, "true", wait_s=20)
            assert time.monotonic() - asked_at < 2 * SOON_S
            assert here.state is State.COMPLETED
            for job in (stays, waits, meanwhile):
                await until_told(service, job, "Slurm has not answered since 20")
            (service.directory(ends).work / "go").touch()
            ends = await ended(service, ends.id, 60)
            assert (ends.state, ends.outcome.exit_code) == (State.FAILED, 7)
            assert (await quickly(service, stays)).state is State.RUNNING
            assert not (await quickly(service, waits)).is_final
            assert not (await quickly(service, meanwhile)).is_final
        meanwhile = await ended(service, meanwhile.id, 90)
        assert (meanwhile.state, meanwhile.outcome.exit_code) == (State.FAILED, 5)
        await until_told(service, waits, "expected start")
        assert (await service.job(stays.id)).wait_reason is None
        (service.directory(stays).work / "go").touch()
        stays = await ended(service, stays.id, 60)
        assert (stays.state, stays.outcome.exit_code) == (State.FAILED, 7)
        await service.cancel(waits.id)
        assert (await ended(service, waits.id, 60)).state is State.CANCELLED
