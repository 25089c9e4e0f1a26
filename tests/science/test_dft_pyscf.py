"""dft-pyscf as a job: the real program under a real keeper."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from jobs.manifests import load
from jobs.model import Job
from jobs.service import Service
from jobs.states import State
from tests.support.launching import kill_command
from tests.support.science import Ran, check_whole, needs_module, run, start, watched
from tests.support.scripts import MANIFESTS, Script
from tests.support.wait import until

pytestmark = needs_module("pyscf", "geometric", "matplotlib")

WATER = "3\nwater\nO 0 0 0\nH 0 0 1.05\nH 0.95 0 -0.25\n"
OXYGEN = "2\ntriplet\nO 0 0 0\nO 0 0 1.2\n"
#: Twisted and stretched by hand: some ten geometries to its minimum.
METHANOL = """6
methanol
C  0.00  0.00  0.00
O  1.55  0.00  0.00
H  1.85  0.60  0.75
H -0.35  1.05  0.20
H -0.40 -0.50  0.95
H -0.40 -0.50 -0.90
"""
FAST = {"method": "hf", "basis": "sto-3g"}
SCRIPT = Script("dft_pyscf.py")


def length_and_angle(path: Path) -> tuple[float, float, float]:
    """Both bonds (angstrom) and the angle (degrees) of the water in an XYZ file."""
    rows = [line.split()[1:] for line in path.read_text(encoding="utf-8").splitlines()[2:]]
    oxygen, one, other = [tuple(float(x) for x in row) for row in rows]
    first, second, across = math.dist(oxygen, one), math.dist(oxygen, other), math.dist(one, other)
    cosine = (first**2 + second**2 - across**2) / (2 * first * second)
    return first, second, math.degrees(math.acos(cosine))


def check_tables(ran: Ran) -> None:
    """Each geometry and each SCF cycle is there once, and the energy has fallen."""
    steps = ran.table("energies.csv")
    energies = [float(row["energy_hartree"]) for row in steps]
    assert [int(row["step"]) for row in steps] == list(range(1, len(steps) + 1))
    assert energies[-1] < energies[0]
    told = re.findall(r"step=(\d+) ", (ran.work / "trajectory.xyz").read_text(encoding="utf-8"))
    assert told == [row["step"] for row in steps]
    cycles = [(int(row["step"]), int(row["cycle"])) for row in ran.table("scf.csv")]
    there = {int(row["step"]): int(row["scf_cycles"]) for row in steps}
    assert cycles == [(step, n) for step in there for n in range(1, there[step] + 1)]
    assert ran.json()["steps"] == len(steps)


async def test_water_comes_to_its_minimum(service: Service) -> None:
    ran = await run(service, "dft-pyscf")
    check_whole(service, ran)
    check_tables(ran)
    assert {"energy_hartree", "change_hartree", "max_gradient_hartree_bohr"} <= ran.metrics
    # Experiment: 0.9572 angstrom, 104.5 degrees, 1.855 debye.
    first, second, angle = length_and_angle(ran.work / "optimised.xyz")
    assert (first, second) == pytest.approx((0.957, 0.957), abs=0.012)
    assert angle == pytest.approx(104.5, abs=2)
    summary = ran.json()
    assert summary["dipole_debye"] == pytest.approx(1.855, abs=0.25)
    assert summary["max_gradient_hartree_bohr"] < 4.5e-4
    assert summary["converged"] is True
    assert ran.job.outcome.summary["gap_ev"] == summary["gap_ev"]


async def test_an_optimisation_without_end_is_a_failure_that_can_go_on(service: Service) -> None:
    parent = await run(service, "dft-pyscf", params={**FAST, "max_steps": 2})
    outcome = parent.job.outcome
    assert parent.job.state is State.FAILED
    assert outcome.reason == "Exit code 65: the geometry did not converge in max_steps."
    assert "did not converge in 2 steps" in (outcome.error or "")
    assert parent.json()["converged"] is False
    assert not (parent.work / "optimised.xyz").exists()
    assert outcome.resumable
    more = {"max_steps": 20, "convergence": "tight"}
    ran = await run(service, None, resume_from=parent.job.id, params=more)
    check_whole(service, ran)
    check_tables(ran)
    assert ran.table("energies.csv")[0] == parent.table("energies.csv")[0]
    # Hehre, Stewart and Pople's RHF/STO-3G water: -74.9659 Hartree, 0.990 angstrom, 100.0 degrees.
    assert ran.json()["energy_hartree"] == pytest.approx(-74.9659, abs=5e-5)
    first, second, angle = length_and_angle(ran.work / "optimised.xyz")
    assert (first, second) == pytest.approx((0.990, 0.990), abs=1e-3)
    assert angle == pytest.approx(100.0, abs=0.1)


async def test_an_scf_that_does_not_converge_is_a_failure(service: Service) -> None:
    params = {**FAST, "max_cycles": 2, "task": "single-point"}
    ran = await run(service, "dft-pyscf", params=params)
    assert ran.job.state is State.FAILED
    reason = "Exit code 65: the SCF did not converge in max_cycles."
    assert ran.job.outcome.reason == reason
    assert "energy_hartree" not in ran.json()
    # What PySCF itself has printed shows it too.
    said = (ran.work / "scf.log").read_text(encoding="utf-8")
    rules = [r for r in load(MANIFESTS / "dft-pyscf.toml").file.failure if r.source == "scf.log"]
    meanings = [rule.meaning for rule in rules if re.search(rule.regex, said, re.M)]
    assert meanings == ["the SCF did not converge in max_cycles"]


async def test_a_triplet_is_unrestricted(service: Service) -> None:
    params = {**FAST, "xyz_text": OXYGEN, "spin": 2, "task": "single-point"}
    ran = await run(service, "dft-pyscf", params=params)
    absent = ("geomopt.png", "optimised.xyz", "trajectory.xyz", "geometric.log")
    assert ran.job.state is State.COMPLETED, ran.job.outcome
    assert not set(absent) & ran.kinds().keys()
    assert ran.json()["spin_square"] == pytest.approx(2, abs=0.05)


async def long_run(service: Service) -> Job:
    """A job that has done some geometries of many."""
    params = {**FAST, "xyz_text": METHANOL, "convergence": "tight"}
    job = await start(service, "dft-pyscf", params=params)
    log = service.directory(job).stdout
    await until(lambda: log.exists() and "step=3 cycle=2 " in log.read_text("utf-8"), 90)
    return job


async def check_gone_on(service: Service, parent: Ran) -> None:
    assert parent.job.outcome.resumable
    done = parent.table("energies.csv")
    assert len(done) >= 2
    ran = await run(service, None, resume_from=parent.job.id, params={"convergence": "loose"})
    check_whole(service, ran)
    check_tables(ran)
    assert ran.table("energies.csv")[: len(done) - 1] == done[:-1]
    again = float(ran.table("energies.csv")[len(done) - 1]["energy_hartree"])
    assert again == pytest.approx(float(done[-1]["energy_hartree"]), abs=1e-7)


async def test_a_cancelled_optimisation_goes_on(service: Service) -> None:
    job = await long_run(service)
    await service.cancel(job.id)
    parent = await watched(service, job)
    assert parent.job.state is State.CANCELLED
    assert parent.job.outcome.exit_code == 75
    assert parent.json()["converged"] is False
    await check_gone_on(service, parent)


async def test_a_killed_optimisation_goes_on(service: Service) -> None:
    job = await long_run(service)
    kill_command(service, job)
    parent = await watched(service, job)
    assert parent.job.state is State.FAILED
    assert list((parent.work / "scratch").iterdir())  # and nothing elsewhere
    await check_gone_on(service, parent)


def test_orbitals_that_a_kill_has_damaged_are_made_anew(tmp_path: Path) -> None:
    out, options = tmp_path / "out", ("--method", "hf", "--basis", "sto-3g")
    assert SCRIPT.run(out, *options, "--max-steps", "2").returncode == 65
    chk = out / "opt.chk"
    chk.write_bytes(chk.read_bytes()[:1000])
    with (out / "energies.csv").open("a", encoding="utf-8") as file:
        file.write("3,-74.9")  # cut short
    done = SCRIPT.run(out, *options, "--resume")
    assert done.returncode == 0, done.stderr
    assert "opt.chk cannot be read" in done.stdout
    refused = SCRIPT.run(out, *options)
    assert refused.returncode == 66
    assert "--resume" in refused.stderr
    refused = SCRIPT.run(out, "--method", "pbe", "--basis", "sto-3g", "--resume")
    assert refused.returncode == 66
    assert "this changes method" in refused.stderr


def test_heavy_atoms_get_the_core_potential_of_their_basis(tmp_path: Path) -> None:
    molecule = tmp_path / "hi.xyz"
    molecule.write_text("2\nhydrogen iodide\nI 0 0 0\nH 0 0 1.61\n", encoding="utf-8")
    options = ("--xyz", str(molecule), "--method", "hf", "--task", "single-point")
    done = SCRIPT.run(tmp_path / "out", *options)
    assert done.returncode == 0, done.stderr
    assert "electrons=26 " in done.stdout  # 54, less the 28 of iodine's core


async def test_what_cannot_be_used_fails_in_one_sentence(service: Service) -> None:
    ran = await run(service, "dft-pyscf", params={"basis": "def3-svp"})
    assert ran.job.state is State.FAILED
    assert ran.job.outcome.exit_code == 66
    assert "no basis set 'def3-svp' for H, O" in (ran.job.outcome.error or "")


@pytest.mark.parametrize(
    ("content", "options", "says"),
    [
        (WATER, ("--method", "b3lypp"), "no functional 'b3lypp'"),
        (WATER, ("--method", "mgga_x_br89", "--basis", "sto-3g"), "PySCF cannot do mgga_x_br89"),
        ("1\natom\nHe 0 0 0\n", (), "choose the task single-point"),
    ],
)
def test_unusable_input_is_one_clear_line(
    tmp_path: Path, content: str, options: tuple[str, ...], says: str
) -> None:
    molecule = tmp_path / "molecule.xyz"
    molecule.write_text(content, encoding="utf-8")
    refused = SCRIPT.run(tmp_path / "out", "--xyz", str(molecule), *options)
    assert refused.returncode == 66, refused.stdout
    assert refused.stderr.startswith("[error] ")
    assert says in refused.stderr
    assert refused.stderr.count("\n") == 1
