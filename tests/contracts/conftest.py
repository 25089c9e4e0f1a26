"""Each engine is a parameter of the suite; that of Slurm needs a real cluster."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from jobs.engines.base import Engine
from jobs.engines.local import LocalEngine
from jobs.paths import JobDir
from tests.support.engines import children_collected, directory
from tests.support.processes import end_all_of
from tests.support.slurm_engine import end_jobs_of, errands_done, quick_engine


@pytest.fixture
def job_dir(home: Path) -> JobDir:
    return directory(home)


@pytest.fixture(params=["local", pytest.param("slurm", marks=pytest.mark.slurm)])
async def new_engine(
    request: pytest.FixtureRequest, home: Path, job_dir: JobDir, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[[], Engine]]:
    """Another engine object each time, as after the death of a keeper."""
    made: list[Engine] = []
    if request.param == "slurm":
        alone = "slurm_alone" in request.fixturenames  # which has the lock of the cluster already
        request.getfixturevalue("slurm_alone" if alone else "slurm")

    def new() -> Engine:
        if request.param == "slurm":
            made.append(quick_engine(monkeypatch))
        else:
            made.append(LocalEngine(home / "wake", [sys.executable, "-c", "pass"]))
        return made[-1]

    yield new
    for engine in made:
        await errands_done(engine)
    end_jobs_of(home)
    end_all_of(home)
    for engine in made:
        await children_collected(engine, job_dir)


@pytest.fixture
def engine(new_engine: Callable[[], Engine]) -> Engine:
    return new_engine()
