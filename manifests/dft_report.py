"""What dft_pyscf.py records and shows: SCF cycles, geometries, progress, pictures, summary."""

from __future__ import annotations

import argparse
import csv
import math
from pathlib import Path
from typing import Any, NamedTuple

import geometric
import numpy as np
import pyscf
from molecule_support import Molecule, Panel, approach, draw, frames, read_xyz, write_table
from pyscf.data.nist import BOHR, HARTREE2EV
from script_support import ScriptError, say, write_json

SCF_COLUMNS = ("step", "cycle", "energy_hartree", "change_hartree")
STEP_COLUMNS = (
    "step",
    "energy_hartree",
    "max_gradient_hartree_bohr",
    "rms_gradient_hartree_bohr",
    "scf_cycles",
)
HARTREE_KJ_MOL = 2625.4996


class Criteria(NamedTuple):
    """A set of geomeTRIC's, and the largest gradient of an atom in it, Hartree/bohr."""

    name: str
    max_gradient: float


GEOMETRY = {
    "loose": Criteria("GAU_LOOSE", 2.5e-3),
    "normal": Criteria("GAU", 4.5e-4),
    "tight": Criteria("GAU_TIGHT", 1.5e-5),
}


def rows_of(path: Path, last_step: int) -> list[list[str]]:
    """The rows of a table up to a step; one that was cut short, and what follows it, is no row."""
    if not path.exists():
        return []
    whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
    rows = list(csv.reader(whole.splitlines()))[1:]
    return [row for row in rows if int(row[0]) <= last_step]


class Record:
    """The tables and the trajectory, with what former starts left in them; and how far the run is.

    The fraction is, for a geometry, a tenth for the first SCF, then the share of the orders of
    magnitude from the first gradient to the threshold, or of the steps, whichever is more; for a
    single point the orders of magnitude from 1 Hartree of change to the tolerance. It never falls.
    """

    def __init__(self, molecule: Molecule, options: argparse.Namespace) -> None:
        self.options = options
        self.method: Any = None
        self.fraction = 0.0
        self.cycles = 0  #: of the present SCF
        self.start = molecule
        known = frames(Path("trajectory.xyz"))
        self.steps = rows_of(Path("energies.csv"), len(known))
        known = known[: len(self.steps)]
        if known:  # the last geometry is evaluated again, as the first of this start
            self.steps.pop()
            Path("start.xyz").write_text(known.pop(), encoding="utf-8")
            self.start = read_xyz(Path("start.xyz"))
            say(f"[resume] step={len(known) + 1}/{options.max_steps} from the last geometry")
        if self.start.symbols != molecule.symbols:
            raise ScriptError(f"{options.out} holds another molecule: start without --resume")
        if len(known) >= options.max_steps:
            raise ScriptError(f"{len(known)} steps are done already: raise the maximum of steps")
        self.scf = rows_of(Path("scf.csv"), len(known))
        write_table(Path("scf.csv"), SCF_COLUMNS, self.scf)
        write_table(Path("energies.csv"), STEP_COLUMNS, self.steps)
        if options.task == "optimise":
            Path("trajectory.xyz").write_text("".join(known), encoding="utf-8")

    def scf_cycle(self, cycle: int, energy: float, change: float) -> None:
        """One more cycle of the present SCF."""
        self.cycles = cycle
        step = len(self.steps) + 1
        share = approach(1.0, abs(change), self.options.scf_tolerance_hartree)
        if self.options.task == "single-point":
            self.fraction = max(self.fraction, 0.9 * share)
        elif step == 1:
            self.fraction = max(self.fraction, 0.1 * share)
        self.scf.append(add_row("scf.csv", (step, cycle, f"{energy:.10f}", f"{change:.3e}")))
        say(
            f"[scf] step={step} cycle={cycle} fraction={self.fraction:.3f}"
            f" energy_hartree={energy:.8f} change_hartree={change:.2e}"
        )

    def step(self, mol: Any, energy: float, gradients: Any) -> None:
        """One more geometry, whose SCF converged; without gradients for a single point."""
        number, total = len(self.steps) + 1, self.options.max_steps
        points = [(float(x), float(y), float(z)) for x, y, z in mol.atom_coords() * BOHR]
        molecule = Molecule(self.start.symbols, points)
        if gradients is None:
            row = (number, f"{energy:.10f}", "", "", self.cycles)
            self.steps.append(add_row("energies.csv", row))
            return
        norms = np.linalg.norm(gradients, axis=1)
        largest, rms = float(norms.max()), math.sqrt(float(np.square(norms).mean()))
        with Path("trajectory.xyz").open("a", encoding="utf-8") as file:
            file.write(molecule.xyz(f"step={number} energy_hartree={energy:.10f}"))
        row = (number, f"{energy:.10f}", f"{largest:.8f}", f"{rms:.8f}", self.cycles)
        self.steps.append(add_row("energies.csv", row))
        threshold = GEOMETRY[self.options.convergence].max_gradient
        share = max(approach(float(self.steps[0][2]), largest, threshold), number / total)
        self.fraction = max(self.fraction, 0.1 + 0.8 * min(share, 1.0))
        say(
            f"[opt] step={number}/{total} fraction={self.fraction:.3f}"
            f" energy_hartree={energy:.8f} max_gradient_hartree_bohr={largest:.2e}"
        )


