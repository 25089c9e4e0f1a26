"""Jobs can write where Outlast keeps its records of them: what they plant there stops nobody."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from jobs.errors import StateDirectoryError
from jobs.service import Service
from jobs.states import State
from server.wiring import open_service
from tests.support.launching import bash
from tests.support.wait import ended

PLANTS = {
    "FIFO": "mkfifo {}",
    "link to what has no end": "ln -s /dev/zero {}",
    "link to a file of others": "ln -s /etc/hostname {}",
    "folder": "mkdir {0}; touch {0}/x",
    "sparse terabyte": "truncate -s 1T {}",
    "text": "echo {{}} > {}",
}
NAMES = (
    "run.json",
    "started",
    "exit",
    "cancel.json",
    "batch.json",
    "progress.jsonl",
    "lock",
    "job.json",
    "README.md",
)


@pytest.mark.parametrize("plant", PLANTS)
async def test_whatever_is_planted_each_job_ends(service: Service, home: Path, plant: str) -> None:
    before = Path("/etc/hostname").read_bytes()
    planted = []
    for name in NAMES:
        place = PLANTS[plant].format(name)
        script = f'cd "$OUTLAST_JOB_DIR"; rm -rf {name}; {place}; echo "outlast: progress 0.5 half"'
        planted.append(await bash(service, f"{script}; exit 3", name=f"{plant}: {name}"))
    other = await bash(service, "true")
    assert (await ended(service, other.id)).state is State.COMPLETED
    for job in planted:
        final = await ended(service, job.id)
        assert final.state in (State.FAILED, State.LOST), (final.name, final)
        with contextlib.suppress(StateDirectoryError):  # which says what cannot be read
            await service.tail(job.id)
        with contextlib.suppress(StateDirectoryError):
            await service.list_artifacts(job.id)
    readable = [job for job in planted if not job.name.endswith("job.json")]
    states = {job.id: (await service.job(job.id)).state for job in readable}
    for index in home.glob("outlast.db*"):
        index.unlink()
    async with asyncio.timeout(60), open_service() as anew:
        for job_id, state in states.items():
            assert (await anew.job(job_id)).state is state
    assert Path("/etc/hostname").read_bytes() == before
