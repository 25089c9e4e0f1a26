"""One row per measurement, and the ways to show them."""

from __future__ import annotations

import json
import platform
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from jobs import __version__

HEADINGS = ("measurement", "Outlast", "limit", "ratio", "target", "verdict")
BEGIN, END = "<!-- make bench: begin -->", "<!-- make bench: end -->"


@dataclass(frozen=True)
class Row:
    """`value` of ours against `limit`; at most one of the three targets is given."""

    what: str
    value: float
    unit: str
    limit: float | None = None
    against: str = ""  #: what the limit is
    ratio: float | None = None
    spread: tuple[float, float] | None = None  #: the middle half of the paired ratios
    at_most_ratio: float | None = None
    at_most_above: float | None = None
    at_most: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the target was reached; none when there is no target."""
        if self.at_most_ratio is not None and self.ratio is not None:
            return self.ratio <= self.at_most_ratio
        if self.at_most_above is not None and self.limit is not None:
            return self.value - self.limit <= self.at_most_above
        if self.at_most is not None:
            return self.value <= self.at_most
        return None

    def cells(self) -> tuple[str, ...]:
        """As text, in the order of HEADINGS."""
        limit = ratio = target = ""
        if self.limit is not None:
            limit = f"{_number(self.limit)} {self.unit} ({self.against})"
        if self.ratio is not None:
            ratio = f"{self.ratio:.2f}" if self.ratio < 100 else f"{self.ratio:.0f}"
        if self.spread is not None:
            ratio += f" ({self.spread[0]:.2f} to {self.spread[1]:.2f})"
        if self.at_most_ratio is not None:
            target = f"ratio ≤ {self.at_most_ratio:g}"
        elif self.at_most_above is not None:
            target = f"≤ {self.at_most_above:g} {self.unit} above"
        elif self.at_most is not None:
            target = f"≤ {self.at_most:g} {self.unit}"
        verdict = {None: "", True: "met", False: "missed"}[self.met]
        return (self.what, f"{_number(self.value)} {self.unit}", limit, ratio, target, verdict)

    def as_data(self) -> dict[str, Any]:
        return {**{k: v for k, v in vars(self).items() if v not in (None, "")}, "met": self.met}


def paired(what: str, ours: Sequence[float], limits: Sequence[float], **more: Any) -> Row:
    """A row of samples taken in turn, ours[i] right beside limits[i].

    Value and limit are medians. The ratio is the median of the ratios within the pairs, so that
    a disturbance of the machine that lasts longer than a pair weighs on both sides of it.
    """
    ratios = _ratios(ours, limits)
    low, middle, high = statistics.quantiles(ratios, n=4)
    return Row(
        what,
        value=statistics.median(ours),
        limit=statistics.median(limits),
        ratio=middle,
        spread=(low, high),
        **more,
    )


def best(what: str, ours: Sequence[float], limits: Sequence[float], **more: Any) -> Row:
    """A row of the quickest of samples taken in turn, for what a disturbance can only slow down.

    It settles at a hundredth where the middle of the same samples still sways by a tenth.
    """
    low, _, high = statistics.quantiles(_ratios(ours, limits), n=4)
    value, limit = min(ours), min(limits)
    return Row(what, value=value, limit=limit, ratio=value / limit, spread=(low, high), **more)


def _ratios(ours: Sequence[float], limits: Sequence[float]) -> list[float]:
    return [one / limit for one, limit in zip(ours, limits, strict=True)]


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def machine(folder: Path) -> str:
    """What the figures were taken on, in one line."""
    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    kernel = re.match(r"[\d.]*\d", platform.release())
    memory = psutil.virtual_memory().total / 2**30
    return (
        f"{model}, {psutil.cpu_count()} cores, {memory:.0f} GB, {platform.system()} "
        f"{kernel[0] if kernel else ''}, Python {platform.python_version()}, {_file_system(folder)}"
    )


def _file_system(folder: Path) -> str:
    inside = [
        part
        for part in psutil.disk_partitions(all=True)
        if folder.resolve().is_relative_to(part.mountpoint)
    ]
    return max(inside, key=lambda part: len(part.mountpoint)).fstype if inside else "?"


def as_json(rows: Sequence[Row], folder: Path) -> str:
    data = {"version": __version__, "machine": machine(folder), "rows": [r.as_data() for r in rows]}
    return json.dumps(data, indent=1, ensure_ascii=False)


def show(rows: Sequence[Row], folder: Path) -> None:
    """On the terminal."""
    console = Console(width=None if Console().is_terminal else 160)
    table = Table(*HEADINGS, title=f"Outlast {__version__} against its limits", show_lines=True)
    for row in rows:
        style = {None: "", True: "green", False: "bold red"}[row.met]
        *cells, verdict = row.cells()
        table.add_row(*cells, f"[{style}]{verdict}[/]" if style else verdict)
    console.print(table)
    console.print(machine(folder), style="dim", highlight=False)


def write(rows: Sequence[Row], folder: Path, page: Path) -> None:
    """Put the table between the markers of `page`; the rest of the page stays as it is."""
    lines = [" | ".join(cells) for cells in (HEADINGS, ["---"] * len(HEADINGS))]
    lines += [" | ".join(row.cells()) for row in rows]
    day = datetime.now(UTC).date().isoformat()
    block = "\n".join(
        [
            BEGIN,
            f"`make bench ARGS=--write`, Outlast {__version__}, {day}: {machine(folder)}.",
            "",
            *(f"| {line} |" for line in lines),
            END,
        ]
    )
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"{page} lacks its two markers")
    page.write_text(before + block + after, encoding="utf-8")
