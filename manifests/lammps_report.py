"""What md_lammps.py reads from LAMMPS's log, tabulates and shows: thermo rows, summary, plot."""

from __future__ import annotations

import argparse
import csv
import re
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean, linear_regression
from typing import TYPE_CHECKING

from script_support import file_sha256, replacing, save_png, say, write_json

if TYPE_CHECKING:
    from lammps import lammps as Lammps  # noqa: N812

Row = dict[str, str]
Numbers = dict[str, list[float]]

#: What LAMMPS's own names of columns mean: our name, and what it is measured in.
QUANTITIES = {
    "Step": ("step", ""),
    "Time": ("time", "time"),
    "Temp": ("temperature", "temperature"),
    "Press": ("pressure", "pressure"),
    "PotEng": ("potential", "energy"),
    "KinEng": ("kinetic", "energy"),
    "TotEng": ("total", "energy"),
    "E_pair": ("pair_energy", "energy"),
    "E_mol": ("bonded_energy", "energy"),
    "Enthalpy": ("enthalpy", "energy"),
    "Volume": ("volume", "volume"),
    "Density": ("density", "density"),
    "Lx": ("length_x", "length"),
    "Ly": ("length_y", "length"),
    "Lz": ("length_z", "length"),
}
#: By LAMMPS's unit style; in any other the style itself stands in the names.
UNITS = {
    "metal": {
        "temperature": "k", "pressure": "bar", "energy": "ev", "time": "ps",
        "length": "angstrom", "volume": "angstrom3", "density": "g_cm3",
    },
    "real": {
        "temperature": "k", "pressure": "atm", "energy": "kcal_mol", "time": "fs",
        "length": "angstrom", "volume": "angstrom3", "density": "g_cm3",
    },
    "si": {
        "temperature": "k", "pressure": "pa", "energy": "j", "time": "s",
        "length": "m", "volume": "m3", "density": "kg_m3",
    },
}  # fmt: skip
SHOWN = ("time", "temperature", "potential", "pressure", "density", "msd")
DRAWN = ("temperature", "potential", "total", "density", "msd", "pressure", "volume")
SIGNS = {
    "k": "K", "ev": "eV", "ev_atom": "eV/atom", "kcal_mol": "kcal/mol", "g_cm3": "g/cm³",
    "kg_m3": "kg/m³", "angstrom2": "Å²", "angstrom3": "Å³", "pa": "Pa", "j": "J",
}  # fmt: skip
CM2_S_PER_ANGSTROM2_PS = 1e-4


def column_name(name: str, style: str) -> str:
    """The name of a thermo column, with its unit if LAMMPS has given the name."""
    if name not in QUANTITIES:
        return re.sub(r"\W+", "_", name).strip("_") or "column"
    ours, measure = QUANTITIES[name]
    return "_".join(filter(None, (ours, measure and UNITS.get(style, {}).get(measure, style))))


# ---- the log -------------------------------------------------------------------------------------


class Log:
    """A log of LAMMPS that may still grow, read once from its beginning to its end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._style = "lj"  # LAMMPS's own default
        self._columns: list[str] = []
        self._header_is_next = False

    def new_rows(self) -> Iterator[Row]:
        """The thermo rows that came since the last call; a line without end is left for later."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        for line in whole.decode("utf-8", errors="replace").splitlines():
            words = line.split()
            if words[:1] == ["units"] and len(words) > 1:
                self._style = words[1]
            elif self._header_is_next:
                self._columns = [column_name(word, self._style) for word in words]
                self._header_is_next = False
            elif line.startswith("Per MPI rank memory allocation"):
                self._header_is_next = True
            elif line.startswith("Loop time of"):
                self._columns = []
            elif len(words) == len(self._columns) and _are_numbers(words):
                row = dict(zip(self._columns, words, strict=True))
                if "step" in row:
                    yield row


def _are_numbers(words: list[str]) -> bool:
    try:
        return all(float(word) is not None for word in words)
    except ValueError:
        return False


def segments(out: Path) -> list[tuple[int, Path]]:
    """The logs of all starts, each with its first step, in their order."""
    found = [(path.name.split(".")[1], path) for path in out.glob("log.*.lammps")]
    return sorted((int(number), path) for number, path in found if number.isdecimal())


# ---- the report ----------------------------------------------------------------------------------


