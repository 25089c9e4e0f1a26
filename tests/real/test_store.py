"""The index: many processes at once, old and new schemas, files that are none."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.errors import StateDirectoryError
from jobs.index import named_statements
from jobs.intake import DuplicateJobIdError
from jobs.model import LaunchManifest
from jobs.states import Event, State
from jobs.store import Store
from tests.support.launching import insert
from tests.unit.test_artifacts import launched

ROOT = Path(__file__).resolve().parent.parent.parent

OPEN = """
import asyncio, sys
from pathlib import Path
from jobs.store import Store
async def main():
    store = await Store.open(Path(sys.argv[1]))
    await store.close()
asyncio.run(main())
"""


def job(number: int, key: str | None = None) -> LaunchManifest:
    name = "abcdefgh"[number % 8] * 5
    return launched(Path("/"), job_id=f"job-20260101-{number:06}-x-{name}", idempotency_key=key)


async def test_many_processes_open_a_new_index_at_once(tmp_path: Path) -> None:
    path = tmp_path / "new" / "outlast.db"
    processes = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", OPEN, str(path), cwd=ROOT)
        for _ in range(8)
    ]
    assert [await process.wait() for process in processes] == [0] * 8


async def test_a_move_happens_once_and_writes_its_event(tmp_path: Path) -> None:
    store = await Store.open(tmp_path / "db")
    other = await Store.open(tmp_path / "db")
    (queued,) = insert(store, job(1))
    assert queued.state is State.QUEUED
    claims = await asyncio.gather(store.claim(queued, []), other.claim(queued, []))
    assert sorted(claims) == [False, True]
    assert not await store.move(queued, Event.CANCEL)  # it is no longer queued
    events = await store.events(queued.id)
    assert [(event.event, event.state) for event in events] == [
        ("accepted", "queued"),
        ("start", "starting"),
    ]
    await store.close()
    await other.close()


async def test_a_wish_to_cancel_stops_a_claim(tmp_path: Path) -> None:
    store = await Store.open(tmp_path / "db")
    (queued,) = insert(store, job(1))
    await store.wish_cancel(queued.id, 1.0, "first", None)
    await store.wish_cancel(queued.id, 2.0, "second", None)
    assert not await store.claim(queued, [])
    (wished,) = await store.queued_to_cancel()
    assert wished.cancel_reason == "first"
    await store.close()


async def test_keys_and_ids_are_told_apart(tmp_path: Path) -> None:
    store = await Store.open(tmp_path / "db")
    (first,) = insert(store, job(1, "key"))
    assert insert(store, job(2, "key"))[0].id == first.id
    with pytest.raises(DuplicateJobIdError):
        insert(store, job(1, "other"))
    await store.close()


async def test_pages_are_stable_while_jobs_come(tmp_path: Path) -> None:
    store = await Store.open(tmp_path / "db")
    for number in range(25):
        insert(store, job(number))
    page = await store.newest(project=None, state=None, before=None, limit=10)
    insert(store, job(25))
    rest = await store.newest(project="default", state=State.QUEUED, before=page[-1].seq, limit=100)
    assert [row.seq for row in page + rest] == list(range(25, 0, -1))
    await store.close()


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "db"
    await (await Store.open(path)).close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 999")
    db.close()
    with pytest.raises(StateDirectoryError, match="newer Outlast"):
        await Store.open(path)


async def test_a_state_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateDirectoryError):
        await Store.open(tmp_path / "file" / "db")


def test_a_statement_has_one_name() -> None:
    assert named_statements("-- name: a\nSELECT 1\n-- name: b\nSELECT 2\n")["b"] == "SELECT 2\n"
    with pytest.raises(ValueError, match="twice"):
        named_statements("-- name: a\nx\n-- name: a\ny\n")


def test_no_query_scans_the_table_of_jobs(tmp_path: Path) -> None:
    """Each statement finds its rows by an index, however many jobs there are."""
    subprocess.run([sys.executable, "-c", OPEN, str(tmp_path / "db")], cwd=ROOT, check=True)
    db = sqlite3.connect(tmp_path / "db")
    text = (ROOT / "jobs/sql/queries.sql").read_text(encoding="utf-8")
    for name, sql in named_statements(text).items():
        if name in ("insert_jobs", "list_ids_like"):
            continue
        parameters = dict.fromkeys(__import__("re").findall(r":(\w+)", sql), "1")
        plan = " ".join(row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {sql}", parameters))
        assert "SCAN job" not in plan or "USING" in plan or name == "list_newest", (name, plan)
    db.close()
