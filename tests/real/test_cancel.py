"""After a cancel nothing of the job runs: not an escapee, not one that ignores TERM."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import psutil
import pytest

from jobs.cancel import wish_cancel
from jobs.directory import read_record
from jobs.model import CancelWish
from jobs.paths import Home
from jobs.service import Service
from jobs.states import State
from server.wiring import open_service, open_store
from tests.support.launching import PYTHON, bash, launch
from tests.support.processes import is_running, shim_pids
from tests.support.wait import ended, until

#: Starts a family of every kind that escapes simple killers, and prints each pid.
FAMILY = """
import os, signal, subprocess, sys, time

def sleeper(how):
    end = "\\nprint(os.getpid(), flush=True)\\ntime.sleep(600)"
    code = "import os,signal,sys,time\\n" + how + end
    return [sys.executable, "-c", code]

print(os.getpid(), flush=True)
plain = subprocess.Popen(sleeper(""))
setsid = subprocess.Popen(sleeper("os.setsid()"))
stubborn = subprocess.Popen(sleeper("signal.signal(signal.SIGTERM, signal.SIG_IGN)"))
# reparented: its parent leaves at once, and it has a session and an environment of its own
fork = "if os.fork(): os._exit(0)\\nos.setsid()\\nif os.fork(): os._exit(0)"
subprocess.run(sleeper(fork), env={})
# stubborn and in a session of its own, below a parent that lives
nested = "os.setsid(); signal.signal(signal.SIGTERM, signal.SIG_IGN)"
subprocess.Popen(sleeper(nested), env={})
time.sleep(600)
"""

#: Starts daemons one after another, each of which starts the next and leaves.
REFORKER = """
import os, time
for _ in range(50):
    if os.fork():
        os._exit(0)
    os.setsid()
    print(os.getpid(), flush=True)
    time.sleep(0.02)
