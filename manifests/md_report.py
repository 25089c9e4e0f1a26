"""What md_openmm.py measures, records and shows: observables, tables, frames, summary, plots."""

from __future__ import annotations

import argparse
import math
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import numpy.typing as npt
import openmm as mm
from openmm import app, unit
from script_support import replacing, save_png, say, write_json

Floats = npt.NDArray[np.float64]
Pairs = npt.NDArray[np.int64]
Quad = tuple[int, int, int, int]

KJ_MOL = unit.kilojoule_per_mole
NM_PER_PS = unit.nanometer / unit.picosecond
R_KJ_MOL_K = unit.MOLAR_GAS_CONSTANT_R.value_in_unit(KJ_MOL / unit.kelvin)
ENERGIES = "step,time_ps,potential_kj_mol,kinetic_kj_mol,temperature_k,ns_per_day"
OBSERVABLES = "step,time_ps,rmsd_nm,rg_nm,phi_deg,psi_deg"


# ---- observables ---------------------------------------------------------------------------------


def dihedral_deg(points: Floats) -> float:
    """The dihedral of four points (rows), -180 to 180 by the IUPAC convention: cis is 0."""
    first, axis, last = np.diff(points, axis=0)
    left, right = np.cross(first, axis), np.cross(axis, last)
    return math.degrees(math.atan2(float(np.linalg.norm(axis) * (first @ right)), left @ right))


def rmsd(a: Floats, b: Floats) -> float:
    """Root mean square distance after the best superposition (Kabsch), in the unit of `a`."""
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    u, overlap, vt = np.linalg.svd(a.T @ b)
    if np.linalg.det(u @ vt) < 0:  # the best match is a mirror image, which no rotation reaches
        overlap[-1] *= -1
    squared = (np.square(a).sum() + np.square(b).sum() - 2 * overlap.sum()) / len(a)
    return math.sqrt(max(0.0, float(squared)))


def radius_of_gyration(points: Floats, masses: Floats) -> float:
    from_centre = points - np.average(points, axis=0, weights=masses)
    return math.sqrt(np.average(np.square(from_centre).sum(axis=1), weights=masses))


def find_turn(topology: app.Topology) -> tuple[Quad, Quad] | None:
    """The atoms of phi and psi of the first residue with a neighbour on either side."""
    for chain in topology.chains():
        residues = [{atom.name: atom.index for atom in r.atoms()} for r in chain.residues()]
        for before, here, after in zip(residues, residues[1:], residues[2:], strict=False):
            if "C" in before and {"N", "CA", "C"} <= here.keys() and "N" in after:
                n, ca, c = here["N"], here["CA"], here["C"]
                return (before["C"], n, ca, c), (n, ca, c, after["N"])
    return None


def settled(velocities: Floats, places: Floats, masses: Floats, bonds: Pairs) -> Floats:
    """The velocities without the motion of the centre of mass and along rigid `bonds`.

    The integrator adds its noise to every direction at the end of a step, and takes these out only
    when the next one begins: till then they would count as heat, measured as 319 K instead of 300 K
    at a friction of 100/ps. What is taken out of a bond comes back by a ninth in each other of the
    same atom, so that a few rounds are enough.
    """
    i, j = bonds.T
    along, weight = places[i] - places[j], 1 / masses[:, None]
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    left = velocities - np.average(velocities, axis=0, weights=masses)
    for _ in range(12):
        stretch = ((left[i] - left[j]) * along).sum(axis=1, keepdims=True)
        push = stretch * along / (weight[i] + weight[j])
        np.add.at(left, i, -push * weight[i])
        np.add.at(left, j, push * weight[j])
    return left


def energies_kj_mol(simulation: app.Simulation) -> tuple[float, float]:
    """Potential and kinetic energy, kJ/mol, or FloatingPointError."""
    state = simulation.context.getState(energy=True)
    potential, kinetic = state.getPotentialEnergy() / KJ_MOL, state.getKineticEnergy() / KJ_MOL
    if not math.isfinite(potential + kinetic):
        raise FloatingPointError(f"energy is NaN or infinite at step {simulation.currentStep}")
    return potential, kinetic


# ---- records -------------------------------------------------------------------------------------


