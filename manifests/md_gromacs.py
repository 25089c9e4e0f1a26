#!/usr/bin/env python3
"""Molecular dynamics of a protein or peptide in explicit water, with GROMACS.

pdb2gmx (hydrogens are built anew), a dodecahedral box, water, ions that neutralise; minimisation,
equilibration at constant volume and then at constant pressure with the heavy atoms held, and
production. PME, cut-offs at 0.9 nm, rigid bonds to hydrogen, V-rescale and C-rescale.

Files left in the output directory, of the stages em, nvt, npt and md:
  STAGE.mdp .tpr .log .edr .xtc .cpt .gro   as GROMACS users know them; .gro only of a stage whose
                                            steps are all done
  NAME.out                                  what the program printed
  topol.top, *.itp, input.pdb               the topology, and the structure that was given
  settings.json                             what a run that goes on must not change
  energies.csv, rmsd.csv, md.png, summary.json

The same command in the same directory goes on where it stopped, with more --steps if wanted.

Exit codes: 0 done; 65 the run failed; 66 unusable input; 74 a file could not be read or written;
75 stopped before the last step, by TERM, INT or USR1 or because of --maxh.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import math
import os
import re
import shutil
import sys
import time
from pathlib import Path

from gromacs_program import Gromacs, StoppedError, last_checkpoint
from gromacs_report import report
from script_support import (
    DATA,
    EXIT_STOPPED,
    ScriptError,
    exit_code,
    positive_float,
    positive_int,
    say,
    script_parser,
    usual_threads,
    write_json,
)

FORCE_FIELDS = ("amber99sb-ildn", "amber99sb", "amber03")
#: The waters of these force fields, and a box of water with as many sites to a molecule.
WATERS = {"tip3p": "spc216.gro", "spce": "spc216.gro", "tip4p": "tip4p.gro"}
SHARED: dict[str, object] = {
    "cutoff-scheme": "Verlet",
    "coulombtype": "PME",
    "rcoulomb": 0.9,
    "rvdw": 0.9,
    "rlist": 0.9,
    "DispCorr": "EnerPres",
    "constraints": "h-bonds",
}
#: About how often, at most, a long stage says in its logs how far it is.
MARKS = 5_000
#: Restrains the heavy atoms of the solute.
HELD: dict[str, object] = {"define": "-DPOSRES", "refcoord-scaling": "com"}
#: Options that a run may change when it goes on; all others shape what is already there.
CHANGEABLE = {"out", "pdb", "steps", "maxh", "threads", "checkpoint_minutes"}


# ---- settings ------------------------------------------------------------------------------------


def accept_settings(options: argparse.Namespace) -> None:
    """Record the settings and the structure, or see that they are those of the run that is there.

    Raises ScriptError.
    """
    if shutil.which("gmx") is None:
        raise ScriptError("gmx is not on the PATH: install GROMACS (apt install gromacs)")
    kept, copy = options.out / "settings.json", options.out / "input.pdb"
    wanted = {name: v for name, v in vars(options).items() if name not in CHANGEABLE}
    if not kept.exists():
        try:
            options.out.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(options.pdb, copy)
        except OSError as problem:
            raise ScriptError(f"cannot copy {options.pdb}: {problem.strerror}; check pdb") from None
        if not re.search(rb"^(ATOM  |HETATM)", copy.read_bytes(), re.MULTILINE):
            raise ScriptError(f"{options.pdb} holds no atoms in PDB format; give a protein's file")
        write_json(wanted, kept)
        return
    try:
        there = json.loads(kept.read_text(encoding="utf-8"))
    except ValueError:
        raise ScriptError(f"{kept} is damaged: start again in another directory") from None
    for name, value in wanted.items():
        if there.get(name) != value:
            raise ScriptError(
                f"the run that is to go on has {name} {there.get(name)}, not {value}: leave"
                f" {name} as it was, or start a new run"
            )
    if not filecmp.cmp(options.pdb, copy, shallow=False):
        raise ScriptError("the run that is to go on began with another pdb: start a new run")


def mdp(settings: dict[str, object]) -> str:
    """The settings of a stage, with those that all stages share, as grompp reads them."""
    return "".join(f"{name} = {value}\n" for name, value in (SHARED | settings).items())


def dynamics(options: argparse.Namespace, steps: int) -> dict[str, object]:
    """What all stages of dynamics share."""
    every = options.report_every
    return {
        "integrator": "md",
        "nsteps": steps,
        "dt": options.timestep_fs / 1000,
        "nstlog": max(every, steps // MARKS),
        "nstenergy": every,
        # Of this it must be a multiple; a hundred is enough for the averages.
        "nstcalcenergy": math.gcd(every, 100),
        "nstxout-compressed": every,
        "tcoupl": "V-rescale",
        "tc-grps": "System",
        "tau-t": 0.1,
        "ref-t": options.temperature_k,
        "ld-seed": options.seed,
    }


def velocities(options: argparse.Namespace) -> dict[str, object]:
    return {"gen-vel": "yes", "gen-temp": options.temperature_k, "gen-seed": options.seed}


def barostat(options: argparse.Namespace) -> dict[str, object]:
    pressure = {"ref-p": options.pressure_bar, "tau-p": 2.0, "compressibility": 4.5e-5}
    return {"continuation": "yes", "pcoupl": "C-rescale", **pressure}


# ---- stages --------------------------------------------------------------------------------------


def grompp(gmx: Gromacs, stage: str, settings: dict[str, object], *arguments: str) -> None:
    """Make the stage's .tpr from its settings and the topology."""
    out = gmx.options.out
    (out / f"{stage}.mdp").write_text(mdp(settings), encoding="utf-8")
    files = ("-f", f"{stage}.mdp", "-p", "topol.top", "-po", "mdout.mdp", "-o", "part.tpr")
    gmx.prepare(f"{stage}.grompp", "grompp", *files, *arguments)
    os.replace(out / "part.tpr", out / f"{stage}.tpr")


