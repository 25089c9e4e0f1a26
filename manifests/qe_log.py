"""What pw.x writes while it runs, as tables and progress."""

from __future__ import annotations

import csv
import math
import re
from pathlib import Path
from typing import Any

from script_support import save_png, say

SCF = ("ionic_step", "iteration", "total_energy_ry", "accuracy_ry")
STEPS = (
    "ionic_step", "scf_iterations", "total_energy_ry", "total_force_ry_per_bohr", "pressure_kbar"
)  # fmt: skip
MOST = 0.99  #: a residual below its threshold is not the end yet

_NUMBER = r"(-?\d[\d.]*(?:[EeDd][-+]?\d+)?)"
_LINES = {
    "version": re.compile(r"^\s+Program PWSCF (v\.\S+) starts"),
    "conv_thr": re.compile(rf"^\s+scf convergence threshold\s+=\s+{_NUMBER}"),
    "force_thr": re.compile(rf"^\s+force convergence thresh\.\s+=\s+{_NUMBER}"),
    "iteration": re.compile(r"^\s+iteration #\s*(\d+)"),
    "energy": re.compile(rf"^!*\s+total energy\s+=\s+{_NUMBER} Ry"),
    "accuracy": re.compile(rf"^\s+estimated scf accuracy\s+<\s+{_NUMBER} Ry"),
    "converged": re.compile(r"^\s+convergence has been achieved in"),
    "unconverged": re.compile(r"^\s+(convergence NOT achieved after\s+\d+ iterations)"),
    "force": re.compile(rf"^\s+Total force =\s+{_NUMBER}"),
    "pressure": re.compile(rf"\(kbar\)\s+P=\s*{_NUMBER}"),
    "relaxed": re.compile(r"^\s+bfgs converged in"),
    # Before 7.0 pw.x says "converged" all the same; "End of BFGS" it says in any case.
    "gave_up": re.compile(r"^\s+(?:history already reset at previous step|bfgs failed after)"),
    "out_of_steps": re.compile(r"^\s+The maximum number of steps has been reached"),
    "stopped": re.compile(r"^\s+Program stopped by user request"),
    "in_scf": re.compile(r"^\s+Calculation stopped in scf loop at iteration #\s*(\d+)"),
    "leg_over": re.compile(r"^\s+Maximum CPU time exceeded"),
    "error": re.compile(r"^\s+Error in routine\s+(.+?)\s*\("),
}


def number(text: str) -> float:
    return float(text.lower().replace("d", "e"))


