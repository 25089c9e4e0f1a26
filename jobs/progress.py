"""How far a job is, read from what its program writes, at the cost of what is new."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from jobs.errors import JobError
from jobs.files import open_inside, open_own
from jobs.holes import read_data
from jobs.model import LaunchManifest, Progress
from jobs.paths import JobDir
from jobs.rules import ProgressRule
from jobs.text import clean, shown

#: The newest part of a log in which lines are looked for. What one look finds before it is passed
#: over: a later line tells more.
WINDOW_BYTES = 64 * 1024
#: What one look reads where a text has to be counted; the rest waits for the next.
COUNT_BYTES = 64 << 20
#: What any program may print on its standard output to tell its progress by itself.
OWN_REPORT = ProgressRule(
    regex=r"^outlast: progress (?P<fraction>[-+.\deE]+)[ \t]*(?P<message>.*)$", message="{message}"
)
_METRIC = re.compile(r"(?<!\S)(\w{1,40})=([-+.\deE]+)(?=[\s,;]|$)")
_MOST_METRICS = 20
SAMPLES = 1000  #: so many of them at least lie in the last two thirds of a job's time
_SETS_FRACTION = {"fraction", "percent", "step", "total", "eta_s"}


def log_place(launched: LaunchManifest, job_dir: JobDir, source: str) -> tuple[Path, str]:
    """Where the log `source` lies, as (folder, path in it): a stream's, or a file in the
    working directory that the program writes itself."""
    streams = {"stdout": job_dir.stdout, "stderr": job_dir.stderr}
    if source in streams:
        return job_dir.root, streams[source].name
    return Path(launched.cwd), source


@dataclass
class Found:
    """What one match tells. Only what is known is set."""

    fraction: float | None = None
    message: str | None = None
    eta_s: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)


class ProgressReader:
    """Reads one job's progress again and again. All calls block, for milliseconds."""

    def __init__(self, launched: LaunchManifest, job_dir: JobDir) -> None:
        rules = launched.rules.progress
        self._readers: list[_Lines | _Count] = [
            _Count(_Log(*log_place(launched, job_dir, rule.source)), rule)
            for rule in rules
            if rule.count
        ]
        for source in dict.fromkeys(["stdout", *(rule.source for rule in rules if rule.regex)]):
            chosen = [rule for rule in rules if rule.regex and rule.source == source]
            if source == "stdout":
                chosen.append(OWN_REPORT)
            self._readers.append(_Lines(_Log(*log_place(launched, job_dir, source)), chosen))
        self._told = Progress()
        self._sampled_s: float | None = None
        #: (elapsed seconds, fraction) from which the remaining time is extrapolated. A job that
        #: goes on from another did not do in its own time what it begins with.
        self._base = _first_sample(job_dir) if launched.parent else (0.0, 0.0)

    def read(self, elapsed_s: float | None, *, ended: bool = False) -> Progress | None:
        """The newest progress; none when nothing has changed. With `ended`, a last line that has no
        end counts, too."""
        values = self._told.model_dump()
        values["eta_s"] = None
        for found in (found for reader in self._readers for found in reader.read(ended=ended)):
            values["metrics"] = dict([*values["metrics"].items(), *found.metrics.items()])
            for name in ("fraction", "message", "eta_s"):
                if getattr(found, name) is not None:
                    values[name] = getattr(found, name)
        values["metrics"] = dict(list(values["metrics"].items())[:_MOST_METRICS])
        told = ("fraction", "message", "metrics")
        if all(values[name] == getattr(self._told, name) for name in told):
            return None
        if values["eta_s"] is None and values["fraction"] is not None and elapsed_s is not None:
            values["eta_s"] = self._extrapolate(values["fraction"], elapsed_s)
        self._told = Progress(**values)
        return self._told

    def is_sample_due(self, elapsed_s: float) -> bool:
        """Whether so long after the last one a further sample tells something: a few thousand of a
        job of any length do."""
        due = self._sampled_s is None or elapsed_s - self._sampled_s >= elapsed_s / SAMPLES
        if due:
            self._sampled_s = elapsed_s
        return due

    def _extrapolate(self, fraction: float, elapsed_s: float) -> float | None:
        if self._base is None:
            self._base = (elapsed_s, fraction)
        begun_s, begun = self._base
        if fraction <= begun or elapsed_s <= begun_s:
            return None
        return round((elapsed_s - begun_s) * (1 - fraction) / (fraction - begun), 1)


class _Log:
    """A file that grows, and how far it has been read."""

    def __init__(self, root: Path, name: str) -> None:
        self._root, self._name = root, name
        self._offset = 0

    def news(self, most: int, *, newest: bool) -> tuple[int, bool, bytes] | None:
        """What is new, at most so many bytes of its end or of its beginning, as (offset, whether it
        follows what was read last, bytes); none when nothing is."""
        try:
            with open_inside(self._root, self._name) as fd:
                size = os.fstat(fd).st_size
                before = self._offset if size >= self._offset else -1  # else it has begun anew
                begin = max(before, 0)
                if newest:
                    begin = max(begin, size - most)
                self._offset = min(size, begin + most)
                if size == begin:
                    return None
                return begin, begin == before, read_data(fd, begin, self._offset)
        except (JobError, OSError):
            return None


