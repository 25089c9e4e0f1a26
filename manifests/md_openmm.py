#!/usr/bin/env python3
"""Molecular dynamics of a peptide in implicit solvent, with OpenMM.

Amber ff14SB with GBn2 solvent, no cutoff, Langevin dynamics. Bonds to hydrogen are rigid, and
hydrogens weigh 3 amu (taken from the atoms they sit on): that makes a 4 fs time step safe.

Files left in the output directory:
  topology.pdb           the minimised start; RMSD is measured against it
  trajectory.<step>.dcd  frames, one file per start, named after the step it started from; after a
                         hard kill a file may reach past the first step of the next one
  energies.csv           energies (kJ/mol) and temperature (K)
  observables.csv        heavy-atom RMSD and radius of gyration (nm), phi and psi (degrees) of the
                         first residue that has both
  checkpoint.chk         exact restart point for this machine; state.xml is the portable one
  final.pdb, summary.json, md.png, ramachandran.png

Exit codes: 0 done; 65 the simulation blew up; 66 unusable input; 74 a file could not be read or
written; 75 stopped by TERM, INT or USR1 after writing a checkpoint: the same command with --resume
goes on from there.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import openmm as mm
from openmm import app, unit

Floats = npt.NDArray[np.float64]
Quad = tuple[int, int, int, int]

EXIT_BLEW_UP, EXIT_BAD_INPUT, EXIT_FILES, EXIT_STOPPED = 65, 66, 74, 75
FORCE_FIELD = ("amber14/protein.ff14SB.xml", "implicit/gbn2.xml")
HYDROGEN_MASS = 3.0 * unit.dalton
STRIDE = 10  # steps between two looks at the stop flag
REDRAW_AFTER_S = 60.0  # a long run refreshes its plots at checkpoints, but not more often
KJ_MOL = unit.kilojoule_per_mole
R_KJ_MOL_K = unit.MOLAR_GAS_CONSTANT_R.value_in_unit(KJ_MOL / unit.kelvin)
ENERGIES = "step,time_ps,potential_kj_mol,kinetic_kj_mol,temperature_k,ns_per_day"
OBSERVABLES = "step,time_ps,rmsd_nm,rg_nm,phi_deg,psi_deg"


class InputError(Exception):
    """Something that was given cannot be used; the text says what to do."""


class BlowUpError(Exception):
    """The energy is no longer finite."""


# ---- geometry ------------------------------------------------------------------------------------


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


# ---- building the simulation ---------------------------------------------------------------------


def read_pdb(path: Path) -> app.PDBFile:
    """The structure in a PDB file, or InputError."""
    try:
        pdb = app.PDBFile(str(path))
    except OSError as problem:
        raise InputError(f"cannot open {path}: {problem.strerror}; check --pdb") from None
    except (ValueError, IndexError, KeyError):
        raise InputError(f"{path} holds no PDB structure; give a peptide in PDB format") from None
    # A crystal's unit cell means nothing in implicit solvent, yet would reach every output.
    pdb.topology.setPeriodicBoxVectors(None)
    return pdb


def make_simulation(pdb: app.PDBFile, options: argparse.Namespace) -> app.Simulation:
    """A simulation on the wanted platform, still without positions, or InputError."""
    try:
        system = app.ForceField(*FORCE_FIELD).createSystem(
            pdb.topology,
            nonbondedMethod=app.NoCutoff,
            constraints=app.HBonds,
            hydrogenMass=HYDROGEN_MASS,
        )
    except ValueError as problem:
        raise InputError(
            f"the force field does not cover {options.pdb.name}: {problem} What to do: use standard"
            " amino acids with all hydrogens (PDBFixer adds missing atoms) and the caps ACE or NME;"
            " remove water, ions and ligands."
        ) from None
    integrator = mm.LangevinMiddleIntegrator(
        options.temperature_k * unit.kelvin,
        options.friction_per_ps / unit.picosecond,
        options.timestep_fs * unit.femtosecond,
    )
    integrator.setRandomNumberSeed(options.seed)
    cpu = mm.Platform.getPlatformByName("CPU")
    cpu.setPropertyDefaultValue("Threads", str(options.threads))
    name = options.platform
    try:  # without a platform OpenMM takes the fastest one that works
        platform = None if name == "auto" else mm.Platform.getPlatformByName(name)
        return app.Simulation(pdb.topology, system, integrator, platform)
    except mm.OpenMMException as problem:
        raise InputError(f"cannot use platform {name} ({problem}); try --platform auto") from None


def start(simulation: app.Simulation, pdb: app.PDBFile, options: argparse.Namespace) -> None:
    """Minimise, draw velocities, write topology.pdb."""
    simulation.context.setPositions(pdb.positions)
    # This only has to relieve clashes; to converge would cost a larger peptide minutes.
    simulation.minimizeEnergy(maxIterations=500)
    say(f"[minimised] E={energies_kj_mol(simulation)[0]:.1f}")
    simulation.context.setVelocitiesToTemperature(options.temperature_k, options.seed)
    write_pdb(simulation, options.out / "topology.pdb")


def resume(simulation: app.Simulation, options: argparse.Namespace) -> None:
    """Load the restart point, and drop the table rows that a killed run wrote after it."""
    try:  # holds the random numbers too: the run goes on as if it had never stopped
        simulation.loadCheckpoint(str(options.out / "checkpoint.chk"))
    except mm.OpenMMException:
        say("[resume] checkpoint.chk is not from this platform and OpenMM: taking state.xml")
        # state.xml holds no random numbers, and the same seed would repeat the same noise.
        simulation.integrator.setRandomNumberSeed(options.seed + 1)
        simulation.context.reinitialize()
        try:
            simulation.loadState(str(options.out / "state.xml"))
        except (mm.OpenMMException, ValueError, OSError) as problem:
            raise InputError(
                f"{options.out} holds no run of {options.pdb.name} that can go on ({problem});"
                " start again in another --out"
            ) from None
    for table in ("energies.csv", "observables.csv"):
        drop_rows_after(options.out / table, simulation.currentStep)
    say(f"[resume] step={simulation.currentStep}/{options.steps}")


def prepare(options: argparse.Namespace) -> app.Simulation:
    """A simulation ready to step, fresh or resumed; topology.pdb is there."""
    pdb = read_pdb(options.pdb)
    simulation = make_simulation(pdb, options)
    platform = simulation.context.getPlatform().getName()
    say(f"[setup] atoms={pdb.topology.getNumAtoms()} platform={platform} openmm={mm.__version__}")
    if not (options.out / "checkpoint.chk").exists():
        start(simulation, pdb, options)
    elif options.resume:
        resume(simulation, options)
    else:
        raise InputError(f"{options.out} holds a run: add --resume, or choose another --out")
    return simulation


# ---- the state, and its files --------------------------------------------------------------------


def next_multiple(step: int, of: int) -> int:
    return step - step % of + of


def say(line: str) -> None:
    print(line, flush=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name that takes the place of `path` when the block ends without an error."""
    part = path.with_name(path.name + ".part")
    yield part
    os.replace(part, path)


