"""What CalculiX writes: how far it is (.sta), what it complains of, and its results (.frd)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

Vector = tuple[float, ...]

_INCREMENT = re.compile(r"^\s+(\d+)\s+(\d+)\s+(\d+)(U?)\s+(\d+)\s+(\S+)\s+(\S+)\s+(\S+)\s*$")
#: Procedures that take time, whose data line is `first increment, period`.
_IN_TIME = re.compile(
    r"^\*\s*(STATIC|VISCO|DYNAMIC|HEAT\s*TRANSFER|(UN)?COUPLEDTEMPERATURE-DISPLACEMENT"
    r"|ELECTROMAGNETICS|CFD)\b"
)


@dataclass(frozen=True)
class Increment:
    step: int
    increment: int
    attempt: int
    converged: bool
    iterations: int
    total_time: float


def increment_of(line: str) -> Increment | None:
    """A line of the .sta file, or none if it is not about an increment."""
    match = _INCREMENT.match(line)
    if match is None:
        return None
    step, increment, attempt, mark, iterations, total, _, _ = match.groups()
    return Increment(
        int(step), int(increment), int(attempt), not mark, int(iterations), float(total)
    )


def period(deck: str) -> float:
    """The time at the end of all steps of an input file; 0 when no step takes time."""
    total = 0.0
    lines = [line.strip().upper() for line in deck.splitlines() if not line.startswith("**")]
    for line, data in zip(lines, [*lines[1:], ""], strict=True):
        if _IN_TIME.match(line.split(",")[0].replace(" ", "")):
            words = [word.strip() for word in data.split(",")]
            try:
                total += float(words[1])
            except (ValueError, IndexError):  # the next card, or no period: then it is 1
                total += 1.0
    return total


def complaint(log: str) -> str | None:
    """The first error that CalculiX reports, on one line."""
    found = re.search(r"^ ?\*ERROR(?!.*Card image).*(?:\n {2,}\S.*)*", log, flags=re.MULTILINE)
    found = found or re.search(r"^ ?\*ERROR.*", log, flags=re.MULTILINE)
    return " ".join(found[0].split()).lstrip("*").rstrip(".") if found else None


@dataclass
class Results:
    """Nodes, and the displacement and stress that were written last."""

    nodes: dict[int, Vector] = field(default_factory=dict)
    elements: int = 0
    displacement: dict[int, Vector] = field(default_factory=dict)
    stress: dict[int, Vector] = field(default_factory=dict)
    history: list[tuple[float, float]] = field(default_factory=list)  #: time, greatest displacement
    complete: bool = False

    def extent(self) -> float:
        """The longest side of the box around the nodes."""
        sides = zip(*self.nodes.values(), strict=True)
        return max((max(side) - min(side) for side in sides), default=0.0)


def read_frd(path: Path) -> Results:
    """Raises OSError, or ValueError when the file holds what cannot be read."""
    found = Results()
    time = 0.0
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith("    2C"):
                found.nodes = dict(_values(file, 3))
            elif line.startswith("    3C"):
                found.elements = int(line[6:36])
            elif line.startswith("  100C"):
                time = float(line[12:24])
            elif line.startswith(" -4  DISP "):
                found.displacement = dict(_values(file, 3))
                most = max((math.hypot(*u) for u in found.displacement.values()), default=0.0)
                found.history.append((time, most))
            elif line.startswith(" -4  STRESS "):
                found.stress = dict(_values(file, 6))
            elif line.startswith(" 9999"):
                found.complete = True
    return found


def _values(file: TextIO, count: int) -> Iterator[tuple[int, Vector]]:
    """The nodes of a block, each with `count` numbers of 12 columns."""
    for line in file:
        if line.startswith(" -1"):
            columns = line[13:].rstrip("\n")
            values = tuple(float(columns[12 * n : 12 * n + 12]) for n in range(count))
            yield int(line[3:13]), values
        elif line.startswith(" -3"):
            return


def von_mises(stress: Vector) -> float:
    """From xx, yy, zz, xy, yz, zx."""
    xx, yy, zz, xy, yz, zx = stress
    normal = (xx - yy) ** 2 + (yy - zz) ** 2 + (zz - xx) ** 2
    return math.sqrt(normal / 2 + 3 * (xy**2 + yz**2 + zx**2))
