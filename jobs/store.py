"""The index: the only importer of aiosqlite. All SQL is in `jobs/sql/`.

Each write is one autocommitted statement; the event that belongs to a move is written by a trigger
in the same transaction. All rows of a read are fetched at once, because an open cursor keeps the
write-ahead log from being recycled.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Collection, Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

import aiosqlite

from jobs.clock import now
from jobs.errors import StateDirectoryError
from jobs.model import Job, JobEvent, LaunchManifest, Outcome, Progress, Resources
from jobs.states import ACTIVE, FINAL, Event, State, after

_SQL = files("jobs") / "sql"
_BUSY_MS = 30_000
_LAST = 1 << 62  #: larger than any seq


class DuplicateJobIdError(Exception):
    """The random part of the ID is taken: make another."""


def named_statements(text: str) -> dict[str, str]:
    """The statements of a file, each after a line `-- name: x`. ValueError on a name used twice."""
    _, *parts = re.split(r"^-- name: (\w+)\n", text, flags=re.MULTILINE)
    names, bodies = parts[::2], parts[1::2]
    if len(set(names)) != len(names):
        raise ValueError("a statement's name is used twice")
    return dict(zip(names, bodies, strict=True))


class Store:
    """One connection to the index. Use `await Store.open(path)` and `await store.close()`."""

    def __init__(self, path: Path, db: aiosqlite.Connection) -> None:
        self._path = path
        self._db = db
        self._inode = path.stat().st_ino
        self._sql = named_statements((_SQL / "queries.sql").read_text(encoding="utf-8"))

    @classmethod
    async def open(cls, path: Path) -> Store:
        """Open the index, made and migrated as needed; safe for many processes at once.

        Raises StateDirectoryError with the cause when it cannot be used.
        """
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            db = await aiosqlite.connect(path, timeout=_BUSY_MS / 1000, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise StateDirectoryError(f"{path} cannot be opened: {error}.") from None
        try:
            db.row_factory = sqlite3.Row
            # The time-out comes first: switching to WAL takes a lock that others may hold.
            await db.execute_fetchall(f"PRAGMA busy_timeout={_BUSY_MS}")
            if (await _scalar(db, "PRAGMA journal_mode")) != "wal":
                await db.execute_fetchall("PRAGMA journal_mode=WAL")
            await db.execute_fetchall("PRAGMA synchronous=NORMAL")
            await db.execute_fetchall("PRAGMA foreign_keys=ON")
            await _migrate(db, path)
            path.chmod(0o600)
            return cls(path, db)
        except BaseException as error:
            await db.close()
            if isinstance(error, sqlite3.Error | OSError):
                raise StateDirectoryError(f"{path} is not usable: {error}.") from None
            raise

    async def close(self) -> None:
        await self._db.close()

    async def insert(self, launched: LaunchManifest) -> Job:
        """Accept a job as queued, or give the job that already has its idempotency key.

        Raises DuplicateJobIdError when the ID is taken.
        """
        row = {
            "id": launched.job_id,
            "state": State.QUEUED,
            "request_sha256": launched.request_sha256,
            **launched.resources.model_dump(),
            **launched.model_dump(
                include={
                    "project", "name", "manifest", "engine", "idempotency_key", "created_at",
                }
            ),
        }  # fmt: skip
        try:
            inserted = await self._write("insert_job", row)
        except sqlite3.IntegrityError as error:
            if "job.id" in str(error):
                raise DuplicateJobIdError(launched.job_id) from None
            raise
        if inserted:
            found = await self.get(launched.job_id)
        else:
            rows = await self._read("get_job_by_key", key=launched.idempotency_key)
            found = _job(rows[0]) if rows else None
        if found is None:
            raise StateDirectoryError("The index lost a job that it had just accepted.")
        return found

    async def get(self, job_id: str) -> Job | None:
        rows = await self._read("get_job", id=job_id)
        return _job(rows[0]) if rows else None

    async def by_key(self, idempotency_key: str) -> Job | None:
        rows = await self._read("get_job_by_key", key=idempotency_key)
        return _job(rows[0]) if rows else None

    async def move(
        self,
        job: Job,
        event: Event,
        *,
        outcome: Outcome | None = None,
        started_at: float | None = None,
        ended_at: float | None = None,
    ) -> bool:
        """Apply one event to the state that `job` was read in; False when it has moved since.

        Raises IllegalMoveError when the table has no such move.
        """
        outcome = outcome or Outcome()
        values = {
            "id": job.id,
            "old": job.state,
            "new": after(job.state, event),
            "event": event,
            "at": now(),
            "started_at": started_at,
            "ended_at": ended_at,
            **outcome.model_dump(),
        }
        return await self._write("move_job", values) == 1

    async def claim(self, job: Job, gpu_ids: list[int]) -> bool:
        """Move a queued job to `starting`, unless it moved or a cancel was wished for meanwhile."""
        values = {
            "id": job.id,
            "old": State.QUEUED,
            "new": after(State.QUEUED, Event.START),
            "event": Event.START,
            "at": now(),
            "gpu_ids": json.dumps(gpu_ids),
        }
        return await self._write("claim_job", values) == 1

    async def wish_cancel(
        self, job_id: str, at: float, reason: str | None, grace_s: float | None
    ) -> None:
        values = {"id": job_id, "at": at, "reason": reason, "grace_s": grace_s}
        await self._write("wish_cancel", values)

    async def set_progress(self, job_id: str, progress: Progress) -> None:
        await self._write("set_progress", {"id": job_id, "progress": progress.model_dump_json()})

    async def set_heartbeats(self, job_ids: Iterable[str]) -> None:
        await self._write("set_heartbeats", {"at": now(), "ids": json.dumps(list(job_ids))})

    async def note_waiting(self, reason: str) -> bool:
        """Say why jobs are still queued; whether any are."""
        if not await self._read("any_queued"):
            return False
        await self._write("note_waiting", {"reason": reason})
        return True

    async def in_states(self, states: Collection[State], limit: int = 100_000) -> list[Job]:
        """Oldest first."""
        rows = await self._read("list_in_states", states=json.dumps(sorted(states)), limit=limit)
        return [_job(row) for row in rows]

    async def note_too_large(self, whole: Resources, reason: str) -> None:
        """Say of queued jobs that ask for more than there is at all that they wait for ever."""
        await self._write("note_too_large", {**whole.model_dump(), "reason": reason})

    async def next_fitting(self, free: Resources | None) -> Job | None:
        """The oldest queued job that fits into what is free."""
        if free is None:
            return None
        rows = await self._read("next_fitting", **free.model_dump())
        return _job(rows[0]) if rows else None

    async def queued_to_cancel(self) -> list[Job]:
        return [_job(row) for row in await self._read("queued_to_cancel")]

    async def count_active(self) -> dict[State, int]:
        rows = await self._read("count_by_state", states=json.dumps(sorted(ACTIVE)))
        return {State(row["state"]): row["jobs"] for row in rows}

    async def newest(
        self, *, project: str | None, state: State | None, before: int | None, limit: int
    ) -> list[Job]:
        """Newest first, from below the seq `before`."""
        name = "list_newest"
        name += {
            (False, False): "",
            (True, False): "_in_project",
            (False, True): "_in_state",
            (True, True): "_in_project_and_state",
        }[project is not None, state is not None]
        values = {"project": project, "state": state, "limit": limit}
        rows = await self._read(name, before=_LAST if before is None else before, **values)
        return [_job(row) for row in rows]

    async def ended_before(self, at: float, *, after_seq: int = 0, limit: int = 1000) -> list[Job]:
        """Final jobs that ended before `at`, oldest first."""
        states = json.dumps(sorted(FINAL))
        rows = await self._read(
            "list_ended_before", before=at, states=states, after=after_seq, limit=limit
        )
        return [_job(row) for row in rows]

    async def ids_like(self, text: str, limit: int = 5) -> list[str]:
        """IDs that contain `text`, newest first."""
        escaped = re.sub(r"([\\%_])", r"\\\1", text)
        rows = await self._read("list_ids_like", pattern=f"%{escaped}%", limit=limit)
        return [row["id"] for row in rows]

    async def events(self, job_id: str, limit: int = 1000) -> list[JobEvent]:
        rows = await self._read("list_events", id=job_id, limit=limit)
        return [JobEvent(**dict(row)) for row in rows]

    async def delete(self, job_id: str) -> bool:
        """Forget a job that has ended."""
        return (
            await self._write("delete_job", {"id": job_id, "states": json.dumps(sorted(FINAL))})
            == 1
        )

    async def checkpoint(self) -> None:
        """Empty the write-ahead log into the database; harmless when others are busy."""
        await self._db.execute_fetchall("PRAGMA wal_checkpoint(TRUNCATE)")

    async def _read(self, name: str, **values: Any) -> list[sqlite3.Row]:
        self._check_still_there()
        try:
            return list(await self._db.execute_fetchall(self._sql[name], values))
        except sqlite3.Error as error:
            raise StateDirectoryError(f"{self._path} cannot be read: {error}.") from None

    async def _write(self, name: str, values: dict[str, Any]) -> int:
        """The number of rows changed."""
        self._check_still_there()
        try:
            cursor = await self._db.execute(self._sql[name], values)
            count = cursor.rowcount
            await cursor.close()
        except sqlite3.IntegrityError:
            raise
        except sqlite3.Error as error:
            raise StateDirectoryError(f"{self._path} cannot be written: {error}.") from None
        return count

    def _check_still_there(self) -> None:
        """SQLite goes on with a file that was deleted: writes are lost, reads tell old facts."""
        try:
            same = self._path.stat().st_ino == self._inode
        except OSError:
            same = False
        if not same:
            raise StateDirectoryError(
                f"{self._path} was deleted or replaced while in use.",
                "Restart this server; `outlast doctor` shows what is left of the jobs.",
            )


async def _scalar(db: aiosqlite.Connection, sql: str) -> Any:
    return next(iter(await db.execute_fetchall(sql)))[0]


async def _migrate(db: aiosqlite.Connection, path: Path) -> None:
    """Bring the schema to the newest version; refuse one from the future."""
    scripts = sorted(
        (item for item in _SQL.iterdir() if re.match(r"\d{4}_", item.name)), key=lambda i: i.name
    )
    while True:
        version = await _scalar(db, "PRAGMA user_version")
        if version > len(scripts):
            raise StateDirectoryError(
                f"{path} was written by a newer Outlast (schema {version}, known {len(scripts)}).",
                "Upgrade this Outlast, or set OUTLAST_HOME to another folder.",
            )
        if version == len(scripts):
            return
        script = scripts[version].read_text(encoding="utf-8")
        await db.execute("BEGIN IMMEDIATE")
        try:
            # Another process may have migrated while we waited for the lock.
            if await _scalar(db, "PRAGMA user_version") == version:
                for statement in _split(script):
                    await db.execute(statement)
                await db.execute(f"PRAGMA user_version={version + 1}")
            await db.execute("COMMIT")
        except BaseException:
            await db.execute("ROLLBACK")
            raise


def _split(script: str) -> list[str]:
    """The statements of a script. `executescript` would commit our transaction first."""
    statements, current = [], ""
    for line in script.splitlines(keepends=True):
        current += line
        if sqlite3.complete_statement(current):
            statements.append(current)
            current = ""
    return statements


def _job(row: sqlite3.Row) -> Job:
    values = dict(row)
    progress = values.pop("progress")
    values.pop("last_event")
    return Job(
        resources=Resources(**{key: values.pop(key) for key in ("cores", "memory_mb", "gpus")}),
        outcome=Outcome(**{key: values.pop(key) for key in ("exit_code", "signal", "reason")}),
        gpu_ids=json.loads(values.pop("gpu_ids")),
        progress=Progress.model_validate_json(progress) if progress else None,
        **values,
    )