def energies_kj_mol(simulation: app.Simulation) -> tuple[float, float]:
    """Potential and kinetic energy, kJ/mol, or BlowUpError."""
    state = simulation.context.getState(energy=True)
    potential, kinetic = state.getPotentialEnergy() / KJ_MOL, state.getKineticEnergy() / KJ_MOL
    if not math.isfinite(potential + kinetic):
        raise BlowUpError(f"energy is NaN or infinite at step {simulation.currentStep}")
    return potential, kinetic


def write_pdb(simulation: app.Simulation, path: Path) -> None:
    positions = simulation.context.getState(positions=True).getPositions()
    with replacing(path) as part, part.open("w", encoding="utf-8") as file:
        app.PDBFile.writeFile(simulation.topology, positions, file, keepIds=True)


def save_checkpoint(simulation: app.Simulation, out: Path) -> None:
    """Replace state.xml and checkpoint.chk; a state that blew up never gets there."""
    energies_kj_mol(simulation)
    with replacing(out / "state.xml") as part:
        simulation.saveState(str(part))
    with replacing(out / "checkpoint.chk") as part:
        simulation.saveCheckpoint(str(part))


def drop_rows_after(path: Path, step: int) -> None:
    """Keep the header and the whole rows up to `step`: a resumed run writes the others again."""
    header, *rows = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [row for row in rows if row.endswith("\n") and int(row.split(",")[0]) <= step]
    with replacing(path) as part:
        part.write_text("".join([header, *kept]), encoding="utf-8")


