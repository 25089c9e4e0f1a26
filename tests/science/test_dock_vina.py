"""dock-vina as a job: AutoDock Vina itself under a real keeper."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from jobs.errors import JobError
from jobs.service import Service
from jobs.states import State
from tests.support.science import Ran, check_whole, needs_module, run, start, watched
from tests.support.scripts import MANIFESTS, Script
from tests.support.wait import until

pytestmark = needs_module("vina", "meeko", "rdkit", "gemmi", "scipy")

AMANTADINE = "NC12CC3CC(CC(C3)C1)C2"
TRIPTYCENE = "c1ccc2c(c1)C1c3ccccc3C2c2ccccc12"
CAGE = MANIFESTS / "data" / "cucurbit7uril.pdbqt"
CARBON = "ATOM      1  C   XYZ A   1       0.000   0.000   0.000  1.00  0.00     0.000 C\n"
#: Three residues in a row, the middle one unknown.
PEPTIDE = "".join(
    f"ATOM  {9 * number + at:5}  {name:<3} {residue} A{number:4}    {3.8 * number + at:8.3f}"
    f"{1.2 * at:8.3f}   0.000  1.00  0.00           {name[0]}\n"
    for number, residue in enumerate(("GLY", "XYZ", "GLY"), start=1)
    for at, name in enumerate(("N", "CA", "C", "O"))
)
QUICK = {"smiles": AMANTADINE, "exhaustiveness": 1, "poses": 3}


def atoms_of(path: Path) -> list[tuple[str, float, float, float]]:
    """Element and place (angstrom) of each atom of a PDBQT file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if line.startswith("ATOM")]
    return [
        (line[77], *(float(line[at : at + 8]) for at in (30, 38, 46)))  # type: ignore[misc]
        for line in kept
    ]


def test_the_bundled_cage_is_cucurbituril() -> None:
    atoms = atoms_of(CAGE)
    elements = [element for element, *_ in atoms]
    assert [elements.count(element) for element in "CNO"] == [42, 28, 14]
    rims = [z for element, _, _, z in atoms if element == "O"]
    # Height 9.1 angstrom between the surfaces of the rims, with oxygen's radius of 1.52:
    # Lagona et al., Angew. Chem. Int. Ed. 44, 4844 (2005).
    assert max(rims) - min(rims) + 2 * 1.52 == pytest.approx(9.1, abs=0.4)


async def test_amantadine_goes_into_the_cage(service: Service) -> None:
    ran = await run(service, "dock-vina", params={"smiles": AMANTADINE, "exhaustiveness": 4})
    check_whole(service, ran)
    scores = [float(row["affinity_kcal_mol"]) for row in ran.table("scores.csv")]
    assert scores == sorted(scores)
    summary = ran.json()
    assert summary["best_affinity_kcal_mol"] == scores[0] == pytest.approx(-5.8, abs=0.3)
    assert summary["ligand"]["formula"] == "C10H17N"
    # It is known to sit inside: Liu et al., J. Am. Chem. Soc. 127, 15959 (2005).
    places = first_pose(ran)
    middle = [sum(axis) / len(axis) for axis in zip(*places, strict=True)]
    assert sum(x * x for x in middle) ** 0.5 < 1.5  # angstrom from the centre of the cage
    assert ran.job.outcome.summary["best_affinity_kcal_mol"] == scores[0]


def first_pose(ran: Ran) -> list[tuple[float, float, float]]:
    """Places of the heavy atoms in poses.sdf, which has 28 atoms in each pose."""
    lines = (ran.work / "poses.sdf").read_text(encoding="utf-8").splitlines()[4:32]
    words = [line.split() for line in lines]
    return [(float(x), float(y), float(z)) for x, y, z, element, *_ in words if element != "H"]


async def test_a_ligand_from_a_file_and_a_box_around_another(service: Service) -> None:
    first = await run(service, "dock-vina", params=QUICK)
    again = {"ligand": str(first.work / "ligand.sdf"), "exhaustiveness": 1, "poses": 2}
    ran = await run(
        service, "dock-vina", params={**again, "reference": str(first.work / "poses.sdf")}
    )
    check_whole(service, ran)
    summary = ran.json()
    assert summary["box"]["from"] == "poses.sdf"
    assert summary["ligand"]["formula"] == "C10H17N"
    assert summary["best_affinity_kcal_mol"] == pytest.approx(-5.8, abs=0.3)
    assert len(ran.table("scores.csv")) <= 2


async def test_the_same_seed_finds_the_same(service: Service) -> None:
    first, second = [await run(service, "dock-vina", params=QUICK) for _ in range(2)]
    assert first.table("scores.csv") == second.table("scores.csv")


