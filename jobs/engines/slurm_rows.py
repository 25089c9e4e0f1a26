"""The rows that Slurm's commands print. Reading them never fails: what is no row is passed over."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

#: For `squeue -O`. The reason and the name can hold anything, so they are the last.
QUEUE_FIELDS = (
    *("ArrayJobID", "ArrayTaskID", "State", "exit_code", "RestartCnt", "StartTime", "EndTime"),
    *("TimeUsed", "TimeLimit", "NumCPUs", "NodeList", "Reason", "Name"),
)
#: For `sacct --format`.
ACCOUNT_FIELDS = (
    *("JobID", "State", "ExitCode", "NodeList", "ElapsedRaw", "TimelimitRaw", "UserCPU"),
    *("SystemCPU", "MaxRSS", "AllocCPUS", "Start", "End", "JobName"),
)
#: For `sinfo -o`: name, up or not, time limit, nodes, their state, CPUs, MB and GPUs of each.
PARTITION_FORMAT = "%P|%a|%l|%D|%T|%c|%m|%G"

_ID = re.compile(r"[0-9]{1,10}(_[0-9]{1,10})?")
_MOST_S = 10**10  #: no time or duration is larger; what is, is no number
_STEP = re.compile(r"([0-9]{1,10}(?:_[0-9]{1,10})?)\.")
_UNSPLIT = re.compile(r"([0-9]{1,10})_\[([0-9,-]*)(?:%[0-9]+)?\]")


@dataclass(frozen=True)
class QueueRow:
    """What the controller knows of one job, or of one task of an array."""

    id: str  #: `25`, of a task `25_3`
    state: str
    exit_code: int
    signal: int
    restarts: int  #: how often Slurm has begun it anew
    start_time: float | None  #: of a waiting job when it is expected to start, if that is known
    end_time: float | None  #: of a running job when its time limit ends
    elapsed_s: float | None
    time_limit_s: float | None
    cpus: int
    nodes: str
    reason: str
    name: str


@dataclass(frozen=True)
class AccountRow:
    """What the accounting knows of one job, or of one task of an array."""

    id: str
    state: str
    exit_code: int
    signal: int
    nodes: str
    elapsed_s: float | None
    time_limit_s: float | None
    user_s: float | None
    system_s: float | None
    max_rss_kb: int | None  #: of the step that had most
    cpus: int
    start_time: float | None
    end_time: float | None
    name: str

    @property
    def cpu_efficiency(self) -> float | None:
        """How much of the CPUs that it had it has used, 0 to 1; none when that is not known."""
        if not self.elapsed_s or not self.cpus or self.user_s is None or self.system_s is None:
            return None
        return (self.user_s + self.system_s) / (self.elapsed_s * self.cpus)


@dataclass(frozen=True)
class Partition:
    """Nodes of one partition that are in the same state and alike."""

    name: str
    is_default: bool
    is_up: bool
    time_limit_s: float | None  #: none: unlimited
    nodes: int
    state: str
    cpus: str  #: of each node; `8+`: at least
    memory_mb: str
    gres: str  #: `gpu:a100:4`, or `(null)`


def parse_queue(text: str) -> dict[str, QueueRow]:
    """The rows of `squeue -h -r -O` with QUEUE_FIELDS, each of which ends in `|`."""
    rows = {}
    for line in text.split("\n"):
        fields = line.removesuffix("|").split("|", len(QUEUE_FIELDS) - 2)
        if len(fields) != len(QUEUE_FIELDS) - 1:
            continue
        job, task, state, status, restarts, start, end, used, limit, cpus, nodes, rest = fields
        id = job if task == "N/A" else f"{job}_{task}"
        if not _ID.fullmatch(id):
            continue
        # A token holds no `|`: of a job of ours, what is behind the last one is the name.
        reason, _, name = rest.rpartition("|")
        wait_status = _number(status) or 0
        rows[id] = QueueRow(
            id=id,
            state=state,
            exit_code=wait_status >> 8 & 0xFF,
            signal=wait_status & 0x7F,
            restarts=_number(restarts) or 0,
            start_time=parse_time(start),
            end_time=parse_time(end),
            elapsed_s=parse_duration(used),
            time_limit_s=parse_duration(limit),
            cpus=_number(cpus) or 0,
            nodes=nodes,
            reason=reason,
            name=name,
        )
    return rows


def parse_account(text: str, ids: Collection[str] = ()) -> dict[str, AccountRow]:
    """The rows of `sacct -nP` with ACCOUNT_FIELDS. Tasks that never started are one row
    (`25_[2-5%2]`), which stands for each of `ids` in it."""
    rows: dict[str, AccountRow] = {}
    peaks: dict[str, int] = {}
    for line in text.split("\n"):
        fields = line.split("|", len(ACCOUNT_FIELDS) - 1)
        if len(fields) != len(ACCOUNT_FIELDS):
            continue
        peak_kb = _kilobytes(fields[8])
        step = _STEP.match(fields[0])
        if step:
            if peak_kb is not None:
                peaks[step[1]] = max(peaks.get(step[1], 0), peak_kb)
            continue
        for id in _meant(fields[0], ids):
            rows[id] = _account(id, fields, peak_kb)
    return {
        id: AccountRow(**{**vars(row), "max_rss_kb": peaks.get(id, row.max_rss_kb)})
        for id, row in rows.items()
    }


def _account(id: str, fields: list[str], peak_kb: int | None) -> AccountRow:
    _, state, ended, nodes, elapsed, limit, user, system, _, cpus, start, end, name = fields
    exit_code, _, signal = ended.partition(":")
    limit_minutes = _number(limit)
    return AccountRow(
        id=id,
        state=(state.split() or [""])[0],  # "CANCELLED by 0"
        exit_code=_number(exit_code) or 0,
        signal=_number(signal) or 0,
        nodes=nodes,
        elapsed_s=_number(elapsed),
        time_limit_s=None if limit_minutes is None else limit_minutes * 60.0,
        user_s=parse_duration(user),
        system_s=parse_duration(system),
        max_rss_kb=peak_kb,
        cpus=_number(cpus) or 0,
        start_time=parse_time(start),
        end_time=parse_time(end),
        name=name,
    )


def _meant(written: str, ids: Collection[str]) -> list[str]:
    """The jobs that a row is about."""
    if _ID.fullmatch(written):
        return [written]
    unsplit = _UNSPLIT.fullmatch(written)
    if not unsplit:
        return []
    ranges = []
    for part in unsplit[2].split(","):
        first, _, last = part.partition("-")
        low = _number(first)
        high = _number(last) if last else low
        if low is not None and high is not None:
            ranges.append((low, high))
    tasks = [id for id in ids if _ID.fullmatch(id) and id.startswith(f"{unsplit[1]}_")]
    return [id for id in tasks if any(low <= int(id.split("_")[1]) <= high for low, high in ranges)]


def parse_partitions(text: str) -> list[Partition]:
    """The rows of `sinfo -h` with PARTITION_FORMAT."""
    found = []
    for line in text.split("\n"):
        fields = line.split("|", 7)
        if len(fields) != 8:
            continue
        name, up, limit, nodes, state, cpus, memory, gres = fields
        found.append(
            Partition(
                name=name.removesuffix("*"),
                is_default=name.endswith("*"),
                is_up=up == "up",
                time_limit_s=parse_duration(limit),
                nodes=_number(nodes) or 0,
                state=state,
                cpus=cpus,
                memory_mb=memory,
                gres=gres,
            )
        )
    return found


def parse_time(text: str) -> float | None:
    """`2026-11-25T23:20:09`, local time, as seconds since the epoch; none for `N/A`, `Unknown`."""
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S").timestamp()
    except (ValueError, OverflowError, OSError):
        return None


def parse_duration(text: str) -> float | None:
    """Seconds of `1-02:03:04`, `2:03:04`, `3:04` or `00:03.125`; none for `UNLIMITED`."""
    found = re.fullmatch(r"(?:([0-9]{1,6})-)?(?:([0-9]+):)?([0-9]+):([0-9]+(?:\.[0-9]+)?)", text)
    if not found or len(text) > 30:
        return None
    days, hours, minutes, seconds = (float(part or 0) for part in found.groups())
    total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    return total if total <= _MOST_S else None


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]{1,10}", text) else None


def _kilobytes(text: str) -> int | None:
    """Of `3547136` (bytes), `3464K`, `12.5M`."""
    found = re.fullmatch(r"([0-9]{1,16}(?:\.[0-9]{1,6})?)([KMGTP]?)", text)
    if not found:
        return None
    factor = {"": 1 / 1024, **{unit: 1024.0**power for power, unit in enumerate("KMGTP")}}
    return int(float(found[1]) * factor[found[2]])
