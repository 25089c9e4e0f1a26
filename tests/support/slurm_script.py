"""The batch script of a job as bash runs it, without Slurm."""

from __future__ import annotations

import asyncio
import os
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.directory import read_record
from jobs.engines.slurm_script import batch_script, job_script
from jobs.model import ExitRecord, LaunchManifest, StartedRecord
from jobs.paths import JobDir
from tests.support.processes import end_all_of
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
