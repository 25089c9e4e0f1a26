"""What must hold after the chaos: what is told of each job against what its command witnessed."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from mcp import Client

from jobs.directory import read_record
from jobs.model import DEFAULT_PROJECT, RunRecord
from jobs.paths import Home
from tests.support.processes import all_of
from tests.support.wait import until

if TYPE_CHECKING:
    from tests.support.chaos import Chaos

FINAL = {"completed", "failed", "cancelled", "timed_out", "lost"}
SETTLE_S = 180.0  #: for all jobs to end once nobody is killed any more
LEAVE_S = 60.0  #: for everything of ours to leave after that


@dataclass(frozen=True)
class Plan:
    """What is asked for one job."""

    key: str
    body: str
    code: int
    limit: float | None = None
    cancel_after: float | None = None


@dataclass
class Told:
    """What was told of one job."""

    plan: Plan
    job_id: str
    cancel_asked: bool = False
    state: str = "unknown"
    exit_code: int | None = None


@dataclass
class Witnessed:
    """What the command of one job wrote itself."""

    starts: list[float] = field(default_factory=list)
    ends: list[tuple[float, int]] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)


async def judge(chaos: Chaos, fresh: Client) -> None:
    """Wait till all has ended, ask a server that has seen nothing, and add what is wrong."""

    async def status(**arguments: Any) -> dict[str, Any]:
        reply = await fresh.call_tool("job_status", arguments)
        assert not reply.is_error, reply.content
        return dict(reply.structured_content or {})

    wrong = chaos.anomalies.append
    for told in chaos.told.values():

        async def final(told: Told = told) -> bool:
            reply = await status(job_id=told.job_id, wait_s=2)
            told.state = reply["state"]
            told.exit_code = (reply.get("outcome") or {}).get("exit_code")
            return told.state in FINAL

        try:
            await until(final, SETTLE_S)
        except AssertionError:
            wrong(f"{told.job_id}: still {told.state} {SETTLE_S:g} s after the last kill")
    if left := processes_of({told.job_id for told in chaos.told.values()}):
        wrong(f"all jobs have ended, but there run {left}")
    witnessed = read_witness(chaos.witness)
    spans: list[tuple[float, float]] = []
    for told in chaos.told.values():
        path = Home(chaos.home).job(DEFAULT_PROJECT, told.job_id).run_record
        record = read_record(path, RunRecord)
        seen = witnessed.pop(told.job_id, Witnessed())
        for fault in faults(told, seen, record, chaos.shim_killed[told.job_id]):
            wrong(f"{told.job_id}: {fault}; {told}; {seen}")
        if seen.starts and record:
            # Of a lost job it is only known when a keeper saw that it had gone.
            ended = [at for at, _ in seen.ends] or [record.ended_at] * (told.state != "lost")
            spans += [(seen.starts[0], at) for at in ended]
    for job_id, seen in witnessed.items():
        wrong(f"{job_id} ran, but was never told: {seen}")
    if (most := most_at_once(spans)) > chaos.cores:
        wrong(f"{most} jobs ran at once on {chaos.cores} cores")
    with closing(sqlite3.connect(chaos.home / "outlast.db")) as db:
        if (word := db.execute("PRAGMA integrity_check").fetchone()[0]) != "ok":
            wrong(f"the index is damaged: {word}")
        rows = db.execute("SELECT idempotency_key, id, state, exit_code FROM job").fetchall()
    index = {key: rest for key, *rest in rows}
    asked = {key: [t.job_id, t.state, t.exit_code] for key, t in chaos.told.items()}
    if len(index) != len(rows) or index != asked:
        wrong(f"the index holds other jobs than were told: {index.items() ^ asked.items()}")


def processes_of(job_ids: set[str]) -> list[str]:
    """Everything that runs with the mark of one of the jobs."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            marked = process.environ().get("OUTLAST_JOB_ID") in job_ids
            if marked and process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"{process.pid}: {' '.join(process.cmdline())[:200]}")
    return found


async def all_leave(chaos: Chaos) -> None:
    """Once the last server is gone, so must everything be that works for the state directory."""
    try:
        await until(lambda: not all_of(chaos.home), LEAVE_S)
    except AssertionError:
        chaos.anomalies.append(f"processes are left: {all_of(chaos.home)}")


def faults(told: Told, seen: Witnessed, record: RunRecord | None, shim_kills: int) -> list[str]:
    """What of one job cannot be true together."""
    found = []
    starts, ends = len(seen.starts), len(seen.ends)
    by_itself = not told.cancel_asked and told.plan.limit is None and not shim_kills
    if starts > 1 or ends > starts:
        found.append("it ran more than once")
    if seen.keys - {told.plan.key}:
        found.append("it ran for another key")
    match told.state:
        case "completed" | "failed":
            true_code = [code for _, code in seen.ends] == [told.exit_code] == [told.plan.code]
            if not true_code and not (starts == 0 and told.state == "failed" and shim_kills >= 3):
                found.append("the exit code is not what the command ended with")
            if (told.state == "completed") != (told.exit_code == 0):
                found.append("the state does not fit the exit code")
        case "cancelled" if not told.cancel_asked:
            found.append("nobody asked to cancel it")
        case "timed_out" if told.plan.limit is None or starts == 0:
            found.append("it had no time limit")
        case "lost" if not shim_kills:
            found.append("lost, though its shim was not killed")
    if by_itself and (starts, ends) != (1, 1):
        found.append("it did not run to its end")
    if record is None:
        found.append("it has no run.json")
    elif (record.state, record.outcome.exit_code) != (told.state, told.exit_code):
        found.append(f"run.json says {record.state}, {record.outcome.exit_code}")
    return found


def read_witness(path: Path) -> dict[str, Witnessed]:
    found: defaultdict[str, Witnessed] = defaultdict(Witnessed)
    for line in path.read_text(encoding="utf-8").splitlines():
        what, job_id, key, at, *code = line.split()
        seen = found[job_id]
        seen.keys.add(key)
        if what == "start":
            seen.starts.append(float(at))
        else:
            seen.ends.append((float(at), int(code[0])))
    return dict(found)


def most_at_once(spans: list[tuple[float, float]]) -> int:
    """How many of the spans overlap where most do."""
    changes = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    now = most = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most
