#!/usr/bin/env python3
"""Finite elements with CalculiX: a cantilever beam, or a model of your own, watched to its end.

Files left in the output directory:
  model.inp, model.dat, model.frd, model.sta, model.cvg   as CalculiX names them; ccx.out, its log
  increments.csv      every increment that was tried: iterations, whether it converged, time
  displacements.csv   all nodes at the end: place and displacement, and von Mises stress
  deflection.png, summary.json

The beam is in mm, N and MPa; a model of your own in the units that it was made in.
Exit codes: 0 done; 65 CalculiX failed or did not converge, or the model is not held; 66 unusable
input; 74 a file could not be read or written.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from fem_beam import Beam
from fem_results import Increment, Results, complaint, increment_of, period, read_frd, von_mises
from script_support import (
    ScriptError,
    exit_code,
    positive_float,
    positive_int,
    replacing,
    save_png,
    say,
    script_parser,
    write_json,
)

EXIT_FAILED = 65
LOOK_EVERY_S = 0.1
MOST_BYTES = 500_000_000
FREE = 1000.0  #: displaced by so many times its size, a model is not held


# ---- the model -----------------------------------------------------------------------------------


def make_beam(options: argparse.Namespace) -> Beam:
    if options.poisson >= 0.5 or options.poisson <= -1:
        raise ScriptError("poisson must be above -1 and below 0.5")
    return Beam(
        length_mm=options.length_mm,
        width_mm=options.width_mm,
        height_mm=options.height_mm,
        load_n=options.load_n,
        young_mpa=options.young_mpa,
        poisson=options.poisson,
        elements=options.elements,
        across=options.elements_across,
        nlgeom=options.nlgeom,
        increments=options.increments,
    )


def read_deck(path: Path) -> str:
    """The input file of the user, or ScriptError."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ScriptError(f"{path} is too large for an input file; check input")
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as problem:
        raise ScriptError(f"cannot read {path}: {problem.strerror}; check input") from None
    # ccx aborts in its own memory when there is nothing that it knows.
    if not re.search(r"(?im)^\s*\*\s*step\b", text):
        raise ScriptError(f"{path.name} has no *STEP; give a CalculiX input file")
    return text


# ---- the run -------------------------------------------------------------------------------------


def run_ccx(out: Path, end: float, threads: int) -> tuple[int, list[Increment]]:
    """Run ccx on model.inp to its end, telling how far it is; its exit code and increments."""
    increments: list[Increment] = []
    with (out / "ccx.out").open("wb") as log:
        process = subprocess.Popen(
            ["ccx", "model"],
            cwd=out,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        )
    ended = False
    while not ended:
        ended = process.poll() is not None
        lines = sta_lines(out / "model.sta")
        found = [entry for line in lines if (entry := increment_of(line)) is not None]
        for entry in found[len(increments) :]:
            increments.append(entry)
            fraction = min(0.99, entry.total_time / end) if end > 0 else 0.0
            say(
                f"[ccx] step={entry.step} increment={entry.increment} attempt={entry.attempt}"
                f" iterations={entry.iterations} time={entry.total_time:.6g}"
                f" fraction={fraction:.4f}"
            )
        if not ended:
            time.sleep(LOOK_EVERY_S)
    return process.returncode, increments


