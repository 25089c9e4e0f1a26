#!/usr/bin/env python3
"""Dock one molecule into a rigid receptor, with AutoDock Vina.

The ligand comes as SMILES or as an SDF file, in the protonation that it is given in. The receptor
comes as PDBQT, or as PDB or mmCIF: then Meeko adds hydrogens and types, after water, ions and
ligands have been left out. The box is given by its centre and size; or lies around a reference
ligand; or, without either, around the whole receptor, if that is small.

Files left in the output directory:
  scores.csv       every pose: rank, affinity (kcal/mol), distance from the best pose (angstrom)
  poses.sdf        the poses with all hydrogens; poses.pdbqt is what Vina wrote
  ligand.sdf       the ligand as it went in
  receptor.pdbqt   the receptor as it was used
  scores.png, summary.json

Exit codes: 0 done; 65 no pose is favourable: the best affinity is not below 0 kcal/mol; 66 unusable
input; 74 a file could not be read or written.
"""

from __future__ import annotations

import argparse
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from dock_inputs import (
    Box,
    Receptor,
    ask_for_box,
    find_box,
    first_words,
    ligand_pdbqt,
    prepare_ligand,
    prepare_receptor,
)
from dock_report import Pose, draw, read_poses, write_poses, write_scores
from script_support import (
    DATA,
    ScriptError,
    exit_code,
    positive_float,
    positive_int,
    say,
    script_parser,
    usual_threads,
    write_json,
)

EXIT_UNFAVOURABLE = 65


def dock(receptor: Receptor, ligand: str, box: Box, options: argparse.Namespace) -> str:
    """The poses as PDBQT, best first; Vina draws its progress on stdout."""
    from vina import Vina

    vina = Vina(sf_name="vina", cpu=options.threads, seed=options.seed, verbosity=1)
    try:  # the extension raises TypeError and RuntimeError for whatever its C++ throws
        vina.set_receptor(str(receptor.path))
        vina.set_ligand_from_string(ligand)
        vina.compute_vina_maps(center=list(box.center), box_size=list(box.size))
        vina.dock(exhaustiveness=options.exhaustiveness, n_poses=options.poses)
        return str(vina.poses(n_poses=options.poses, energy_range=options.energy_range))
    except (TypeError, RuntimeError, ValueError) as problem:
        raise ScriptError(f"Vina cannot use this input: {first_words(problem)}") from None


def summary(
    mol: Any,
    receptor: Receptor,
    box: Box,
    poses: list[Pose],
    options: argparse.Namespace,
    wall_s: float,
) -> dict[str, Any]:
    from rdkit import Chem
    from rdkit.Chem.rdMolDescriptors import CalcMolFormula

    heavy = mol.GetNumHeavyAtoms()
    best = poses[0].affinity if poses else None
    return {
        "program": "AutoDock Vina",
        "version": metadata.version("vina"),
        "meeko": metadata.version("meeko"),
        "rdkit": metadata.version("rdkit"),
        "best_affinity_kcal_mol": best,
        "favourable": best is not None and best < 0,
        "poses": len(poses),
        "ligand_efficiency_kcal_mol": None if best is None else round(best / heavy, 3),
        "ligand": {
            "smiles": Chem.MolToSmiles(Chem.RemoveHs(mol)),
            "formula": CalcMolFormula(mol),
            "heavy_atoms": heavy,
        },
        "receptor": {
            "file": options.receptor.name,
            "sha256": receptor.sha256,
            "atoms": len(receptor.atoms),
            "left_out": receptor.left_out,
        },
        "box": {
            "from": box.origin,
            "center_angstrom": [round(x, 3) for x in box.center],
            "size_angstrom": [round(x, 3) for x in box.size],
        },
        "exhaustiveness": options.exhaustiveness,
        "energy_range_kcal_mol": options.energy_range,
        "seed": options.seed,
        "threads": options.threads,
        "wall_s": round(wall_s, 1),
    }


def run(options: argparse.Namespace) -> bool:
    """Prepare, dock, write; ScriptError when no pose is favourable."""
    began_s = time.monotonic()
    options.out.mkdir(parents=True, exist_ok=True)
    receptor = prepare_receptor(options.receptor, options.out / "receptor.pdbqt")
    if receptor.left_out:
        say(f"[warn] left out of the receptor: {', '.join(receptor.left_out)}")
    box = find_box(options, receptor)
    place = " ".join(f"{x:.2f}" for x in box.center)
    size = " x ".join(f"{x:.1f}" for x in box.size)
    say(f"[setup] receptor_atoms={len(receptor.atoms)} center={place} size={size} angstrom")
    if not box.touches(receptor.atoms):
        raise ScriptError(f"the box holds nothing of the receptor: {ask_for_box(receptor)}")
    mol = prepare_ligand(options)
    ligand = ligand_pdbqt(mol)
    text = dock(receptor, ligand, box, options)
    poses = read_poses(text)
    write_poses(text, mol, poses, options.out)
    write_scores(poses, options.out / "scores.csv")
    draw(poses, options)
    wall_s = time.monotonic() - began_s
    write_json(summary(mol, receptor, box, poses, options, wall_s), options.out / "summary.json")
    if not poses or poses[0].affinity >= 0:
        best = f"the best affinity is {poses[0].affinity:+.3g} kcal/mol" if poses else "none found"
        raise ScriptError(
            f"no favourable pose: {best}; move or enlarge the box, or take a ligand that fits",
            EXIT_UNFAVOURABLE,
        )
    say(f"[done] best_kcal_mol={poses[0].affinity} poses={len(poses)} wall_s={wall_s:.1f}")
    return True


def parse() -> argparse.Namespace:
    parser = script_parser(__doc__)
    add = parser.add_argument
    ligand = parser.add_mutually_exclusive_group(required=True)
    ligand.add_argument("--smiles")
    ligand.add_argument("--ligand", type=Path, help="SDF or MOL file; its first molecule")
    add("--receptor", type=Path, default=DATA / "cucurbit7uril.pdbqt", help="PDBQT, PDB or mmCIF")
    add(
        "--center", type=float, action="append", metavar="X", help="three times: x, y, z (angstrom)"
    )
    add("--size", type=positive_float, action="append", metavar="X", help="three times (angstrom)")
    add("--reference", type=Path, help="SDF or PDB file: the box lies around this ligand")
    add(
        "--padding",
        type=positive_float,
        default=4.0,
        help="around what the box encloses (angstrom)",
    )
    add("--exhaustiveness", type=positive_int, default=8)
    add("--poses", type=positive_int, default=9)
    add("--energy-range", type=positive_float, default=3.0, help="of the poses kept (kcal/mol)")
    add("--seed", type=positive_int, default=1)
    add("--threads", type=positive_int, default=usual_threads())
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(exit_code(run, parse()))
