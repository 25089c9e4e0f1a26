"""Servers, keepers and shims are killed with SIGKILL; what a job did must still be told truly."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import psutil
import pytest

from jobs.service import Service
from jobs.settings import load_settings
from jobs.states import State
from server.wiring import open_service
from tests.support.launching import bash, insert, launch
from tests.support.processes import is_running, keeper_pid, kill, shim_pids
from tests.support.server import stdio_server
from tests.support.wait import ended, until


async def test_exit_codes_survive_server_and_keeper(home: Path, tmp_path: Path) -> None:
    """Five jobs that will exit 7; server and keeper die; a new server tells 7 for each."""
    gate = tmp_path / "gate"
    script = f"while [ ! -e {gate} ]; do sleep 0.05; done; exit 7"
    async with stdio_server() as (client, server_pid):
        job_ids = []
        for _ in range(5):
            reply = await client.call_tool("launch_job", {"command": ["bash", "-c", script]})
            assert reply.structured_content is not None
            assert reply.structured_content["state"] == "running"
            job_ids.append(reply.structured_content["job_id"])
        keeper = keeper_pid(home)
        assert keeper is not None
        kill(server_pid, keeper)
        await until(lambda: not is_running(server_pid) and not is_running(keeper))
    assert len(shim_pids(home)) == 5
    gate.touch()
    await until(lambda: not shim_pids(home))  # they ended while nobody was there
    async with stdio_server() as (client, _):
        # Any call that changes something wakes a keeper; asking does so too.
        for job_id in job_ids:

            async def is_final(job_id: str = job_id) -> bool:
                reply = await client.call_tool("job_status", {"job_id": job_id, "wait_s": 5})
                assert reply.structured_content is not None
                return bool(reply.structured_content["state"] == "failed")

            await until(is_final)
            reply = await client.call_tool("job_status", {"job_id": job_id})
            assert reply.structured_content is not None
            assert reply.structured_content["outcome"]["exit_code"] == 7


async def test_a_killed_keeper_starts_nothing_twice(service: Service, home: Path) -> None:
    """The keeper is killed as soon as it has moved a job, again and again, while 40 jobs run."""
    witness = home.parent / "witness"

    async def moved() -> list[tuple[str, State]]:
        jobs = await service._store.in_states(set(State) - {State.QUEUED})
        return [(job.id, job.state) for job in jobs]

    async def killer() -> None:
        for _ in range(12):
            before = await moved()

            async def has_moved(before: list[tuple[str, State]] = before) -> bool:
                return await moved() != before

            await until(has_moved, 60)
            if (pid := keeper_pid(home)) is not None:
                kill(pid)

    killing = asyncio.get_running_loop().create_task(killer())
    try:
        jobs = [
            await bash(service, f"echo $OUTLAST_JOB_ID >> {witness}; exit {n % 3}", wait_s=0)
            for n in range(40)
        ]
        for n, job in enumerate(jobs):
            jobs[n] = await ended(service, job.id)
    finally:
        killing.cancel()
        await asyncio.wait([killing])
    for n, job in enumerate(jobs):
        job = await ended(service, job.id)
        assert (job.state, job.outcome.exit_code) == (
            State.FAILED if n % 3 else State.COMPLETED,
            n % 3,
        )
    ran = witness.read_text(encoding="utf-8").split()
    assert sorted(ran) == sorted(job.id for job in jobs)


async def test_a_killed_shim_makes_a_lost_job_never_a_second_run(
    service: Service, home: Path
) -> None:
    job = await bash(service, "echo run; sleep 60")
    (shim,) = shim_pids(home)
    (command,) = psutil.Process(shim).children()
    kill(shim)
    await until(lambda: not is_running(shim))
    assert (await service.job(job.id)).state is State.RUNNING  # its command is still watched
    kill(command.pid)
    job = await ended(service, job.id)
    assert job.state is State.LOST
    assert job.outcome.exit_code is None
    assert "supervisor was killed" in (job.outcome.reason or "")
    assert service.directory(job).stdout.read_text(encoding="utf-8") == "run\n"


async def test_an_orphan_can_be_cancelled(service: Service, home: Path) -> None:
    job = await bash(service, "trap '' TERM; setsid sleep 61 & sleep 62")
    (shim,) = shim_pids(home)
    family = psutil.Process(shim).children(recursive=True)
    kill(shim)
    await until(lambda: not is_running(shim))
    await service.cancel(job.id, grace_s=0.2)
    job = await ended(service, job.id)
    assert job.state is State.LOST
    assert not [process for process in family if is_running(process.pid)]


async def test_a_terminated_shim_ends_its_job_and_says_so(service: Service, home: Path) -> None:
    job = await launch(service, "sleep", "60")
    (shim,) = shim_pids(home)
    os.kill(shim, signal.SIGTERM)
    job = await ended(service, job.id)
    assert job.state is State.FAILED
    assert "told to end" in (job.outcome.reason or "")


async def test_a_server_killed_in_the_middle_of_a_launch(home: Path) -> None:
    """Killed between accepting the job and naming its directory: the keeper completes that."""
    async with open_service(load_settings()) as service:
        job = await launch(service, "true", wait_s=10)
        root = service.directory(job).root
        # The same situation, made by hand: an accepted, queued job under its unborn name.
        await until(lambda: keeper_pid(home) is None)
        store = service._store
        launched = service._launched(job)[0]
        unborn = root.with_name(".new-job-20260101-000000-half-aaaaa")
        half = launched.model_copy(
            update={"job_id": unborn.name.removeprefix(".new-"), "cwd": str(unborn.parent)}
        )
        unborn.mkdir(mode=0o700)
        (unborn / "job.json").write_text(half.model_dump_json(by_alias=True), encoding="utf-8")
        insert(store, half)
        await launch(service, "true", wait_s=10)
        job = await ended(service, half.job_id)
        assert job.state is State.COMPLETED
        assert not unborn.exists()


async def test_a_frozen_shim_counts_as_alive(service: Service, home: Path) -> None:
    job = await launch(service, "sleep", "0.2")
    (shim,) = shim_pids(home)
    os.kill(shim, signal.SIGSTOP)
    keeper = keeper_pid(home)
    assert keeper is not None
    kill(keeper)
    await launch(service, "true", wait_s=10)  # brings a new keeper, which looks at everything
    assert (await service.job(job.id)).state is State.RUNNING
    os.kill(shim, signal.SIGCONT)
    assert (await ended(service, job.id)).state is State.COMPLETED


@pytest.mark.parametrize("what", ["job.json", "everything"])
async def test_a_job_directory_that_goes_missing(service: Service, home: Path, what: str) -> None:
    import shutil

    job = await launch(service, "sleep", "60")
    root = service.directory(job).root
    if what == "everything":
        shutil.rmtree(root)
    else:
        (root / what).unlink()
    kill(*[process.pid for pid in shim_pids(home) for process in psutil.Process(pid).children()])
    job = await ended(service, job.id)
    assert job.state in (State.LOST, State.FAILED)


async def test_a_command_that_ends_before_its_start_says_why(
    service: Service, tmp_path: Path
) -> None:
    """Its folder is removed while it waits for its turn, so that it ends before the gate opens."""
    folder = tmp_path / "gone"
    folder.mkdir()
    blocker = await launch(service, "sleep", "60", resources={"cores": 8})
    job = await launch(service, "true", cwd=str(folder))
    assert job.state is State.QUEUED
    folder.rmdir()
    await service.cancel(blocker.id)
    job = await ended(service, job.id)
    assert job.state is State.FAILED
    assert "could not be started: working directory" in (job.outcome.reason or "")
