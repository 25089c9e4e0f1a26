"""Tables of numbers: delimiter, column names, and what is in each column, whatever their length.

CSV of any delimiter, and columns between spaces with comments, as GROMACS, PLUMED and LAMMPS write
them. Of a long table evenly spaced parts are read, and what is told says so.
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
import time
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from jobs.text import shown
from jobs.text import size as shown_size

WHOLE_BYTES = 4 << 20  #: a table up to this size is read from end to end
PARTS, PART_BYTES = 64, 64 << 10  #: of a larger one
MAX_SECONDS = 3.0
MAX_COLUMNS = 1000
_CHUNK_ROWS = 500
_SAMPLE_LINES = 10  #: by which the delimiter is found
_MISSING = {"", "na", "n/a", "nan", "null", "none", "-", "?"}
_COMMENTS = ("#", "@", "%")


@dataclass
class Column:
    """The numbers of a column in order; not a number where the cell holds none."""

    name: str
    values: array[float] = field(default_factory=lambda: array("d"))
    missing: int = 0
    texts: int = 0
    integers: bool = True

    def add(self, cells: Iterable[str]) -> None:
        cells = list(cells)
        try:
            new = array("d", map(float, cells))
        except ValueError:
            new = array("d", map(self._number, cells))
        else:
            self.missing += sum(value != value for value in new)
        self.integers = self.integers and all(
            value != value or (math.isfinite(value) and value.is_integer()) for value in new
        )
        self.values.extend(new)

    def _number(self, cell: str) -> float:
        cell = cell.strip()
        if cell.lower() in _MISSING:
            self.missing += 1
            return math.nan
        try:
            return float(cell)
        except ValueError:
            self.texts += 1
            return math.nan

    @property
    def is_numeric(self) -> bool:
        return len(self.values) > self.missing + self.texts

    def is_like(self, other: Column) -> bool:
        """Whether it says the same in another unit, as a step does of a time."""
        pairs = [
            (a, b) for a, b in zip(self.values, other.values, strict=True) if a == a and b == b
        ]
        if len(pairs) < 3 or not all(math.isfinite(value) for pair in pairs for value in pair):
            return False
        (a, b), (c, d) = pairs[0], pairs[-1]
        if a == c or b == d:
            return False
        slope, margin = (c - a) / (d - b), 0.001 * abs(c - a)
        return all(abs(one - a - slope * (two - b)) <= margin for one, two in pairs)

    def __str__(self) -> str:
        """`temperature_k: number, 298.1 to 305.2, mean 300.4, last 301.0, 2 missing`."""
        rest = f", {self.missing} missing" if self.missing else ""
        if not self.is_numeric:
            return f"{self.name}: {'text' if self.texts else 'empty'}{rest}"
        numbers = [value for value in self.values if value == value]
        words = f", {self.texts} texts" if self.texts else ""
        low, high, last = map(_short, (min(numbers), max(numbers), numbers[-1]))
        kind = "integer" if self.integers else "number"
        mean = _short(sum(numbers) / len(numbers))
        return f"{self.name}: {kind}, {low} to {high}, mean {mean}, last {last}{words}{rest}"


def _short(value: float) -> str:
    return f"{value:.0f}" if value.is_integer() and abs(value) < 1e12 else f"{value:.6g}"


@dataclass
class Table:
    columns: list[Column]
    rows: int  #: that were read
    has_header: bool = False
    part: str = ""  #: which part of the file that is, if it is not all of it


def read(fd: int, size: int) -> Table | None:
    """The table in the file; none when it has no row or too many columns. Bounded in time."""
    lines = _Lines(fd, size)
    first = list(islice(lines, 200))
    style = _style(first)
    if style is None:
        return None
    columns = [Column(name) for name in style.names]
    rows = 0
    cells = style.rows(line for part in (first, lines) for line in part)
    while chunk := list(islice(cells, _CHUNK_ROWS)):
        rows += len(chunk)
        width = len(columns)
        even = [row if len(row) == width else (row + [""] * width)[:width] for row in chunk]
        for column, values in zip(columns, zip(*even, strict=True), strict=True):
            column.add(values)
    return Table(columns, rows, style.header is not None, lines.part()) if rows else None


def samples(fd: int, size: int, started_at: float | None) -> Table | None:
    """What was sampled while a job ran, against the time since its start; none without a sample."""
    lines = _Lines(fd, size)
    found = []
    for line in lines:
        try:
            sample = json.loads(line)
            at = float(sample["at"])
            metrics = dict(sample.get("metrics") or {})
            fraction = sample.get("fraction")
        except (ValueError, TypeError, LookupError, RecursionError):
            continue  # the last line may be half written
        elapsed_s = round(at - (started_at or at), 3)
        found.append({"elapsed_s": elapsed_s, "fraction": fraction, **metrics})
    if not found:
        return None
    names = list(dict.fromkeys(name for sample in found for name in sample))[:MAX_COLUMNS]
    columns = [Column(shown(name, 80)) for name in names]
    for name, column in zip(names, columns, strict=True):
        column.add(str(sample.get(name, "")) for sample in found)
    return Table([column for column in columns if column.is_numeric], len(found), part=lines.part())


class _Lines:
    """The lines of the file, or of evenly spaced parts of it; without one that is cut."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd, self._size, self._bytes = fd, size, 0
        self._whole = size <= WHOLE_BYTES
        self._cut = ""
        self._give_up_at = time.monotonic() + MAX_SECONDS
        self._found = self._all()

    def __iter__(self) -> Iterator[str]:
        return self._found

    def _all(self) -> Iterator[str]:
        rest = b""
        for start in self._starts():
            raw = os.pread(self._fd, PART_BYTES, start)
            self._bytes += len(raw)
            if not self._whole and start:
                raw = raw.partition(b"\n")[2]
            *lines, rest = (rest + raw if self._whole else raw).split(b"\n")
            for line in lines:
                yield line.decode("utf-8-sig" if not start else "utf-8", "replace") + "\n"
            if time.monotonic() > self._give_up_at:
                self._cut = f"its first {100 * min(1, (start + PART_BYTES) / self._size):.0f} %"
                return
        if rest:
            yield rest.decode("utf-8", "replace")

    def _starts(self) -> Iterable[int]:
        if self._whole:
            return range(0, self._size, PART_BYTES)
        return (n * (self._size - PART_BYTES) // (PARTS - 1) for n in range(PARTS))

    def part(self) -> str:
        """Which part of the file that was; empty for all of it."""
        if self._cut or self._whole:
            return self._cut
        return f"{PARTS} evenly spaced parts, {shown_size(self._bytes)} of {shown_size(self._size)}"


@dataclass
class _Style:
    """How a table is written."""

    delimiter: str | None  #: none: spaces
    names: list[str]
    header: list[str] | None  #: the cells of the first row, when they are names

    def rows(self, lines: Iterable[str]) -> Iterator[list[str]]:
        for row in _cells(lines, self.delimiter):
            if row != self.header:  # a program that goes on may write its header again
                yield row


def _cells(lines: Iterable[str], delimiter: str | None) -> Iterator[list[str]]:
    wanted = (line for line in lines if line.strip() and not line.lstrip().startswith(_COMMENTS))
    if delimiter is None:
        yield from (line.split() for line in wanted)
        return
    reader = csv.reader((line.replace("\0", "") for line in wanted), delimiter=delimiter)
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error:  # one cell that is larger than a cell can be
            continue
        if delimiter == ";":
            row = [re.sub(r"^\s*([-+]?\d+),(\d+)", r"\1.\2", cell) for cell in row]
        yield row


def _style(lines: list[str]) -> _Style | None:
    data = [line for line in lines if line.strip() and not line.lstrip().startswith(_COMMENTS)]
    if not data:
        return None
    delimiter = _delimiter(data[:_SAMPLE_LINES])
    rows = list(islice(_cells(data, delimiter), 2))
    if not rows or len(rows[0]) > MAX_COLUMNS:
        return None
    width = len(rows[0])
    header = None
    names = _names_in_comments(lines, width, delimiter)
    if names is None and not any(map(_is_number, rows[0])):
        names = header = rows[0]
    return _Style(delimiter, _distinct(names or [""] * width), header)


def _delimiter(lines: list[str]) -> str | None:
    """The sign that is most often in every line; else spaces."""

    def least(sign: str) -> int:
        return min(re.sub(r'"[^"]*"', "", line).count(sign) for line in lines)

    best = max(("\t", ";", ",", "|"), key=least)  # a comma may be within the numbers
    if least(best):
        return best
    return None if any(len(line.split()) > 1 for line in lines) else ","


def _names_in_comments(lines: list[str], width: int, delimiter: str | None) -> list[str] | None:
    """From `#step time`, `#! FIELDS step time`, or GROMACS's legends."""
    legends: dict[int, str] = {}
    axis, found = "x", None
    for line in lines:
        text = line.strip()
        if legend := re.match(r'@ *s(\d{1,3}) +legend +"(.*)"', text):
            legends[int(legend[1]) + 1] = legend[2]
        elif label := re.match(r'@ *xaxis +label +"(.*)"', text):
            axis = label[1]
        elif text.startswith("#"):
            text = re.sub(r"^#!?\s*(?:FIELDS\s)?", "", text)
            cells = next(_cells([text], delimiter), [])
            if len(cells) == width and not any(map(_is_number, cells)):
                found = cells
        elif text and not text.startswith(_COMMENTS):
            break
    if legends:
        return [axis, *(legends.get(place, "") for place in range(1, width))]
    return found


def _distinct(names: list[str]) -> list[str]:
    """Names that can be shown and asked for: none is empty, and none is there twice."""
    found: list[str] = []
    seen: set[str] = set()
    for place, raw in enumerate(names, 1):
        name = base = shown(raw.strip(), 80) or f"column {place}"
        if name in seen:
            name = f"{base} ({place})"
        seen.add(name)
        found.append(name)
    return found


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
