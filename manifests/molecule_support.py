"""What the scripts of quantum chemistry share: reading and checking molecules, trajectories of
optimisations, how near one is to its threshold, and pictures of it.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from script_support import ScriptError, replacing, save_png, say

EXIT_FAILED = 65
CLOSEST_ANGSTROM = 0.4  # H2 has 0.74: whatever is nearer stands in another's place
_PERIODIC_TABLE = """
H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr
Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm
Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn
"""
SYMBOLS = _PERIODIC_TABLE.split()  # radon is the last element that these methods know

Point = tuple[float, float, float]


@dataclass(frozen=True)
class Molecule:
    symbols: list[str]
    points: list[Point]  #: angstrom

    def electrons(self, charge: int) -> int:
        return sum(SYMBOLS.index(symbol) + 1 for symbol in self.symbols) - charge

    def xyz(self, comment: str = "") -> str:
        """One frame of an XYZ file."""
        lines = [str(len(self.symbols)), comment]
        for symbol, point in zip(self.symbols, self.points, strict=True):
            lines.append(f"{symbol:<2s}" + "".join(f" {x:16.10f}" for x in point))
        return "\n".join(lines) + "\n"


# ---- reading -------------------------------------------------------------------------------------


def read_xyz(path: Path) -> Molecule:
    """The one molecule in an XYZ file, its atoms apart from each other, or ScriptError."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ScriptError(f"{path} is not a text; give a molecule as an XYZ file") from None
    except OSError as problem:
        raise ScriptError(f"cannot read {path}: {problem.strerror}; check the path") from None
    lines = text.rstrip().splitlines()
    head = lines[0].strip() if lines else ""
    if not head.isdecimal() or int(head) < 1:
        raise ScriptError(
            f"{path.name} is not an XYZ file: its first line must be the number of atoms, its"
            " second a comment, then one line of element x y z (angstrom) for each atom"
        )
    if len(lines) != int(head) + 2:
        raise ScriptError(
            f"{path.name} says {head} atoms but holds {len(lines) - 2} lines of atoms: give one"
            " molecule, one line for each atom after the comment"
        )
    atoms = [_atom(line, number) for number, line in enumerate(lines[2:], start=3)]
    molecule = Molecule([symbol for symbol, _ in atoms], [point for _, point in atoms])
    _check_distances(molecule)
    return molecule


def _atom(line: str, number: int) -> tuple[str, Point]:
    """A line of an XYZ file: a symbol or an atomic number, then three coordinates."""
    fields = line.split()
    try:
        x, y, z = (float(field) for field in fields[1:4])
    except ValueError:
        raise ScriptError(f"line {number} of the XYZ file is not element x y z: {line!r}") from None
    if not all(abs(value) < 1e5 for value in (x, y, z)):  # so that NaN is refused too
        raise ScriptError(f"line {number} of the XYZ file has no usable coordinates: {line!r}")
    known = {name.lower(): name for name in SYMBOLS}
    known |= {str(z): name for z, name in enumerate(SYMBOLS, start=1)}
    symbol = known.get(fields[0].lower())
    if symbol is None:
        raise ScriptError(
            f"line {number} of the XYZ file names no element from H to Rn: {fields[0]!r}"
        )
    return symbol, (x, y, z)


def _check_distances(molecule: Molecule) -> None:
    """Raises ScriptError when two atoms are at one place."""
    by_x = sorted(range(len(molecule.points)), key=lambda i: molecule.points[i])
    for place, first in enumerate(by_x):
        for second in by_x[place + 1 :]:
            a, b = molecule.points[first], molecule.points[second]
            if b[0] - a[0] > CLOSEST_ANGSTROM:
                break
            if math.dist(a, b) < CLOSEST_ANGSTROM:
                one, other = sorted((first, second))
                raise ScriptError(
                    f"atoms {one + 1} ({molecule.symbols[one]}) and {other + 1}"
                    f" ({molecule.symbols[other]}) are {math.dist(a, b):.2f} angstrom apart:"
                    " correct the coordinates, which must be in angstrom"
                )


def check_electrons(molecule: Molecule, charge: int, unpaired: int) -> None:
    """Raises ScriptError when the molecule cannot have so many unpaired electrons."""
    electrons = molecule.electrons(charge)
    if electrons < 1:
        raise ScriptError(f"a charge of {charge} leaves no electron: lower it")
    if unpaired > electrons or (electrons - unpaired) % 2:
        kind = "even" if electrons % 2 == 0 else "odd"
        raise ScriptError(
            f"the molecule has {electrons} electrons at charge {charge}, so that the number of"
            f" unpaired ones must be {kind} and at most {electrons}, not {unpaired}: correct the"
            " charge, the unpaired electrons or the atoms"
        )


def frames(path: Path) -> list[str]:
    """The whole frames of an XYZ trajectory; one that was cut short is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    found, start = [], 0
    while start < len(lines) and lines[start].strip().isdecimal():
        end = start + int(lines[start]) + 2
        if end > len(lines) or not lines[end - 1].endswith("\n"):
            break
        found.append("".join(lines[start:end]))
        start = end
    return found


# ---- showing -------------------------------------------------------------------------------------


def approach(first: float, now: float, threshold: float) -> float:
    """The share of the orders of magnitude between a first value and a threshold that is done."""
    if now <= threshold:
        return 1.0
    if not math.isfinite(now) or first <= now:
        return 0.0
    return math.log(first / now) / math.log(first / threshold)


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with replacing(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *rows])


@dataclass(frozen=True)
class Panel:
    """A curve over steps; one of sizes has a logarithmic axis, and may have its threshold."""

    label: str
    values: list[float]
    log: bool = False
    threshold: float | None = None


def draw(path: Path, x_label: str, panels: list[Panel]) -> None:
    """Curves one above the other, if matplotlib is there."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        say("[warn] matplotlib is not installed: no plots")
        return
    figure = Figure(figsize=(7, 2.6 * len(panels)), layout="constrained", dpi=110)
    many = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, panel in zip(many, panels, strict=True):
        steps = range(1, len(panel.values) + 1)
        axes.plot(steps, panel.values, "o-", ms=3, lw=1.2)
        axes.set_ylabel(panel.label)
        axes.grid(alpha=0.3)
        if panel.log:
            axes.set_yscale("log")
        else:
            axes.ticklabel_format(axis="y", useOffset=False)
        if panel.threshold is not None:
            axes.axhline(panel.threshold, color="0.4", ls="--", lw=0.9, label="threshold")
            axes.legend(fontsize="small")
    many[-1].set_xlabel(x_label)
    many[-1].xaxis.get_major_locator().set_params(integer=True)
    save_png(figure, path)
