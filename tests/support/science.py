"""Running the manifests' real programs through a real service, and what each run must show."""

from __future__ import annotations

import asyncio
import csv
import importlib.util
import json
import shutil
import time
from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from jobs.directory import read_launch_manifest, read_record
from jobs.keeping import WAKE, send
from jobs.model import Job, LaunchRequest, RunRecord
from jobs.paths import Home
from jobs.service import Service
from jobs.states import State

_HOW = "run `sh tests/support/get_science.sh`"


def needs(*programs: str) -> pytest.MarkDecorator:
    """Skip the test where one of the programs is missing, with how to get it."""
    missing = [program for program in programs if shutil.which(program) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} is missing: {_HOW}")


def needs_module(*modules: str) -> pytest.MarkDecorator:
    """Skip the test where one of the Python modules is missing, with how to get it."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} is missing: {_HOW}")


@dataclass(frozen=True)
class Ran:
    """A job of a manifest, after its end."""

    job: Job
    record: RunRecord
    work: Path
    fractions: list[float]  #: the progress that was seen while it ran, as it changed
    metrics: set[str]  #: the names of what it measured meanwhile

    def json(self, name: str = "summary.json") -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.work / name).read_text(encoding="utf-8"))
        return found

    def table(self, name: str) -> list[dict[str, str]]:
        with (self.work / name).open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def kinds(self) -> dict[str, str]:
        """What it left, by path: its kind."""
        return {artifact.path: artifact.kind for artifact in self.record.artifacts.artifacts}


async def start(service: Service, manifest: str | None, /, **request: Any) -> Job:
    """Launch a job of the manifest, or with `resume_from`; further arguments as LaunchRequest."""
    wish = LaunchRequest(manifest=manifest, **request)
    return (await service.launch(wish, client="test")).job


async def watched(service: Service, job: Job, seconds: float = 120) -> Ran:
    """The job after its end, whatever that was, watched until then."""
    deadline = time.monotonic() + seconds
    root = service.directory(job).root
    home = Home(root.parents[2])
    fractions: list[float] = []
    metrics: set[str] = set()
    while not (job := await service.job(job.id)).is_final:
        assert time.monotonic() < deadline, f"{job.id} did not end: {job.progress}"
        if job.state is State.RUNNING and job.progress is not None:
            metrics |= job.progress.metrics.keys()
            fraction = job.progress.fraction
            if fraction is not None and fractions[-1:] != [fraction]:
                fractions.append(fraction)
        send(home, WAKE)  # else the keeper looks every two seconds: some programs end before
        await asyncio.sleep(0.1)
    record = read_record(service.directory(job).run_record, RunRecord)
    assert record is not None
    return Ran(job, record, service.directory(job).work, fractions, metrics)


async def run(
    service: Service, manifest: str | None, /, seconds: float = 120, **request: Any
) -> Ran:
    """Launch, and watch to the end."""
    return await watched(service, await start(service, manifest, **request), seconds)


def check_whole(service: Service, ran: Ran, *, absent: Collection[str] = ()) -> None:
    """What every job of a shipped manifest shows that came to its end. All that it declares is
    there and of its kind, but for the patterns in `absent`, which these parameters do not give."""
    assert ran.job.state is State.COMPLETED, ran.job.outcome.model_dump_json()
    assert any(0 < fraction < 1 for fraction in ran.fractions), ran.fractions
    assert ran.fractions == sorted(ran.fractions)
    listed = ran.kinds()
    for rule in read_launch_manifest(service.directory(ran.job)).outputs:
        files = [path for path in listed if fnmatch(path, rule.path)]
        assert bool(files) != (rule.path in absent), f"{rule.path}: {sorted(listed)}"
        assert {listed[path] for path in files} <= {rule.kind}, rule.path
    assert ran.json()
