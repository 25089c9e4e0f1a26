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
  model.json             what a run that goes on must not change
  final.pdb, summary.json, md.png, ramachandran.png

Exit codes: 0 done; 65 the simulation blew up; 66 unusable input; 74 a file could not be read or
written; 75 stopped by TERM, INT or USR1 after writing a checkpoint: the same command with --resume
goes on from there.
"""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import openmm as mm
from md_report import (
    Recorder,
    draw,
    drop_rows_after,
    energies_kj_mol,
    write_summary,
)
from openmm import app, unit
from script_support import (
    DATA,
    ScriptError,
    check_same_model,
    exit_code,
    file_sha256,
    listen_for_stop,
    positive_float,
    positive_int,
    replacing,
    say,
    script_parser,
    usual_threads,
)

EXIT_BLEW_UP = 65
FORCE_FIELD = ("amber14/protein.ff14SB.xml", "implicit/gbn2.xml")
HYDROGEN_MASS = 3.0 * unit.dalton
STRIDE = 10  # steps between two looks at the stop flag
REDRAW_AFTER_S = 60.0  # a long run refreshes its plots at checkpoints, but not more often


# ---- building the simulation ---------------------------------------------------------------------


def read_pdb(path: Path) -> app.PDBFile:
    """The structure in a PDB file, or ScriptError."""
    try:
        pdb = app.PDBFile(str(path))
    except OSError as problem:
        raise ScriptError(f"cannot open {path}: {problem.strerror}; check --pdb") from None
    except (ValueError, IndexError, KeyError):
        raise ScriptError(f"{path} holds no PDB structure; give a peptide in PDB format") from None
    # A crystal's unit cell means nothing in implicit solvent, yet would reach every output.
    pdb.topology.setPeriodicBoxVectors(None)
    return pdb


def make_simulation(pdb: app.PDBFile, options: argparse.Namespace) -> app.Simulation:
    """A simulation on the wanted platform, still without positions, or ScriptError."""
    try:
        system = app.ForceField(*FORCE_FIELD).createSystem(
            pdb.topology,
            nonbondedMethod=app.NoCutoff,
            constraints=app.HBonds,
            hydrogenMass=HYDROGEN_MASS,
        )
    except ValueError as problem:
        raise ScriptError(
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
        raise ScriptError(f"cannot use platform {name} ({problem}); try --platform auto") from None


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
            raise ScriptError(
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
    begins = not (options.out / "checkpoint.chk").exists()
    # A trajectory tells the time of a frame by its step and the time step.
    model = {"pdb": file_sha256(options.pdb), "timestep_fs": options.timestep_fs}
    check_same_model(model, options.out, begins=begins)
    if begins:
        start(simulation, pdb, options)
    elif options.resume:
        resume(simulation, options)
    else:
        raise ScriptError(f"{options.out} holds a run: add --resume, or choose another --out")
    return simulation


# ---- the state, and its files --------------------------------------------------------------------


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


# ---- the run -------------------------------------------------------------------------------------


def simulate(options: argparse.Namespace) -> bool:
    """Prepare, step, record; whether all steps are done."""
    stops = listen_for_stop()
    options.out.mkdir(parents=True, exist_ok=True)
    simulation = prepare(options)
    marks = (STRIDE, options.report_every, options.checkpoint_every)
    drawn_s = time.monotonic()
    with ExitStack() as files:
        minimised = read_pdb(options.out / "topology.pdb")
        recorder = Recorder(simulation, minimised, options, files)
        while (now := simulation.currentStep) < options.steps and not stops:
            step = min(options.steps, *((now // mark + 1) * mark for mark in marks))
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
    finished: bool = simulation.currentStep >= options.steps
    if finished:
        write_pdb(simulation, options.out / "final.pdb")
    else:
        say(f"[stopped] {progress} signal={stops[0]} checkpoint=checkpoint.chk")
    wall_s, speed = recorder.wall_s(), recorder.ns_per_day()
    write_summary(recorder, options)
    draw(options)
    if finished:
        say(f"[done] {progress} wall_s={wall_s:.1f} ns_per_day={speed:.0f}")
    return finished


def run(options: argparse.Namespace) -> bool:
    """The simulation, with a hint if it blows up."""
    try:
        return simulate(options)
    except (FloatingPointError, mm.OpenMMException) as problem:
        if "NaN" not in str(problem):
            raise  # a fault of the platform, not of the physics: the traceback is wanted
        hint = "lower --timestep-fs, or start from a better structure"
        text = f"the simulation blew up ({problem}): {hint}"
        raise ScriptError(text, EXIT_BLEW_UP) from None


def parse() -> argparse.Namespace:
    parser = script_parser(__doc__)
    add = parser.add_argument
    platforms = ("auto", "CPU", "CUDA", "OpenCL", "Reference")
    add("--pdb", type=Path, default=DATA / "alanine-dipeptide.pdb", help="with hydrogens")
    add("--steps", type=positive_int, default=25_000, help="in total, over all starts")
    add("--timestep-fs", type=positive_float, default=4.0)
    add("--temperature-k", type=positive_float, default=300.0)
    add("--friction-per-ps", type=positive_float, default=1.0)
    add("--report-every", type=positive_int, default=500, metavar="STEPS")
    add("--checkpoint-every", type=positive_int, default=5_000, metavar="STEPS")
    add("--seed", type=positive_int, default=1, help="of velocities and noise")
    add("--threads", type=positive_int, default=usual_threads())
    add("--platform", choices=platforms, default="CPU", help="auto: the fastest that works")
    add("--resume", action="store_true", help="go on from checkpoint.chk, if there is one")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(exit_code(run, parse()))
