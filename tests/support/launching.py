"""Launching real jobs in few words."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from jobs.directory import read_record
from jobs.model import Job, LaunchManifest, LaunchRequest, StartedRecord
from jobs.service import Service
from jobs.store import Store

PYTHON = sys.executable


async def launch(service: Service, *command: str, wait_s: float | None = None, **more: Any) -> Job:
    """Launch a command; further arguments as in LaunchRequest."""
    request = LaunchRequest(command=list(command), **more)
    return (await service.launch(request, client="test", wait_s=wait_s)).job


async def bash(service: Service, script: str, **more: Any) -> Job:
    return await launch(service, "bash", "-c", script, **more)


def insert(store: Store, launched: LaunchManifest) -> list[Job]:
    """A row for a job whose directory is the caller's affair."""
    with store.intake.insert([launched]) as jobs:
        return jobs


def kill_command(service: Service, job: Job) -> None:
    """SIGKILL to a running job's command and its process group; its shim lives on."""
    started = read_record(service.directory(job).started, StartedRecord)
    assert started is not None
    os.killpg(started.pid, signal.SIGKILL)
