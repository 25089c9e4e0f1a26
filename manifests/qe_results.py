"""The results of pw.x, from the XML file that it leaves."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

from qe_log import Log
from script_support import replacing

HARTREE_EV = 27.211386245988  # CODATA 2018
BOHR_ANGSTROM = 0.529177210903  # CODATA 2018


def results(out: Path, log: Log, finished: bool) -> dict[str, Any]:
    """What the tables say, and of a finished run what the bands do."""
    found: dict[str, Any] = {"scf_iterations": len(log.scf), "ionic_steps": len(log.steps)}
    if log.scf:
        found["total_energy_ry"] = float(log.scf[-1][2])
        found["scf_accuracy_ry"] = float(log.scf[-1][3])
    if log.steps:
        _, _, energy, force, pressure = log.steps[-1]
        found["total_energy_ry"] = float(energy)
        found |= {"total_force_ry_per_bohr": float(force)} if force else {}
        found |= {"pressure_kbar": float(pressure)} if pressure else {}
    return found | (_bands(out) if finished else {})


def _output(out: Path) -> ET.Element | None:
    element = ET.parse(out / "out" / "pwscf.save" / "data-file-schema.xml").getroot()
    return element.find("output")


def _bands(out: Path) -> dict[str, Any]:
    """Levels in eV. The gap is the one between k points of the grid, which may miss the edges."""
    output = _output(out)
    bands = output.find("band_structure") if output is not None else None
    if bands is None:
        return {}
    levels = {
        name: float(text) * HARTREE_EV
        for name in ("fermi_energy", "highestOccupiedLevel", "lowestUnoccupiedLevel")
        if (text := bands.findtext(name))
    }
    found: dict[str, Any] = {"irreducible_kpoints": int(bands.findtext("nks", "0"))}
    if output is not None:
        found["functional"] = output.findtext("dft/functional")
        found["ecutwfc_ry"] = 2 * float(output.findtext("basis_set/ecutwfc", "nan"))  # from hartree
    highest = levels.get("highestOccupiedLevel")
    lowest = levels.get("lowestUnoccupiedLevel")
    if highest is not None:
        found["highest_occupied_ev"] = round(highest, 4)
        if lowest is not None:
            found["gap_on_grid_ev"] = round(lowest - highest, 4)
    elif "fermi_energy" in levels:
        found["fermi_ev"] = round(levels["fermi_energy"], 4)
    return found


def write_xyz(out: Path) -> None:
    """final.xyz: the atoms at the end, and their cell."""
    output = _output(out)
    structure = output.find("atomic_structure") if output is not None else None
    if structure is None:
        return
    cell = [_angstrom(structure.findtext(f"cell/a{axis}", "")) for axis in (1, 2, 3)]
    atoms = structure.findall("atomic_positions/atom")
    lattice = " ".join(word for vector in cell for word in vector)
    lines = [str(len(atoms)), f'Lattice="{lattice}" Properties=species:S:1:pos:R:3 pbc="T T T"']
    # A species may carry a digit, as in Fe1 and Fe2.
    for atom in atoms:
        species = atom.get("name", "X").rstrip("0123456789")
        lines.append(" ".join([species, *_angstrom(atom.text or "")]))
    with replacing(out / "final.xyz") as part:
        part.write_text("\n".join([*lines, ""]), encoding="utf-8")


def _angstrom(text: str) -> list[str]:
    return [f"{float(word) * BOHR_ANGSTROM:.8f}" for word in text.split()]