async def test_what_does_not_fit_fails_though_vina_says_nothing(service: Service) -> None:
    params = {"smiles": TRIPTYCENE, "center": [0, 0, 0], "size": [8, 8, 8], "exhaustiveness": 1}
    ran = await run(service, "dock-vina", params=params)
    assert ran.job.state is State.FAILED
    outcome = ran.job.outcome
    assert outcome.exit_code == 65
    assert "no pose is favourable" in (outcome.reason or "")
    # What was found is kept, for whoever wants to see why.
    assert float(ran.table("scores.csv")[0]["affinity_kcal_mol"]) > 0
    assert ran.json()["favourable"] is False


@pytest.mark.skipif(not importlib.util.find_spec("openmm"), reason="its data hold a protein")
async def test_a_protein_is_prepared_from_pdb(service: Service, tmp_path: Path) -> None:
    import openmm  # for its test data: villin headpiece, 35 residues with hydrogens, in water

    receptor = Path(openmm.__file__).parent / "app" / "data" / "test.pdb"
    params = {**QUICK, "receptor": str(receptor), "center": [22, 14, 17], "size": [18, 18, 18]}
    ran = await run(service, "dock-vina", params=params)
    check_whole(service, ran)
    summary = ran.json()
    assert summary["receptor"]["left_out"]  # its water
    assert -8 < summary["best_affinity_kcal_mol"] < -1  # a small protein without a pocket
    atoms = (ran.work / "receptor.pdbqt").read_text(encoding="utf-8").splitlines()
    assert any(line.rstrip().endswith(" HD") for line in atoms)
    assert ran.job.outcome.warnings


async def test_cancelling_leaves_nothing_to_go_on_from(service: Service) -> None:
    params = {"smiles": AMANTADINE, "exhaustiveness": 500}
    job = await start(service, "dock-vina", params=params)
    log = service.directory(job).stdout
    await until(lambda: log.exists() and "Performing docking" in log.read_text(), 60)
    await service.cancel(job.id)
    ran = await watched(service, job)
    assert ran.job.state is State.CANCELLED
    assert not ran.job.outcome.resumable
    assert not (ran.work / "poses.sdf").exists()


async def test_an_invalid_smiles_fails_the_job(service: Service) -> None:
    ran = await run(service, "dock-vina", params={"smiles": "C1CC"})
    assert (ran.job.state, ran.job.outcome.exit_code) == (State.FAILED, 66)
    assert "'C1CC' is not a valid SMILES" in (ran.job.outcome.error or "")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--smiles", "CC(=O)[O-].[Na+]"], "more than one molecule"),
        (["--smiles", "OB(O)c1ccccc1"], "Atom type B is not a valid AutoDock type"),
        (["--smiles", "C", "--center=100", "--center=0", "--center=0"], "the box holds nothing"),
        (["--smiles", "C", "--center=100"], "three numbers"),
        (["--ligand", str(CAGE)], "holds no valid molecule"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path: Path, options: list[str], says: str) -> None:
    refused = Script("dock_vina.py").run(tmp_path, *options)
    assert refused.returncode == 66
    assert refused.stderr.startswith("[error] ")
    assert refused.stderr.count("\n") == 1
    assert says in refused.stderr


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.pdbqt", "", "holds no atoms"),
        ("a.pdbqt", "ATOM      1  C1  CB7 A   1      xx\n", "no coordinates in"),
        ("a.pdbqt", "ROOT\n", "PDBQT of a ligand"),
        ("a.pdbqt", CARBON.replace("C\n", "Qq\n"), "Atom type Qq is not a valid AutoDock type"),
        ("a.pdb", "nothing of the kind\n", "holds no protein or nucleic acid"),
        ("a.pdb", PEPTIDE, "Meeko has no template for XYZ"),
        ("a.cif", "nothing of the kind\n", "is no PDB or mmCIF"),
    ],
)
def test_a_bad_receptor_is_one_sentence(tmp_path: Path, name: str, content: str, says: str) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    options = ("--smiles", "C", "--receptor", str(path))
    refused = Script("dock_vina.py").run(tmp_path / "out", *options)
    assert refused.returncode == 66, refused.stderr
    assert refused.stderr.startswith("[error] ")
    assert refused.stderr.count("\n") == 1
    assert says in refused.stderr


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"smiles": "C", "ligand": str(CAGE)},
        {"smiles": "C", "center": [0, 0]},
        {"smiles": "C", "receptor": "/nowhere/receptor.pdb"},
        {"smiles": "C", "size": [0, 1, 1]},
    ],
)
async def test_bad_parameters_are_refused(service: Service, params: dict[str, Any]) -> None:
    with pytest.raises(JobError):
        await start(service, "dock-vina", params=params)
