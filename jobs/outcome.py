"""How a job ended: from the engine's record, the logs and the files it left to one true verdict."""

from __future__ import annotations

import os
import re
import signal
from dataclasses import dataclass

from jobs.engines.base import Sighting
from jobs.errors import JobError
from jobs.files import open_inside
from jobs.holes import read_data
from jobs.model import ArtifactScan, LaunchManifest, Outcome
from jobs.paths import JobDir
from jobs.progress import log_place
from jobs.states import Event
from jobs.text import clean, shown

#: How much of the end, and of the beginning, of each log is searched for failures.
SEARCH_BYTES = 4 << 20
#: How much of the end of a log is searched for the line that tells a person what went wrong.
ERROR_BYTES = 64 * 1024
_ERROR_LINE = re.compile(
    r"(?i)\b(error|fatal|exception|abort(ed)?|segmentation fault|killed|cannot|could not"
    r"|not found|no such file|out of memory|permission denied)\b"
)


@dataclass(frozen=True)
class Verdict:
    event: Event
    outcome: Outcome


def judge(
    launched: LaunchManifest | None,
    sighting: Sighting,
    *,
    failure: str | None = None,
    missing: list[str] | None = None,
    error_line: str | None = None,
    cancel_reason: str | None = None,
) -> Verdict:
    """The verdict. Pure.

    `failure` is the meaning of a failure found in the logs, `missing` the required outputs that
    are not there, `error_line` what the logs say of the cause, `cancel_reason` why a person or
    model wished it to end.
    """
    record = sighting.exit
    if record is None:
        reason = f"It cannot be known how it ended: {sighting.detail or 'no record was left'}."
        return Verdict(Event.VANISH, Outcome(reason=reason))
    name = signal_name(record.signal) if record.signal is not None else None
    facts = {"exit_code": record.exit_code, "signal": name}

    limit = _limit_hit(sighting)

    def verdict(event: Event, reason: str | None) -> Verdict:
        if limit:
            reason = f"{limit} {reason or ''}".strip()
        if record.survivors:
            pids = ", ".join(map(str, record.survivors))
            reason = f"{reason or ''} Processes that even SIGKILL did not end: {pids}.".strip()
        return Verdict(event, Outcome(**facts, reason=reason))

    if record.why == "cancelled":
        return verdict(Event.END_CANCELLED, cancelled_because(cancel_reason))
    if record.why == "timeout":
        seconds = launched.time_limit_s if launched else record.wall_s
        return verdict(Event.END_TIMED_OUT, f"The time limit of {seconds:g} s had passed.")
    if record.why == "start_error":
        return verdict(Event.FAIL, f"It could not be started: {record.error}.")
    if record.why == "terminated":
        return verdict(Event.FAIL, "Its supervisor was told to end, as at a shutdown.")
    said = f" {error_line}" if error_line else ""
    if name is not None:
        unknown = name == "SIGKILL" and limit is None
        hint = " The system may have run out of memory." if unknown else ""
        return verdict(Event.FAIL, f"Killed by {name}.{hint}{said}")
    if record.exit_code != 0:
        meanings = launched.rules.exit_codes if launched else {}
        meaning = meanings.get(record.exit_code or 0) or failure
        return verdict(
            Event.FAIL, f"Exit code {record.exit_code}{': ' + meaning if meaning else ''}.{said}"
        )
    if failure:
        return verdict(Event.FAIL, f"Exit code 0, but {failure}.{said}")
    if missing:
        return verdict(
            Event.FAIL, f"Exit code 0, but a required output is missing: {', '.join(missing)}."
        )
    if limit:  # a fork was refused, or a process killed: not what the program was meant to do
        return verdict(Event.FAIL, f"Exit code 0 all the same.{said}")
    return verdict(Event.SUCCEED, None)


def _limit_hit(sighting: Sighting) -> str | None:
    """The sentence that tells of a limit that the job ran into, whatever became of it then."""
    hit = sighting.exit.limit_hit if sighting.exit else None
    limits = sighting.started.limits if sighting.started else None
    if hit is None or limits is None:
        return None
    if hit == "memory_mb":
        return f"Its memory limit of {limits.memory_mb} MB was reached."
    return f"Its limit of {limits.processes} processes was reached."


def cancelled_because(reason: str | None) -> str | None:
    return f"Cancelled: {reason}" if reason else None


def missing_outputs(scan: ArtifactScan) -> list[str]:
    """Required outputs that are not there; none are said missing when not all was seen."""
    if scan.truncated:
        return []
    return [output.path for output in scan.expected if output.required and not output.present]


def find_failure(launched: LaunchManifest, job_dir: JobDir) -> str | None:
    """The meaning of the first failure rule that the logs match. Blocks."""
    texts: dict[str, str] = {}
    for rule in launched.rules.failures:
        for source in [rule.source] if rule.source else ["stdout", "stderr"]:
            if source not in texts:
                texts[source] = _ends(launched, job_dir, source)
            if re.search(rule.regex, texts[source], re.MULTILINE):
                return rule.meaning
    return None


def find_error_line(launched: LaunchManifest, job_dir: JobDir) -> str | None:
    """The line of the logs that best tells a person what went wrong. Blocks."""
    for source in ("stderr", "stdout"):
        text = _ends(launched, job_dir, source, ERROR_BYTES)
        lines = [line.strip() for line in text.split("\n") if line.strip()]
        if "Traceback (most recent call last)" in text:
            return shown(lines[-1])
        for line in lines:
            if _ERROR_LINE.search(line):
                return shown(line)
        if source == "stderr" and lines:
            return shown(lines[-1])
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