def add_row(table: str, row: tuple[object, ...]) -> list[str]:
    fields = [str(field) for field in row]
    with Path(table).open("a", encoding="utf-8") as file:
        file.write(",".join(fields) + "\n")
    return fields


# ---- results -------------------------------------------------------------------------------------


def frontier_gap_ev(method: Any) -> float | None:
    """Lowest empty minus highest filled orbital, of both spins; None where there is none."""
    energies, occupied = np.ravel(method.mo_energy), np.ravel(method.mo_occ) > 0
    if not occupied.any() or occupied.all():
        return None
    gap = energies[~occupied].min() - energies[occupied].max()
    return round(float(gap * HARTREE2EV), 6)


def properties(method: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Of the last wave function, which has converged."""
    found: dict[str, Any] = {"gap_ev": frontier_gap_ev(method)}
    if options.charge == 0:  # of an ion it depends on where the origin is
        dipole = method.dip_moment(unit="Debye", verbose=0)
        found["dipole_debye"] = round(float(np.linalg.norm(dipole)), 6)
    if options.spin:
        found["spin_square"] = round(float(method.spin_square()[0]), 6)
    return found


def write_summary(
    record: Record, options: argparse.Namespace, converged: bool, wall_s: float
) -> None:
    """summary.json, the pictures and, if it converged, optimised.xyz are there."""
    optimising, steps = options.task == "optimise", record.steps
    last = steps[-1] if steps else None
    mol = record.method.mol
    summary = {
        "energy_hartree": float(last[1]) if last else None,
        **(properties(record.method, options) if converged else {}),
        "converged": converged,
        "steps": len(steps),
        "max_gradient_hartree_bohr": float(last[2]) if last and optimising else None,
        "rms_gradient_hartree_bohr": float(last[3]) if last and optimising else None,
        "task": options.task,
        "method": options.method,
        "basis": options.basis,
        "effective_core_potentials": sorted(mol.ecp) or None,
        "charge_e": options.charge,
        "unpaired_electrons": options.spin,
        "atoms": mol.natm,
        "electrons": mol.nelectron,
        "basis_functions": int(mol.nao),
        "scf_tolerance_hartree": options.scf_tolerance_hartree,
        "max_cycles": options.max_cycles,
        "geometry_criteria": GEOMETRY[options.convergence].name if optimising else None,
        "max_steps": options.max_steps if optimising else None,
        "threads": options.threads,
        "wall_s": round(wall_s, 2),
        "pyscf": pyscf.__version__,
        "geometric": geometric.__version__ if optimising else None,
    }
    known = {name: value for name, value in summary.items() if value is not None}
    write_json(known, Path("summary.json"))
    if optimising and converged:
        last_frame = frames(Path("trajectory.xyz"))[-1]
        Path("optimised.xyz").write_text(last_frame, encoding="utf-8")
    if changes := [abs(float(row[3])) for row in record.scf if float(row[3])]:
        label = "|change| (Hartree)"
        panels = [Panel(label, changes, log=True, threshold=options.scf_tolerance_hartree)]
        draw(Path("scf.png"), "SCF cycle, of all geometries", panels)
    if optimising and steps:
        energies = [(float(row[1]) - float(steps[-1][1])) * HARTREE_KJ_MOL for row in steps]
        gradients = [float(row[2]) for row in steps]
        threshold = GEOMETRY[options.convergence].max_gradient
        panels = [
            Panel("energy above\nthe last (kJ/mol)", energies),
            Panel("largest gradient\n(Hartree/bohr)", gradients, log=True, threshold=threshold),
        ]
        draw(Path("geomopt.png"), "geometry step", panels)
