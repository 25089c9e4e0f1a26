"""From Slurm's words and a job's own records to what the keeper may know of it. Pure.

The witnesses, in this order: the record that the job's script wrote, the controller (`squeue`), the
accounting (`sacct`). The accounting is believed where it agrees with the controller, or where the
controller has forgotten the job. That a job is in no answer never means that it has not been:
only what was cancelled before it began leaves no trace.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, Literal

from jobs import clock
from jobs.engines.base import Phase, Sighting
from jobs.engines.slurm_rows import AccountRow, QueueRow
from jobs.engines.slurm_script import NOT_ON_NODE, RAN_BEFORE
from jobs.model import ExitRecord, StartedRecord

Why = Literal["exit", "cancelled", "timeout", "terminated", "start_error"]
SIGKILL, SIGTERM = 9, 15
NO_NODE = ("", "None assigned", "(null)")  #: what stands for none where nodes are told

#: It waits, or waits again: nothing of it runs.
WAITING = {
    "PENDING": "",
    "REQUEUED": "Slurm has put it back into its queue",
    "REQUEUE_FED": "Slurm has put it back into its queue",
    "REQUEUE_HOLD": "put back into the queue and held, until somebody releases it",
    "SPECIAL_EXIT": "put back into the queue and held, until somebody releases it",
    "RESV_DEL_HOLD": "held, because its reservation was deleted",
    "CONFIGURING": "its nodes are being made ready",
}
#: It has its nodes.
LIVE = {
    "RUNNING": "",
    "COMPLETING": "it is ending",
    "STAGE_OUT": "its files are being brought back",
    "SIGNALING": "",
    "RESIZING": "",
    "SUSPENDED": "suspended by Slurm",
    "STOPPED": "stopped by Slurm; it keeps its nodes",
}
#: Why it has ended; None: it was lost, and nobody knows what of it was done.
FINAL: dict[str, Why | None] = {
    "COMPLETED": "exit",
    "FAILED": "exit",
    "OUT_OF_MEMORY": "exit",
    "CANCELLED": "cancelled",
    "TIMEOUT": "timeout",
    "DEADLINE": "timeout",
    "PREEMPTED": "terminated",
    "LAUNCH_FAILED": "start_error",
    "NODE_FAIL": None,
    "BOOT_FAIL": None,
    "REVOKED": None,
}
_LOST = {
    "NODE_FAIL": "a node that it ran on has failed",
    "BOOT_FAIL": "its node could not be started",
    "REVOKED": "another cluster has taken it over",
}

_NEVER = "it will never start as it is: "
#: Slurm's reasons to let a job wait, in words.
REASONS = {
    "None": "waiting for Slurm to look at it",
    "Resources": "waiting for resources",
    "Priority": "waiting for jobs of higher priority",
    "Dependency": "waiting for the jobs that it depends on",
    "DependencyNeverSatisfied": f"{_NEVER}a job that it depends on has failed",
    "BeginTime": "not to start before a set time",
    "JobArrayTaskLimit": "waiting for other tasks of its sweep",
    "JobHeldUser": "held by its user, until released",
    "JobHeldAdmin": "held by an administrator, until released",
    "JobHoldMaxRequeue": "held, because it was put back into the queue too often",
    "Licenses": "waiting for licences",
    "Reservation": "waiting for its reservation",
    "ReservationDeleted": f"{_NEVER}its reservation was deleted",
    "PartitionDown": "its partition is down",
    "PartitionInactive": "its partition is inactive",
    "PartitionNodeLimit": f"{_NEVER}it asks for more nodes than its partition gives",
    "PartitionConfig": f"{_NEVER}no node of its partition has as much as it asks for",
    "PartitionTimeLimit": f"{_NEVER}it asks for more time than its partition gives",
    "BadConstraints": f"{_NEVER}no node has what it asks for",
    "InvalidAccount": f"{_NEVER}its account is not valid",
    "InvalidQOS": f"{_NEVER}its QOS is not valid",
    "NodeDown": "a node that it needs is down",
    "Prolog": "its nodes are being made ready",
    "Cleaning": "its last run is being cleaned up",
}


@dataclass(frozen=True)
class Seen:
    """All that is known of one job that was submitted."""

    started: StartedRecord | None = None
    exit: ExitRecord | None = None
    queue: QueueRow | None = None
    account: AccountRow | None = None
    #: Other tasks of its array have rows, in the queue or in the accounting, which is kept.
    array_is_known: bool = False
    wished: bool = False  #: we have told Slurm to end it
    queue_answered: bool = True  #: the controller could be asked: no row means that it forgot
    no_account: str = (
        ""  #: that the accounting, which the cluster keeps, could not be asked, and why
    )
    #: Some time has passed since Slurm told the end, or forgot the job, for the first time: what a
    #: shared file system or the accounting shows late would be there.
    settled: bool = False


def sight(seen: Seen) -> Sighting:
    """What the keeper may know of the job."""
    row = seen.queue
    if seen.exit is not None:
        if seen.exit.why == "terminated":  # only Slurm knows why, and whether for ever
            state = _end_state(seen)
            if seen.queue_answered and row is not None and row.state in WAITING:
                return Sighting(Phase.STARTING, detail=waiting_words(row))
            if state in _LOST:
                return _ended(state, replace(seen, settled=True))
            if state is None and not seen.settled:
                detail = "it has ended; Slurm will say why"
                return Sighting(Phase.RUNNING, seen.started, detail=detail)
        return Sighting(Phase.ENDED, seen.started, _corrected(seen.exit, seen))
    if not seen.queue_answered:
        return Sighting(Phase.UNKNOWN, seen.started, detail="Slurm could not be asked")
    if row is not None and row.state in WAITING:
        return Sighting(Phase.STARTING, detail=waiting_words(row))
    if row is not None and row.state in LIVE:
        phase = Phase.RUNNING if seen.started else Phase.STARTING
        where = f"on {row.nodes}" if row.nodes else ""
        words = "; ".join(filter(None, [where, LIVE[row.state]]))
        return Sighting(phase, seen.started, detail=words or None)
    state = _end_state(seen)
    if state is not None:
        return _ended(state, seen)
    if row is not None:
        return Sighting(Phase.UNKNOWN, seen.started, detail=f"Slurm says {row.state}")
    if seen.settled and seen.started is None and _is_gone_unbegun(seen):
        return Sighting(Phase.ENDED, exit=_cancelled_before())
    detail = "Slurm no longer knows it, and it has left no record of its end"
    if seen.no_account:
        detail = f"{detail}; {seen.no_account}"
        return Sighting(Phase.UNKNOWN, seen.started, detail=detail)
    if seen.account is not None:
        detail = f"the accounting still says {seen.account.state}, but Slurm no longer knows it"
    return Sighting(Phase.VANISHED if seen.settled else Phase.UNKNOWN, seen.started, detail=detail)


def facts_of(seen: Seen, sighting: Sighting) -> dict[str, Any]:
    """What of Slurm's answers is worth being kept in `batch.json`, as fields of BatchRecord."""
    row, account = seen.queue, believed(seen)
    last = row or seen.account
    facts: dict[str, Any] = {}
    if last is not None:
        facts["state"] = last.state
        if last.nodes not in NO_NODE:
            facts["nodes"] = last.nodes
        if last.time_limit_s:
            facts["requested_s"] = last.time_limit_s
    if row is not None and row.restarts:
        facts["restarts"] = row.restarts
    if sighting.phase in (Phase.ENDED, Phase.VANISHED):
        if last is not None and last.state in FINAL and last.elapsed_s is not None:
            facts["elapsed_s"] = last.elapsed_s
        elif sighting.exit is not None:
            facts["elapsed_s"] = round(sighting.exit.wall_s, 1)
        if account is not None:
            efficiency = account.cpu_efficiency
            facts["cpu_efficiency"] = None if efficiency is None else round(efficiency, 3)
            facts["max_rss_kb"] = account.max_rss_kb
    return facts