class Recorder:
    """Adds frames to the trajectory file of this start, and rows to both tables."""

    def __init__(
        self,
        simulation: app.Simulation,
        minimised: app.PDBFile,
        options: argparse.Namespace,
        files: ExitStack,
    ) -> None:
        self.simulation, self.options = simulation, options
        self.first, self.began_s = simulation.currentStep, time.monotonic()
        system, atoms = simulation.system, list(simulation.topology.atoms())
        count, rigid = system.getNumParticles(), range(system.getNumConstraints())
        self.masses = np.array([system.getParticleMass(i) / unit.dalton for i in range(count)])
        bonds = [system.getConstraintParameters(i)[:2] for i in rigid]
        self.bonds: Pairs = np.array(bonds, dtype=np.int64).reshape(-1, 2)
        # Rigid bonds do not move, and OpenMM takes out the motion of the centre of mass.
        self.freedom = 3 * count - len(bonds) - 3
        self.heavy = [atom.index for atom in atoms if atom.element is not app.element.hydrogen]
        self.weights = np.array([atoms[i].element.mass / unit.dalton for i in self.heavy])
        self.turn = find_turn(simulation.topology)
        reference = minimised.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
        self.reference: Floats = reference[self.heavy]

        mode, every = "a" if self.first else "w", options.report_every
        energies, observables = options.out / "energies.csv", options.out / "observables.csv"
        self.energies = files.enter_context(energies.open(mode, encoding="utf-8"))
        self.observables = files.enter_context(observables.open(mode, encoding="utf-8"))
        frames = options.out / f"trajectory.{self.first:09d}.dcd"
        # One of this name is from a start that was killed before its first checkpoint. It may be
        # shared with the job that made it: it is replaced, never written over.
        frames.unlink(missing_ok=True)
        self.trajectory = app.DCDFile(
            files.enter_context(frames.open("wb")),
            simulation.topology,
            simulation.integrator.getStepSize(),
            firstStep=(self.first // every + 1) * every if self.first else 0,
            interval=every,
        )
        if not self.first:
            print(ENERGIES, file=self.energies)
            print(OBSERVABLES, file=self.observables)
            self.record()

    def wall_s(self) -> float:
        return time.monotonic() - self.began_s

    def ns_per_day(self) -> float:
        """Speed since this start."""
        steps = self.simulation.currentStep - self.first
        return float(steps * self.options.timestep_fs * 1e-6 / self.wall_s() * 86400)

    def eta_s(self) -> float | None:
        """Seconds to the end at the speed since this start; none before its first step."""
        step = self.simulation.currentStep
        if step == self.first:
            return None
        return float(self.wall_s() * (self.options.steps - step) / (step - self.first))

    def record(self) -> None:
        """Write the present state everywhere, and tell stdout how far the run has come."""
        potential, _ = energies_kj_mol(self.simulation)
        state = self.simulation.context.getState(positions=True, velocities=True)
        ps = state.getTime() / unit.picosecond
        step, speed = self.simulation.currentStep, self.ns_per_day()
        frame: Floats = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
        velocities: Floats = state.getVelocities(asNumpy=True).value_in_unit(NM_PER_PS)
        motion = settled(velocities, frame, self.masses, self.bonds)
        kinetic = float(self.masses @ np.square(motion).sum(axis=1)) / 2
        temperature = 2 * kinetic / (self.freedom * R_KJ_MOL_K)
        heavy = frame[self.heavy]
        turn = [dihedral_deg(frame[list(quad)]) for quad in self.turn or ()]
        phi, psi = turn or (math.nan, math.nan)
        rg, distance = radius_of_gyration(heavy, self.weights), rmsd(heavy, self.reference)
        self.trajectory.writeModel(frame * unit.nanometer)
        row = f"{step},{ps:.3f},{potential:.3f},{kinetic:.3f},{temperature:.2f},{speed:.1f}"
        print(row, file=self.energies, flush=True)
        row = f"{step},{ps:.3f},{distance:.4f},{rg:.4f},{phi:.1f},{psi:.1f}"
        print(row, file=self.observables, flush=True)
        left_s = self.eta_s()
        say(
            f"[md] step={step}/{self.options.steps} time_ps={ps:.1f} T={temperature:.1f}"
            f" E={potential:.1f} rmsd_nm={distance:.3f} ns_per_day={speed:.0f}"
            + ("" if left_s is None else f" eta_s={left_s:.0f}")
        )


def drop_rows_after(path: Path, step: int) -> None:
    """Keep the header and the whole rows up to `step`: a resumed run writes the others again."""
    header, *rows = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [row for row in rows if row.endswith("\n") and int(row.split(",")[0]) <= step]
    with replacing(path) as part:
        part.write_text("".join([header, *kept]), encoding="utf-8")


def read_columns(path: Path) -> Floats:
    """The columns of a table, as rows of an array."""
    return np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2).T


# ---- results -------------------------------------------------------------------------------------


def mean_temperature(
    energies: Floats, freedom: int, options: argparse.Namespace
) -> tuple[float, float] | None:
    """The mean temperature (K) and its standard error, or none without a row to take it from.

    The first quarter counts as equilibration. The kinetic energy of `freedom` degrees of freedom
    scatters by sqrt(2 / freedom): 20 % for a dipeptide. About half of that comes and goes within
    femtoseconds, as it is exchanged with the potential energy; the other half follows the total
    energy, which the thermostat renews at the rate of the friction, so that of it only
    time * friction / 2 values are independent. So the 0.1 ns of the default are worth +- 10 K.
    (1.6 ns of the dipeptide at 4 fs and 300 K, a value every 80 fs, gave 300.3 +- 1.3 K by the
    scatter of 20 blocks, and 1.5 K by this rule: the time step does not heat it.)
    """
    step, ps, _, _, temperature, _ = energies
    late = step >= step[-1] / 4
    rows = int(late.sum())
    if step[-1] == 0:  # velocities were drawn, and nothing has moved yet
        return None
    renewed = float(ps[-1] - ps[late][0]) * options.friction_per_ps / 2
    independent = min(max(renewed, 1), rows)
    scatter_k = options.temperature_k * math.sqrt(2 / freedom)
    error_k = scatter_k * math.sqrt(0.5 / rows + 0.5 / independent)
    return float(temperature[late].mean()), error_k


