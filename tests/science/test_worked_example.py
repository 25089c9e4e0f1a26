"""The example of docs/manifests.md, as its reader has it: compiled, in a folder of one's own."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from jobs.service import Service
from jobs.states import State
from tests.support.cli import run as outlast
from tests.support.science import Ran, check_whole, needs, run, start, watched
from tests.support.wait import until

EXAMPLES = Path(__file__).resolve().parents[2] / "docs/examples"

pytestmark = needs("cc")


@pytest.fixture
def folder(home: Path, tmp_path: Path) -> Path:
    """`manifests/` beside the configuration, with the manifest and the compiled program."""
    folder = tmp_path / "manifests"
    folder.mkdir()
    for name in ("relax.c", "relax.toml"):
        shutil.copy(EXAMPLES / name, folder)
    subprocess.run(
        ["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", "relax", "relax.c", "-lm"],
        cwd=folder,
        check=True,
    )
    return folder


async def test_the_program_as_a_job(folder: Path, service: Service) -> None:
    ran = await run(service, "relax")
    check_whole(service, ran)
    assert "change_k" in ran.metrics
    # The plates of all four edges, each with one hot, add up to a plate of one temperature: the
    # centre's excess is a quarter of the edge's.
    assert ran.json()["centre_temperature_k"] == pytest.approx(300 + 100 / 4, abs=0.01)
    assert ran.json()["converged"] is True
    table = [float(line["temperature_k"]) for line in ran.table("middle.csv")]
    assert (len(table), table[0], table[-1]) == (151, 400, 300)
    assert table == sorted(table, reverse=True)
    assert ran.job.outcome.summary.keys() == {
        "iterations",
        "largest_change_k",
        "centre_temperature_k",
    }


async def test_a_run_that_has_not_converged_has_failed(folder: Path, service: Service) -> None:
    ran = await run(service, "relax", params={"iterations": 5000})
    assert ran.job.state is State.FAILED
    outcome = ran.job.outcome
    assert (outcome.exit_code, outcome.decided_by) == (0, "failure pattern")
    assert "the temperatures have not converged: give more iterations" in (outcome.reason or "")


async def test_a_run_that_says_nothing_has_failed(folder: Path, service: Service) -> None:
    (folder / "relax.c").write_text("int main(void) { return 0; }", encoding="utf-8")
    subprocess.run(["cc", "-o", "relax", "relax.c"], cwd=folder, check=True)
    ran = await run(service, "relax")
    assert ran.job.state is State.FAILED
    assert ran.job.outcome.decided_by == "success marker"
    assert "it ended before it had converged" in (ran.job.outcome.reason or "")


@pytest.mark.parametrize("params", [{"cells": 2}, {"cels": 75}, {"tolerance_k": 0}])
async def test_what_cannot_be_is_refused(folder: Path, home: Path, params: dict[str, int]) -> None:
    words = [f"-p{name}={value}" for name, value in params.items()]
    _, err = await outlast("launch", "--manifest", "relax", *words, code=2)
    assert next(iter(params)) in err


async def test_it_is_stopped_and_gone_on_with(folder: Path, service: Service) -> None:
    whole = await run(service, "relax", params={"cells": 101})
    job = await start(service, "relax", params={"cells": 101, "tolerance_k": 1e-12})
    checkpoint = service.directory(job).work / "plate.bin"
    await until(checkpoint.exists)
    await service.cancel(job.id, reason="test")
    stopped = await watched(service, job)
    assert stopped.job.state is State.CANCELLED
    assert stopped.job.outcome.resumable
    again = await run(service, None, resume_from=job.id, params={"tolerance_k": 1e-6})
    assert again.job.state is State.COMPLETED
    assert again.job.parent == job.id
    assert b"going on from iteration" in service.directory(again.job).stdout.read_bytes()
    done = whole.json()["iterations"], whole.json()["centre_temperature_k"]
    assert (again.json()["iterations"], again.json()["centre_temperature_k"]) == done


async def test_other_cells_than_the_checkpoint_has_are_told(folder: Path, service: Service) -> None:
    ended: Ran = await run(service, "relax", params={"cells": 51, "iterations": 2000})
    again = await run(service, None, resume_from=ended.job.id, params={"cells": 61})
    assert again.job.state is State.FAILED
    assert "Exit code 2: the arguments cannot be used" in (again.job.outcome.reason or "")


async def test_five_minutes(home: Path, folder: Path, tmp_path: Path) -> None:
    """What the page tells its reader to type, with the smallest manifest."""
    page = (EXAMPLES.parent / "manifests.md").read_text(encoding="utf-8")
    smallest = page.split("```toml\n")[1].split("```")[0]
    (folder / "relax.toml").write_text(smallest, encoding="utf-8")
    out, _ = await outlast("manifests", "check", str(folder / "relax.toml"))
    assert "✓" in out
    out, _ = await outlast("launch", "--manifest", "relax", "--wait", "--json")
    assert json.loads(out)["state"] == "completed"
    (folder / "relax.toml").write_text(smallest.replace("[run]", "[rnu]"), encoding="utf-8")
    out, _ = await outlast("manifests", "check", str(folder / "relax.toml"), code=1)
    told = "relax.toml:4: The manifest has no key `rnu`. Did you mean 'run'?"
    assert told in out
    assert told in page
