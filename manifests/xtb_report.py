"""What opt_xtb.py makes of a run of xtb: its reasons, frames, tables, picture and summary."""

from __future__ import annotations

import argparse
import re
import signal
from pathlib import Path

from molecule_support import EXIT_FAILED, Molecule, Panel, draw, frames, write_table
from script_support import ScriptError, replacing, write_json

HARTREE_KJ_MOL = 2625.4996
_FRAME = re.compile(r"\n\s*energy:\s+(\S+)\s+gnorm:\s+(\S+)")


# ---- frames --------------------------------------------------------------------------------------


def all_frames() -> list[str]:
    """The frames of all starts: trajectory.xyz, and what xtb has added since."""
    known = frames(Path("trajectory.xyz"))
    # The end of a start copies all of its frames; one that was killed has copied none.
    return known + [frame for frame in frames(Path("xtbopt.log")) if frame not in set(known)]


def write_frames(all_frames: list[str]) -> None:
    with replacing(Path("trajectory.xyz")) as part:
        part.write_text("".join(all_frames), encoding="utf-8")


def energy_and_gradient(frame: str) -> tuple[float, float]:
    """Hartree and Hartree/bohr of a frame that xtb wrote."""
    found = _FRAME.search(frame)
    if found is None:
        raise ScriptError("xtbopt.log holds no energies: this xtb writes another format than 6.5")
    return float(found[1]), float(found[2])


# ---- results -------------------------------------------------------------------------------------


def last_number(name: str, text: str) -> float | None:
    """From the last box of results that xtb prints."""
    found = re.findall(rf"\|\s+{name}\s+(-?[\d.]+) ", text)
    return float(found[-1]) if found else None


def check_end(code: int, text: str) -> None:
    """Raises ScriptError with xtb's own reason when it did not end well."""
    if code == 0 and "normal termination of xtb" in text:
        return
    causes = re.findall(r"^-1- (.+)$", text, re.MULTILINE)
    if code < 0:
        reason = f"xtb crashed or was killed ({signal.Signals(-code).name})"
    elif causes:
        reason = f"xtb stopped: {causes[-1].strip()}"
    else:
        reason = f"xtb ended with exit code {code} before its normal termination"
    hint = "check the geometry, charge and unpaired electrons; xtb.log holds what it printed"
    if "did not converge" in reason:
        hint = "raise max_scf_cycles, or " + hint
    raise ScriptError(f"{reason}. What to do: {hint}.", EXIT_FAILED)


def write_charges(molecule: Molecule, method: str) -> None:
    raw = Path("gfnff_charges" if method == "gfnff" else "charges")
    charges = raw.read_text(encoding="utf-8").split()
    rows = zip(range(1, len(charges) + 1), molecule.symbols, charges, strict=True)
    write_table(Path("charges.csv"), ("atom", "element", "charge_e"), rows)


def write_results(
    molecule: Molecule,
    text: str,
    options: argparse.Namespace,
    threshold: float,
    wall_s: float,
) -> bool:
    """Tables, plots and summary.json are there; whether all is done and converged."""
    optimising = options.task == "optimise"
    converged = "normal termination of xtb" in text and (
        not optimising
        or (
            "GEOMETRY OPTIMIZATION CONVERGED" in text
            and "FAILED TO CONVERGE GEOMETRY" not in text
            and Path(".xtboptok").exists()
        )
    )
    rows: list[tuple[int, float, float]] = []
    if optimising:
        known = all_frames()
        write_frames(known)
        rows = [(n, *energy_and_gradient(frame)) for n, frame in enumerate(known, start=1)]
        columns = ("cycle", "energy_hartree", "gradient_norm_hartree_bohr")
        write_table(Path("energies.csv"), columns, rows)
    version = re.search(r"xtb version (\S+)", text)
    energy, gradient = last_number("TOTAL ENERGY", text), last_number("GRADIENT NORM", text)
    if rows and energy is None:  # stopped before xtb printed its results
        _, energy, gradient = rows[-1]
    summary = {
        "energy_hartree": energy,
        "gradient_norm_hartree_bohr": gradient,
        "gap_ev": last_number("HOMO-LUMO GAP", text),
        "converged": converged,
        "cycles": len(rows),
        "atoms": len(molecule.symbols),
        "electrons": molecule.electrons(options.charge),
        "task": options.task,
        "method": options.method,
        "charge_e": options.charge,
        "unpaired_electrons": options.unpaired,
        "solvent": options.solvent,
        "level": options.level if optimising else None,
        "gradient_threshold_hartree_bohr": threshold if optimising else None,
        "max_cycles": options.max_cycles if optimising else None,
        "accuracy": options.accuracy,
        "threads": options.threads,
        "wall_s": round(wall_s, 2),
        "xtb": version[1] if version else None,
    }
    found = {name: value for name, value in summary.items() if value is not None}
    write_json(found, Path("summary.json"))
    if rows:
        norms = [norm for *_, norm in rows]
        relative = [(energy - rows[-1][1]) * HARTREE_KJ_MOL for _, energy, _ in rows]
        panels = [
            Panel("energy above\nthe last (kJ/mol)", relative),
            Panel("gradient norm\n(Hartree/bohr)", norms, log=True, threshold=threshold),
        ]
        draw(Path("opt.png"), "cycle", panels)
    return converged
