"""Another boot, another process with the same pid, another time: who is who stays true."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from jobs import clock
from jobs.model import Job
from jobs.service import Service
from jobs.states import State
from server.wiring import open_service
from tests.support.launching import bash, launch
from tests.support.processes import is_running, keeper_pid, kill, shim_pids
from tests.support.wait import ended, until


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process that has nothing to do with any job, in a group of its own."""
    process = subprocess.Popen(["sleep", "600"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


async def power_failure(service: Service, home: Path, job: Job) -> Path:
    """End all that works for the job, as a power failure does; gives its record of the start."""
    (shim,) = shim_pids(home)
    family = [process.pid for process in psutil.Process(shim).children(recursive=True)]
    keeper = keeper_pid(home)
    assert keeper is not None
    # Stopped first, so that none of them can act on the end of another.
    for pid in (keeper, shim):
        os.kill(pid, signal.SIGSTOP)
    kill(*family, keeper, shim)
    await until(lambda: not any(is_running(pid) for pid in (*family, keeper, shim)))
    return service.directory(job).started


def edit(record: Path, **changes: Any) -> None:
    record.write_text(json.dumps({**json.loads(record.read_bytes()), **changes}), encoding="utf-8")


async def test_after_a_reboot_what_ran_is_lost_and_what_waited_runs(
    home: Path, monkeypatch: pytest.MonkeyPatch, stranger: subprocess.Popen[bytes]
) -> None:
    monkeypatch.setenv("OUTLAST_CORES", "1")
    async with open_service() as service:
        done = await bash(service, "exit 9", wait_s=10)
        running = await launch(service, "sleep", "60")
        waiting = await bash(service, "exit 4")
        assert waiting.state is State.QUEUED
        started = await power_failure(service, home, running)
        # By chance the new boot has a process with its pid and even its start time.
        ticks = clock.start_ticks(stranger.pid)
        edit(started, boot_id="another-boot", pid=stranger.pid, start_ticks=ticks)
    async with open_service() as service:
        job = await ended(service, running.id)
        assert job.state is State.LOST
        assert "the machine was restarted" in (job.outcome.reason or "")
        assert (await ended(service, waiting.id)).outcome.exit_code == 4
        assert (await service.job(done.id)).outcome.exit_code == 9
    assert is_running(stranger.pid)


async def test_an_end_before_the_power_failed_is_told_after_it(home: Path) -> None:
    async with open_service() as service:
        job = await bash(service, "sleep 0.3; exit 9")
        keeper = keeper_pid(home)
        assert keeper is not None
        os.kill(keeper, signal.SIGSTOP)  # it does not see the end
        await until(lambda: not shim_pids(home))
        kill(keeper)
        edit(service.directory(job).started, boot_id="another-boot")
        assert (await ended(service, job.id)).outcome.exit_code == 9


async def test_a_process_that_got_the_pid_of_a_job_is_not_taken_for_it(
    service: Service, home: Path, stranger: subprocess.Popen[bytes]
) -> None:
    job = await launch(service, "sleep", "60")
    started = await power_failure(service, home, job)
    edit(started, pid=stranger.pid)
    ended_job = await service.cancel(job.id, grace_s=0, wait_s=15)
    assert ended_job.state is State.LOST
    assert "supervisor was killed" in (ended_job.outcome.reason or "")
    assert is_running(stranger.pid)


@pytest.mark.parametrize("step_s", [-7200, 7200])
async def test_a_clock_that_is_set_while_a_job_runs(
    service: Service, home: Path, tmp_path: Path, step_s: int
) -> None:
    """Seen from the new time, the record of the start is `step_s` wrong."""
    folder = tmp_path / "folder"
    folder.mkdir()
    script = "echo x > out.txt; while [ ! -e gate ]; do sleep 0.02; done"
    job = await bash(service, script, cwd=str(folder), outputs=["out.txt"], time_limit_s=100)
    started = service.directory(job).started
    edit(started, started_at=json.loads(started.read_bytes())["started_at"] - step_s)
    now = await service.job(job.id)
    assert (now.elapsed_s(clock.now()) or 0) >= 0
    (folder / "gate").touch()
    job = await ended(service, job.id)
    # Neither the time limit nor the search for outputs has been led astray.
    assert (job.state, job.outcome.reason) == (State.COMPLETED, None)
    assert job.started_at is not None
    assert job.ended_at is not None
    assert job.ended_at >= job.started_at