def build(gmx: Gromacs) -> None:
    """From the PDB file to a neutral box of water: ions.gro and topol.top."""
    options, top = gmx.options, ["-p", "topol.top"]
    say(f"[stage] build {options.force_field} in {options.water}")
    itp = ["-o", "start.gro", "-i", "posre.itp"]
    field = ["-ff", options.force_field, "-water", options.water, "-ignh"]
    gmx.prepare("pdb2gmx", "pdb2gmx", "-f", "input.pdb", *itp, *top, *field)
    margin = ["-bt", "dodecahedron", "-d", f"{options.box_margin_nm:g}"]
    gmx.prepare("editconf", "editconf", "-f", "start.gro", "-o", "box.gro", *margin)
    water = ["-cs", WATERS[options.water], "-o", "solvated.gro"]
    gmx.prepare("solvate", "solvate", "-cp", "box.gro", *water, *top)
    # The one warning that is allowed is of the charge that genion is about to neutralise.
    grompp(gmx, "ions", {"integrator": "steep"}, "-c", "solvated.gro", "-maxwarn", "1")
    ions = ["-pname", "NA", "-nname", "CL", "-neutral", "-conc", f"{options.salt_mol_per_l:g}"]
    files = ["-s", "ions.tpr", "-o", "ions.gro", "-seed", str(options.seed)]
    gmx.prepare("genion", "genion", *files, *top, *ions, answer="SOL\n")


def equilibrate(gmx: Gromacs) -> None:
    """Minimise, warm up, bring to the pressure: em.gro, nvt.gro, npt.gro. A stage that is done is
    left alone, and one that was stopped goes on."""
    options = gmx.options
    minimise = {"integrator": "steep", "nsteps": 500, "emtol": 500}
    held = dynamics(options, options.equilibrate_steps) | HELD
    stages = {
        "em": ("minimise", minimise, ["-c", "ions.gro"]),
        "nvt": (
            f"equilibrate at {options.temperature_k:g} K and constant volume",
            held | velocities(options),
            ["-c", "em.gro", "-r", "em.gro"],
        ),
        "npt": (
            f"equilibrate at {options.pressure_bar:g} bar",
            held | barostat(options),
            ["-c", "nvt.gro", "-t", "nvt.cpt", "-r", "em.gro"],
        ),
    }
    for stage, (title, settings, inputs) in stages.items():
        if not (options.out / f"{stage}.gro").exists():
            say(f"[stage] {title}")
            if not (options.out / f"{stage}.tpr").exists():
                grompp(gmx, stage, settings, *inputs)
            gmx.mdrun(stage)


