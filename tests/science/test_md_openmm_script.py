"""manifests/md_openmm.py, run as a job runs it: a process with a directory of its own."""

from __future__ import annotations

import importlib
import json
import signal
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tests.support.scripts import MANIFESTS, Script

DIPEPTIDE = MANIFESTS / "data" / "alanine-dipeptide.pdb"
SHORT = ("--steps", "60", "--report-every", "20", "--checkpoint-every", "30")
ENDLESS = ("--steps", "100000000", "--report-every", "20", "--checkpoint-every", "30")
SCRIPT = Script("md_openmm.py", *ENDLESS)
command, run, run_until = SCRIPT.command, SCRIPT.run, SCRIPT.run_until


def rows(path: Path) -> list[list[str]]:
    return [line.split(",") for line in path.read_text(encoding="utf-8").splitlines()]


def steps(path: Path) -> list[int]:
    return [int(row[0]) for row in rows(path)[1:]]


@pytest.fixture(scope="module")
def report() -> Iterator[ModuleType]:
    """Imported by its plain name, as the scripts import each other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(MANIFESTS)
        yield importlib.import_module("md_report")


def atoms_of(path: Path) -> dict[tuple[str, str], np.ndarray]:
    """Positions in angstrom, by residue and atom name."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith(("ATOM", "HETATM")):
            xyz = np.array([float(line[i : i + 8]) for i in (30, 38, 46)])
            found[line[17:20], line[12:16].strip()] = xyz
    return found


# ---- the bundled molecule ------------------------------------------------------------------------


def test_dipeptide_is_l_alanine_with_sound_geometry(report: ModuleType) -> None:
    atoms = atoms_of(DIPEPTIDE)
    assert len(atoms) == 22
    n, ca, c, cb, ha = (atoms["ALA", name] for name in ("N", "CA", "C", "CB", "HA"))
    # The CORN rule: seen with HA towards the eye, CO, R, N follow each other clockwise in L.
    away = ca - ha
    for first, second in ((c, cb), (cb, n), (n, c)):
        assert np.cross(first - ca, second - ca) @ away > 0
    phi = report.dihedral_deg(np.array([atoms["ACE", "C"], n, ca, c]))
    psi = report.dihedral_deg(np.array([n, ca, c, atoms["NME", "N"]]))
    omega = report.dihedral_deg(np.array([atoms["ACE", "CH3"], atoms["ACE", "C"], n, ca]))
    assert (phi, psi) == pytest.approx((-75, 145), abs=0.5)
    assert abs(omega) == pytest.approx(180, abs=0.5)
    places = list(atoms.values())
    distances = [np.linalg.norm(a - b) for i, a in enumerate(places) for b in places[:i]]
    assert sum(d < 1.65 for d in distances) == 21  # the bonds of a molecule without rings
    assert min(distances) > 0.98


def test_dihedral_sign_and_mirror_images(report: ModuleType) -> None:
    quarter = np.array([[1, 0, 0], [0, 0, 0], [0, 0, 1], [0, 1, 1]], dtype=float)
    assert report.dihedral_deg(quarter) == pytest.approx(90)
    assert report.dihedral_deg(quarter * [1, -1, 1]) == pytest.approx(-90)
    turned = quarter @ np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]]) + 5
    assert report.rmsd(turned, quarter) == pytest.approx(0, abs=1e-7)
    assert report.rmsd(quarter * [1, -1, 1], quarter) > 0.1


# ---- runs ----------------------------------------------------------------------------------------