class Recorder:
    """Adds frames to the trajectory file of this start, and rows to both tables."""

    def __init__(
        self, simulation: app.Simulation, options: argparse.Namespace, files: ExitStack
    ) -> None:
        self.simulation, self.options = simulation, options
        self.first, self.began_s = simulation.currentStep, time.monotonic()
        system, atoms = simulation.system, list(simulation.topology.atoms())
        # Rigid bonds do not move, and OpenMM takes out the motion of the centre of mass.
        self.freedom = 3 * system.getNumParticles() - system.getNumConstraints() - 3
        self.heavy = [atom.index for atom in atoms if atom.element is not app.element.hydrogen]
        self.masses = np.array([atoms[i].element.mass / unit.dalton for i in self.heavy])
        self.turn = find_turn(simulation.topology)
        minimised = read_pdb(options.out / "topology.pdb").getPositions(asNumpy=True)
        self.reference: Floats = minimised.value_in_unit(unit.nanometer)[self.heavy]

        mode, every = "a" if self.first else "w", options.report_every
        energies, observables = options.out / "energies.csv", options.out / "observables.csv"
        self.energies = files.enter_context(energies.open(mode, encoding="utf-8"))
        self.observables = files.enter_context(observables.open(mode, encoding="utf-8"))
        self.trajectory = app.DCDFile(
            files.enter_context((options.out / f"trajectory.{self.first:09d}.dcd").open("wb")),
            simulation.topology,
            simulation.integrator.getStepSize(),
            firstStep=next_multiple(self.first, every) if self.first else 0,
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

    def record(self) -> None:
        """Write the present state everywhere, and tell stdout how far the run has come."""
        potential, kinetic = energies_kj_mol(self.simulation)
        temperature = 2 * kinetic / (self.freedom * R_KJ_MOL_K)
        state = self.simulation.context.getState(positions=True)
        ps = state.getTime() / unit.picosecond
        step, speed = self.simulation.currentStep, self.ns_per_day()
        frame: Floats = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
        heavy = frame[self.heavy]
        turn = [dihedral_deg(frame[list(quad)]) for quad in self.turn or ()]
        phi, psi = turn or (math.nan, math.nan)
        rg = radius_of_gyration(heavy, self.masses)
        self.trajectory.writeModel(frame * unit.nanometer)
        row = f"{step},{ps:.3f},{potential:.3f},{kinetic:.3f},{temperature:.2f},{speed:.1f}"
        print(row, file=self.energies, flush=True)
        row = f"{step},{ps:.3f},{rmsd(heavy, self.reference):.4f},{rg:.4f},{phi:.1f},{psi:.1f}"
        print(row, file=self.observables, flush=True)
        say(
            f"[md] step={step}/{self.options.steps} time_ps={ps:.1f} T={temperature:.1f}"
            f" E={potential:.1f} ns_per_day={speed:.0f}"
        )


# ---- results -------------------------------------------------------------------------------------


def read_columns(path: Path) -> Floats:
    """The columns of a table, as rows of an array."""
    return np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2).T


def thinned(columns: Floats, most: int = 400) -> Floats:
    """Every n-th record, so that at most `most` are left: more make no better picture."""
    return columns[:, :: -(-columns.shape[1] // most)]


def write_summary(recorder: Recorder, options: argparse.Namespace) -> None:
    """summary.json: `wall_s` and `ns_per_day` are those of this start."""
    simulation = recorder.simulation
    done = simulation.currentStep
    step, _, potential, _, temperature, _ = read_columns(options.out / "energies.csv")
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
        # The first quarter counts as equilibration.
        "mean_temperature_k": round(float(temperature[step >= done / 4].mean()), 2),
        "final_potential_kj_mol": potential[-1],
        "final_rmsd_nm": distance[-1],
        "ns_per_day": round(recorder.ns_per_day(), 1),
        "wall_s": round(recorder.wall_s(), 1),
    }
    with replacing(options.out / "summary.json") as part:
        part.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


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
    with replacing(options.out / "md.png") as part:
        figure.savefig(part, format="png")

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
    with replacing(options.out / "ramachandran.png") as part:
        figure.savefig(part, format="png")


# ---- the run -------------------------------------------------------------------------------------


def listen_for_stop() -> list[str]:
    """A list that receives the name of every TERM, INT and USR1 from now on."""
    names: list[str] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, lambda n, _: names.append(signal.Signals(n).name))
    return names


