"""What the bundled scripts read from logs of their programs, without the programs."""

from __future__ import annotations

import argparse
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from jobs.manifests import load

MANIFESTS = Path(__file__).resolve().parents[2] / "manifests"


@pytest.fixture(scope="module", autouse=True)
def _scripts_are_found() -> Iterator[None]:
    """They import each other by their plain names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(MANIFESTS)
        yield


# ---- Quantum ESPRESSO ----------------------------------------------------------------------------


@pytest.fixture
def dft_qe() -> ModuleType:
    return importlib.import_module("dft_qe")


#: An ionic step of pw.x, and what comes after its last one, by version and outcome.
IONIC_STEP = """\
     iteration #  1     ecut=    18.00 Ry     beta= 0.70
     total energy              =     -15.55719359 Ry
     estimated scf accuracy    <       0.00002960 Ry
     iteration #  2     ecut=    18.00 Ry     beta= 0.70
!    total energy              =     -15.55734272 Ry
     estimated scf accuracy    <       0.00000027 Ry
     convergence has been achieved in   2 iterations
     Total force =     0.004223     Total SCF correction =     0.000064
"""
RELAXED = "     bfgs converged in   4 scf cycles and   3 bfgs steps\n"
FAILED = "     bfgs failed after   4 scf cycles and   3 bfgs steps, convergence not achieved\n"
RESET = """\
     Message from routine bfgs:
     history already reset at previous step: stopping
"""
CRITERIA = "     (criteria: energy <  1.0E-04 Ry, force <  1.0E-06 Ry/Bohr)\n"
END = "     End of BFGS Geometry Optimization\n"
DONE = "   JOB DONE.\n"


@pytest.mark.parametrize(
    ("ending", "says"),
    [
        (RELAXED + CRITERIA + END, None),
        (RESET + RELAXED + CRITERIA + END, "gave up"),
        (RESET + IONIC_STEP + FAILED + CRITERIA + END, "gave up"),
        (FAILED + CRITERIA + END, "gave up"),
        ("     The maximum number of steps has been reached.\n" + END, "within 1 ionic steps"),
        (END, "before it converged"),
    ],
)
def test_a_relaxation_has_converged_only_if_pw_does_not_say_otherwise(
    tmp_path: Path, dft_qe: ModuleType, ending: str, says: str | None
) -> None:
    text = IONIC_STEP + ending + DONE
    log = dft_qe.Log(tmp_path, moves_atoms=True)
    for line in text.splitlines():
        log.read(line)
    log.flush()
    found = dft_qe.fault(log, 0, argparse.Namespace(moves_atoms=True))
    assert (found is None) == (says is None)
    assert (says or "") in str(found)
    rules = load(MANIFESTS / "dft-qe.toml").file.failure
    told = [rule for rule in rules if rule.source == "pw.out" and re.search(rule.regex, text)]
    assert bool(told) == (says not in (None, "before it converged"))


# ---- LAMMPS --------------------------------------------------------------------------------------


def lammps_log(out: Path, steps: range, start: int) -> None:
    """A log of a start at step `steps.start`, its rows marked with the number of the start."""
    rows = "".join(f"{step:10d} {start}\n" for step in steps)
    text = f"units metal\nPer MPI rank memory allocation (min/avg/max) = 3\n Step Temp\n{rows}"
    (out / f"log.{steps.start:09d}.lammps").write_text(text, encoding="utf-8")


def test_thermo_rows_of_runs_that_were_killed_come_once(tmp_path: Path) -> None:
    lammps_report = importlib.import_module("lammps_report")
    lammps_log(tmp_path, range(0, 3600, 100), 1)  # killed; its last checkpoint is of 3000
    lammps_log(tmp_path, range(3000, 5100, 100), 2)  # stopped
    lammps_log(tmp_path, range(5000, 5400, 100), 3)  # killed; its last checkpoint is of 5100
    lammps_log(tmp_path, range(5100, 5300, 100), 4)
    report = lammps_report.Report(tmp_path, 9000)
    report.update()
    columns = report.columns()
    assert columns["step"] == list(range(0, 5300, 100))
    assert columns["temperature_k"] == [1] * 30 + [2] * 20 + [3] + [4] * 2
