"""The batch script without Slurm: bash runs it, and it does for a job what the shim does."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from jobs import clock
from jobs.engines.slurm_script import (
    NOT_ON_NODE,
    secrets_file,
)
from jobs.model import BatchPlace
from jobs.paths import JobDir
from tests.support.processes import all_of, is_running
from tests.support.slurm_script import (
    Node,
    ended,
    exit_of,
    job_dir,
    node,
    run,
    said,
    started,
    write,
)
from tests.support.wait import until

__all__ = ["job_dir", "node"]


@pytest.mark.parametrize(
    ("script", "exit_code", "signal_number"),
    [
        ("exit 0", 0, None),
        ("sleep 0.2; exit 3", 3, None),
        ("exit 137", 137, None),
        ("exit 130", 130, None),
        ("exit 255", 255, None),
        ("sleep 0.2; kill -9 $$", None, 9),
        ("kill -SEGV $$", None, 11),
        ("kill -PIPE $$", None, 13),
        ("kill -INT $$", None, 2),
        ("kill -40 $$", None, 40),
        ("sleep 0.2 & (sleep 0.3; kill -CONT $$) & kill -STOP $$; exit 7", 7, None),
    ],
)
async def test_exit_codes_and_signals_are_told_apart(
    node: Node, job_dir: JobDir, script: str, exit_code: int | None, signal_number: int | None
) -> None:
    record = await run(node, job_dir, script)
    assert (record.why, record.exit_code, record.signal) == ("exit", exit_code, signal_number)
    assert record.survivors == []


async def test_slurm_gets_the_commands_exit_code(node: Node, job_dir: JobDir) -> None:
    write(job_dir, "exit 3")
    assert (await ended(await node.begin(job_dir)))[0] == 3


async def test_the_records_hold_what_the_shims_do_and_where_it_ran(
    node: Node, job_dir: JobDir
) -> None:
    write(job_dir, "sleep 60")
    env = {"SLURM_ARRAY_JOB_ID": "25", "SLURM_ARRAY_TASK_ID": "0", "SLURM_JOB_GPUS": "1,3"}
    process = await node.begin(job_dir, **env)
    begun = await started(job_dir)
    assert begun.start_ticks == clock.start_ticks(begun.pid) != ""
    assert (begun.boot_id, begun.attempt, begun.gpu_ids) == (clock.boot_id(), 2, [1, 3])
    assert begun.batch == BatchPlace(job="25_0", node="n1", restarts=0)
    assert os.getpgid(begun.pid) == begun.pid
    os.kill(begun.pid, signal.SIGKILL)
    await ended(process)
    record = exit_of(job_dir)
    assert record.batch == begun.batch
    assert 0 < record.wall_s < 30
    assert abs(record.ended_at - clock.now()) < 30


async def test_cpu_time_is_that_of_the_command(node: Node, job_dir: JobDir) -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    record = await run(node, job_dir, [sys.executable, "-c", burn], executable=sys.executable)
    assert record.exit_code == 0
    assert 0.2 < record.user_s + record.system_s < 20


async def test_the_command_gets_its_own_environment_and_arguments(
    node: Node, job_dir: JobDir
) -> None:
    env = {
        "PATH": "/usr/bin:/bin",
        "command": "a name of the script's own",
        "IFS": "x",
        "QUOTED": 'it\'s "$HOME"\nand `x` \\ é',
        "UID": "cannot be set",
        "TMPDIR": "/not/on/the/node",
        "KEY_TOKEN": "***",
    }
    show = "import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ)]))"
    words = ["", "two words", "a'b", "new\nline", "*", "-n"]
    job_dir.batch_secrets.write_bytes(secrets_file({"KEY_TOKEN": "s3 cret'\n"}))
    command = [sys.executable, "-c", show, *words]
    more = {"executable": sys.executable, "env": env, "secret_env": ["KEY_TOKEN"]}
    await run(node, job_dir, command, setup=["export ADDED=1$QUOTED", "true"], **more)
    arguments, seen = json.loads(job_dir.stdout.read_text(encoding="utf-8"))
    assert arguments == words
    assert {name: seen[name] for name in ("command", "IFS", "QUOTED")} == {
        name: env[name] for name in ("command", "IFS", "QUOTED")
    }
    assert seen["KEY_TOKEN"] == "s3 cret'\n"
    assert seen["ADDED"] == "1" + env["QUOTED"]
    assert seen["OUTLAST_JOB_DIR"] == str(job_dir.root)
    assert seen["SLURM_JOB_ID"] == "7"  # what MPI needs to know
    assert not {"TMPDIR", "cwd", "mark", "LC_ALL"} & seen.keys()
    assert "s3 cret" not in job_dir.batch_script.read_text(encoding="utf-8")


async def test_the_name_a_command_was_called_by_is_its_first_argument(
    node: Node, job_dir: JobDir
) -> None:
    await run(node, job_dir, ["called so", "-c", "echo $0"])
    assert job_dir.stdout.read_text(encoding="utf-8") == "called so\n"


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ({"executable": "/no/such/program"}, "executable /no/such/program: cannot be run"),
        ({"cwd": Path("/no/such/folder")}, "working directory /no/such/folder: cannot be entered"),
        ({"setup": ["module load nothing-like-that"]}, "module load nothing-like-that"),
        ({"setup": ["if then"]}, "if then"),
    ],
)
async def test_what_cannot_be_started_is_told(
    node: Node, job_dir: JobDir, more: dict[str, Any], error: str
) -> None:
    record = await run(node, job_dir, "exit 0", **more)
    assert (record.why, record.exit_code, record.error) == ("start_error", None, error)


async def test_a_directory_that_is_not_there_has_its_exit_code(node: Node, home: Path) -> None:
    code, error = await ended(await node.begin(JobDir(home / "nowhere")))
    assert code == NOT_ON_NODE
    assert "the node n1" in error


async def test_each_task_of_an_array_runs_its_own_directory(node: Node, home: Path) -> None:
    job_dirs = [JobDir(home / "jobs" / f"task {number}") for number in range(3)]
    for number, root in enumerate(job_dirs):
        root.work.mkdir(parents=True)
        write(root, f"exit {number}")
    await ended(await node.begin(*job_dirs, SLURM_ARRAY_JOB_ID="9", SLURM_ARRAY_TASK_ID="2"))
    record = exit_of(job_dirs[2])
    assert (record.exit_code, record.batch) == (2, BatchPlace(job="9_2", node="n1"))
    assert not job_dirs[0].started.exists()


async def test_a_time_limit_is_its_own(node: Node, job_dir: JobDir) -> None:
    record = await run(node, job_dir, "sleep 60", time_limit_s=0.3)
    assert (record.why, record.signal) == ("timeout", 15)
    assert record.wall_s < 20


@pytest.mark.parametrize(
    ("number", "wish", "why"),
    [
        (signal.SIGUSR1, None, "timeout"),
        (signal.SIGTERM, None, "terminated"),
        (signal.SIGTERM, '{"at": 1.0, "reason": null, "grace_s": null}', "cancelled"),
    ],
)
async def test_asked_to_end_it_asks_the_command(
    node: Node, job_dir: JobDir, number: int, wish: str | None, why: str
) -> None:
    write(job_dir, "trap 'echo saved; exit 5' TERM; echo up; while :; do sleep 0.05; done")
    process = await node.begin(job_dir)
    await until(said(1, job_dir))
    if wish:
        job_dir.cancel.write_text(wish, encoding="utf-8")
    process.send_signal(number)
    await ended(process)
    record = exit_of(job_dir)
    assert (record.why, record.exit_code) == (why, 5)
    assert job_dir.stdout.read_text(encoding="utf-8") == "up\nsaved\n"


@pytest.mark.parametrize(
    ("ends_in_s", "limit_s", "why"),
    [
        (3600, 0.0, "terminated"),
        (3600, 20.0, "terminated"),
        (100, 0.0, "timeout"),
        (None, 20.0, "timeout"),  # for which Slurm is asked for two minutes
        (None, 3600.0, "terminated"),
        (None, 0.0, "terminated"),
    ],
)
async def test_the_signal_before_the_end_may_come_for_another_reason(
    node: Node, job_dir: JobDir, ends_in_s: int | None, limit_s: float, why: str
) -> None:
    write(
        job_dir, "trap 'exit 5' TERM; echo up; while :; do sleep 0.05; done", time_limit_s=limit_s
    )
    end = "" if ends_in_s is None else str(int(time.time()) + ends_in_s)
    process = await node.begin(job_dir, SLURM_JOB_END_TIME=end)
    await until(said(1, job_dir))
    process.send_signal(signal.SIGUSR1)
    await ended(process)
    record = exit_of(job_dir)
    assert (record.why, record.exit_code) == (why, 5)


async def test_the_grace_of_the_wish_is_kept(node: Node, job_dir: JobDir) -> None:
    write(job_dir, "trap '' TERM; echo up; sleep 60 & wait; wait", grace_s=600.0)
    process = await node.begin(job_dir)
    await until(said(1, job_dir))
    job_dir.cancel.write_text('{"at": 1.0, "grace_s": 0.25}', encoding="utf-8")
    process.send_signal(signal.SIGTERM)
    await ended(process)
    record = exit_of(job_dir)
    assert (record.why, record.signal) == ("cancelled", 9)


async def test_a_later_order_can_shorten_the_grace(node: Node, job_dir: JobDir) -> None:
    write(job_dir, "trap '' TERM; echo up; while :; do sleep 1; done", grace_s=600.0)
    process = await node.begin(job_dir)
    await until(said(1, job_dir))
    process.send_signal(signal.SIGUSR1)
    await asyncio.sleep(0.2)
    job_dir.cancel.write_text('{"at": 1.0, "grace_s": 0}', encoding="utf-8")
    process.send_signal(signal.SIGTERM)
    await ended(process)
    assert exit_of(job_dir).why == "timeout"  # what came first


async def test_a_stop_file_is_made_instead_of_the_signal(node: Node, job_dir: JobDir) -> None:
    script = "trap 'exit 9' TERM; echo up; until [ -e please.EXIT ]; do sleep 0.05; done; exit 4"
    write(job_dir, script, stop_file="please.EXIT")
    process = await node.begin(job_dir)
    await until(said(1, job_dir))
    process.send_signal(signal.SIGUSR1)
    await ended(process)
    record = exit_of(job_dir)
    assert (record.why, record.exit_code) == ("timeout", 4)


async def test_what_the_command_left_is_ended_before_the_end_is_told(
    node: Node, job_dir: JobDir, home: Path
) -> None:
    left = "setsid sleep 61 & (setsid bash -c 'trap \"\" TERM; sleep 62; sleep 63' &) ; exit 0"
    record = await run(node, job_dir, left)
    assert (record.exit_code, record.survivors) == (0, [])
    assert all_of(home) == []


async def test_what_is_left_after_a_stop_has_the_grace_too(node: Node, job_dir: JobDir) -> None:
    rank = "trap 'sleep 0.5; echo rank saved; exit' TERM; echo up; while :; do sleep 0.05; done"
    write(job_dir, f"bash -c {rank!r} & sleep 60", grace_s=20.0)
    process = await node.begin(job_dir)
    await until(said(1, job_dir))
    process.send_signal(signal.SIGUSR1)
    await ended(process)
    assert job_dir.stdout.read_text(encoding="utf-8").endswith("rank saved\n")


async def test_a_killed_script_leaves_a_start_and_no_end(node: Node, job_dir: JobDir) -> None:
    write(job_dir, "sleep 60")
    process = await node.begin(job_dir)
    begun = await started(job_dir)
    process.kill()
    await ended(process)
    assert is_running(begun.pid)  # Slurm ends it with the step
    assert not job_dir.exit.exists()
