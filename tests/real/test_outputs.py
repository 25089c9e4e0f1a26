"""An output that is there is never told to be missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.service import Service
from jobs.states import State
from tests.support.launching import bash


@pytest.mark.parametrize(
    ("script", "output", "state"),
    [
        ("mkdir res", "res", State.COMPLETED),
        ("touch c1; ln -s c1 latest", "latest", State.COMPLETED),
        ("touch 'out[1].csv'", "out[1].csv", State.COMPLETED),
        ("touch a.csv", "*.csv", State.COMPLETED),
        ("mkdir sub; touch sub/a.csv", "sub/*.csv", State.COMPLETED),
        ("ln -s /etc/passwd x", "x", State.FAILED),
        ("ln -s nowhere x", "x", State.FAILED),
        ("ln -s x x", "x", State.FAILED),
        ("true", "**", State.FAILED),
    ],
)
async def test_in_a_folder_of_its_own(
    service: Service, script: str, output: str, state: State
) -> None:
    assert (await bash(service, script, outputs=[output], wait_s=10)).state is state


async def test_what_is_too_deep_to_be_seen_hides_nothing_that_is_missing(service: Service) -> None:
    deep = f"mkdir -p {'d/' * 40}; touch {'d/' * 40}x.dat"
    job = await bash(service, deep, outputs=["result.csv"], wait_s=10)
    assert job.state is State.FAILED
    assert "a required output is missing: result.csv" in (job.outcome.reason or "")
    job = await bash(service, f"{deep}; touch result.csv", outputs=["result.csv"], wait_s=10)
    assert (job.state, job.outcome.warnings) == (State.COMPLETED, [])
    job = await bash(service, deep, outputs=["*.dat"], wait_s=10)
    assert job.state is State.COMPLETED
    assert job.outcome.warnings == ["not all files could be looked at: *.dat may be missing"]


async def test_in_a_given_folder_only_what_the_job_made_counts(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    (folder / "old.csv").touch()
    script = "touch -d 2001-01-01 made.csv"  # as `cp -p`, `tar` and `unzip` do
    job = await bash(service, script, outputs=["made.csv"], cwd=str(folder), wait_s=10)
    assert job.state is State.COMPLETED