class Log:
    """Read line by line, over all starts of pw.x; its tables grow in the files given."""

    def __init__(self, out: Path, moves_atoms: bool) -> None:
        self.scf_path, self.steps_path = out / "scf.csv", out / "steps.csv"
        self.scf = _read(self.scf_path, SCF)
        self.steps = _read(self.steps_path, STEPS)
        self.moves_atoms = moves_atoms
        self.seen: dict[str, str] = {}  #: the last of each of `_LINES` since `new_start`
        self.step: dict[str, str] = {}  #: what is known of the ionic step under way
        self.error: list[str] = []
        self.fraction = 0.0
        self.first_force = max((float(row[3]) for row in self.steps if row[3]), default=0.0)
        self.version = ""

    def new_start(self) -> None:
        """pw.x is started once more."""
        self.seen, self.step, self.error = {}, {}, []

    @property
    def ionic_step(self) -> int:
        return len(self.steps) + 1

    def iterations(self) -> int:
        """Those recorded in the ionic step under way."""
        last = self.scf[-1] if self.scf else None
        return int(last[1]) if last and int(last[0]) == self.ionic_step else 0

    def read(self, line: str) -> None:
        if self.error and len(self.error) < 3 and "%%%" not in line:
            self.error.append(line.strip())
        for name, pattern in _LINES.items():
            if match := pattern.search(line):
                self._note(name, match[1] if match.lastindex else "")
                return

    def _note(self, name: str, value: str) -> None:
        if name == "iteration":
            self.flush()
        elif name == "accuracy" and "energy" in self.seen and "iteration" in self.seen:
            self._iterated(value)
        elif name == "converged":
            self.step["energy"] = self.seen.get("energy", "")
        elif name in ("force", "pressure") and self.step:
            self.step[name] = value
        elif name == "error":
            self.error = [value]
        elif name == "version":
            self.version = value.removeprefix("v.")
        self.seen[name] = value

    def _iterated(self, accuracy: str) -> None:
        """An iteration is done: its row, and how far the run is by the residual that ends it."""
        # pw.x counts on after a stop within the SCF, but anew when it starts from a density.
        iteration = self.iterations() + 1
        energy = self.seen["energy"]
        residual = f"{number(accuracy):.3g}"
        self.scf.append([str(self.ionic_step), str(iteration), energy, residual])
        _append(self.scf_path, self.scf[-1])
        if not self.moves_atoms:
            first = max(float(row[3]) for row in self.scf)
            self._nearer(first, number(accuracy), self.seen.get("conv_thr"))
        say(
            f"[scf] ionic_step={self.ionic_step} iteration={iteration} energy_ry={energy}"
            f" accuracy_ry={residual} fraction={self.fraction:.3f}"
        )

    def flush(self) -> None:
        """End the ionic step under way, if all that it is to give is there."""
        if not self.step.get("energy") or (self.moves_atoms and "force" not in self.step):
            return
        force, pressure = self.step.get("force", ""), self.step.get("pressure", "")
        step, energy = str(self.ionic_step), self.step["energy"]
        self.steps.append([step, str(self.iterations()), energy, force, pressure])
        _append(self.steps_path, self.steps[-1])
        self.step = {}
        if self.moves_atoms:
            self.first_force = max(self.first_force, float(force))
            self._nearer(self.first_force, float(force), self.seen.get("force_thr"))

    def _nearer(self, first: float, now: float, threshold: str | None) -> None:
        """How far `now` is on the way from `first` to the threshold, on a scale of logarithms."""
        if threshold is None or not (now > 0 and first > (end := number(threshold)) > 0):
            return
        done = math.log(first / now) / math.log(first / end)
        self.fraction = max(self.fraction, min(MOST, done))


def _read(path: Path, header: tuple[str, ...]) -> list[list[str]]:
    """The rows of a table, which is begun when it is not there."""
    if not path.exists():
        path.write_text(",".join(header) + "\n", encoding="utf-8")
    with path.open(encoding="utf-8", newline="") as file:
        return [row for row in list(csv.reader(file))[1:] if len(row) == len(header)]


def _append(path: Path, row: list[str]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(",".join(row) + "\n")


# ---- results -------------------------------------------------------------------------------------


def draw(log: Log, title: str, path: Path) -> None:
    """How SCF accuracy and energy converged, and the steps of a relaxation; only a hint without
    matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        say(f"[warn] matplotlib is not installed: no {path.name}")
        return
    height = 6.4 if log.moves_atoms else 4.0
    figure: Any = Figure(figsize=(6.4, height), dpi=90, layout="constrained")
    panels = figure.subplots(2 if log.moves_atoms else 1, squeeze=False)[:, 0]
    residual = [float(row[3]) for row in log.scf]
    energy = [float(row[2]) for row in log.scf]
    away = [abs(e - energy[-1]) for e in energy]
    count = range(1, len(log.scf) + 1)
    panels[0].semilogy(count, residual, "o-", ms=3, label="estimated accuracy")
    panels[0].semilogy(
        [n for n, e in zip(count, away, strict=True) if e > 0],
        [e for e in away if e > 0],
        "s-", ms=3, label="|energy − last energy|",
    )  # fmt: skip
    if "conv_thr" in log.seen and not log.moves_atoms:  # a relaxation tightens it as it goes
        panels[0].axhline(number(log.seen["conv_thr"]), color="black", ls="--", lw=1)
    panels[0].xaxis.get_major_locator().set_params(integer=True)
    panels[0].set(title=title, xlabel="SCF iteration", ylabel="Ry")
    if log.moves_atoms:
        steps = [int(row[0]) for row in log.steps]
        panels[1].plot(steps, [float(row[2]) for row in log.steps], "o-", ms=3, color="tab:green")
        panels[1].xaxis.get_major_locator().set_params(integer=True)
        panels[1].set(xlabel="ionic step", ylabel="total energy (Ry)")
    panels[0].legend()
    for panel in panels:
        panel.grid(alpha=0.3)
    save_png(figure, path)
