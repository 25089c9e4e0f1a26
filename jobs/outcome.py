"""How a job ended: from the engine's record, the logs and the files it left to one true verdict."""

from __future__ import annotations

import glob
import json
import os
import re
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeGuard

from jobs.engines.base import Sighting
from jobs.errors import JobError
from jobs.files import open_inside
from jobs.holes import read_data
from jobs.model import ArtifactScan, Decider, LaunchManifest, Outcome
from jobs.paths import JobDir
from jobs.progress import log_place
from jobs.resuming import is_resumable
from jobs.rules import Finding
from jobs.states import Event
from jobs.text import clean, shown

#: How much of the end, and of the beginning, of each log is searched for failures.
SEARCH_BYTES = 4 << 20
#: How much of the end of a log is searched for the line that tells a person what went wrong.
ERROR_BYTES = 64 * 1024
SUMMARY_BYTES = 1 << 20
MOST_RESULTS, MOST_WARNINGS = 12, 5
ERROR_CHARACTERS = 400  #: of the error that is quoted
_ERROR_LINE = re.compile(
    r"(?i)\b(error|fatal|exception|abort(ed)?|segmentation fault|killed|cannot|could not"
    r"|not found|no such file|out of memory|permission denied)\b"
)


@dataclass(frozen=True)
class Verdict:
    event: Event
    outcome: Outcome


@dataclass(frozen=True)
class Evidence:
    """What logs and files say of an end, whatever the exit code is."""

    failure: str | None = None  #: the meaning of a failure pattern that the logs match
    no_success: str | None = None  #: what is wrong when a success marker is not there
    missing: list[str] = field(default_factory=list)  #: required outputs that are not there
    error: str | None = None  #: the line that best tells a person what went wrong
    warnings: list[str] = field(default_factory=list)
    summary: dict[str, bool | int | float | str] = field(default_factory=dict)
    resumable: bool | None = None


NO_EVIDENCE = Evidence()


def judge(
    launched: LaunchManifest | None,
    sighting: Sighting,
    evidence: Evidence = NO_EVIDENCE,
    *,
    cancel_reason: str | None = None,
) -> Verdict:
    """The verdict, with the fact that decided it. Pure.

    `cancel_reason` is why a person or model wished it to end.
    """
    record = sighting.exit
    if record is None:
        reason = f"It cannot be known how it ended: {sighting.detail or 'no record was left'}."
        known = Outcome(reason=reason, decided_by="supervisor", resumable=evidence.resumable)
        return Verdict(Event.VANISH, known)
    name = signal_name(record.signal) if record.signal is not None else None
    limit = _limit_hit(sighting)

    def verdict(event: Event, decided_by: Decider, reason: str | None) -> Verdict:
        if limit:
            reason = f"{limit} {reason or ''}".strip()
        if record.survivors:
            pids = ", ".join(map(str, record.survivors))
            reason = f"{reason or ''} Processes that even SIGKILL did not end: {pids}.".strip()
        outcome = Outcome(
            exit_code=record.exit_code,
            signal=name,
            reason=reason,
            decided_by="limit" if limit else decided_by,
            error=evidence.error if event is Event.FAIL else None,
            warnings=evidence.warnings,
            resumable=evidence.resumable,
            summary=evidence.summary,
        )
        return Verdict(event, outcome)

    if record.why == "cancelled":
        return verdict(Event.END_CANCELLED, "cancel", cancelled_because(cancel_reason))
    if record.why == "timeout":
        if launched is None or not launched.time_limit_s:
            reason = f"Its time limit had passed, after {record.wall_s:.0f} s."
        else:
            reason = f"The time limit of {launched.time_limit_s:g} s had passed."
        return verdict(Event.END_TIMED_OUT, "time limit", reason)
    if record.why == "start_error":
        return verdict(Event.FAIL, "start", f"It could not be started: {record.error}.")
    if record.why == "terminated":
        reason = "Its supervisor was told to end, as at a shutdown."
        if record.batch is not None:
            reason = "Its scheduler has ended it, as for a job of higher priority."
        return verdict(Event.FAIL, "supervisor", reason)
    failure = evidence.failure
    if name is not None:
        unknown = name == "SIGKILL" and limit is None
        hint = " The system may have run out of memory." if unknown else ""
        meaning = f": {failure}" if failure else ""
        return verdict(Event.FAIL, "signal", f"Killed by {name}{meaning}.{hint}")
    if record.exit_code != 0:
        meanings = launched.rules.exit_codes if launched else {}
        told = [meanings.get(record.exit_code or 0), failure]
        meaning = "; ".join(dict.fromkeys(text for text in told if text))
        reason = f"Exit code {record.exit_code}{': ' if meaning else ''}{meaning}."
        return verdict(Event.FAIL, "exit code", reason)
    if failure:
        return verdict(Event.FAIL, "failure pattern", f"Exit code 0, but {failure}.")
    if evidence.no_success:
        return verdict(Event.FAIL, "success marker", f"Exit code 0, but {evidence.no_success}.")
    if evidence.missing:
        names = ", ".join(evidence.missing)
        reason = f"Exit code 0, but a required output is missing: {names}."
        return verdict(Event.FAIL, "required output", reason)
    if limit:  # a fork was refused, or a process killed: not what the program was meant to do
        return verdict(Event.FAIL, "limit", "Exit code 0 all the same.")
    return verdict(Event.SUCCEED, "exit code", None)


