"""What dock_vina.py leaves: poses, scores, plot."""

from __future__ import annotations

import argparse
import csv
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from script_support import replacing, save_png, say

RESULT = re.compile(r"^REMARK VINA RESULT:\s+(\S+)\s+(\S+)\s+(\S+)", re.MULTILINE)
COLUMNS = ("rank", "affinity_kcal_mol", "rmsd_lb_angstrom", "rmsd_ub_angstrom")


@dataclass(frozen=True)
class Pose:
    """A pose as Vina ranks it: affinity in kcal/mol, distance from the best pose in angstrom.

    `rmsd_ub` compares each atom with itself, `rmsd_lb` with the nearest atom of its kind.
    """

    rank: int
    affinity: float
    rmsd_lb: float
    rmsd_ub: float


def read_poses(text: str) -> list[Pose]:
    """The poses in a PDBQT that Vina wrote, best first."""
    found = enumerate(RESULT.findall(text), start=1)
    return [Pose(rank, float(e), float(lower), float(upper)) for rank, (e, lower, upper) in found]


def write_poses(text: str, mol: Any, poses: list[Pose], out: Path) -> None:
    """poses.pdbqt as it is, and poses.sdf with all hydrogens and the scores."""
    from meeko import PDBQTMolecule, RDKitMolCreate
    from rdkit import Chem

    with replacing(out / "poses.pdbqt") as part:
        part.write_text(text, encoding="utf-8")
    if not poses:
        return
    docked = RDKitMolCreate.from_pdbqt_mol(PDBQTMolecule(text, skip_typing=True))[0]
    smiles = Chem.MolToSmiles(Chem.RemoveHs(mol))
    with replacing(out / "poses.sdf") as part, Chem.SDWriter(str(part)) as writer:
        for pose, conformer in zip(poses, docked.GetConformers(), strict=True):
            docked.SetProp("_Name", smiles)
            docked.SetIntProp(COLUMNS[0], pose.rank)
            docked.SetProp(COLUMNS[1], f"{pose.affinity:.3f}")
            writer.write(docked, confId=conformer.GetId())


def write_scores(poses: list[Pose], path: Path) -> None:
    with replacing(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        table.writerows((p.rank, p.affinity, p.rmsd_lb, p.rmsd_ub) for p in poses)


def draw(poses: list[Pose], options: argparse.Namespace) -> None:
    """scores.png; without matplotlib only a hint."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        say("[warn] matplotlib is not installed: no scores.png")
        return
    if not poses:
        return
    figure = Figure(figsize=(6.4, 1.6 + 0.3 * len(poses)), dpi=90, layout="constrained")
    panel = figure.subplots()
    ranks = [pose.rank for pose in poses]
    bars = panel.barh(ranks, [pose.affinity for pose in poses], color="tab:blue")
    panel.bar_label(bars, [f"{pose.affinity:.2f}" for pose in poses], padding=3, fontsize=8)
    panel.set(xlabel="affinity (kcal/mol)", ylabel="pose", yticks=ranks)
    panel.set_title(f"poses in {options.receptor.stem} (AutoDock Vina)")
    panel.margins(x=0.12)
    panel.invert_yaxis()
    panel.grid(alpha=0.3, axis="x")
    save_png(figure, options.out / "scores.png")
