"""What the engine of this machine does by its own means: a shim for each job, and kernel locks."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import psutil
import pytest

from jobs.engines.base import Engine, Phase
from jobs.engines.local import LocalEngine
from jobs.limits import Bounds
from jobs.paths import JobDir
from tests.support.engines import end_of, job, seen, start, submit
from tests.support.processes import is_running, kill, shim_pids
from tests.support.wait import until

pytestmark = pytest.mark.parametrize("new_engine", ["local"], indirect=True)

FORKS = """
import os, time
for _ in range(40):
    if os.fork() == 0:
        time.sleep(60)
        os._exit(0)
"""


async def test_submit_returns_with_proof_of_life(engine: Engine, job_dir: JobDir) -> None:
    await submit(engine, job(job_dir, "sleep 60"), job_dir)
    assert (await engine.poll(job_dir)).phase is Phase.RUNNING


async def test_a_limit_of_processes_is_kept(engine: Engine, job_dir: JobDir) -> None:
    script = f"{sys.executable} -c '{FORKS}'"
    await submit(engine, job(job_dir, script, bounds=Bounds(processes=30)), job_dir)
    # It may be over before anybody looks.
    started = (await seen(engine, job_dir, Phase.RUNNING, Phase.ENDED)).started
    assert started is not None
    if started.limits is None or started.limits.processes_by != "cgroup":
        pytest.skip("nothing here can limit a whole job; `outlast doctor` says why")
    assert started.limits.processes == 30
    record = await end_of(engine, job_dir)
    assert (record.limit_hit, record.exit_code == 0) == ("processes", False)


async def test_a_change_is_told_to_who_adopts(engine: Engine, job_dir: JobDir) -> None:
    await start(engine, job(job_dir, "until [ -e go ]; do sleep 0.05; done"), job_dir)
    told = asyncio.Event()
    release = engine.adopt(job_dir, told.set)
    (job_dir.work / "go").touch()
    await asyncio.wait_for(told.wait(), 20)
    release()
    assert (await engine.poll(job_dir)).phase is Phase.ENDED


async def test_an_end_that_nobody_wrote_down_is_no_end_that_is_known(
    engine: Engine, job_dir: JobDir, home: Path
) -> None:
    started = await start(engine, job(job_dir, "sleep 60"), job_dir)
    kill(*shim_pids(home))
    # A little later: the kernel lets go of the lock at the last.
    await seen(engine, job_dir, Phase.ORPHANED)
    kill(started.pid)
    await seen(engine, job_dir, Phase.VANISHED)


async def test_who_outlives_its_leader_in_the_group_of_an_orphan_is_ended(
    engine: Engine, job_dir: JobDir, home: Path
) -> None:
    """Without a cgroup, and without the job's environment: only its group tells."""
    assert isinstance(engine, LocalEngine)
    engine._confinement._places = []
    deaf = "trap '' TERM; while :; do sleep 0.1; done"
    await start(engine, job(job_dir, f'env -i bash -c "{deaf}" & echo $!; exec sleep 60'), job_dir)
    await until(lambda: job_dir.stdout.read_text(encoding="utf-8"))
    deaf_pid = int(job_dir.stdout.read_text(encoding="utf-8"))
    await until(lambda: psutil.Process(deaf_pid).cmdline()[0] == "bash")
    kill(*shim_pids(home))
    await seen(engine, job_dir, Phase.ORPHANED)
    await engine.stop(job_dir, grace_s=0.3)
    await seen(engine, job_dir, Phase.VANISHED)
    await until(lambda: not is_running(deaf_pid))