def write_summary(recorder: Recorder, options: argparse.Namespace) -> None:
    """summary.json: `wall_s` and `ns_per_day` are those of this start."""
    simulation = recorder.simulation
    done = simulation.currentStep
    energies = read_columns(options.out / "energies.csv")
    mean_k, error_k = mean_temperature(energies, recorder.freedom, options) or (None, None)
    if mean_k is not None and error_k is not None:
        if abs(mean_k - options.temperature_k) > 3 * error_k:
            say(
                f"[warn] the mean temperature, {mean_k:.0f} K, is more than 3 standard errors of"
                f" {error_k:.0f} K away from the {options.temperature_k:g} K asked for: simulate"
                " longer or with more friction, or lower --timestep-fs"
            )
        mean_k, error_k = round(mean_k, 2), round(error_k, 2)
    distance = read_columns(options.out / "observables.csv")[2]
    summary = {
        "program": "OpenMM",
        "version": mm.__version__,
        "platform": simulation.context.getPlatform().getName(),
        "threads": options.threads,
        "force_field": "Amber ff14SB, GBn2 implicit solvent",
        "structure": options.pdb.name,
        "atoms": simulation.topology.getNumAtoms(),
        "finished": done >= options.steps,
        "steps": done,
        "steps_asked": options.steps,
        "simulated_ns": round(simulation.context.getTime() / unit.nanosecond, 6),
        "timestep_fs": options.timestep_fs,
        "temperature_k": options.temperature_k,
        "friction_per_ps": options.friction_per_ps,
        "seed": options.seed,
        "mean_temperature_k": mean_k,
        "mean_temperature_error_k": error_k,
        "final_potential_kj_mol": energies[2, -1],
        "final_rmsd_nm": distance[-1],
        "ns_per_day": round(recorder.ns_per_day(), 1),
        "wall_s": round(recorder.wall_s(), 1),
    }
    write_json(summary, options.out / "summary.json")


def thinned(columns: Floats, most: int = 400) -> Floats:
    """Every n-th record, so that at most `most` are left: more make no better picture."""
    return columns[:, :: -(-columns.shape[1] // most)]


def draw(options: argparse.Namespace) -> None:
    """md.png and ramachandran.png from the tables; without matplotlib only a hint."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        say("[warn] matplotlib is not installed: no md.png, no ramachandran.png")
        return
    energies = thinned(read_columns(options.out / "energies.csv"))
    observables = thinned(read_columns(options.out / "observables.csv"))
    phi, psi = observables[4:]
    scale, label = (1000.0, "time (ns)") if energies[1, -1] > 5000 else (1.0, "time (ps)")

    figure = Figure(figsize=(6.4, 5.6), dpi=90, layout="constrained")
    panels = figure.subplots(3, sharex=True)
    panels[0].set_title(f"{options.pdb.stem}: Amber ff14SB, GBn2, {options.temperature_k:g} K")
    for panel, name, table, column, colour in (
        (panels[0], "potential\n(kJ/mol)", energies, 2, "tab:blue"),
        (panels[1], "temperature\n(K)", energies, 4, "tab:red"),
        (panels[2], "heavy-atom\nRMSD (nm)", observables, 2, "tab:green"),
    ):
        panel.plot(table[1] / scale, table[column], color=colour, linewidth=1.2)
        panel.set_ylabel(name)
        panel.grid(alpha=0.3)
    panels[1].axhline(options.temperature_k, color="black", linestyle="--", linewidth=1)
    panels[2].set_xlabel(label)
    save_png(figure, options.out / "md.png")

    if np.isnan(phi).all():  # no residue has a neighbour on either side
        return
    figure = Figure(figsize=(6.0, 5.2), dpi=100, layout="constrained")
    panel = figure.subplots()
    points = panel.scatter(phi, psi, c=observables[1] / scale, s=18)
    figure.colorbar(points, label=label, shrink=0.8)
    panel.set(xlim=(-180, 180), ylim=(-180, 180), aspect="equal", title="Ramachandran plot")
    panel.set(xticks=range(-180, 181, 60), yticks=range(-180, 181, 60))
    panel.set(xlabel="φ (degrees)", ylabel="ψ (degrees)")
    panel.grid(alpha=0.3)
    save_png(figure, options.out / "ramachandran.png")
