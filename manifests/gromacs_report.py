"""What md_gromacs.py reads from GROMACS, and what it shows of a run: tables, plot, summary."""

from __future__ import annotations

import argparse
import csv
import math
import re
import subprocess
from pathlib import Path

from gromacs_program import AFTER_BLOW_UP, EXIT_FAILED, last_checkpoint
from script_support import ScriptError, replacing, save_png, say, write_json

#: What gmx energy calls each column.
ENERGIES = {
    "Potential": "potential_kj_mol",
    "Temperature": "temperature_k",
    "Pressure": "pressure_bar",
    "Density": "density_kg_m3",
}
Table = list[list[float]]  #: rows; the first column is time in ps


# ---- tables --------------------------------------------------------------------------------------


def ask(out: Path, program: str, *arguments: str, answer: str) -> tuple[list[str], Table] | None:
    """The legends and rows of the graph that `gmx program` makes; none if it cannot."""
    graph = out / f"{program}.xvg"
    done = subprocess.run(
        ["gmx", "-quiet", "-nobackup", program, *arguments, "-o", graph.name],
        cwd=out,
        input=answer,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
        check=False,
        process_group=0,  # a stop that was meant for mdrun does not end this
    )
    if done.returncode or not graph.exists():
        return None
    lines = graph.read_text(encoding="utf-8").splitlines()
    graph.unlink()
    legends = [found[1] for line in lines if (found := re.match(r'@ s\d+ legend "(.+)"', line))]
    rows = [[float(word) for word in line.split()] for line in lines if line[0] not in "#@"]
    return legends, rows


def write_table(path: Path, header: list[str], rows: Table) -> None:
    with replacing(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        # Frames hold their time in single precision: 2.4000001 ps is 2.4 ps.
        writer.writerows([f"{row[0]:.4f}", *(f"{value:.6g}" for value in row[1:])] for row in rows)


def energies(out: Path) -> Table:
    """energies.csv from md.edr, columns as in ENERGIES. Raises ScriptError if there is none, or
    if an energy is no number."""
    found = ask(out, "energy", "-f", "md.edr", answer="\n".join([*ENERGIES, "", ""]))
    if found is None or not found[1]:
        return []
    legends, rows = found
    order = [legends.index(name) + 1 for name in ENERGIES]
    rows = [[row[0], *(row[i] for i in order)] for row in rows]
    write_table(out / "energies.csv", ["time_ps", *ENERGIES.values()], rows)
    bad = next((row for row in rows if not all(map(math.isfinite, row))), None)
    if bad:
        raise ScriptError(
            f"the simulation blew up: an energy is no number at {bad[0]:g} ps. {AFTER_BLOW_UP}",
            EXIT_FAILED,
        )
    return rows


def deviations(out: Path) -> Table:
    """rmsd.csv of the protein's heavy atoms, against the start of production."""
    group = "Protein-H\nProtein-H\n"
    found = ask(out, "rms", "-s", "md.tpr", "-f", "md.xtc", answer=group)
    if found is None or not found[1]:
        say("[warn] gmx rms finds no protein: no rmsd.csv")
        return []
    write_table(out / "rmsd.csv", ["time_ps", "rmsd_nm"], found[1])
    return found[1]


# ---- results -------------------------------------------------------------------------------------


def _last_number(pattern: str, path: Path) -> float | None:
    found = re.findall(pattern, path.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    return float(found[-1]) if found else None


def report(options: argparse.Namespace, wall_s: float, *, brief: bool) -> None:
    """Tables, plot and summary of what is there. `brief`, for a run that was told to stop: without
    what takes long on a long trajectory."""
    out = options.out
    rows = energies(out)
    distances = [] if brief else deviations(out)
    log, printed = out / "md.log", out / "md.out"
    finished = (out / "md.gro").exists()
    done = options.steps if finished else last_checkpoint(log)
    version = re.search(r"^GROMACS version:\s+(\S+)", log.read_text(encoding="utf-8"), re.MULTILINE)
    with (out / "npt.gro").open(encoding="utf-8") as structure:
        structure.readline()
        atoms = int(structure.readline())
    # The first quarter counts as equilibration.
    kept = [row for row in rows if row[0] >= rows[-1][0] / 4]
    means = [sum(column) / len(kept) for column in zip(*kept, strict=True)][1:] or [math.nan] * 4
    summary = {
        "program": "GROMACS",
        "version": version[1] if version else None,
        "threads": options.threads,
        "force_field": options.force_field,
        "water": options.water,
        "structure": options.pdb.name,
        "atoms": atoms,
        "finished": finished,
        "steps": done,
        "steps_asked": options.steps,
        "simulated_ns": round(done * options.timestep_fs * 1e-6, 9),
        "timestep_fs": options.timestep_fs,
        "temperature_k": options.temperature_k,
        "pressure_bar": options.pressure_bar,
        "box_margin_nm": options.box_margin_nm,
        "salt_mol_per_l": options.salt_mol_per_l,
        "equilibrate_steps": options.equilibrate_steps,
        "seed": options.seed,
        **{
            f"mean_{name}": round(mean, 2) if math.isfinite(mean) else None
            for name, mean in zip(ENERGIES.values(), means, strict=True)
        },
        "final_rmsd_nm": round(distances[-1][1], 4) if distances else None,
        "ns_per_day": _last_number(r"^Performance:\s+([\d.]+)", printed),
        "wall_s": round(wall_s, 1),
    }
    write_json(summary, out / "summary.json")
    if len(kept) >= 5 and abs(means[1] / options.temperature_k - 1) > 0.05:
        say(
            f"[warn] the mean temperature is {means[1]:.0f} K, not {options.temperature_k:g} K:"
            " the run is not in equilibrium"
        )
    if rows:
        draw(options, rows, distances)


def thinned(rows: Table, most: int = 400) -> Table:
    """Every n-th row, so that at most `most` are left: more make no better picture."""
    return rows[:: -(-len(rows) // most)]


def draw(options: argparse.Namespace, rows: Table, distances: Table) -> None:
    """md.png; without matplotlib only a hint."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        say("[warn] matplotlib is not installed: no md.png")
        return
    scale, label = (1000.0, "time (ns)") if rows[-1][0] > 5000 else (1.0, "time (ps)")
    panels = [
        ("potential\n(kJ/mol)", rows, 1, "tab:blue", None),
        ("temperature\n(K)", rows, 2, "tab:red", options.temperature_k),
        ("density\n(kg/m³)", rows, 4, "tab:purple", None),
    ]
    if distances:
        panels.append(("heavy-atom\nRMSD (nm)", distances, 1, "tab:green", None))
    figure = Figure(figsize=(6.4, 1.8 * len(panels)), dpi=90, layout="constrained")
    axes = figure.subplots(len(panels), sharex=True)
    title = f"{options.pdb.stem}: {options.force_field}, {options.water}"
    axes[0].set_title(f"{title}, {options.temperature_k:g} K, {options.pressure_bar:g} bar")
    for panel, (name, table, column, colour, wanted) in zip(axes, panels, strict=True):
        points = thinned(table)
        times = [row[0] / scale for row in points]
        panel.plot(times, [row[column] for row in points], color=colour, linewidth=1.2)
        if wanted is not None:
            panel.axhline(wanted, color="black", linestyle="--", linewidth=1)
        panel.set_ylabel(name)
        panel.grid(alpha=0.3)
    axes[-1].set_xlabel(label)
    save_png(figure, options.out / "md.png")