def run(options: argparse.Namespace) -> int:
    """Prepare, step, record; returns the exit code."""
    stops = listen_for_stop()
    options.out.mkdir(parents=True, exist_ok=True)
    simulation = prepare(options)
    marks = (STRIDE, options.report_every, options.checkpoint_every)
    drawn_s = time.monotonic()
    with ExitStack() as files:
        recorder = Recorder(simulation, options, files)
        while (now := simulation.currentStep) < options.steps and not stops:
            step = min(options.steps, *(next_multiple(now, mark) for mark in marks))
            simulation.integrator.step(step - now)
            if step % options.report_every == 0 or step == options.steps:
                recorder.record()
            if step % options.checkpoint_every == 0:
                save_checkpoint(simulation, options.out)
                if time.monotonic() - drawn_s > REDRAW_AFTER_S:
                    draw(options)
                    drawn_s = time.monotonic()
        save_checkpoint(simulation, options.out)
    progress = f"step={simulation.currentStep}/{options.steps}"
    finished = simulation.currentStep >= options.steps
    if finished:
        write_pdb(simulation, options.out / "final.pdb")
    else:
        say(f"[stopped] {progress} signal={stops[0]} checkpoint=checkpoint.chk")
    write_summary(recorder, options)
    draw(options)
    if not finished:
        return EXIT_STOPPED
    say(f"[done] {progress} wall_s={recorder.wall_s():.1f} ns_per_day={recorder.ns_per_day():.0f}")
    return 0


def positive_int(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def positive_float(text: str) -> float:
    if not 0 < (value := float(text)) < math.inf:
        raise argparse.ArgumentTypeError("must be above 0 and finite")
    return value


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    here = Path(__file__).resolve().parent
    cores = os.environ.get("OMP_NUM_THREADS", "")
    platforms = ("auto", "CPU", "CUDA", "OpenCL", "Reference")
    add("--pdb", type=Path, default=here / "data/alanine-dipeptide.pdb", help="with hydrogens")
    add("--steps", type=positive_int, default=25_000, help="in total, over all starts")
    add("--timestep-fs", type=positive_float, default=4.0)
    add("--temperature-k", type=positive_float, default=300.0)
    add("--friction-per-ps", type=positive_float, default=1.0)
    add("--report-every", type=positive_int, default=500, metavar="STEPS")
    add("--checkpoint-every", type=positive_int, default=5_000, metavar="STEPS")
    add("--seed", type=positive_int, default=1, help="of velocities and noise")
    add("--threads", type=positive_int, default=int(cores) if cores.isdecimal() else 1)
    add("--platform", choices=platforms, default="CPU", help="auto: the fastest that works")
    add("--resume", action="store_true", help="go on from checkpoint.chk, if there is one")
    add("--out", type=Path, default=Path(), help="output directory")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; foreseeable trouble is one line on stderr and an exit code."""
    options = parse(arguments)
    try:
        return run(options)
    except InputError as problem:
        code, text = EXIT_BAD_INPUT, str(problem)
    except OSError as problem:
        code, text = EXIT_FILES, f"cannot read or write: {problem}"
    except (BlowUpError, mm.OpenMMException) as problem:
        if isinstance(problem, mm.OpenMMException) and "NaN" not in str(problem):
            raise  # a fault of the platform, not of the physics: the traceback is wanted
        hint = "lower --timestep-fs, or start from a better structure"
        code, text = EXIT_BLEW_UP, f"the simulation blew up ({problem}): {hint}"
    print(f"[error] {text}", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