class Report:
    """thermo.csv, and progress on stdout, kept up with the logs of all starts."""

    def __init__(self, out: Path, steps: int) -> None:
        self.out, self._steps = out, steps
        self._began_s = time.monotonic()
        self._written_s = self._told = -1.0
        self.rows: list[Row] = []
        for self.first, path in segments(out):
            # What a killed run wrote after its last checkpoint comes again.
            while self.rows and _step(self.rows[-1]) > self.first:
                self.rows.pop()
            self._log = Log(path)
            self._add(self._log)

    def wall_s(self) -> float:
        """Since this start."""
        return time.monotonic() - self._began_s

    def steps_per_s(self) -> float:
        """Since this start."""
        return (max(self._told, self.first) - self.first) / self.wall_s()

    def update(self) -> None:
        """Read what is new; tell stdout how far the run is, and thermo.csv from time to time."""
        known = len(self.rows)
        self._add(self._log)
        if self.rows and (step := _step(self.rows[-1])) > self._told:
            self._told = step
            self._tell(self.rows[-1])
        # Each writing takes the time of all rows: the more there are, the rarer.
        pause_s = 5 + len(self.rows) / 5_000
        if len(self.rows) > known and time.monotonic() - self._written_s > pause_s:
            self.write()

    def write(self) -> None:
        """Replace thermo.csv."""
        names = list(dict.fromkeys(name for row in self.rows for name in row)) or ["step"]
        path = self.out / "thermo.csv"
        with replacing(path) as part, part.open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, names, lineterminator="\n")
            table.writeheader()
            table.writerows(self.rows)
        self._written_s = time.monotonic()

    def columns(self) -> dict[str, list[float]]:
        """The numbers of each column that every row has."""
        names = [n for n in (self.rows or [{}])[0] if all(n in row for row in self.rows)]
        return {name: [float(row[name]) for row in self.rows] for name in names}

    def _add(self, log: Log) -> None:
        for row in log.new_rows():
            # The step at which one run command ends and the next begins is told by both.
            if self.rows and _step(self.rows[-1]) == _step(row):
                self.rows.pop()
            self.rows.append(row)

    def _tell(self, row: Row) -> None:
        shown = [name for name in row if name.startswith(SHOWN)]
        values = " ".join(f"{name}={float(row[name]):.6g}" for name in shown)
        step = _step(row)
        place = f"step={step}/{max(step, self._steps)}"
        say(f"[md] {place} steps_per_s={self.steps_per_s():.0f} {values}")


def _step(row: Row) -> int:
    return int(float(row["step"]))


# ---- results -------------------------------------------------------------------------------------


def second_half(columns: Numbers) -> Numbers:
    """The rows of the second half of the steps: by then the start is forgotten."""
    steps = columns["step"]
    kept = [i for i, step in enumerate(steps) if step >= (steps[0] + steps[-1]) / 2]
    return {name: [values[i] for i in kept] for name, values in columns.items()}


def self_diffusion_cm2_s(columns: Numbers) -> float | None:
    """By Einstein's relation, from the slope of the mean square displacement against time."""
    times, moved = columns.get("time_ps", []), columns.get("msd_angstrom2", [])
    if len(times) < 3 or not moved:
        return None
    slope, _ = linear_regression(times, moved)
    return slope / 6 * CM2_S_PER_ANGSTROM2_PS


def write_summary(lmp: Lammps, report: Report, options: argparse.Namespace, finished: bool) -> None:
    """summary.json: `wall_s` and `steps_per_s` are those of this start."""
    columns = report.columns()
    half = second_half(columns) if columns else {}
    settings = ("temperature_k", "pressure_bar", "timestep_fs", "metal", "cells", "seed", "threads")
    diffusion = self_diffusion_cm2_s(half)
    summary = {
        "program": "LAMMPS",
        "version": lmp.version(),
        "script": options.input.name,
        "script_sha256": file_sha256(options.input),
        "units": lmp.extract_global("units"),
        "atoms": int(lmp.get_natoms()),
        "finished": finished,
        "steps": int(lmp.extract_global("ntimestep")),
        "steps_asked": options.steps,
        "settings": {name: getattr(options, name) for name in settings} | dict(options.var),
        "mean_of_second_half": {
            name: float(f"{fmean(values):.6g}") for name, values in half.items() if name != "step"
        },
        "last": {name: values[-1] for name, values in columns.items()},
        "self_diffusion_cm2_s": diffusion and float(f"{diffusion:.3g}"),
        "steps_per_s": round(report.steps_per_s(), 1),
        "wall_s": round(report.wall_s(), 1),
    }
    write_json(summary, report.out / "summary.json")


def draw(report: Report, options: argparse.Namespace) -> None:
    """md.png from the thermo rows; without matplotlib only a hint."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        say("[warn] matplotlib is not installed: no md.png")
        return
    columns = report.columns()
    shown = [name for start in DRAWN for name in columns if name.startswith(f"{start}_")][:4]
    if not shown:
        return
    every = -(-len(report.rows) // 400)  # more points make no better picture
    along = next((name for name in columns if name.startswith("time_")), "step")
    figure = Figure(figsize=(6.4, 1.0 + 1.5 * len(shown)), dpi=90, layout="constrained")
    panels = figure.subplots(len(shown), sharex=True, squeeze=False)[:, 0]
    panels[0].set_title(f"{options.input.stem} (LAMMPS)")
    for number, (panel, name) in enumerate(zip(panels, shown, strict=True)):
        panel.plot(columns[along][::every], columns[name][::every], f"C{number}", linewidth=1.2)
        panel.set_ylabel(label(name, "\n"))
        panel.grid(alpha=0.3)
    panels[-1].set_xlabel(label(along, " "))
    save_png(figure, report.out / "md.png")


def label(column: str, between: str) -> str:
    """A column's name as people write it: its unit in brackets."""
    name, _, unit = column.partition("_")
    return f"{name}{between}({SIGNS.get(unit, unit)})" if unit else name
