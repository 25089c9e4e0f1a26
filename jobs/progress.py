"""How far a job is, read from what its program writes."""

from __future__ import annotations

import os
import re
from pathlib import Path

from jobs.errors import JobError
from jobs.files import open_inside
from jobs.holes import read_data
from jobs.model import LaunchManifest, Progress
from jobs.paths import JobDir
from jobs.rules import ProgressRule
from jobs.text import clean, shown

#: The newest part of a log in which progress is looked for.
WINDOW_BYTES = 64 * 1024


def log_place(launched: LaunchManifest, job_dir: JobDir, source: str) -> tuple[Path, str]:
    """Where the log `source` lies, as (folder, path in it): a stream's, or a file in the
    working directory that the program writes itself."""
    streams = {"stdout": job_dir.stdout, "stderr": job_dir.stderr}
    if source in streams:
        return job_dir.root, streams[source].name
    return Path(launched.cwd), source


class ProgressReader:
    """Reads one job's progress again and again; costs nothing while its log does not grow."""

    def __init__(self, launched: LaunchManifest, job_dir: JobDir) -> None:
        self._rule = next((rule for rule in launched.rules.progress if rule.regex), None)
        self._root, self._name = log_place(
            launched, job_dir, self._rule.source if self._rule else "stdout"
        )
        self._regex = re.compile(self._rule.regex or "") if self._rule else None
        self._size = -1

    def read(self, elapsed_s: float | None) -> Progress | None:
        """The newest progress; none when there is nothing new. Blocks for a few milliseconds."""
        if self._rule is None or self._regex is None:
            return None
        try:
            with open_inside(self._root, self._name) as fd:
                size = os.fstat(fd).st_size
                if size == self._size:
                    return None
                raw = read_data(fd, max(0, size - WINDOW_BYTES), size)
        except JobError:
            return None
        self._size = size
        # Carriage returns end lines here: a bar redraws itself on one line.
        for line in reversed(re.split(r"[\r\n]+", clean(raw.replace(b"\r", b"\n")))):
            match = self._regex.search(line)
            if match:
                return from_match(self._rule, match, elapsed_s)
        return None


def from_match(rule: ProgressRule, match: re.Match[str], elapsed_s: float | None) -> Progress:
    """Progress from one matching line; the remaining time is extrapolated from the elapsed."""
    groups = {key: value for key, value in match.groupdict().items() if value is not None}
    numbers = {
        key: number for key, value in groups.items() if (number := _number(value)) is not None
    }
    total = numbers.get("total", _number(rule.total or ""))
    fraction = None
    if "percent" in numbers:
        fraction = numbers["percent"] / 100
    elif "step" in numbers and total:
        fraction = numbers["step"] / total
    if fraction is not None:
        fraction = min(max(fraction, 0.0), 1.0)
    eta_s = None
    if fraction and elapsed_s is not None:
        eta_s = round(elapsed_s * (1 - fraction) / fraction, 1)
    values = {"total": rule.total or "", **groups}
    if rule.message is None:
        message = match[0].strip()
    else:
        message = re.sub(r"\{(\w+)\}", lambda name: values.get(name[1], "?"), rule.message)
    metrics = {
        key: number for key, number in numbers.items() if key not in ("step", "total", "percent")
    }
    return Progress(
        fraction=fraction,
        message=shown(message),
        eta_s=eta_s,
        metrics=dict(list(metrics.items())[:20]),
    )


def _number(text: str) -> float | None:
    """A finite number, or none."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) < float("inf") else None
