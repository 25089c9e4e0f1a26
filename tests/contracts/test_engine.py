"""What every engine promises the keeper. One suite; each engine is a parameter of it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from jobs.engines.base import Engine, Phase, Sighting, Submission
from jobs.engines.local import LocalEngine
from jobs.limits import Bounds
from jobs.model import LaunchManifest
from jobs.paths import JobDir
from tests.support.processes import all_of, end_all_of, is_running, kill, shim_pids
from tests.support.wait import until
from tests.unit.test_artifacts import launched


@pytest.fixture
def job_dir(home: Path) -> JobDir:
    """A directory as a launch leaves it, with a name that is hard to handle."""
    root = home / "jobs" / "pröject" / "job with space\nand line"
    root.mkdir(parents=True)
    (root / "work").mkdir()
    return JobDir(root)


@pytest.fixture(params=["local"])
async def engine(
    request: pytest.FixtureRequest, home: Path, job_dir: JobDir
) -> AsyncIterator[Engine]:
    nothing_to_start = [sys.executable, "-c", "pass"]
    engine = {"local": LocalEngine(home / "wake", nothing_to_start)}[request.param]
    yield engine
    end_all_of(home)
    await engine.poll(job_dir)  # collects what has ended


def job(job_dir: JobDir, script: str, **more: object) -> LaunchManifest:
    return launched(
        job_dir.work,
        command=["bash", "-c", script],
        executable="/bin/bash",
        env={
            "PATH": "/usr/bin:/bin",
            "OUTLAST_JOB_ID": "job-x",
            "OUTLAST_JOB_DIR": str(job_dir.root),
        },
        **more,
    )


FORKS = """
import os, time
for _ in range(40):
    if os.fork() == 0:
        time.sleep(60)
        os._exit(0)
"""


async def start(engine: Engine, launched: LaunchManifest, job_dir: JobDir) -> Sighting:
    await engine.submit([Submission(launched, job_dir, [], 1)])
    return await engine.poll(job_dir)


async def end_of(engine: Engine, job_dir: JobDir) -> Sighting:
    async def ended() -> Sighting | None:
        sighting = await engine.poll(job_dir)
        return sighting if sighting.phase in (Phase.ENDED, Phase.VANISHED) else None

    sighting = await until(ended)
    assert sighting is not None
    return sighting


async def test_before_anything_it_has_never_started(engine: Engine, job_dir: JobDir) -> None:
    assert (await engine.poll(job_dir)).phase is Phase.NEVER_STARTED


async def test_submit_gives_proof_of_life(engine: Engine, job_dir: JobDir) -> None:
    sighting = await start(engine, job(job_dir, "sleep 60"), job_dir)
    assert sighting.phase is Phase.RUNNING
    assert sighting.started is not None
    assert is_running(sighting.started.pid)


@pytest.mark.parametrize(
    ("script", "exit_code", "signal"),
    [("exit 0", 0, None), ("exit 7", 7, None), ("exit 137", 137, None), ("kill -9 $$", None, 9)],
)
async def test_exit_codes_and_signals_are_told_apart(
    engine: Engine, job_dir: JobDir, script: str, exit_code: int | None, signal: int | None
) -> None:
    await start(engine, job(job_dir, script), job_dir)
    record = (await end_of(engine, job_dir)).exit
    assert record is not None
    assert (record.why, record.exit_code, record.signal) == ("exit", exit_code, signal)


async def test_a_second_submit_starts_nothing(engine: Engine, job_dir: JobDir, home: Path) -> None:
    witness = home / "witness"
    again = job(job_dir, f"echo ran >> {witness}; sleep 0.2")
    await asyncio.gather(*(start(engine, again, job_dir) for _ in range(4)))
    await end_of(engine, job_dir)
    await start(engine, again, job_dir)
    await until(lambda: not all_of(home))
    assert witness.read_text(encoding="utf-8") == "ran\n"


async def test_stop_ends_everything_and_is_harmless_twice(
    engine: Engine, job_dir: JobDir, home: Path
) -> None:
    await start(engine, job(job_dir, "trap '' TERM; setsid sleep 60 & sleep 60"), job_dir)
    for _ in range(3):
        await engine.stop(job_dir, grace_s=0.1)
    record = (await end_of(engine, job_dir)).exit
    assert record is not None
    assert (record.why, record.survivors) == ("cancelled", [])
    await engine.stop(job_dir, grace_s=0)
    await until(lambda: not all_of(home))


async def test_a_time_limit_is_the_engines_own(engine: Engine, job_dir: JobDir) -> None:
    await start(engine, job(job_dir, "sleep 60", time_limit_s=0.2), job_dir)
    record = (await end_of(engine, job_dir)).exit
    assert record is not None
    assert record.why == "timeout"


@pytest.mark.parametrize(
    ("kind", "script"),
    [
        ("processes", f"{sys.executable} -c '{FORKS}'"),
        ("memory_mb", "tail /dev/zero"),
    ],
)
async def test_a_limit_that_is_told_is_kept(
    engine: Engine, job_dir: JobDir, kind: str, script: str
) -> None:
    bounds = Bounds(processes=30, memory_mb=80)
    sighting = await start(engine, job(job_dir, script, bounds=bounds), job_dir)
    limits = sighting.started.limits if sighting.started else None
    if limits is None or getattr(limits, f"{kind}_by") != "cgroup":
        pytest.skip("nothing here can limit a whole job; `outlast doctor` says why")
    assert getattr(limits, kind) == getattr(bounds, kind)
    record = (await end_of(engine, job_dir)).exit
    assert record is not None
    assert (record.limit_hit, record.exit_code == 0) == (kind, False)


async def test_a_change_is_told_to_who_adopts(engine: Engine, job_dir: JobDir) -> None:
    await start(engine, job(job_dir, "sleep 0.3"), job_dir)
    told = asyncio.Event()
    release = engine.adopt(job_dir, told.set)
    await asyncio.wait_for(told.wait(), 20)
    release()
    assert (await engine.poll(job_dir)).phase is Phase.ENDED


async def test_another_engine_object_sees_the_same(
    engine: Engine, job_dir: JobDir, home: Path
) -> None:
    """An engine holds no fact of its own: a new one adopts what an old one started."""
    await start(engine, job(job_dir, "sleep 0.3; exit 5"), job_dir)
    other = LocalEngine(home / "wake", [sys.executable, "-c", "pass"])
    assert (await other.poll(job_dir)).phase is Phase.RUNNING
    record = (await end_of(other, job_dir)).exit
    assert record is not None
    assert record.exit_code == 5


async def test_an_end_that_nobody_wrote_down_is_no_end_that_is_known(
    engine: Engine, job_dir: JobDir, home: Path
) -> None:
    sighting = await start(engine, job(job_dir, "sleep 60"), job_dir)
    assert sighting.started is not None
    kill(*shim_pids(home))

    async def orphaned() -> bool:  # a little later: the kernel lets go of the lock at the last
        return (await engine.poll(job_dir)).phase is Phase.ORPHANED

    await until(orphaned)
    kill(sighting.started.pid)
    assert (await end_of(engine, job_dir)).phase is Phase.VANISHED