time.sleep(600)
"""


def _printed(service: Service, job_id: str, path: Path) -> list[int]:
    return [int(word) for word in path.read_text(encoding="utf-8").split()] if path.exists() else []


async def test_the_whole_family_dies(service: Service, home: Path) -> None:
    job = await launch(service, PYTHON, "-c", FAMILY)
    assert job.state is State.RUNNING, job.outcome
    log = service.directory(job).stdout
    await until(lambda: len(_printed(service, job.id, log)) == 6, what=str(log))
    pids = _printed(service, job.id, log)
    assert all(is_running(pid) for pid in pids)
    job = await service.cancel(job.id, grace_s=0.5)
    assert job.state is State.CANCELLED
    assert [pid for pid in pids if is_running(pid)] == []
    await until(lambda: not shim_pids(home))


@pytest.mark.parametrize("started", [10, 50])
async def test_a_chain_of_daemons_dies(service: Service, started: int) -> None:
    job = await bash(service, f"{PYTHON} -c '{REFORKER}' & sleep 600")
    log = service.directory(job).stdout
    await until(lambda: len(_printed(service, job.id, log)) >= started)
    job = await service.cancel(job.id, grace_s=0)
    assert job.state is State.CANCELLED
    assert [pid for pid in _printed(service, job.id, log) if is_running(pid)] == []


async def test_what_a_finished_command_leaves_behind_is_ended(service: Service) -> None:
    job = await bash(service, "setsid sleep 600 & echo $!", wait_s=10)
    assert job.state is State.COMPLETED
    (pid,) = _printed(service, job.id, service.directory(job).stdout)
    assert not is_running(pid)


async def test_the_program_gets_its_grace(service: Service) -> None:
    script = "trap 'echo saving; sleep 0.3; echo saved; exit 75' TERM; echo ready; sleep 600 & wait"
    job = await bash(service, script)
    log = service.directory(job).stdout
    await until(lambda: log.read_text(encoding="utf-8") == "ready\n")
    job = await service.cancel(job.id, reason="enough", grace_s=10)
    assert (job.state, job.outcome.exit_code) == (State.CANCELLED, 75)
    assert log.read_text(encoding="utf-8") == "ready\nsaving\nsaved\n"


async def test_a_frozen_job_can_be_cancelled(service: Service) -> None:
    job = await bash(service, "echo $$; kill -STOP $$")
    log = service.directory(job).stdout
    await until(lambda: _printed(service, job.id, log))
    (pid,) = _printed(service, job.id, log)
    await until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    assert (await service.cancel(job.id)).state is State.CANCELLED


@pytest.mark.parametrize("times", [1, 3])
async def test_cancelling_again_or_too_late_is_harmless(service: Service, times: int) -> None:
    job = await ended(service, (await launch(service, "true")).id)
    for _ in range(times):
        assert (await service.cancel(job.id)).state is State.COMPLETED


async def test_a_later_wish_can_shorten_the_grace(service: Service) -> None:
    job = await bash(service, "trap '' TERM; echo ready; while :; do sleep 1; done")
    await until(lambda: service.last_line(job))
    job = await service.cancel(job.id, reason="first", grace_s=600, wait_s=0)
    assert not job.is_final
    job = await service.cancel(job.id, reason="second", grace_s=0)
    assert (job.state, job.outcome.signal) == (State.CANCELLED, "SIGKILL")
    assert job.outcome.reason == "Cancelled: first"


async def test_the_first_wish_stands_whoever_has_seen_it(service: Service, home: Path) -> None:
    """Servers that looked before it was made write it over neither in the index nor on disk."""
    job = await launch(service, "sleep", "60")
    store = await open_store(Home(home))
    for reason, grace_s in ((None, 5.0), ("second", 60.0)):
        await wish_cancel(store, Home(home), job, reason=reason, grace_s=grace_s)
    now = await store.get(job.id)
    await store.close()
    wish = read_record(service.directory(job).cancel, CancelWish)
    assert now is not None
    assert wish is not None
    assert (now.cancel_reason, now.cancel_grace_s) == (None, 5.0)
    assert wish == CancelWish(at=now.cancel_at or 0, reason=None, grace_s=5.0)


async def test_the_jobs_own_grace_is_the_default(home: Path) -> None:
    (home.parent / "config.toml").write_text("grace_s = 0.2\n", encoding="utf-8")
    async with open_service() as quick:
        job = await bash(quick, "trap '' TERM; echo ready; while :; do sleep 1; done")
        await until(lambda: quick.last_line(job))
        assert (await quick.cancel(job.id)).outcome.signal == "SIGKILL"


async def test_a_process_that_never_stands_still_dies(service: Service) -> None:
    """Each process forks the next, in a session of its own, and leaves after half a ms."""
    code = (
        "import os,time\nwhile True:\n if os.fork(): os._exit(0)\n os.setsid(); time.sleep(0.0005)"
    )
    job = await bash(service, f"{PYTHON} -S -c '{code}' & echo ready; sleep 600")
    await until(lambda: service.last_line(job))
    job = await service.cancel(job.id, grace_s=0)
    assert (job.state, job.outcome.reason) == (State.CANCELLED, None)
    assert [process for process in psutil.process_iter() if code in _words(process)] == []


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


async def test_a_shorter_grace_counts_when_only_children_are_left(service: Service) -> None:
    script = "(trap '' TERM; echo ready; while :; do sleep 1; done) & wait"
    job = await bash(service, script)
    await until(lambda: service.last_line(job))
    assert not (await service.cancel(job.id, grace_s=600, wait_s=0.5)).is_final
    assert (await service.cancel(job.id, grace_s=0)).state is State.CANCELLED


async def test_many_wishes_at_once_are_one(service: Service) -> None:
    job = await launch(service, "sleep", "60")
    ends = await asyncio.gather(*(service.cancel(job.id, reason=str(n)) for n in range(20)))
    assert {end.state for end in ends} == {State.CANCELLED}


async def test_a_job_that_never_ran_is_written_up_and_keeps_no_secret(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUTLAST_CORES", "1")
    async with open_service() as service:
        await launch(service, "sleep", "60")
        queued = await launch(service, "true", env={"MY_TOKEN": "hunter2secret"})
        job_dir = service.directory(queued)
        assert job_dir.secrets.exists()
        await service.cancel(queued.id, reason="not needed")
        assert not job_dir.secrets.exists()
        record = json.loads(job_dir.run_record.read_text(encoding="utf-8"))
        assert (record["state"], record["started_at"]) == ("cancelled", None)