def produce(gmx: Gromacs) -> None:
    """Production, from its checkpoint if there is one; --steps counts from its first start."""
    options, out = gmx.options, gmx.options.out
    if (out / "md.tpr").exists():
        done = last_checkpoint(out / "md.log")
        if done > options.steps:
            raise ScriptError(
                f"the run has already done {done} steps: ask for that many or more steps"
            )
        say(f"[resume] from step {done} of {options.steps}")
        longer = ("-nsteps", str(options.steps), "-o", "part.tpr")
        gmx.prepare("md.convert-tpr", "convert-tpr", "-s", "md.tpr", *longer)
        os.replace(out / "part.tpr", out / "md.tpr")
    else:
        settings = dynamics(options, options.steps) | barostat(options)
        grompp(gmx, "md", settings, "-c", "npt.gro", "-t", "npt.cpt")
    say(f"[stage] production, {options.steps} steps of {options.timestep_fs:g} fs")
    often = ["-v", "-stepout", str(max(100, options.steps // MARKS))]
    limit = [] if options.maxh is None else ["-maxh", f"{options.maxh:g}"]
    gmx.mdrun("md", *often, *limit)


def run(options: argparse.Namespace) -> bool:
    """All stages, then tables, plot and summary; whether all steps are done."""
    accept_settings(options)
    gmx = Gromacs(options)
    began_s = time.monotonic()
    unfinished: Exception | None = None
    try:
        if not (options.out / "em.tpr").exists():
            build(gmx)
        equilibrate(gmx)
        produce(gmx)
    except StoppedError as stop:
        unfinished = stop
    except ScriptError as problem:
        if problem.code != EXIT_STOPPED:
            raise
        unfinished = problem
    if (options.out / "md.edr").exists():
        report(options, time.monotonic() - began_s, brief=isinstance(unfinished, StoppedError))
    if isinstance(unfinished, ScriptError):
        raise unfinished
    if unfinished:
        ready = any(options.out.glob("*.cpt"))
        say(f"[stopped] signal={gmx.stops[0]} checkpoint={'yes' if ready else 'none yet'}")
        return False
    say(f"[done] all {options.steps} steps")
    return True


def parse() -> argparse.Namespace:
    parser = script_parser(__doc__)
    add = parser.add_argument
    add("--pdb", type=Path, default=DATA / "alanine-dipeptide.pdb")
    add("--force-field", choices=FORCE_FIELDS, default=FORCE_FIELDS[0])
    add("--water", choices=WATERS, default="tip3p")
    add("--box-margin-nm", type=positive_float, default=1.0, help="between solute and box")
    add("--salt-mol-per-l", type=float, default=0.0, help="NaCl beside what neutralises")
    add("--steps", type=positive_int, default=10_000, help="of production, over all starts")
    add("--equilibrate-steps", type=positive_int, default=5_000, help="twice: NVT and NPT")
    add("--timestep-fs", type=positive_float, default=2.0)
    add("--temperature-k", type=positive_float, default=300.0)
    add("--pressure-bar", type=float, default=1.0)
    add("--report-every", type=positive_int, default=100, metavar="STEPS")
    add("--checkpoint-minutes", type=positive_float, default=1.0)
    add("--seed", type=positive_int, default=1, help="of velocities, noise and ions")
    add("--maxh", type=positive_float, help="hours after which production stops")
    add("--threads", type=positive_int, default=usual_threads())
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(exit_code(run, parse()))