class _Count:
    """How often a text has been written, perhaps on one line that has no end yet."""

    def __init__(self, log: _Log, rule: ProgressRule) -> None:
        self._log, self._rule = log, rule
        self._text = (rule.count or "").encode()
        self._edge = b""  #: in which the text may have begun
        self._times = 0

    def read(self, *, ended: bool) -> list[Found]:
        news = self._log.news(COUNT_BYTES, newest=False)
        total = number(self._rule.total or "")
        if news is None or not total:
            return []
        _, follows, raw = news
        if not follows:
            self._edge, self._times = b"", 0
        pieces = (self._edge + raw).split(self._text)
        self._times += len(pieces) - 1
        self._edge = pieces[-1][-(len(self._text) - 1) :] if len(self._text) > 1 else b""
        if not self._times:
            return []
        values = {"step": str(self._times), "total": _plain(total)}
        message = _filled(self._rule.message or "{step} of {total}", values)
        return [Found(min(self._times / total, 1.0), shown(message))]


class _Lines:
    """The newest line that each of some rules matches."""

    def __init__(self, log: _Log, rules: list[ProgressRule]) -> None:
        self._log = log
        self._rules = [(rule, re.compile(rule.regex or "")) for rule in rules]
        self._rest = b""  #: the beginning of a line whose end is still to come
        self._rest_seen = False  #: it was looked at already as if it were whole

    def read(self, *, ended: bool) -> list[Found]:
        """The newest last."""
        news = self._log.news(WINDOW_BYTES, newest=True)
        if news is not None:
            begin, follows, raw = news
            if begin > 0 and not follows:  # in the midst of a line
                raw = re.split(rb"[\r\n]", raw, maxsplit=1)[-1]
            raw = (self._rest if follows else b"") + raw
            self._rest_seen = False
            # Carriage returns end lines here: a bar redraws itself on one line.
            cut = len(raw) if ended else max(raw.rfind(b"\n"), raw.rfind(b"\r")) + 1
            self._rest = raw[cut:][-WINDOW_BYTES:]
            raw = raw[:cut]
        elif self._rest and not self._rest_seen:
            # Nothing was added since the last look: it is as whole as a bar's last state gets.
            raw, self._rest_seen = self._rest, True
        else:
            return []
        lines = re.split(r"[\r\n]+", clean(raw.replace(b"\r", b"\n")))
        found: list[Found] = []
        waiting = list(self._rules)
        for line in reversed(lines):
            for rule, regex in list(waiting):
                match = regex.search(line)
                if match:
                    found.insert(0, from_match(rule, match))
                    waiting.remove((rule, regex))
            if not waiting:
                break
        return found


def from_match(rule: ProgressRule, match: re.Match[str]) -> Found:
    """What one matching line tells."""
    groups = {key: value for key, value in match.groupdict().items() if value is not None}
    numbers = {key: value for key, text in groups.items() if (value := number(text)) is not None}
    total = numbers.get("total", number(_filled(rule.total or "", groups)))
    fraction = numbers.get("fraction")
    if "percent" in numbers:
        fraction = numbers["percent"] / 100
    elif "step" in numbers and total:
        fraction = numbers["step"] / total
    message = None
    if rule.message is not None:
        message = _filled(rule.message, {"total": _plain(total), **groups}) or None
    elif fraction is not None:
        message = match[0].strip()
    metrics = {key: value for key, value in numbers.items() if key not in _SETS_FRACTION}
    if rule is OWN_REPORT:
        metrics = {
            name: value
            for name, text in _METRIC.findall(groups["message"])
            if (value := number(text)) is not None
        }
    return Found(
        fraction=None if fraction is None else min(max(fraction, 0.0), 1.0),
        message=None if message is None else shown(message),
        eta_s=numbers.get("eta_s"),
        metrics=metrics,
    )


def _plain(total: float | None) -> str:
    if total is None:
        return "?"
    return f"{total:.0f}" if total.is_integer() else f"{total:g}"


def _filled(template: str, values: dict[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda name: values.get(name[1], "?"), template)


def number(text: str) -> float | None:
    """A finite number, or none."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) < float("inf") else None


def _first_sample(job_dir: JobDir) -> tuple[float, float] | None:
    """(elapsed seconds, fraction) that was written down first, perhaps by an earlier keeper."""
    try:
        with open_own(job_dir.progress) as file:
            sample = json.loads(file.readline(64 * 1024))
        return float(sample["elapsed_s"]), float(sample["fraction"])
    except (OSError, ValueError, LookupError, TypeError):
        return None