def _limit_hit(sighting: Sighting) -> str | None:
    """The sentence that tells of a limit that the job ran into, whatever became of it then."""
    hit = sighting.exit.limit_hit if sighting.exit else None
    limits = sighting.started.limits if sighting.started else None
    if hit is None:
        return None
    if hit == "memory_mb":  # a scheduler may tell of one that the job itself did not see
        size = f" of {limits.memory_mb} MB" if limits and limits.memory_mb else ""
        return f"Its memory limit{size} was reached."
    count = f"{limits.processes} " if limits and limits.processes else ""
    return f"Its limit of {count}processes was reached."


def cancelled_because(reason: str | None) -> str | None:
    return f"Cancelled: {reason}" if reason else None


def missing_outputs(scan: ArtifactScan) -> tuple[list[str], list[str]]:
    """Required outputs that are not there, and those of which that cannot be known: globs, when
    not all files were seen."""
    absent = [output.path for output in scan.expected if output.required and not output.present]
    unknown = [path for path in absent if scan.truncated and glob.has_magic(path)]
    return [path for path in absent if path not in unknown], unknown


def gather(launched: LaunchManifest, job_dir: JobDir, scan: ArtifactScan) -> Evidence:
    """All that the manifest's rules find in logs and files. Blocks."""
    texts: dict[str, str] = {}

    def match(rule: Finding) -> str | None:
        """The line that the rule finds."""
        for source in [rule.source] if rule.source else ["stdout", "stderr"]:
            if source not in texts:
                texts[source] = _ends(launched, job_dir, source)
            found = re.search(rule.regex, texts[source], re.MULTILINE)
            if found:
                return _whole_lines(texts[source], found.start(), found.end())
        return None

    rules = launched.rules
    failures = [(rule.meaning, line) for rule in rules.failures if (line := match(rule))]
    absent = [rule.meaning for rule in rules.success if match(rule) is None]
    missing, unknown = missing_outputs(scan)
    doubts = [f"not all files could be looked at: {path} may be missing" for path in unknown]
    doubts += [rule.meaning for rule in rules.warnings if match(rule)]
    return Evidence(
        failure=failures[0][0] if failures else None,
        no_success=absent[0] if absent else None,
        missing=missing,
        error=shown(failures[0][1], ERROR_CHARACTERS)
        if failures
        else find_error_line(launched, job_dir),
        warnings=doubts[:MOST_WARNINGS],
        summary=read_summary(launched),
        resumable=is_resumable(launched),
    )


def _whole_lines(text: str, start: int, end: int) -> str:
    """What stands from `start` to `end`, with the rest of its first and last line."""
    finish = text.find("\n", end)
    return text[text.rfind("\n", 0, start) + 1 : finish if finish >= 0 else len(text)].strip()


def read_summary(launched: LaunchManifest) -> dict[str, bool | int | float | str]:
    """The key results that the program has left, none when it left no summary. Blocks."""
    about = launched.rules.summary
    try:
        with open_inside(Path(launched.cwd), about.path) as fd:
            whole = json.loads(os.pread(fd, SUMMARY_BYTES, 0))
    except (JobError, OSError, ValueError, RecursionError):
        return {}
    if not isinstance(whole, dict):
        return {}
    keys = about.keys or [key for key, value in whole.items() if _is_plain(value)]
    summary: dict[str, bool | int | float | str] = {}
    for key in keys[:MOST_RESULTS]:
        value: object = whole
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if _is_plain(value):
            summary[shown(key, 60)] = shown(value) if isinstance(value, str) else value
    return summary


def _is_plain(value: object) -> TypeGuard[bool | int | float | str]:
    """Whether it is a value that a reply and a record can hold: no list, no NaN, no huge number."""
    if isinstance(value, int | float):
        return abs(value) < 1e300  # so is no NaN
    return isinstance(value, str)


def find_error_line(launched: LaunchManifest, job_dir: JobDir) -> str | None:
    """The line of the logs that best tells a person what went wrong. Blocks."""
    for source in ("stderr", "stdout"):
        text = _ends(launched, job_dir, source, ERROR_BYTES)
        lines = [line.strip() for line in text.split("\n") if line.strip()]
        if "Traceback (most recent call last)" in text:
            return shown(lines[-1], ERROR_CHARACTERS)
        for line in lines:
            if _ERROR_LINE.search(line):
                return shown(line, ERROR_CHARACTERS)
        if source == "stderr" and lines:
            return shown(lines[-1], ERROR_CHARACTERS)
    return None


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _ends(launched: LaunchManifest, job_dir: JobDir, source: str, size: int = SEARCH_BYTES) -> str:
    """The beginning and the end of a log, or all of it when it is short."""
    root, name = log_place(launched, job_dir, source)
    try:
        with open_inside(root, name) as fd:
            length = os.fstat(fd).st_size
            head = read_data(fd, 0, size) if size == SEARCH_BYTES and length > size else b""
            tail = read_data(fd, max(0, length - size), length)
    except (JobError, OSError):
        return ""
    return clean(head + b"\n" + tail)