def waiting_words(row: QueueRow) -> str:
    """Why it waits, and when it is expected to start, if that is known."""
    words = [WAITING[row.state]] if WAITING[row.state] else [reason_words(row.reason)]
    if row.restarts:
        words.append(f"begun anew {row.restarts} times already")
    if row.start_time is not None and not words[0].startswith(_NEVER):
        words.append(f"expected start {clock.iso(row.start_time)}")
    return ", ".join(words)


def reason_words(reason: str) -> str:
    """Slurm's reason in words; the reason itself where there are none for it."""
    nodes = re.search(r"UnavailableNodes:(\S+)", reason)
    if nodes or reason.startswith("ReqNodeNotAvail"):
        named = f": {nodes[1]}" if nodes else ""
        return f"a node it needs is down, drained or reserved{named}"
    if reason.startswith("Nodes required for job are"):
        return "waiting for resources: the nodes it needs are down, drained or reserved"
    if re.match(r"(QOS|Assoc|Max[A-Z])", reason):
        return f"waiting, because a limit of its account or QOS is reached ({reason})"
    return REASONS.get(reason, f"waiting ({reason})")


def _end_state(seen: Seen) -> str | None:
    """The final state that can be believed, if there is one."""
    if seen.queue is not None:
        return seen.queue.state if seen.queue.state in FINAL else None
    account = seen.account
    if not seen.queue_answered or account is None or account.state not in FINAL:
        return None
    if account.state == "FAILED" and not account.exit_code and not account.signal:
        return None  # so it says for a while after an outage of its own
    return account.state


