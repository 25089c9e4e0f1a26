"""What every engine promises the keeper: how jobs are ended, by a wish or by a limit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.engines.base import Engine, Phase
from jobs.limits import Bounds
from jobs.model import Resources
from jobs.paths import JobDir
from tests.support.engines import end_of, job, run, says, start, wish_end
from tests.support.processes import all_of
from tests.support.wait import until

SAVES = "trap 'echo saved; exit 75' {signal}; echo up; while :; do sleep 0.05; done"


async def test_stop_ends_everything_and_is_harmless_twice(
    engine: Engine, job_dir: JobDir, home: Path
) -> None:
    await start(engine, job(job_dir, "trap '' TERM; setsid sleep 60 & sleep 60"), job_dir)
    for _ in range(3):
        await wish_end(engine, job_dir, 0.1)
    record = await end_of(engine, job_dir)
    assert (record.why, record.survivors) == ("cancelled", [])
    await engine.stop(job_dir, grace_s=0)
    await until(lambda: not all_of(home))


@pytest.mark.parametrize("signal", ["TERM", "INT", "USR1"])
async def test_a_job_gets_the_signal_on_which_it_stops_cleanly(
    engine: Engine, job_dir: JobDir, signal: str
) -> None:
    order = job(job_dir, SAVES.format(signal=signal), stop_signal=signal, grace_s=30)
    await start(engine, order, job_dir)
    await until(says(job_dir, "up"))
    await wish_end(engine, job_dir)
    record = await end_of(engine, job_dir)
    assert (record.why, record.exit_code, record.signal) == ("cancelled", 75, None)
    assert says(job_dir, "saved")()


async def test_a_stop_file_is_made_instead_of_the_signal(engine: Engine, job_dir: JobDir) -> None:
    script = "trap 'exit 9' TERM; echo up; until [ -e please.EXIT ]; do sleep 0.05; done; exit 4"
    await start(engine, job(job_dir, script, stop_file="please.EXIT", grace_s=30), job_dir)
    await until(says(job_dir, "up"))
    await wish_end(engine, job_dir)
    record = await end_of(engine, job_dir)
    assert (record.why, record.exit_code) == ("cancelled", 4)


async def test_another_engine_object_can_stop_it(
    new_engine: Callable[[], Engine], engine: Engine, job_dir: JobDir
) -> None:
    await start(engine, job(job_dir, "exec sleep 60"), job_dir)
    await wish_end(new_engine(), job_dir)
    record = await end_of(engine, job_dir)
    assert (record.why, record.signal) == ("cancelled", 15)


async def test_a_time_limit_is_the_engines_own(engine: Engine, job_dir: JobDir) -> None:
    record = await run(engine, job(job_dir, "exec sleep 60", time_limit_s=0.2), job_dir)
    assert (record.why, record.signal) == ("timeout", 15)
    assert record.wall_s < 30


async def test_before_its_time_limit_a_job_can_save(engine: Engine, job_dir: JobDir) -> None:
    order = job(job_dir, SAVES.format(signal="INT"), stop_signal="INT", time_limit_s=1, grace_s=30)
    record = await run(engine, order, job_dir)
    assert (record.why, record.exit_code) == ("timeout", 75)
    assert says(job_dir, "saved")()


async def test_a_memory_limit_that_is_told_is_kept(engine: Engine, job_dir: JobDir) -> None:
    order = job(
        job_dir,
        "ulimit -v 1000000; tail /dev/zero",  # where nothing else holds it
        bounds=Bounds(memory_mb=80),
        resources=Resources(cores=1, memory_mb=80),
    )
    record = await run(engine, order, job_dir)
    started = (await engine.poll(job_dir)).started
    limits = started.limits if started else None
    if limits is None or limits.memory_mb_by != "cgroup":
        pytest.skip("nothing here can limit a whole job; `outlast doctor` says why")
    assert limits.memory_mb == 80
    assert (record.limit_hit, record.exit_code == 0) == ("memory_mb", False)


async def test_a_stop_of_what_never_started_is_harmless(engine: Engine, job_dir: JobDir) -> None:
    await engine.stop(job_dir, grace_s=0)
    assert (await engine.poll(job_dir)).phase is Phase.NEVER_STARTED
