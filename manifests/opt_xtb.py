#!/usr/bin/env python3
"""Geometry optimisation or single point of a molecule with xtb (GFN2, GFN1, GFN-FF).

Runs the program xtb in the output directory, says how far it is, and whether it really converged:
xtb itself ends with exit code 0 when it did not.

Files left in the output directory:
  start.xyz       the molecule as xtb was given it
  xtb.log         what xtb printed
  xtbopt.xyz      the optimised structure
  xtbopt.log      frames of the present start, as xtb writes them; a later one goes on from its end
  trajectory.xyz  frames of all starts, each with energy (Hartree) and gradient norm (Hartree/bohr)
  energies.csv    the same without the coordinates
  charges.csv     partial charge of each atom (elementary charges)
  opt.png, summary.json

Exit codes: 0 done; 65 not converged, or xtb failed; 66 unusable input; 74 a file could not be read
or written; 75 stopped by TERM, INT or USR1: the same command with --resume goes on from the last
geometry.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from molecule_support import (
    EXIT_FAILED,
    Molecule,
    approach,
    check_electrons,
    read_xyz,
)
from script_support import (
    DATA,
    ScriptError,
    check_same_model,
    exit_code,
    listen_for_stop,
    positive_float,
    positive_int,
    say,
    script_parser,
)
from xtb_report import (
    all_frames,
    check_end,
    energy_and_gradient,
    write_charges,
    write_frames,
    write_results,
)

METHODS = {"gfn2": ["--gfn", "2"], "gfn1": ["--gfn", "1"], "gfnff": ["--gfnff"]}
LEVELS = ("crude", "sloppy", "loose", "normal", "tight", "verytight", "extreme")
REST = 0.9  # progress when xtb has converged: tables and plots remain
_GRADIENT = re.compile(r"\s+gradient norm :\s+(\S+) Eh")
_ENERGY = re.compile(r" \* total energy  :\s+(\S+) Eh")
_THRESHOLD = re.compile(r"\s+:\s+grad\. convergence\s+(\S+) Eh")
_SCF_CYCLE = re.compile(r"\s+(\d+)\s+(-?\d+\.\d+)\s+(-?[\d.]+E[+-]\d+)\s+[\d.]+E[+-]\d+\s")
_SCF_THRESHOLD = re.compile(r"\s+:\s+-> SCF convergence\s+(\S+) Eh")


# ---- where to start ------------------------------------------------------------------------------


def read_molecule(options: argparse.Namespace) -> Molecule:
    """The molecule that was given, checked for what xtb would crash on or pass over in silence."""
    if len(options.xyz) > 1:
        raise ScriptError("two molecules are given: give a file or a text, not both")
    molecule = read_xyz(options.xyz[0] if options.xyz else DATA / "caffeine.xyz")
    check_electrons(molecule, options.charge, options.unpaired)
    if options.task == "optimise" and len(molecule.symbols) == 1:
        raise ScriptError("one atom has no geometry to optimise: choose the task single-point")
    return molecule


def earlier_frames(molecule: Molecule, options: argparse.Namespace) -> list[str]:
    """start.xyz is the geometry to start from. Returns the frames before it, of former starts."""
    known = all_frames()
    if known and not options.resume:
        raise ScriptError(f"{options.out} holds a run: add --resume, or choose another --out")
    start = molecule.xyz()
    if known:
        start = known.pop()  # evaluated again as the first of this start
        write_frames(known)
        say(f"[resume] cycle={len(known) + 1} start.xyz is the last geometry")
    Path("start.xyz").write_text(start, encoding="utf-8")
    if read_xyz(Path("start.xyz")).symbols != molecule.symbols:
        raise ScriptError(f"{options.out} holds a run of another molecule: start without --resume")
    if len(known) >= options.max_cycles:
        raise ScriptError(f"{len(known)} cycles are done already: raise the maximum of cycles")
    return known


# ---- running xtb ---------------------------------------------------------------------------------


@dataclass
class Follower:
    """Says how far xtb is, line by line. The fraction is the share of the orders of magnitude from
    the first gradient norm (single point: from 1 Hartree of change) to the threshold, or the share
    of the cycles, whichever is more; it never falls."""

    total: int  #: cycles at most, those of former starts too
    cycle: int  #: of former starts; counted on
    first: float | None  #: gradient norm of the very first cycle, Hartree/bohr
    single_point: bool
    threshold: float = 0.001
    scf_threshold: float = 1e-6
    energy: str = ""
    fraction: float = 0.0

    def see(self, line: str) -> None:
        if found := _THRESHOLD.match(line):
            self.threshold = float(found[1])
        elif found := _SCF_THRESHOLD.match(line):
            self.scf_threshold = float(found[1])
        elif found := _ENERGY.match(line):
            self.energy = found[1]
        elif found := _GRADIENT.match(line):
            gradient = float(found[1])
            self.cycle += 1
            self.first = self.first or gradient
            done = max(approach(self.first, gradient, self.threshold), self.cycle / self.total)
            self.fraction = max(self.fraction, REST * min(done, 1.0))
            say(
                f"[opt] cycle={self.cycle}/{self.total} fraction={self.fraction:.3f}"
                f" energy_hartree={self.energy} gradient_norm_hartree_bohr={gradient:.7f}"
            )
        elif self.single_point and (found := _SCF_CYCLE.match(line)):
            done = approach(1.0, abs(float(found[3])), self.scf_threshold)
            self.fraction = max(self.fraction, REST * done)
            say(f"[scf] cycle={found[1]} fraction={self.fraction:.3f} energy_hartree={found[2]}")


def xtb_command(cycles: int, options: argparse.Namespace) -> list[str]:
    command = ["xtb", "start.xyz", *METHODS[options.method]]
    command += ["--chrg", str(options.charge), "--uhf", str(options.unpaired)]
    command += ["--acc", str(options.accuracy), "--iterations", str(options.max_scf_cycles)]
    command += ["--parallel", str(options.threads)]
    if options.solvent:
        command += ["--alpb", options.solvent]
    if options.task == "single-point":
        return [*command, "--sp"]
    return [*command, "--opt", options.level, "--cycles", str(cycles)]


def run_xtb(command: list[str], follower: Follower, stops: list[str], threads: int) -> int:
    """xtb has ended, told to by us if we were told so; its exit code. xtb.log has all it said."""
    environment = os.environ | {
        "OMP_NUM_THREADS": f"{threads},1",
        "MKL_NUM_THREADS": str(threads),
        "OMP_STACKSIZE": "256M",
        "GFORTRAN_UNBUFFERED_PRECONNECTED": "y",  # else cycles show in lumps of some kilobytes
    }
    _, hard = resource.getrlimit(resource.RLIMIT_STACK)
    resource.setrlimit(resource.RLIMIT_STACK, (hard, hard))  # larger molecules need it
    with (
        Path("xtb.log").open("w", encoding="utf-8") as log,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            encoding="utf-8",
            errors="replace",
        ) as process,
    ):

        def pass_on(number: int, _: object) -> None:
            stops.append(signal.Signals(number).name)
            process.kill()  # it has no other way to stop, and loses no more than a cycle

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, pass_on)
        if stops:  # in the instant before
            process.kill()
        assert process.stdout is not None
        for line in process.stdout:
            log.write(line)
            log.flush()
            follower.see(line)
    return process.returncode


# ---- the run -------------------------------------------------------------------------------------


def run(options: argparse.Namespace) -> bool:
    """Optimise, or evaluate once; whether it came to its end. ScriptError if not converged."""
    stops = listen_for_stop()
    began_s = time.monotonic()
    if shutil.which("xtb") is None:
        raise ScriptError("the program xtb is not on the PATH: install it (apt install xtb)")
    options.xyz = [path.resolve() for path in options.xyz]
    options.out.mkdir(parents=True, exist_ok=True)
    os.chdir(options.out)
    molecule = read_molecule(options)
    model = ("task", "method", "charge", "unpaired", "solvent")
    check_same_model({name: getattr(options, name) for name in model})
    earlier = earlier_frames(molecule, options)
    for name in (".xtboptok", ".sccnotconverged", "xtbopt.xyz", "charges"):
        Path(name).unlink(missing_ok=True)  # of a former start: what is there is to be this one's
    first = energy_and_gradient(earlier[0])[1] if earlier else None
    follower = Follower(options.max_cycles, len(earlier), first, options.task == "single-point")
    command = xtb_command(options.max_cycles - len(earlier), options)
    say(f"[setup] atoms={len(molecule.symbols)} command={' '.join(command)}")
    code = run_xtb(command, follower, stops, options.threads)
    text = Path("xtb.log").read_text(encoding="utf-8")
    if not stops:
        check_end(code, text)
        write_charges(molecule, options.method)
    wall_s = time.monotonic() - began_s
    converged = write_results(molecule, text, options, follower.threshold, wall_s)
    if stops:
        say(f"[stopped] cycle={follower.cycle}/{follower.total} signal={stops[0]}")
        return False
    if not converged:
        raise ScriptError(
            f"the geometry did not converge in {follower.cycle} cycles. What to do: go on from the"
            " last geometry with more max_cycles, or look at trajectory.xyz for a molecule that"
            " falls apart.",
            EXIT_FAILED,
        )
    say(f"[done] converged=true cycles={follower.cycle} wall_s={wall_s:.1f}")
    return True


def parse() -> argparse.Namespace:
    parser = script_parser(__doc__)
    add = parser.add_argument
    add("--xyz", type=Path, action="append", default=[], help="molecule; default: caffeine")
    add("--task", choices=("optimise", "single-point"), default="optimise")
    add("--method", choices=tuple(METHODS), default="gfn2")
    add("--charge", type=int, default=0)
    add("--unpaired", type=int, default=0, help="number of unpaired electrons")
    add("--solvent", help="ALPB implicit solvent")
    add("--level", choices=LEVELS, default="normal", help="how tightly to converge")
    add("--accuracy", type=positive_float, default=1.0, help="lower is more accurate")
    add("--max-cycles", type=positive_int, default=200, help="in total, over all starts")
    add("--max-scf-cycles", type=positive_int, default=250)
    add("--threads", type=positive_int, default=1)
    add("--resume", action="store_true", help="go on from the last geometry, if there is one")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(exit_code(run, parse()))