def believed(seen: Seen) -> AccountRow | None:
    """The accounting's row of the end, unless it says another thing than the controller. For a
    while it may still say that the job runs."""
    if seen.account is None or seen.account.state != _end_state(seen):
        return None
    return seen.account


def _corrected(record: ExitRecord, seen: Seen) -> ExitRecord:
    """The script's record, with what only Slurm knows: who ended it, and what it used."""
    state = _end_state(seen)
    why, limit_hit = record.why, record.limit_hit
    if state in ("CANCELLED", "TIMEOUT", "DEADLINE", "PREEMPTED") and why in ("exit", "terminated"):
        why = FINAL[state] or why
    if state == "OUT_OF_MEMORY":
        limit_hit = "memory_mb"
    account = believed(seen)
    peak_kb = record.max_rss_kb or (account.max_rss_kb if account else None)
    return record.model_copy(update={"why": why, "limit_hit": limit_hit, "max_rss_kb": peak_kb})


def _ended(state: str, seen: Seen) -> Sighting:
    """An end that Slurm tells and the job's own record does not."""
    started, last = seen.started, seen.queue or seen.account
    assert last is not None
    node = last.nodes if last.nodes not in NO_NODE else ""
    never_began = started is None and not node
    if not never_began and not seen.settled:
        detail = f"Slurm says {state}; the job's own record is not there yet"
        return Sighting(Phase.UNKNOWN, started, detail=detail)
    # The controller keeps the exit code too; where it has forgotten the job, the accounting does.
    code, signal = last.exit_code, last.signal
    why = FINAL[state]
    if why is None:
        where = f" ({node})" if node else ""
        return Sighting(Phase.VANISHED, started, detail=_LOST[state] + where)
    if state == "FAILED" and code == RAN_BEFORE:
        detail = "Slurm began it a second time, which was refused, and the first run left no end"
        return Sighting(Phase.VANISHED, started, detail=detail)
    if state == "COMPLETED" and started is None:
        detail = f"Slurm says COMPLETED, but {node} has left nothing in the job directory"
        return Sighting(Phase.VANISHED, detail=f"{detail}: is it a shared one?")
    error = None
    if state == "FAILED" and started is None and seen.wished and signal == SIGTERM:
        why = "cancelled"  # by our order, which came before the script could heed it
    elif state in ("FAILED", "LAUNCH_FAILED") and started is None:
        why, error = "start_error", _start_error(code, signal, seen.queue, node)
    if state == "OUT_OF_MEMORY":
        code, signal = 0, SIGKILL
    by_itself = why == "exit"
    account = believed(seen)
    record = ExitRecord(
        why=why,
        exit_code=code if by_itself and not signal else None,
        signal=signal if by_itself and signal else None,
        error=error,
        ended_at=last.end_time or clock.now(),
        wall_s=last.elapsed_s or 0.0,
        user_s=(account.user_s if account else None) or 0.0,
        system_s=(account.system_s if account else None) or 0.0,
        max_rss_kb=account.max_rss_kb if account else None,
        limit_hit="memory_mb" if state == "OUT_OF_MEMORY" else None,
        batch=started.batch if started else None,
    )
    return Sighting(Phase.ENDED, started, record)


def _is_gone_unbegun(seen: Seen) -> bool:
    """Whether what Slurm knows nothing of was cancelled before it began; the accounting may be
    late, and say that it waits."""
    if seen.account is not None:
        return seen.wished and seen.account.state in WAITING
    return seen.wished or (seen.array_is_known and not seen.no_account)


def _cancelled_before() -> ExitRecord:
    """Of what was cancelled while it waited and Slurm has no row of: of a task of an array it keeps
    none, whereas it keeps one of whatever has begun; a job it forgets after a while."""
    return ExitRecord(
        why="cancelled",
        exit_code=None,
        signal=None,
        ended_at=clock.now(),
        wall_s=0.0,
        user_s=0.0,
        system_s=0.0,
        max_rss_kb=None,
    )


def _start_error(code: int, signal: int, row: QueueRow | None, node: str) -> str:
    if code == NOT_ON_NODE:
        return f"the job directory cannot be entered on the node {node}"
    how = f"signal {signal}" if signal else f"exit code {code}"
    reason = f", {row.reason}" if row else ""
    return f"its script did not come to begin on the node {node} ({how}{reason})"
