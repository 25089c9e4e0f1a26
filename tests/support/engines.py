"""An engine of each kind, and jobs for it, without a keeper or an index."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jobs.directory import read_record
from jobs.engines.base import Engine, Phase, Sighting, Submission
from jobs.engines.local import LocalEngine
from jobs.files import write_durable
from jobs.model import CancelWish, ExitRecord, LaunchManifest, StartedRecord
from jobs.paths import JobDir
from tests.support.wait import until
from tests.unit.test_artifacts import launched

SECONDS = 60  #: a busy machine may take so long for what takes one second elsewhere
OVER = (Phase.ENDED, Phase.VANISHED)


def directory(home: Path, name: str = "job with space\nand 'line'") -> JobDir:
    """As a launch leaves it, with a name that is hard to handle."""
    job_dir = JobDir(home / "jobs" / "pröject" / name)
    job_dir.work.mkdir(parents=True)
    return job_dir


def job(job_dir: JobDir, script: str, **more: Any) -> LaunchManifest:
    values: dict[str, Any] = {
        "job_id": f"job-of-a-test-{time.time_ns()}",
        "command": ["bash", "-c", script],
        "executable": "/bin/bash",
        "env": {
            "PATH": "/usr/bin:/bin",
            "OUTLAST_JOB_ID": "job-x",
            "OUTLAST_JOB_DIR": str(job_dir.root),
        },
    }
    values = {
        "cwd": job_dir.work,
        **values,
        **more,
        "env": {**values["env"], **more.get("env", {})},
    }
    order = launched(values.pop("cwd"), **values)
    text = order.model_dump_json(by_alias=True)
    job_dir.launch_manifest.write_bytes(text.encode("utf-8", "surrogateescape"))
    return order


async def submit(engine: Engine, launched: LaunchManifest, job_dir: JobDir) -> None:
    await engine.submit([Submission(launched, job_dir, [], 1)])


async def seen(
    engine: Engine, job_dir: JobDir, *phases: Phase, seconds: float = SECONDS
) -> Sighting:
    """The first sighting in one of the phases; AssertionError when it ends in another, or late."""

    async def look() -> Sighting | None:
        sighting = await engine.poll(job_dir)
        assert sighting.phase in phases or sighting.phase not in OVER, sighting
        return sighting if sighting.phase in phases else None

    sighting = await until(look, seconds, f"{phases} of {job_dir.root}")
    assert sighting is not None
    return sighting


async def start(engine: Engine, launched: LaunchManifest, job_dir: JobDir) -> StartedRecord:
    """Its proof of life."""
    await submit(engine, launched, job_dir)
    sighting = await seen(engine, job_dir, Phase.RUNNING)
    assert sighting.started is not None
    return sighting.started


async def end_of(engine: Engine, job_dir: JobDir) -> ExitRecord:
    record = (await seen(engine, job_dir, Phase.ENDED)).exit
    assert record is not None
    return record


async def run(engine: Engine, launched: LaunchManifest, job_dir: JobDir) -> ExitRecord:
    await submit(engine, launched, job_dir)
    return await end_of(engine, job_dir)


async def wish_end(engine: Engine, job_dir: JobDir, grace_s: float | None = None) -> None:
    """As the keeper does: the wish is on the disk before anybody acts on it."""
    wish = CancelWish(at=time.time(), grace_s=grace_s)
    write_durable(job_dir.cancel, wish.model_dump_json().encode())
    await engine.stop(job_dir, grace_s=grace_s)


async def children_collected(engine: Engine, job_dir: JobDir) -> None:
    """Till it has collected every shim that it started. One may have let go of its job, and even of
    its memory, by which it is told, and still be no zombie."""
    if isinstance(engine, LocalEngine):

        async def none_left() -> bool:
            await engine.poll(job_dir)
            return not engine._children

        await until(none_left, SECONDS, "the end of a shim")


def says(job_dir: JobDir, text: str) -> Callable[[], bool]:
    """Whether the command has printed the text."""
    return lambda: job_dir.stdout.exists() and text in job_dir.stdout.read_text(encoding="utf-8")


def record_of(job_dir: JobDir) -> ExitRecord | None:
    return read_record(job_dir.exit, ExitRecord)
