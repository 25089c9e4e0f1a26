"""fem-calculix as a job, and its script: the real ccx of CalculiX."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.service import Service
from jobs.states import State
from tests.support.science import check_whole, needs, run
from tests.support.scripts import Script

pytestmark = needs("ccx")

SCRIPT = Script("fem_calculix.py")
COARSE: dict[str, Any] = {"elements": 40, "elements_across": 2, "increments": 8}
MESH = ("--elements", "30", "--elements-across", "2")

#: One cube of 10 mm, pulled: 0.1 mm longer by 1 % of Young's modulus.
CUBE = """\
*NODE, NSET=ALL
1, 0, 0, 0
2, 10, 0, 0
3, 10, 10, 0
4, 0, 10, 0
5, 0, 0, 10
6, 10, 0, 10
7, 10, 10, 10
8, 0, 10, 10
*ELEMENT, TYPE=C3D8, ELSET=CUBE
1, 1, 2, 3, 4, 5, 6, 7, 8
*MATERIAL, NAME=SOFT
*ELASTIC
1000., 0.
*SOLID SECTION, ELSET=CUBE, MATERIAL=SOFT
*BOUNDARY
1, 1, 3
4, 1
5, 1, 2
8, 1
2, 2, 3
*STEP
*STATIC
1., 2.
*CLOAD
2, 1, 250.
3, 1, 250.
6, 1, 250.
7, 1, 250.
*NODE FILE
U
*EL FILE
S
*END STEP
"""


def given(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "own.inp"
    path.write_text(text, encoding="utf-8")
    return path


def summary_of(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    return found


# ---- jobs ----------------------------------------------------------------------------------------


async def test_the_beam_bends_as_beam_theory_says(service: Service) -> None:
    ran = await run(service, "fem-calculix", params=COARSE)
    check_whole(service, ran)
    summary = ran.json()
    # F L^3 / 3 E I = 500 * 500^3 / (3 * 210000 * 45000)
    assert summary["euler_bernoulli_mm"] == pytest.approx(2.20459, abs=1e-5)
    assert summary["tip_deflection_mm"] == pytest.approx(summary["timoshenko_mm"], rel=0.01)
    # At the clamp, where the solid is held sideways, too.
    assert summary["max_von_mises_mpa"] == pytest.approx(summary["beam_theory_stress_mpa"], rel=0.1)
    rows = ran.table("increments.csv")
    assert [int(row["increment"]) for row in rows] == list(range(1, 9))
    assert (float(rows[-1]["total_time"]), summary["increments"]) == (1, 8)
    assert len(ran.table("displacements.csv")) == summary["nodes"] == 41 * 9
    assert {"increment", "iterations", "time"} <= ran.metrics


async def test_poissons_ratio_may_be_a_little_below_zero(service: Service) -> None:
    params = {**COARSE, "elements": 10, "increments": 1, "poisson": -1e-05}
    ran = await run(service, "fem-calculix", params=params)
    assert ran.job.state is State.COMPLETED, ran.job.outcome.model_dump_json()


async def test_a_load_that_is_too_great_fails_and_says_how_far_it_came(service: Service) -> None:
    params = {**COARSE, "elements": 10, "load_n": 1e9, "increments": 1}
    ran = await run(service, "fem-calculix", params=params)
    assert ran.job.state is State.FAILED
    assert ran.job.outcome.exit_code == 65
    assert ran.job.outcome.error is not None
    assert "did not converge beyond time 0 of 1" in ran.job.outcome.error
    assert {row["converged"] for row in ran.table("increments.csv")} == {"false"}


async def test_an_own_model_runs_in_its_own_units(service: Service, tmp_path: Path) -> None:
    ran = await run(service, "fem-calculix", params={"input": str(given(tmp_path, CUBE))})
    assert ran.job.state is State.COMPLETED, ran.job.outcome.model_dump_json()
    summary = ran.json()
    assert summary["max_displacement_in_model_units"] == pytest.approx(0.1, rel=1e-4)
    assert summary["max_von_mises_in_model_units"] == pytest.approx(10, rel=1e-4)
    assert (summary["nodes"], summary["elements"]) == (8, 1)
    assert "tip_deflection_mm" not in summary
    moved = {row["node"]: float(row["ux"]) for row in ran.table("displacements.csv")}
    assert moved["7"] == pytest.approx(0.1, rel=1e-4)


async def test_an_exit_code_of_0_with_an_error_is_a_failure(
    service: Service, tmp_path: Path
) -> None:
    path = given(tmp_path, "*INCLUDE, INPUT=mesh.inp\n" + CUBE)
    ran = await run(service, "fem-calculix", params={"input": str(path)})
    assert ran.job.state is State.FAILED
    assert ran.job.outcome.error is not None
    assert "cannot open file mesh.inp" in ran.job.outcome.error


# ---- the script ----------------------------------------------------------------------------------


def test_large_deflection_follows_the_elastica(tmp_path: Path) -> None:
    """P L^2 / E I = 1 bends the tip down by 0.30172 L: Mattiasson, IJNME 17, 145 (1981)."""
    load = 210000 * 45000 / 500**2
    done = SCRIPT.run(tmp_path, *MESH, "--nlgeom", "--load-n", str(load), "--increments", "5")
    assert done.returncode == 0, done.stderr
    summary = summary_of(tmp_path)
    assert summary["tip_deflection_mm"] == pytest.approx(0.30172 * 500, rel=0.01)
    assert summary["euler_bernoulli_mm"] == pytest.approx(500 / 3)


def test_a_linear_beam_needs_one_increment(tmp_path: Path) -> None:
    done = SCRIPT.run(tmp_path, *MESH)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("[ccx] ") == 1
    assert summary_of(tmp_path)["tip_deflection_mm"] == pytest.approx(2.2, rel=0.01)


@pytest.mark.parametrize(
    ("old", "new", "code", "says"),
    [
        (CUBE, "hello\n", 66, "has no *STEP"),
        ("*STEP\n", "*INCLUDE, INPUT=x.inp\n*STEP\n", 66, "cannot open file x.inp"),
        ("ELSET=CUBE, MATERIAL", "ELSET=BALL, MATERIAL", 65, "CalculiX says: ERROR"),
        ("1000., 0.", "1000., 0.5", 65, "Poisson coefficient should be less than 0.5"),
        ("1, 1, 3\n4, 1\n5, 1, 2\n8, 1\n2, 2, 3\n", "1, 1\n", 65, "a part is not held"),
    ],
)
def test_an_unusable_model_is_one_clear_line(
    tmp_path: Path, old: str, new: str, code: int, says: str
) -> None:
    assert old in CUBE
    refused = SCRIPT.run(tmp_path / "out", "--input", str(given(tmp_path, CUBE.replace(old, new))))
    assert refused.returncode == code, refused.stderr
    assert refused.stderr.startswith("[error] ")
    assert says in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert not (tmp_path / "out" / "summary.json").exists()


def test_an_input_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    refused = SCRIPT.run(tmp_path / "out", "--input", str(tmp_path / "none.inp"))
    assert refused.returncode == 66
    assert refused.stderr.startswith("[error] cannot read ")


def test_the_time_of_all_steps_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPT.path.parent)
    from fem_results import period

    assert period(CUBE) == 2
    assert period("*STEP\n*STATIC, DIRECT\n0.1, 3.\n*END STEP\n** *STATIC\n") == 3
    assert period("*Step\n*Heat Transfer, Steady State\n*END STEP\n" + CUBE) == 3
    assert period("*STEP\n*FREQUENCY\n10\n*END STEP\n") == 0
