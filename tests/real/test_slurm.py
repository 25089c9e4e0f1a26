"""Slurm's commands, its states and the batch script, together on a real cluster."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from jobs.engines import slurm_commands
from jobs.engines.base import Phase
from jobs.engines.slurm_commands import Refused
from jobs.model import BatchPlace
from jobs.paths import JobDir
from tests.support.processes import all_of
from tests.support.slurm import Cluster, write
from tests.support.wait import until

pytestmark = pytest.mark.slurm


@pytest.fixture
def job_dir(home: Path) -> JobDir:
    return JobDir(home / "jobs" / "pröject" / "job with space\nand 'line'")


@pytest.mark.parametrize(
    ("script", "exit_code", "signal"),
    [
        ("exit 0", 0, None),
        ("exit 3", 3, None),
        ("exit 139", 139, None),
        ("kill -9 $$", None, 9),
        ("kill -SEGV $$", None, 11),
    ],
)
async def test_how_a_command_ends_is_told_as_it_was(
    slurm: Cluster, job_dir: JobDir, script: str, exit_code: int | None, signal: int | None
) -> None:
    record = await slurm.run(job_dir, script)
    assert (record.why, record.exit_code, record.signal) == ("exit", exit_code, signal)


async def test_a_running_job_has_its_proof_of_life(slurm: Cluster, job_dir: JobDir) -> None:
    write(job_dir, "sleep 60")
    job_id = await slurm.submit(job_dir, options=["--mem=70"])
    sighting = await slurm.until(Phase.RUNNING, job_id, job_dir)
    started = sighting.started
    assert started is not None
    assert started.batch is not None
    node = started.batch.node
    assert started.batch == BatchPlace(job=job_id, node=node)
    assert sighting.detail == f"on {node}"
    if slurm.has_cgroups:
        assert started.limits is not None
        assert (started.limits.memory_mb, started.limits.memory_mb_by) == (70, "cgroup")


async def test_out_of_memory_is_told_even_with_exit_code_0(slurm: Cluster, job_dir: JobDir) -> None:
    if not slurm.has_cgroups:
        pytest.skip("memory is not limited by cgroups on this machine")
    record = await slurm.run(job_dir, "tail /dev/zero; exit 0", ["--mem=60"])
    assert (record.why, record.exit_code, record.limit_hit) == ("exit", 0, "memory_mb")


async def test_a_cancel_of_ours_and_its_grace(slurm: Cluster, job_dir: JobDir) -> None:
    write(job_dir, "trap 'echo saved; exit 75' TERM; echo up; while :; do sleep 0.1; done")
    job_id = await slurm.submit(job_dir)
    await until(lambda: job_dir.stdout.exists() and "up" in job_dir.stdout.read_text())
    job_dir.cancel.write_text('{"at": 1.0, "reason": null, "grace_s": 5.0}', encoding="utf-8")
    await slurm_commands.cancel([job_id], signal="TERM")
    record = await slurm.end(job_id, job_dir)
    assert (record.why, record.exit_code) == ("cancelled", 75)
    await slurm_commands.cancel([job_id], signal="TERM")  # harmless when it has ended
    await slurm_commands.cancel([job_id])
    assert (await slurm.end(job_id, job_dir)).why == "cancelled"


async def test_scancel_by_another_hand(slurm: Cluster, job_dir: JobDir) -> None:
    write(job_dir, "exec sleep 60")
    job_id = await slurm.submit(job_dir)
    await slurm.until(Phase.RUNNING, job_id, job_dir)
    await slurm_commands.cancel([job_id])
    record = await slurm.end(job_id, job_dir)
    assert (record.why, record.signal) == ("cancelled", 15)


async def test_cancelled_while_it_waits_it_has_never_run(slurm: Cluster, job_dir: JobDir) -> None:
    write(job_dir, "exit 0")
    job_id = await slurm.submit(job_dir, options=["--begin=now+1hour"])
    sighting = await slurm.look(job_id, job_dir)
    assert sighting.phase is Phase.STARTING
    assert sighting.detail is not None
    assert sighting.detail.startswith("not to start before a set time, expected start 20")
    await slurm_commands.cancel([job_id], signal="TERM")  # which does nothing to it
    assert (await slurm.look(job_id, job_dir)).phase is Phase.STARTING
    await slurm_commands.cancel([job_id])
    assert (await slurm.end(job_id, job_dir)).why == "cancelled"
    assert not job_dir.started.exists()


async def test_a_script_that_is_killed_leaves_the_end_to_slurm(
    slurm: Cluster, job_dir: JobDir, home: Path
) -> None:
    record = await slurm.run(job_dir, "setsid sleep 61 & kill -9 $PPID; sleep 60")
    assert (record.why, record.exit_code, record.signal) == ("exit", None, 9)
    if slurm.has_cgroups:
        await until(lambda: all_of(home) == [])


async def test_what_a_command_leaves_is_ended(slurm: Cluster, job_dir: JobDir, home: Path) -> None:
    clean = "import os, time; os.setsid(); time.sleep(62)"
    left = f"setsid sleep 61 & (env -i setsid python3 -c '{clean}' &); sleep 0.3; exit 4"
    record = await slurm.run(job_dir, left)
    assert (record.exit_code, record.survivors) == (4, [])
    await until(lambda: all_of(home) == [])  # the script itself ends a little later


async def test_a_directory_that_nodes_do_not_see_is_an_error_of_the_start(
    slurm: Cluster, job_dir: JobDir
) -> None:
    job_id = await slurm.submit(job_dir, options=["-o", "/dev/null"])
    record = await slurm.end(job_id, job_dir)
    assert record.why == "start_error"
    assert record.error is not None
    assert "the job directory cannot be entered on the node n" in record.error


async def test_a_log_that_cannot_be_made_is_one_too(slurm: Cluster, job_dir: JobDir) -> None:
    record = await slurm.run(job_dir, "exit 0", ["-o", "/no/such/folder/log"])
    assert record.why == "start_error"
    assert record.error is not None
    assert "JobLaunchFailure" in record.error


@pytest.mark.parametrize("option", ["--mem=9999999", "--partition=none", "--bogus", "--time=x"])
async def test_an_impossible_request_is_refused(
    slurm: Cluster, job_dir: JobDir, option: str
) -> None:
    with pytest.raises(Refused):
        await slurm.submit(job_dir, options=[option])


async def test_a_submission_whose_answer_was_lost_is_found_by_its_token(
    slurm: Cluster, job_dir: JobDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SQUEUE_STATES", "PENDING")
    monkeypatch.setenv("SBATCH_PARTITION", "none")
    write(job_dir, "exit 0")
    token = f"outlast-test-{time.time_ns()}"
    assert await slurm_commands.find(token, since=time.time() - 3600) == []
    job_id = await slurm.submit(job_dir, token=token)
    assert await slurm_commands.find(token, since=time.time() - 3600) == [job_id]
    await slurm.end(job_id, job_dir)
    assert await slurm_commands.find(token, since=time.time() - 3600) == [job_id]


async def test_a_sweep_is_one_array_and_one_question(slurm: Cluster, home: Path) -> None:
    job_dirs = [JobDir(home / "jobs" / f"task {number}") for number in range(20)]
    for number, job_dir in enumerate(job_dirs):
        write(job_dir, f"exit {number}")
    array = await slurm.submit(*job_dirs)
    ids = [f"{array}_{number}" for number in range(20)]
    for job_id, job_dir in zip(ids, job_dirs, strict=True):
        record = await slurm.end(job_id, job_dir)
        assert record.exit_code == int(job_id.split("_")[1])
        assert record.batch is not None
        assert record.batch.job == job_id
    rows = await slurm_commands.queue(ids)
    assert {id: row.exit_code for id, row in rows.items()} == dict(zip(ids, range(20), strict=True))


async def test_a_task_cancelled_while_it_waited_is_in_no_answer(slurm: Cluster, home: Path) -> None:
    job_dirs = [JobDir(home / "jobs" / f"task {number}") for number in range(3)]
    for job_dir in job_dirs:
        write(job_dir, "sleep 60")
    array = await slurm.submit(*job_dirs, options=["--array=0-2%1"])
    await slurm.until(Phase.RUNNING, f"{array}_0", job_dirs[0])
    waiting = await slurm.look(f"{array}_1", job_dirs[1])
    assert waiting.detail == "waiting for other tasks of its sweep"
    await slurm_commands.cancel([f"{array}_1"])
    rows = await slurm_commands.queue([f"{array}_{number}" for number in range(3)])
    assert set(rows) == {f"{array}_0", f"{array}_2"}


async def test_the_accounting_tells_what_a_job_used(slurm: Cluster, job_dir: JobDir) -> None:
    # It is looked every two seconds what it uses.
    burn = "import time; x = bytearray(90 << 20)\nwhile time.process_time() < 3: pass"
    record = await slurm.run(job_dir, f"python3 -c '{burn}'", ["--mem=300"])
    assert record.exit_code == 0
    job_id = record.batch.job if record.batch else ""
    if not slurm.has_accounting:
        assert await slurm_commands.accounting([job_id]) is None
        return

    async def told() -> bool:
        row = (await slurm_commands.accounting([job_id]) or {}).get(job_id)
        return row is not None and row.state == "COMPLETED" and row.max_rss_kb is not None

    await until(told)
    row = (await slurm_commands.accounting([job_id]) or {})[job_id]
    assert row.max_rss_kb is not None
    assert row.max_rss_kb > 90 << 10
    assert row.cpu_efficiency is not None
    assert 0 < row.cpu_efficiency < 1.5  # how much it got of a busy machine is not its affair
    assert 2 < (row.user_s or 0) + (row.system_s or 0) < 10
    seen = (await slurm.look(job_id, job_dir)).exit
    assert seen is not None
    assert seen.max_rss_kb == row.max_rss_kb


async def test_partitions_are_told(slurm: Cluster) -> None:
    await slurm_commands.ping()
    found = {part.name: part for part in await slurm_commands.partitions()}
    assert found["main"].is_default
    assert (found["short"].time_limit_s, found["main"].time_limit_s) == (120.0, None)
    assert (found["main"].cpus, found["main"].memory_mb) == ("2", "2000")


async def test_its_signal_long_before_the_end_is_one_for_another_reason(
    slurm: Cluster, job_dir: JobDir
) -> None:
    """As at sites that send it before a preemption; of the limit only the controller knows."""
    write(job_dir, "trap 'exit 5' TERM; while :; do sleep 0.2; done")
    job_id = await slurm.submit(job_dir, options=["-t", "60"])
    await slurm.until(Phase.RUNNING, job_id, job_dir)
    subprocess.run(["scancel", "--batch", "--signal=USR1", job_id], check=True, timeout=60)
    record = await slurm.end(job_id, job_dir)
    assert (record.why, record.exit_code) == ("terminated", 5)
