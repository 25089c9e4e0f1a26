"""The batch script without Slurm: bash runs it, and it does for a job what the shim does."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from jobs import clock
from jobs.artifacts import Walk
from jobs.directory import read_record
from jobs.engines.slurm_script import (
    NOT_ON_NODE,
    RAN_BEFORE,
    batch_script,
    job_script,
    secrets_file,
)
from jobs.model import BatchPlace, ExitRecord, LaunchManifest, StartedRecord
from jobs.paths import JobDir
from jobs.rules import Resume
from tests.support.processes import all_of, end_all_of, is_running
from tests.support.wait import until
from tests.unit.test_artifacts import launched

OURS = {"SLURM_JOB_ID": "7", "SLURMD_NODENAME": "n1", "PATH": "/usr/bin:/bin", "HOME": "/"}


@pytest.fixture
def job_dir(home: Path) -> JobDir:
    """With a name that is hard to handle."""
    root = home / "jobs" / "pröject's" / 'job with $HOME "and" space\nand line'
    (root / "work").mkdir(parents=True)
    return JobDir(root)


class Node:
    """Runs batch scripts as slurmd would, and ends them after the test."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: list[Process] = []

    async def begin(self, *job_dirs: JobDir, **env: str) -> Process:
        script = self._folder / f"script {len(self._running)}"  # another may still read its own
        script.write_bytes(os.fsencode(batch_script(job_dirs)))
        process = await asyncio.create_subprocess_exec(
            *("bash", str(script)),
            env={**OURS, "SLURM_JOB_END_TIME": str(int(time.time()) + 60), **env},
            start_new_session=True,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        self._running.append(process)
        return process

    async def end(self) -> None:
        for process in self._running:
            if process.returncode is None:
                process.kill()
            await process.communicate()


@pytest.fixture
async def node(home: Path, tmp_path: Path) -> AsyncIterator[Node]:
    node = Node(tmp_path)
    yield node
    await node.end()
    end_all_of(home)


def write(job_dir: JobDir, script: str | list[str], *, again: Any = None, **more: Any) -> None:
    command = ["bash", "-c", script] if isinstance(script, str) else script
    values = {"executable": "/bin/bash", "env": {"PATH": "/usr/bin:/bin"}, "cwd": job_dir.work}
    values = {**values, "command": command, **more}
    setup = values.pop("setup", ())
    order: LaunchManifest = launched(values.pop("cwd"), **values)
    text = job_script(order, job_dir, attempt=2, setup=setup, again=again)
    job_dir.batch_script.write_bytes(os.fsencode(text))


async def ended(process: Process) -> tuple[int, str]:
    _, error = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode is not None
    return process.returncode, error.decode()


async def run(node: Node, job_dir: JobDir, script: str | list[str], **more: Any) -> ExitRecord:
    write(job_dir, script, **more)
    await ended(await node.begin(job_dir))
    return exit_of(job_dir)


def exit_of(job_dir: JobDir) -> ExitRecord:
    record = read_record(job_dir.exit, ExitRecord)
    assert record is not None
    return record


async def started(job_dir: JobDir) -> StartedRecord:
    record = await until(lambda: read_record(job_dir.started, StartedRecord))
    assert record is not None
    return record


def said(count: int, job_dir: JobDir) -> Callable[[], bool]:
    """Whether the command has printed so many lines."""
    return lambda: job_dir.stdout.exists() and job_dir.stdout.read_bytes().count(b"\n") >= count


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
    for number, job_dir in enumerate(job_dirs):
        job_dir.work.mkdir(parents=True)
        write(job_dir, f"exit {number}")
    await ended(await node.begin(*job_dirs, SLURM_ARRAY_JOB_ID="9", SLURM_ARRAY_TASK_ID="2"))
    record = exit_of(job_dirs[2])
    assert (record.exit_code, record.batch) == (2, BatchPlace(job="9_2", node="n1"))
    assert not job_dirs[0].started.exists()


async def test_it_runs_once(node: Node, job_dir: JobDir) -> None:
    first = await run(node, job_dir, "echo ran")
    assert (await ended(await node.begin(job_dir)))[0] == RAN_BEFORE
    job_dir.exit.unlink()  # as after the failure of its node
    assert (await ended(await node.begin(job_dir, SLURM_RESTART_COUNT="1")))[0] == RAN_BEFORE
    assert job_dir.stdout.read_text(encoding="utf-8") == "ran\n"
    assert first.exit_code == 0


@pytest.mark.parametrize("again", [None, ["bash", "-c", "echo ran"]])
async def test_of_several_submissions_one_runs(
    node: Node, job_dir: JobDir, again: list[str] | None
) -> None:
    """Whichever comes first, and no other after its end."""
    write(job_dir, "echo ran; sleep 0.5; kill -9 $PPID; sleep 60", again=again)
    ids = [str(number) for number in range(10, 18)]
    several = [await node.begin(job_dir, SLURM_JOB_ID=id) for id in ids]
    codes = [(await ended(process))[0] for process in several]
    assert sorted(codes) == [-signal.SIGKILL, *[RAN_BEFORE] * 7]
    assert job_dir.stdout.read_text(encoding="utf-8") == "ran\n"
    begun = (await started(job_dir)).batch
    assert begun is not None
    assert begun.job == ids[codes.index(-signal.SIGKILL)]
    assert (await ended(await node.begin(job_dir, SLURM_JOB_ID="99")))[0] == RAN_BEFORE
    code, _ = await ended(await node.begin(job_dir, SLURM_JOB_ID=begun.job))
    assert code == (RAN_BEFORE if again is None else 0)
    assert not list(job_dir.root.glob(".claim.*"))


async def test_begun_anew_it_goes_on_where_it_can(node: Node, job_dir: JobDir) -> None:
    write(job_dir, "echo first; kill -9 $PPID; sleep 60", again=["bash", "-c", "echo again"])
    await ended(await node.begin(job_dir))
    assert (job_dir.started.exists(), job_dir.exit.exists()) == (True, False)
    await ended(await node.begin(job_dir, SLURM_RESTART_COUNT="1"))
    assert job_dir.stdout.read_text(encoding="utf-8") == "first\nagain\n"
    assert exit_of(job_dir).batch == BatchPlace(job="7", node="n1", restarts=1)


@pytest.mark.parametrize(
    ("left", "checkpoint", "goes_on"),
    [
        ("state.chk", "state.chk", True),
        ("deep/er/a 7.chk", "a *.chk", False),
        ("deep/er/a 7.chk", "deep/*[0-9].chk", True),
        (".state+(1)", ".state+(?)", True),
        ("state+1", "state+(1)", False),
        ("other", "*.chk", False),
    ],
)
async def test_begun_anew_it_goes_on_only_from_a_checkpoint(
    node: Node, job_dir: JobDir, left: str, checkpoint: str, goes_on: bool
) -> None:
    """As `resume_from` would find it; what asked the first run to stop does not stop the second."""
    script = f"mkdir -p deep/er; touch '{left}'; echo up; exec sleep 60"
    first = f"[ -e '{left}' ] && {{ [ -e stop ]; echo first $?; exit; }}; {script}"
    again = ["bash", "-c", "[ -e stop ]; echo again $?"]
    resume = Resume(checkpoint=checkpoint)
    write(job_dir, first, again=again, resume=resume, stop_file="stop")
    process = await node.begin(job_dir)
    await until(said(1, job_dir))
    process.send_signal(signal.SIGTERM)  # the stop file is made, but nothing heeds it
    await until(lambda: (job_dir.work / "stop").exists())
    process.kill()
    await ended(process)
    is_there = Walk(job_dir.work).files()
    assert any(fnmatchcase(file.path, checkpoint) for file in is_there) is goes_on
    await ended(await node.begin(job_dir, SLURM_RESTART_COUNT="1"))
    assert job_dir.stdout.read_text(encoding="utf-8").split("\n")[1:] == [
        "again 1" if goes_on else "first 1",
        "",
    ]


@pytest.mark.parametrize("wished", [False, True])
async def test_begun_anew_after_an_end_from_outside_it_goes_on_unless_it_was_wished(
    node: Node, job_dir: JobDir, wished: bool
) -> None:
    write(job_dir, "echo first; exec sleep 60", again=["bash", "-c", "echo again"])
    process = await node.begin(job_dir)
    await started(job_dir)
    if wished:
        job_dir.cancel.write_text("{}\n", encoding="utf-8")
    process.send_signal(signal.SIGTERM)  # as when its node is taken from it
    await ended(process)
    code, _ = await ended(await node.begin(job_dir, SLURM_RESTART_COUNT="1"))
    assert code == (RAN_BEFORE if wished else 0)
    assert exit_of(job_dir).why == ("cancelled" if wished else "exit")
    said = job_dir.stdout.read_text(encoding="utf-8")
    assert said.endswith("again\n") is not wished


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
