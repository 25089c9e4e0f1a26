"""opt-xtb as a job: the real program under a real keeper."""

from __future__ import annotations

import math
import re
import subprocess
from pathlib import Path

import pytest

from jobs.manifests import load
from jobs.model import Job
from jobs.service import Service
from jobs.states import State
from tests.support.launching import kill_command
from tests.support.science import Ran, check_whole, needs, run, start, watched
from tests.support.scripts import MANIFESTS, Script
from tests.support.wait import until

pytestmark = needs("xtb")

CAFFEINE = MANIFESTS / "data" / "caffeine.xyz"
WATER = "3\nwater\nO 0 0 0\nH 0 0 1.05\nH 0.95 0 -0.25\n"
SCRIPT = Script("opt_xtb.py")
Atoms = list[tuple[str, tuple[float, float, float]]]


def ice(side: int) -> str:
    """A cube of waters on a lattice, far from their places: hundreds of cycles."""
    atoms = []
    for place in range(side**3):
        x, y, z = (3.2 * (place // side**power % side) for power in range(3))
        for symbol, dx, dy in (("O", 0.0, 0.0), ("H", 0.96, 0.0), ("H", -0.24, 0.93)):
            atoms.append(f"{symbol} {x + dx} {y + dy} {z}")
    return "\n".join([str(len(atoms)), "ice", *atoms, ""])


def atoms_of(path: Path) -> Atoms:
    rows = [line.split() for line in path.read_text(encoding="utf-8").splitlines()[2:]]
    return [(row[0], (float(row[1]), float(row[2]), float(row[3]))) for row in rows]


def bonds(atoms: Atoms, one: str, other: str) -> list[float]:
    """Distances below 1.6 angstrom between atoms of two elements."""
    pairs = [(a, b) for s, a in atoms if s == one for t, b in atoms if t == other]
    return [math.dist(a, b) for a, b in pairs if 0 < math.dist(a, b) < 1.6]


def check_table(ran: Ran) -> None:
    """Each cycle is there once, in the table and in the trajectory; the energy has fallen."""
    rows = ran.table("energies.csv")
    energies = [float(row["energy_hartree"]) for row in rows]
    assert [int(row["cycle"]) for row in rows] == list(range(1, len(rows) + 1))
    assert energies[-1] < energies[0]
    assert len(set(energies)) == len(energies)
    told = re.findall(r"energy: (\S+)", (ran.work / "trajectory.xyz").read_text(encoding="utf-8"))
    assert [float(energy) for energy in told] == energies
    assert ran.json()["cycles"] == len(rows)


async def test_caffeine_comes_to_its_minimum(service: Service) -> None:
    ran = await run(service, "opt-xtb")
    check_whole(service, ran)
    check_table(ran)
    assert {"cycle", "energy_hartree", "gradient_norm_hartree_bohr"} <= ran.metrics
    summary = ran.json()
    assert summary["converged"] is True
    assert summary["atoms"] == 24
    assert summary["electrons"] == 102
    assert summary["gradient_norm_hartree_bohr"] < summary["gradient_threshold_hartree_bohr"]
    assert summary["xtb"].startswith("6.")
    assert ran.job.outcome.summary["gap_ev"] == summary["gap_ev"]
    # The carbonyls of crystalline caffeine measure 1.22 to 1.23 angstrom.
    carbonyls = bonds(atoms_of(ran.work / "xtbopt.xyz"), "C", "O")
    assert carbonyls == pytest.approx([1.22, 1.22], abs=0.02)
    charges = [(row["element"], float(row["charge_e"])) for row in ran.table("charges.csv")]
    assert sum(charge for _, charge in charges) == pytest.approx(0, abs=1e-4)
    assert all(charge < -0.3 for element, charge in charges if element == "O")


async def test_a_single_point_of_what_was_optimised_has_its_energy(service: Service) -> None:
    params = {"xyz_text": WATER, "solvent": "water", "level": "tight"}
    ran = await run(service, "opt-xtb", params=params)
    assert ran.job.state is State.COMPLETED, ran.job.outcome
    oxygen, *hydrogens = (point for _, point in atoms_of(ran.work / "xtbopt.xyz"))
    # Experiment, in the gas: 0.9572 angstrom, 104.5 degrees; liquid water 0.97.
    lengths = [math.dist(oxygen, hydrogen) for hydrogen in hydrogens]
    assert lengths == pytest.approx([0.96, 0.96], abs=0.015)
    across = math.dist(*hydrogens)
    assert 2 * math.degrees(math.asin(across / 2 / lengths[0])) == pytest.approx(104.5, abs=4)
    again = {"xyz": str(ran.work / "xtbopt.xyz"), "solvent": "water", "task": "single-point"}
    point = await run(service, "opt-xtb", params=again)
    assert point.job.state is State.COMPLETED, point.job.outcome  # too short to show progress
    assert point.json()["energy_hartree"] == pytest.approx(ran.json()["energy_hartree"], abs=1e-7)


async def test_the_force_field_knows_no_gap(service: Service) -> None:
    ran = await run(service, "opt-xtb", params={"method": "gfnff"})
    assert ran.job.state is State.COMPLETED, ran.job.outcome
    check_table(ran)
    assert "gap_ev" not in ran.json()


async def test_an_optimisation_without_end_is_a_failure_that_can_go_on(service: Service) -> None:
    parent = await run(service, "opt-xtb", params={"max_cycles": 3})
    outcome = parent.job.outcome
    assert parent.job.state is State.FAILED
    assert outcome.exit_code == 65
    assert outcome.reason == "Exit code 65: the geometry did not converge in max_cycles."
    assert "did not converge in 3 cycles" in (outcome.error or "")
    assert parent.json()["converged"] is False
    assert outcome.resumable
    ran = await run(service, None, resume_from=parent.job.id, params={"max_cycles": 50})
    check_whole(service, ran)
    check_table(ran)
    first = [row["energy_hartree"] for row in parent.table("energies.csv")][:2]
    assert [row["energy_hartree"] for row in ran.table("energies.csv")][:2] == first


def test_the_manifest_sees_for_itself_what_xtb_passes_over(tmp_path: Path) -> None:
    """Without the script too: exit code 0 and a normal termination, but no minimum."""
    command = ["xtb", str(CAFFEINE), "--opt", "--cycles", "2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    said = done.stdout + done.stderr
    file = load(MANIFESTS / "opt-xtb.toml").file
    rules = [rule for rule in [*file.failure, *file.success] if rule.source == "xtb.log"]
    meanings = [rule.meaning for rule in rules if re.search(rule.regex, said, re.M)]
    assert meanings == [
        "the geometry did not converge in max_cycles",
        "xtb did not come to its normal termination",  # the marker is there: it proves nothing
    ]


async def test_charges_that_do_not_converge_are_a_failure(service: Service) -> None:
    ran = await run(service, "opt-xtb", params={"max_scf_cycles": 2})
    assert ran.job.state is State.FAILED
    reason = "Exit code 65: the charges did not converge in max_scf_cycles."
    assert ran.job.outcome.reason == reason
    assert "raise max_scf_cycles" in (ran.job.outcome.error or "")


async def long_run(service: Service) -> Job:
    """A job that has done some cycles of many."""
    params = {"xyz_text": ice(2), "level": "extreme", "max_cycles": 5000}
    job = await start(service, "opt-xtb", params=params)
    log = service.directory(job).stdout
    await until(lambda: log.exists() and "cycle=4/" in log.read_text("utf-8"), 60)
    return job


async def check_gone_on(service: Service, parent: Ran) -> None:
    assert parent.job.outcome.resumable
    ran = await run(service, None, resume_from=parent.job.id, params={"level": "crude"})
    check_whole(service, ran)
    check_table(ran)
    before = re.findall(r"energy: (\S+)", (parent.work / "xtbopt.log").read_text(encoding="utf-8"))
    assert len(before) >= 4
    now = [float(row["energy_hartree"]) for row in ran.table("energies.csv")]
    assert now[: len(before) - 2] == [float(energy) for energy in before[:-2]]


async def test_a_cancelled_optimisation_goes_on(service: Service) -> None:
    job = await long_run(service)
    await service.cancel(job.id)
    parent = await watched(service, job)
    assert parent.job.state is State.CANCELLED
    assert parent.job.outcome.exit_code == 75
    assert parent.json()["converged"] is False
    check_table(parent)
    await check_gone_on(service, parent)


async def test_a_killed_optimisation_goes_on(service: Service) -> None:
    job = await long_run(service)
    kill_command(service, job)
    parent = await watched(service, job)
    assert parent.job.state is State.FAILED
    await check_gone_on(service, parent)


async def test_what_cannot_be_used_fails_in_one_sentence(service: Service) -> None:
    ran = await run(service, "opt-xtb", params={"xyz_text": WATER, "unpaired": 1})
    assert ran.job.state is State.FAILED
    assert ran.job.outcome.exit_code == 66
    assert "10 electrons" in (ran.job.outcome.error or "")


@pytest.mark.parametrize(
    ("content", "options", "says"),
    [
        (None, (), "cannot read"),
        ("", (), "not an XYZ file"),
        ("2\nshort\nH 0 0 0\n", (), "says 2 atoms but holds 1 line"),
        ("1\nodd\nH 0 zero 0\n", (), "is not element x y z"),
        ("1\nodd\nH 0 0 nan\n", (), "no usable coordinates"),
        ("2\nodd\nXx 0 0 0\nH 0 0 1\n", (), "no element from H to Rn"),
        ("2\nheavy\nU 0 0 0\nH 0 0 2\n", (), "no element from H to Rn"),
        ("2\nclash\nH 0 0 0\nH 0 0 0.1\n", (), "atoms 1 (H) and 2 (H) are 0.10 angstrom apart"),
        (WATER + WATER, (), "give one molecule"),
        (WATER, ("--charge", "1"), "must be odd"),
        (WATER, ("--unpaired", "12"), "at most 10"),
        (WATER, ("--charge", "10"), "leaves no electron"),
        (WATER, ("--xyz", str(CAFFEINE)), "not both"),
        ("1\natom\nHe 0 0 0\n", (), "choose the task single-point"),
    ],
)
def test_unusable_input_is_one_clear_line(
    tmp_path: Path, content: str | None, options: tuple[str, ...], says: str
) -> None:
    molecule = tmp_path / "molecule.xyz"
    if content is not None:
        molecule.write_text(content, encoding="utf-8")
    refused = SCRIPT.run(tmp_path / "out", "--xyz", str(molecule), *options)
    assert refused.returncode == 66, refused.stdout
    assert refused.stderr.startswith("[error] ")
    assert says in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_a_crash_of_xtb_is_told_as_one(tmp_path: Path) -> None:
    molecule = tmp_path / "molecule.xyz"
    molecule.write_text(WATER, encoding="utf-8")
    # More unpaired electrons than xtb has valence electrons for.
    failed = SCRIPT.run(tmp_path / "out", "--xyz", str(molecule), "--unpaired", "10")
    assert failed.returncode == 65
    assert "xtb crashed" in failed.stderr
    assert failed.stderr.count("\n") == 1
