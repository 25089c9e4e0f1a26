"""A keeper is killed at each step of a submission: Slurm has each job once, and it is found."""

from __future__ import annotations

import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from jobs.model import LaunchRequest
from jobs.states import State
from server.wiring import open_service
from tests.support.countdown import write_kind
from tests.support.processes import is_running
from tests.support.slurm_engine import counted_calls, on_slurm
from tests.support.wait import ended, until

__all__ = ["on_slurm"]
pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("on_slurm")]


def of_slurm(job_ids: list[str]) -> Counter[str]:
    """How many jobs, or tasks, Slurm knows that were submitted for these, by submission."""
    command = ["squeue", "-h", "-r", "-t", "all", "-o", "%j"]
    names = subprocess.run(command, check=True, timeout=60, capture_output=True, text=True)
    return Counter(
        name for name in names.stdout.split() if name.startswith(tuple(f"{id}." for id in job_ids))
    )


@pytest.mark.parametrize(
    ("point", "size"),
    [
        ("slurm.intended", 12),
        ("slurm.intended", 1),
        ("slurm.submitted", 1),
        ("slurm.submitted", 12),
        ("slurm.recorded", 1),
        ("slurm.recorded", 12),
    ],
)
async def test_each_job_is_submitted_once(
    point: str, size: int, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = tmp_path / "points"
    points.mkdir()
    monkeypatch.setenv("OUTLAST_FAILPOINTS", str(points))
    write_kind(home.parent / "manifests")
    (points / point).write_text("kill", encoding="ascii")
    several: dict[str, Any] = {"sweep": {"to": list(range(1, size + 1))}} if size > 1 else {}
    request = LaunchRequest(manifest="count", engine="slurm", **several)
    with counted_calls(tmp_path / "bin", monkeypatch) as calls:
        async with open_service() as service:
            launched = (await service.launch(request, client=None)).job
            fired = points / f"{point}.fired"
            await until(lambda: fired.exists() and fired.read_text(encoding="ascii"))
            await until(lambda: not is_running(int(fired.read_text(encoding="ascii"))))
            jobs = (await service.sweep(launched.sweep)).jobs if launched.sweep else [launched]
            jobs = [await ended(service, job.id, 120) for job in jobs]
        assert {job.state for job in jobs} == {State.COMPLETED}
        assert [job.sweep_index for job in jobs] == (list(range(size)) if size > 1 else [None])
        for job in jobs:  # a second run would have gone on in the same files
            said = service.directory(job).stdout.read_text(encoding="utf-8").splitlines()
            last = (job.sweep_values or {"to": 5})["to"]
            assert said[-2:] == [f"count {last}/{last} half={last / 2:g}", "done"]
            assert len(said) == last + 1
        assert sum(of_slurm([job.id for job in jobs]).values()) == size
        if point != "slurm.intended":  # where a few milliseconds can part those of a sweep
            assert len(calls.of("sbatch")) == 1
