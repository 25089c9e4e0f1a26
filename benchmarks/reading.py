"""What it costs to ask: the end of a huge log, the newest of very many jobs."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from pathlib import Path
from typing import Any

import psutil
from mcp import Client

from benchmarks.ground import BARE, OUTLAST, client_of, completed, launch, say, service_of
from benchmarks.table import Row, paired

CALLS = 100
LOG_BYTES = 10 * 10**9
JOBS = 1_000_000


async def tail_of_a_large_log(folder: Path) -> list[Row]:
    """`tail_log` of 10 GB against an empty call, and what it adds to the server's memory."""
    say(f"tail: {CALLS} times the last 50 lines of 10 GB ...")
    async with service_of(folder) as (service, _):
        small = await completed(service, await launch(service, "seq", "1000"))
        large = await completed(service, await launch(service, "seq", "1000"))
        _enlarge(service.directory(large).stdout)
        async with client_of(*OUTLAST) as (client, server), client_of(*BARE) as (bare, _):
            for _ in range(20):  # what is loaded at the first calls is not the log's doing
                await _call(client, "tail_log", job_id=small.id)
            before = server.memory_info().rss
            _forget_peak(server)
            calls, limits = await _in_turn(client, bare, "tail_log", job_id=large.id)
            reply = await client.call_tool("tail_log", {"job_id": large.id})
            peak = _peak(server)
    if "line 5000" not in str(reply.content):
        raise RuntimeError(f"not the end of the log: {reply.content}")
    return [
        paired(
            "tail_log of a 10 GB log, by an MCP client",
            calls,
            limits,
            unit="ms",
            against="a call of an empty tool of a bare server",
            at_most_above=10,
        ),
        Row(
            f"memory that {CALLS} such calls add to the server, at its peak",
            value=max(0, peak - before) / 1e6,
            unit="MB",
            at_most=2,
        ),
    ]


def _enlarge(log: Path) -> None:
    """10 GB whose middle takes no space, and real lines at the end."""
    os.truncate(log, LOG_BYTES)
    with log.open("ab") as file:
        file.writelines(b"\nline %d %s" % (number, b"x" * 80) for number in range(5001))
        file.write(b"\n")


def _forget_peak(server: psutil.Process) -> None:
    Path(f"/proc/{server.pid}/clear_refs").write_text("5", encoding="ascii")


def _peak(server: psutil.Process) -> int:
    """The most memory that the process has had since `_forget_peak`."""
    status = Path(f"/proc/{server.pid}/status").read_text(encoding="ascii", errors="replace")
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


async def newest_of_very_many(folder: Path) -> list[Row]:
    """`job_status` without a job ID, of a million jobs, against an empty call."""
    async with service_of(folder) as (service, home):
        await completed(service, await launch(service, "true"))
        say(f"list: filling the index with {JOBS:,} jobs ...")
        _fill(home / "outlast.db")
        say(f"list: {CALLS} times the newest 20 ...")
        async with client_of(*OUTLAST) as (client, _), client_of(*BARE) as (bare, _):
            calls, limits = await _in_turn(client, bare, "job_status", limit=20)
            reply = await client.call_tool("job_status", {"limit": 20})
    if f"many-{JOBS:07}-" not in str(reply.content):
        raise RuntimeError(f"not the newest jobs: {reply.content}")
    return [
        paired(
            f"newest 20 of {JOBS:,} jobs, by an MCP client",
            calls,
            limits,
            unit="ms",
            against="a call of an empty tool of a bare server",
            at_most_above=10,
        )
    ]


def _fill(database: Path) -> None:
    """Copies of the one job that is there, with other IDs, in one transaction."""
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as db:
        columns = [row[1] for row in db.execute("PRAGMA table_info(job)") if row[1] != "seq"]
        changed = {
            "id": "printf('job-20260101-000000-many-%07d-aaaaa', n)",
            "idempotency_key": "NULL",
        }
        values = ", ".join(changed.get(column, column) for column in columns)
        db.execute("BEGIN IMMEDIATE")
        db.execute(
            f"""WITH RECURSIVE number(n) AS (
                    SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < {JOBS}
                )
                INSERT INTO job ({", ".join(columns)}) SELECT {values}
                FROM number, (SELECT * FROM job LIMIT 1)"""
        )
        db.execute("COMMIT")


async def _in_turn(
    client: Client, bare: Client, tool: str, **arguments: Any
) -> tuple[list[float], list[float]]:
    """Milliseconds of calls of ours, and of calls of the bare server's empty tool between them."""
    ours, limits = [], []
    for number in range(CALLS + 5):
        took = await _call(client, tool, **arguments)
        limit = await _call(bare, "empty")
        if number >= 5:
            ours.append(took)
            limits.append(limit)
    return ours, limits


async def _call(client: Client, tool: str, **arguments: Any) -> float:
    begin = time.perf_counter()
    reply = await client.call_tool(tool, arguments)
    took = time.perf_counter() - begin
    if reply.is_error:
        raise RuntimeError(f"{tool}: {reply.content}")
    return took * 1000
