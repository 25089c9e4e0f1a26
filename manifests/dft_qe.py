#!/usr/bin/env python3
"""The ground state of a crystal with plane waves: pw.x of Quantum ESPRESSO, watched to its end.

pw.x is run in legs: it stops itself after --checkpoint-every-s, what it needs to go on is copied
into checkpoint/, and it is started again. It is asked to stop by the file pwscf.EXIT, or by TERM,
INT or USR1 to this script.

Files left in the output directory:
  pw.in               the input as it was run; pw.out, the log of all legs
  scf.csv             every SCF iteration: energy and estimated accuracy (Ry)
  steps.csv           every ionic step: energy, force, pressure; one row without a relaxation
  out/pwscf.save/     charge density, wavefunctions and data-file-schema.xml
  final.xyz           the atoms at the end, with their cell (extended XYZ)
  checkpoint/         only of a run that did not finish: --resume goes on from there
  scf.png, summary.json

Exit codes: 0 converged; 65 pw.x failed, or did not converge; 66 unusable input; 74 a file could not
be read or written; 75 stopped on request.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from qe_checkpoint import can_go_on, save_checkpoint, take_up
from qe_input import PwInput
from qe_log import Log, draw
from qe_results import results, write_xyz
from script_support import (
    DATA,
    ScriptError,
    exit_code,
    file_sha256,
    listen_for_stop,
    positive_float,
    positive_int,
    say,
    script_parser,
    write_json,
)

EXIT_FAILED = 65
STOP_FILE = "pwscf.EXIT"  # pw.x looks for it, removes it and stops: also when it was there before
LOOK_EVERY_S = 0.1


# ---- input and pseudopotentials ------------------------------------------------------------------


def prepare(options: argparse.Namespace) -> PwInput:
    """The input with what the options say, its pseudopotentials in pseudo/, or ScriptError."""
    pw = PwInput(options.input)
    if options.lattice_angstrom is not None:
        if pw.get("SYSTEM", "A") is None:
            raise ScriptError(
                f"{options.input.name} does not give its cell by A: lattice_angstrom cannot change"
                " it; edit the file"
            )
        pw.set("SYSTEM", {"A": str(options.lattice_angstrom)})
    for namelist, key, value in (
        ("SYSTEM", "ecutwfc", options.ecutwfc_ry),
        ("ELECTRONS", "conv_thr", options.conv_thr_ry),
        ("ELECTRONS", "electron_maxstep", options.max_scf_iterations),
        ("CONTROL", "nstep", options.max_ionic_steps),
    ):
        if value is not None:
            pw.set(namelist, {key: str(value)})
    if options.kpoints:
        if len(options.kpoints) != 3:
            raise ScriptError("kpoints takes three numbers, one for each axis")
        pw.set_kpoints(options.kpoints)
    pseudo = options.out / "pseudo"
    pseudo.mkdir(exist_ok=True)
    for name in pw.pseudopotentials:
        given = options.pseudo_dir / name if options.pseudo_dir else None
        if given and given.is_file():
            shutil.copyfile(given, pseudo / name)
        elif (recipe := DATA / f"{name.removesuffix('.UPF')}.ld1.in").is_file():
            generate(recipe, pseudo, name)
        else:
            where = f"in {options.pseudo_dir}" if options.pseudo_dir else "without pseudo_dir"
            raise ScriptError(
                f"there is no pseudopotential {name} {where}; get it, for example from a library of"
                " UPF files, and name its folder with pseudo_dir"
            )
    return pw


def generate(recipe: Path, folder: Path, name: str) -> None:
    """Make a pseudopotential with ld1.x, which solves the atom; under a second."""
    with recipe.open(encoding="utf-8") as given:
        done = subprocess.run(
            ["ld1.x"], stdin=given, cwd=folder, capture_output=True, check=False, text=True
        )
    (folder / "ld1.out").write_text(done.stdout, encoding="utf-8")
    if done.returncode != 0 or not (folder / name).is_file():
        raise ScriptError(
            f"ld1.x made no {name} (exit code {done.returncode}); see pseudo/ld1.out", EXIT_FAILED
        )
    for by_product in (*folder.glob("ld1*.wfc"), *folder.glob("*.pot"), folder / "ld1.test"):
        by_product.unlink(missing_ok=True)


# ---- the run -------------------------------------------------------------------------------------


def pw_command(options: argparse.Namespace) -> list[str]:
    if options.processes == 1:
        return ["pw.x", "-in", "pw.in"]
    # Waiting processes give way: else two of them on one busy core take ten times as long.
    yielding = ["--bind-to", "none", "--oversubscribe", "--mca", "mpi_yield_when_idle", "1"]
    return ["mpirun", *yielding, "-np", str(options.processes), "pw.x", "-in", "pw.in"]


def state(pw: PwInput, options: argparse.Namespace) -> dict[str, Any]:
    """What must be the same when a run goes on."""
    return {"processes": options.processes, **pw.unchangeable()}


def deaf() -> None:
    """TERM to the process group must not kill pw.x, which is asked to stop in its own way."""
    for signal_number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(signal_number, signal.SIG_IGN)


def run_leg(pw: PwInput, log: Log, leg_s: float, resumes: bool, options: argparse.Namespace) -> int:
    """Run pw.x until it ends, reading its log; its exit code."""
    pw.set(
        "CONTROL",
        {
            "prefix": "'pwscf'",
            "outdir": "'./out'",
            "wfcdir": "'./out'",
            "pseudo_dir": "'./pseudo'",
            "restart_mode": "'restart'" if resumes else "'from_scratch'",
            "disk_io": "'low'",
            "max_seconds": f"{leg_s:.1f}",
        },
    )
    (options.out / "pw.in").write_text(pw.text, encoding="utf-8")
    log.new_start()
    # Open MPI refuses root unless told twice; in containers nobody else is there.
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    with (options.out / "pw.out").open("ab") as written:
        start = written.tell()
        process = subprocess.Popen(
            pw_command(options),
            cwd=options.out,
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=subprocess.STDOUT,
            env=os.environ | root | {"OMP_NUM_THREADS": "1"},
            preexec_fn=deaf,
        )
    with (options.out / "pw.out").open("rb") as reading:
        reading.seek(start)
        rest = b""
        ended = False
        while not ended:
            ended = process.poll() is not None  # before the read: then nothing is left to come
            *lines, rest = (rest + reading.read()).split(b"\n")
            for line in lines:
                log.read(line.decode("utf-8", errors="replace"))
            if not ended:
                if options.stops:
                    (options.out / STOP_FILE).touch()
                time.sleep(LOOK_EVERY_S)
    log.flush()
    (options.out / STOP_FILE).unlink(missing_ok=True)
    return process.returncode


def run_legs(pw: PwInput, options: argparse.Namespace) -> tuple[Log, int]:
    """pw.x again and again until it is done, fails or is to stop."""
    same = state(pw, options)
    (options.out / "pw.out").unlink(missing_ok=True)  # what it says must be of this start
    resumes = take_up(same, options.out)
    log = Log(options.out, pw.moves_atoms)
    if resumes:
        say(f"[resume] ionic_step={log.ionic_step} after iteration={log.iterations()}")
    leg_s = options.checkpoint_every_s
    while True:
        code = run_leg(pw, log, leg_s, resumes, options)
        if "leg_over" not in log.seen or "stopped" in log.seen:
            return log, code
        if options.stops:
            log.seen["stopped"] = ""
            return log, code
        if can_go_on(log, code):
            save_checkpoint(options.out, same)
            resumes, leg_s = True, options.checkpoint_every_s
        else:  # the leg is lost; a longer one ends elsewhere
            resumes, leg_s = take_up(same, options.out), 2 * leg_s
            fraction, log = log.fraction, Log(options.out, pw.moves_atoms)
            log.fraction = fraction


def run(options: argparse.Namespace) -> bool:
    """Prepare, run, judge, report; whether it converged, or False when it was stopped."""
    for program in {pw_command(options)[0], "pw.x"}:
        if shutil.which(program) is None:
            raise ScriptError(f"{program} is not on the PATH; install Quantum ESPRESSO")
    options.out.mkdir(parents=True, exist_ok=True)
    if (options.out / "checkpoint").exists() != options.resume:
        what = "no checkpoint: leave out" if options.resume else "a run: add"
        raise ScriptError(f"{options.out} holds {what} --resume, or choose another --out")
    pw = prepare(options)
    options.stops = listen_for_stop()
    started_s = time.monotonic()
    log, code = run_legs(pw, options)
    trouble = fault(log, code, pw)
    stopped = "stopped" in log.seen
    if (stopped or trouble) and can_go_on(log, code):
        save_checkpoint(options.out, state(pw, options))
    finished = not stopped and trouble is None
    settings = {
        "structure": options.input.name,
        "calculation": pw.calculation,
        "processes": options.processes,
        "pseudopotentials_sha256": {
            name: file_sha256(options.out / "pseudo" / name) for name in pw.pseudopotentials
        },
    }
    found = results(options.out, log, finished)
    summary: dict[str, Any] = {"program": "Quantum ESPRESSO pw.x", "version": log.version}
    summary |= {"converged": finished, **found, **settings}
    summary["wall_s"] = round(time.monotonic() - started_s, 1)
    write_json(summary, options.out / "summary.json")
    if log.scf:
        draw(log, f"{options.input.stem}: {pw.calculation}", options.out / "scf.png")
    if trouble is not None and not stopped:
        raise trouble
    if finished:
        write_xyz(options.out)
        shutil.rmtree(options.out / "checkpoint", ignore_errors=True)
        say(f"[done] iterations={len(log.scf)} total_energy_ry={log.steps[-1][2]}")
    else:
        say(f"[stopped] ionic_step={log.ionic_step} iteration={log.iterations()}")
    return finished


def fault(log: Log, code: int, pw: PwInput) -> ScriptError | None:
    """Why the run is no success, if it is none: pw.x says `JOB DONE.` in any case."""
    if log.error:
        routine, *said = log.error
        text = f"pw.x stopped in {routine}: {' '.join(said) or 'it does not say why'}"
        if log.scf:
            return ScriptError(f"{text}; see pw.out", EXIT_FAILED)
        return ScriptError(f"{text}; correct the input, see pw.out")
    if "unconverged" in log.seen:
        return ScriptError(
            f"{' '.join(log.seen['unconverged'].split())}; raise max_scf_iterations and resume, or"
            " lower mixing_beta in the input",
            EXIT_FAILED,
        )
    if "gave_up" in log.seen:
        return ScriptError(
            "pw.x gave up the relaxation before it converged; lower conv_thr_ry, so that forces are"
            " more exact, or start from another structure, such as the last one in pw.out",
            EXIT_FAILED,
        )
    if "out_of_steps" in log.seen:
        return ScriptError(
            f"the relaxation did not converge within {len(log.steps)} ionic steps; raise"
            " max_ionic_steps and resume",
            EXIT_FAILED,
        )
    if code != 0 or not log.steps or (pw.moves_atoms and "relaxed" not in log.seen):
        return ScriptError(
            f"pw.x ended with exit code {code} before it converged; see the end of pw.out",
            EXIT_FAILED,
        )
    return None


def parse() -> argparse.Namespace:
    parser = script_parser(__doc__)
    add = parser.add_argument
    add("--input", type=Path, default=DATA / "silicon.pw.in", help="input file of pw.x")
    add("--pseudo-dir", type=Path, help="folder of the pseudopotentials that the input names")
    add("--lattice-angstrom", type=positive_float, help="instead of A in the input")
    add("--ecutwfc-ry", type=positive_float, help="instead of the input's cutoff")
    add("--kpoints", type=positive_int, action="append", help="three times: a grid")
    add("--conv-thr-ry", type=positive_float, help="instead of the input's")
    add("--max-scf-iterations", type=positive_int, help="instead of the input's")
    add("--max-ionic-steps", type=positive_int, help="instead of the input's")
    add("--checkpoint-every-s", type=positive_float, default=900.0)
    add("--processes", type=positive_int, default=1, help="of MPI")
    add("--resume", action="store_true", help="go on from checkpoint/")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(exit_code(run, parse()))