def sta_lines(path: Path) -> list[str]:
    """The whole lines so far."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    return text[: text.rfind("\n") + 1].splitlines()


def judge(code: int, increments: list[Increment], end: float, log: str) -> None:
    """Raises ScriptError unless ccx has done all that the model asks: exit code 0 does not say."""
    said = complaint(log)
    last = increments[-1] if increments else None
    if said and re.search("increment size smaller than minimum|too many cutbacks", said):
        reached = max((i.total_time for i in increments if i.converged), default=0.0)
        raise ScriptError(
            f"the solution did not converge beyond time {reached:.4g} of {end:.4g}: lower the load,"
            " take more increments, or look at model.cvg",
            EXIT_FAILED,
        )
    if said and "cannot open file" in said:
        raise ScriptError(f"CalculiX says: {said}; put what the model includes into its one file")
    if said:
        raise ScriptError(f"CalculiX says: {said}; correct the model, see ccx.out", EXIT_FAILED)
    unfinished = last is not None and end > 0 and last.total_time < end * (1 - 1e-4)
    if code != 0 or "Job finished" not in log or unfinished:
        raise ScriptError(
            f"ccx ended with exit code {code} before the end of the model; see ccx.out", EXIT_FAILED
        )


def run(options: argparse.Namespace) -> bool:
    """Write, run, judge, report."""
    if shutil.which("ccx") is None:
        raise ScriptError("ccx is not on the PATH; install CalculiX (calculix-ccx)")
    options.out.mkdir(parents=True, exist_ok=True)
    out: Path = options.out
    beam = make_beam(options) if options.input is None else None
    text = "\n".join([*beam.deck(), ""]) if beam else read_deck(options.input)
    for suffix in ("dat", "frd", "sta", "cvg"):
        (out / f"model.{suffix}").unlink(missing_ok=True)
    (out / "model.inp").write_text(text, encoding="utf-8")
    end = period(text)
    started_s = time.monotonic()
    code, increments = run_ccx(out, end, options.threads)
    wall_s = time.monotonic() - started_s
    write_increments(increments, out / "increments.csv")
    log = (out / "ccx.out").read_text(encoding="utf-8", errors="replace")
    judge(code, increments, end, log)
    try:
        found = read_frd(out / "model.frd")
    except (OSError, ValueError) as problem:
        raise ScriptError(
            f"model.frd cannot be read ({problem}); see ccx.out", EXIT_FAILED
        ) from None
    check_held(found)
    version = re.search(r"CalculiX Version (\S+?),", log)
    summary: dict[str, Any] = {"program": "CalculiX", "version": version[1] if version else None}
    summary["converged"] = True
    summary |= quantities(found, beam) | {
        "increments": sum(entry.converged for entry in increments),
        "iterations": sum(entry.iterations for entry in increments),
        "nodes": len(found.nodes),
        "elements": found.elements,
        "model": options.input.name if options.input else "cantilever beam",
        "settings": vars(beam) if beam else {},
        "wall_s": round(wall_s, 2),
    }
    write_json(summary, out / "summary.json")
    if found.displacement:
        write_displacements(found, out / "displacements.csv")
        draw(found, beam, out / "deflection.png")
    say(f"[done] increments={len(increments)} wall_s={wall_s:.1f}")
    return True


def check_held(found: Results) -> None:
    """Raises ScriptError for a model that flies away: CalculiX solves it without a word."""
    if not found.complete:
        raise ScriptError("model.frd is cut short; look at disk space and ccx.out", EXIT_FAILED)
    most = found.history[-1][1] if found.history else 0.0
    if not math.isfinite(most) or most > FREE * found.extent() > 0:
        raise ScriptError(
            f"the model moves by {most:.3g}, many times its size {found.extent():.3g}: a part is"
            " not held; add what is missing to *BOUNDARY",
            EXIT_FAILED,
        )


# ---- results -------------------------------------------------------------------------------------


def tip_curve(found: Results, beam: Beam) -> list[float]:
    """How far the beam is down, by place along its length: the mean over each section."""
    return [
        -sum(found.displacement[node][2] for node in nodes) / len(nodes)
        for nodes in (beam.section(i) for i in range(beam.elements + 1))
    ]


def quantities(found: Results, beam: Beam | None) -> dict[str, Any]:
    """What matters most, with units where they are known."""
    unit = ("_mm", "_mpa") if beam else ("_in_model_units", "_in_model_units")
    made: dict[str, Any] = {}
    if beam:
        made["tip_deflection_mm"] = round(tip_curve(found, beam)[-1], 6)
        made["euler_bernoulli_mm"] = round(beam.deflection_mm(beam.length_mm), 6)
        made["timoshenko_mm"] = round(beam.timoshenko_mm(), 6)
        made["beam_theory_stress_mpa"] = round(beam.stress_mpa(), 4)
    if found.history:
        made[f"max_displacement{unit[0]}"] = float(f"{found.history[-1][1]:.6g}")
    if found.stress:
        # At the nodes: beside a clamp or a sharp corner it grows with a finer mesh.
        most = max(von_mises(stress) for stress in found.stress.values())
        made[f"max_von_mises{unit[1]}"] = float(f"{most:.6g}")
    return made


def write_increments(increments: list[Increment], path: Path) -> None:
    rows = ["step,increment,attempt,converged,iterations,total_time"]
    for entry in increments:
        converged = "true" if entry.converged else "false"
        rows.append(
            f"{entry.step},{entry.increment},{entry.attempt},{converged},{entry.iterations},"
            f"{entry.total_time:.9g}"
        )
    with replacing(path) as part:
        part.write_text("\n".join([*rows, ""]), encoding="utf-8")


def write_displacements(found: Results, path: Path) -> None:
    with replacing(path) as part, part.open("w", encoding="utf-8") as file:
        print("node,x,y,z,ux,uy,uz,von_mises", file=file)
        for node, moved in found.displacement.items():
            stress = found.stress.get(node)
            last = f"{von_mises(stress):.6g}" if stress else ""
            numbers = (*found.nodes[node], *moved)
            print(node, *(f"{number:.6g}" for number in numbers), last, sep=",", file=file)


def draw(found: Results, beam: Beam | None, path: Path) -> None:
    """The beam's deflection beside beam theory's, or a model's greatest displacement in time."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        say(f"[warn] matplotlib is not installed: no {path.name}")
        return
    figure: Any = Figure(figsize=(6.4, 4.0), dpi=90, layout="constrained")
    panel = figure.subplots()
    if beam:
        places = [beam.x_mm(i) for i in range(beam.elements + 1)]
        theory = [-beam.deflection_mm(x) for x in places]
        solid = [-down for down in tip_curve(found, beam)]
        panel.plot(places, solid, "o", ms=4, label="CalculiX, C3D8I")
        panel.plot(places, theory, color="black", lw=1, label="Euler-Bernoulli")
        panel.set(xlabel="distance from the clamp (mm)", ylabel="deflection (mm)")
        panel.set_title(f"Cantilever, {beam.load_n:g} N at the tip")
        panel.legend()
    else:
        times, moved = zip(*found.history, strict=True)
        panel.plot(times, moved, "o-", ms=3)
        panel.set(xlabel="time of the steps", ylabel="greatest displacement (model's unit)")
    panel.grid(alpha=0.3)
    save_png(figure, path)


def parse() -> argparse.Namespace:
    parser = script_parser(__doc__)
    add = parser.add_argument
    add("--input", type=Path, help="input file of CalculiX; without it the beam")
    add("--length-mm", type=positive_float, default=500.0)
    add("--width-mm", type=positive_float, default=20.0)
    add("--height-mm", type=positive_float, default=30.0)
    add("--load-n", type=positive_float, default=500.0, help="at the tip, downwards")
    add("--young-mpa", type=positive_float, default=210_000.0)
    add("--poisson", type=float, default=0.3)
    add("--elements", type=positive_int, default=60, help="along the length")
    add("--elements-across", type=positive_int, default=4, help="over width, and over height")
    add("--nlgeom", action="store_true", help="large deflection, in increments of the load")
    add("--increments", type=positive_int, default=10, help="with --nlgeom")
    add("--threads", type=positive_int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(exit_code(run, parse()))