def test_short_run_leaves_everything(tmp_path: Path) -> None:
    done = run(tmp_path, *SHORT)
    assert done.returncode == 0, done.stderr
    assert "[md] step=60/60 time_ps=0.2 T=" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {
        "topology.pdb", "trajectory.000000000.dcd", "energies.csv", "observables.csv",
        "checkpoint.chk", "state.xml", "final.pdb", "model.json", "summary.json",
        "md.png", "ramachandran.png",
    }  # fmt: skip
    assert steps(tmp_path / "energies.csv") == [0, 20, 40, 60]
    assert steps(tmp_path / "observables.csv") == [0, 20, 40, 60]
    start = rows(tmp_path / "observables.csv")[1]
    assert float(start[2]) == pytest.approx(0, abs=2e-4)
    assert float(start[4]) < 0  # phi of L-alanine
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert (summary["atoms"], summary["steps"], summary["finished"]) == (22, 60, True)
    assert summary["simulated_ns"] == pytest.approx(60 * 4e-6)
    assert 100 < summary["mean_temperature_k"] < 600
    for name in ("md.png", "ramachandran.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / name).stat().st_size < 100_000


def test_plots_of_a_long_noisy_run_stay_small(tmp_path: Path, report: ModuleType) -> None:
    noise = np.random.default_rng(1).uniform(-180, 180, (5_000, 6))
    noise[:, 1] = np.arange(len(noise))
    for table in ("energies.csv", "observables.csv"):
        np.savetxt(tmp_path / table, noise, delimiter=",", header="columns")
    report.draw(Namespace(out=tmp_path, pdb=DIPEPTIDE, temperature_k=300.0))
    for name in ("md.png", "ramachandran.png"):
        assert 10_000 < (tmp_path / name).stat().st_size < 80_000


def test_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert run(whole, *SHORT).returncode == 0
    assert run(halves, *SHORT, "--steps", "30").returncode == 0
    assert run(halves, *SHORT, "--resume").returncode == 0
    # The half run also reported its last step, 30; the last column is the speed.
    kept = [row[:-1] for row in rows(halves / "energies.csv") if row[0] != "30"]
    assert kept == [row[:-1] for row in rows(whole / "energies.csv")]
    assert (halves / "final.pdb").read_bytes() == (whole / "final.pdb").read_bytes()


def test_a_segment_of_the_same_start_is_replaced_and_not_written_over(tmp_path: Path) -> None:
    assert run(tmp_path, *SHORT, "--steps", "30").returncode == 0
    # What a start from step 30 has left that was killed before its first checkpoint.
    segment, shared = tmp_path / "trajectory.000000030.dcd", tmp_path / "shared.dcd"
    segment.write_bytes(b"frames of another job")
    shared.hardlink_to(segment)
    assert run(tmp_path, *SHORT, "--resume").returncode == 0
    assert shared.read_bytes() == b"frames of another job"
    assert segment.read_bytes()[4:8] == b"CORD"


def test_settled_motion_has_no_drift_and_stretches_no_bond(report: ModuleType) -> None:
    random = np.random.default_rng(1)
    masses = np.array([6.0, 3, 3, 3, 14])  # a methyl group with its hydrogens, and one atom more
    places = np.array([[0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) * 0.06
    bonds = np.array([[0, 1], [2, 0], [0, 3]])
    noise = random.normal(size=(5, 3))
    left = report.settled(noise, places, masses, bonds)
    assert masses @ left == pytest.approx(0, abs=1e-6)
    for i, j in bonds:
        assert (left[i] - left[j]) @ (places[i] - places[j]) == pytest.approx(0, abs=1e-6)
    assert report.settled(left, places, masses, bonds) == pytest.approx(left, abs=1e-6)
    # It takes out 3 + 3 of 15 degrees of freedom, and nothing else.
    energy = [
        masses @ np.square(report.settled(v, places, masses, bonds)).sum(axis=1)
        for v in random.normal(size=(4000, 5, 3)) / np.sqrt(masses)[:, None]
    ]
    assert np.mean(energy) == pytest.approx(9, abs=0.3)


def test_strong_friction_does_not_heat(tmp_path: Path) -> None:
    options = ("--friction-per-ps", "1000", "--steps", "3000", "--report-every", "20")
    assert run(tmp_path, *options).returncode == 0
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert summary["mean_temperature_error_k"] < 6  # noise that counts as heat is worth 35 K
    assert summary["mean_temperature_k"] == pytest.approx(300, abs=18)


def test_error_of_the_mean_temperature(report: ModuleType) -> None:
    options = Namespace(temperature_k=300.0, friction_per_ps=1.0)
    step = np.arange(0, 25_001, 500, dtype=float)
    temperature = np.where(step < 6_250, 100.0, 310.0)  # the first quarter does not count
    zero = np.zeros_like(step)
    table = np.array([step, step * 0.004, zero, zero, temperature, zero])
    mean_k, error_k = report.mean_temperature(table, 51, options)
    assert mean_k == 310
    # 59 K of scatter, 38 rows, 74 ps with the thermostat's memory of 2 ps
    assert error_k == pytest.approx(59.4 / np.sqrt(37.5), abs=0.1)
    assert report.mean_temperature(table[:, :1], 51, options) is None
    options.friction_per_ps = 1e-3  # as if without a thermostat: its part does not average out
    assert report.mean_temperature(table, 51, options)[1] > 59.4 * np.sqrt(0.5)


def test_term_stops_with_a_checkpoint_and_resume_goes_on(tmp_path: Path) -> None:
    code, output = run_until(tmp_path, "step=100/", signal.SIGTERM)
    assert code == 75
    assert "[stopped] step=" in output
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert summary["finished"] is False
    stopped_at = summary["steps"]
    goal = stopped_at - stopped_at % 20 + 60
    resumed = run(tmp_path, *SHORT, "--steps", str(goal), "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert f"[resume] step={stopped_at}/{goal}" in resumed.stdout
    assert steps(tmp_path / "energies.csv") == list(range(0, goal + 1, 20))
    assert len(list(tmp_path.glob("trajectory.*.dcd"))) == 2


def test_kill_and_resume_leave_no_row_twice(tmp_path: Path) -> None:
    code, _ = run_until(tmp_path, "step=100/", signal.SIGKILL)
    assert code == -signal.SIGKILL
    with (tmp_path / "energies.csv").open("a", encoding="utf-8") as file:
        file.write("99999980,1.0,2.0,3.0,4.0,5.0\n9999")  # past the checkpoint, and cut short
    goal = checkpointed_step(tmp_path) // 20 * 20 + 40
    resumed = run(tmp_path, *SHORT, "--steps", str(goal), "--resume")
    assert resumed.returncode == 0, resumed.stderr
    for table in ("energies.csv", "observables.csv"):
        assert steps(tmp_path / table) == list(range(0, goal + 1, 20))


def checkpointed_step(out: Path) -> int:
    head = (out / "state.xml").read_text(encoding="utf-8")[:500]
    return int(head.split('stepCount="')[1].split('"')[0])


# ---- what can go wrong ---------------------------------------------------------------------------


def test_unreadable_checkpoint_falls_back_to_the_state(tmp_path: Path) -> None:
    assert run(tmp_path, *SHORT, "--steps", "30").returncode == 0
    (tmp_path / "checkpoint.chk").write_bytes(b"not a checkpoint")
    resumed = run(tmp_path, *SHORT, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "taking state.xml" in resumed.stdout
    assert steps(tmp_path / "energies.csv")[-1] == 60


def test_too_long_a_time_step_is_reported_as_a_blow_up(tmp_path: Path) -> None:
    failed = run(tmp_path, "--steps", "2000", "--timestep-fs", "40")
    assert failed.returncode == 65, failed.stdout
    assert failed.stderr.startswith("[error] the simulation blew up")
    assert "Traceback" not in failed.stderr


GLYCINE_HEAVY = """\
ATOM      1  N   GLY A   1       0.000   0.000   0.000  1.00  0.00           N
ATOM      2  CA  GLY A   1       1.460   0.000   0.000  1.00  0.00           C
ATOM      3  C   GLY A   1       2.000   1.420   0.000  1.00  0.00           C
ATOM      4  O   GLY A   1       1.250   2.390   0.000  1.00  0.00           O
END
"""


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot open"),
        ("", "holds no PDB structure"),
        ("ATOM      1  N   ALA A   1      xx.xxx  1.0 2.0\n", "holds no PDB structure"),
        (GLYCINE_HEAVY, "the force field does not cover"),
        (GLYCINE_HEAVY.replace("GLY", "XYZ"), "the force field does not cover"),
    ],
)
def test_unusable_structure_is_one_clear_line(
    tmp_path: Path, content: str | None, says: str
) -> None:
    pdb = tmp_path / "input.pdb"
    if content is not None:
        pdb.write_text(content, encoding="utf-8")
    refused = run(tmp_path / "out", "--pdb", str(pdb))
    assert refused.returncode == 66
    assert refused.stderr.startswith("[error] ")
    assert says in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_a_second_fresh_start_in_the_same_directory_is_refused(tmp_path: Path) -> None:
    assert run(tmp_path, *SHORT).returncode == 0
    refused = run(tmp_path, *SHORT)
    assert refused.returncode == 66
    assert "--resume" in refused.stderr


def test_a_run_goes_on_with_its_structure_and_time_step(tmp_path: Path) -> None:
    out, other = tmp_path / "out", tmp_path / "other.pdb"
    other.write_bytes(b"REMARK of another molecule\n" + DIPEPTIDE.read_bytes())
    assert run(out, *SHORT).returncode == 0
    more = ("--steps", "80", "--resume", "--temperature-k", "310")
    for change, name in (
        (("--pdb", str(other)), "pdb"),
        (("--timestep-fs", "2"), "timestep_fs"),
    ):
        refused = run(out, *SHORT, *more, *change)
        assert refused.returncode == 66, refused.stdout
        assert f"this changes {name}:" in refused.stderr
    (out / "model.json").unlink()  # a run from before there was this record
    assert run(out, *SHORT, *more).returncode == 0
    assert steps(out / "energies.csv") == [0, 20, 40, 60, 80]


def test_a_run_that_left_nothing_to_go_on_from_binds_nobody(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text('{"pdb": "other", "timestep_fs": 1.0}', encoding="utf-8")
    assert run(tmp_path, *SHORT, "--resume").returncode == 0
    refused = run(tmp_path, *SHORT, "--resume", "--timestep-fs", "1")
    assert refused.returncode == 66, refused.stdout


def test_without_matplotlib_the_run_still_ends_well(tmp_path: Path) -> None:
    shadow = tmp_path / "shadow"
    shadow.mkdir()
    (shadow / "matplotlib.py").write_text("raise ImportError('absent')\n", encoding="utf-8")
    done = run(tmp_path / "out", *SHORT, PYTHONPATH=str(shadow))
    assert done.returncode == 0, done.stderr
    assert "[warn] matplotlib is not installed" in done.stdout
    assert (tmp_path / "out" / "summary.json").exists()
