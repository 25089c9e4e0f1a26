"""The index: the only importer of aiosqlite. All SQL is in `jobs/sql/`.

Each write is one autocommitted statement; the event that belongs to a move is written by a trigger
in the same transaction. All rows of a read are fetched at once, because an open cursor keeps the
write-ahead log from being recycled.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sqlite3
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import aiosqlite

from jobs import index
from jobs.clock import now
from jobs.errors import StateDirectoryError
from jobs.index import SQL, Fill
from jobs.model import Job, JobEvent, LaunchManifest, Outcome, Progress, Resources
from jobs.states import ACTIVE, FINAL, Event, State, after

_MANY = 50  #: times that the index may be replaced during one call
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
    """One connection to the index. Use `await Store.open(path)` and `await store.close()`.

    When the file is deleted, replaced or found damaged, every call goes on with a new one, made
    from what `fill` gives.
    """

    def __init__(self, path: Path, fill: Fill) -> None:
        self._path = path
        self._fill = fill
        self._sql = named_statements((SQL / "queries.sql").read_text(encoding="utf-8"))
        self._opening = asyncio.Lock()
        self._db: aiosqlite.Connection | None = None
        self._file = (0, 0)  #: device and inode

    @classmethod
    async def open(cls, path: Path, fill: Fill = tuple) -> Store:
        """Open the index, made and migrated as needed; safe for many processes at once.

        Raises StateDirectoryError with the cause when it cannot be used.
        """
        store = cls(path, fill)
        await store._open()
        return store

    async def _open(self) -> None:
        file, lock = await asyncio.to_thread(index.prepare, self._path, self._fill)
        db = None
        try:
            db = await aiosqlite.connect(
                f"{file.as_uri()}?mode=rw", uri=True, timeout=index.BUSY_S, isolation_level=None
            )
            db.row_factory = sqlite3.Row
            await db.execute_fetchall("PRAGMA synchronous=NORMAL")
            await db.execute_fetchall("PRAGMA foreign_keys=ON")
            status = file.stat()
        except BaseException as error:
            if db is not None:
                await db.close()
            if isinstance(error, sqlite3.Error | OSError):
                raise index.refusal(self._path, error, "opened") from None
            raise
        finally:
            os.close(lock)
        self._db, self._file = db, (status.st_dev, status.st_ino)

    async def close(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            await db.close()

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
        while True:
            try:
                rows = await self._run("insert_job", **row)
            except sqlite3.IntegrityError as error:
                if "job.id" in str(error):
                    raise DuplicateJobIdError(launched.job_id) from None
                raise
            if rows:
                return _job(rows[0])
            known = await self.by_key(launched.idempotency_key or "")
            if known is not None:  # else the index was made anew in between
                return known

    async def get(self, job_id: str) -> Job | None:
        rows = await self._run("get_job", id=job_id)
        return _job(rows[0]) if rows else None

    async def by_key(self, idempotency_key: str) -> Job | None:
        rows = await self._run("get_job_by_key", key=idempotency_key)
        return _job(rows[0]) if rows else None

    async def move(
        self,
        job: Job,
        event: Event,
        *,
        outcome: Outcome | None = None,
        started_at: float | None = None,
        ended_at: float | None = None,
        gpu_ids: list[int] | None = None,
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
            "gpu_ids": None if gpu_ids is None else json.dumps(gpu_ids),
            **outcome.model_dump(),
        }
        return bool(await self._run("move_job", **values))

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
        return bool(await self._run("claim_job", **values))

    async def wish_cancel(
        self, job_id: str, at: float, reason: str | None, grace_s: float | None
    ) -> None:
        await self._run("wish_cancel", id=job_id, at=at, reason=reason, grace_s=grace_s)

    async def set_progress(self, job_id: str, progress: Progress) -> None:
        await self._run("set_progress", id=job_id, progress=progress.model_dump_json())

    async def set_heartbeats(self, job_ids: Iterable[str]) -> None:
        await self._run("set_heartbeats", at=now(), ids=json.dumps(list(job_ids)))

    async def explain_waiting(self, whole: Resources, too_large: str, why: str) -> None:
        """Say of queued jobs why they are: more is asked for than there is at all, or `why`."""
        if await self._run("any_unexplained"):  # else no lock is taken for nothing at every pass
            await self._run("note_too_large", **whole.model_dump(), reason=too_large)
            await self._run("note_waiting", reason=why)

    async def any_queued(self) -> bool:
        return bool(await self._run("any_queued"))

    async def in_states(self, states: Collection[State], limit: int = 100_000) -> list[Job]:
        """Oldest first."""
        rows = await self._run("list_in_states", states=json.dumps(sorted(states)), limit=limit)
        return [_job(row) for row in rows]

    async def next_fitting(self, free: Resources | None) -> Job | None:
        """The oldest queued job that fits into what is free."""
        if free is None:
            return None
        rows = await self._run("next_fitting", **free.model_dump())
        return _job(rows[0]) if rows else None

    async def queued_to_cancel(self) -> list[Job]:
        return [_job(row) for row in await self._run("queued_to_cancel")]

    async def count_active(self) -> dict[State, int]:
        rows = await self._run("count_by_state", states=json.dumps(sorted(ACTIVE)))
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
        rows = await self._run(name, before=_LAST if before is None else before, **values)
        return [_job(row) for row in rows]

    async def ended_before(self, at: float, *, after_seq: int = 0, limit: int = 1000) -> list[Job]:
        """Final jobs that ended before `at`, oldest first."""
        states = json.dumps(sorted(FINAL))
        rows = await self._run(
            "list_ended_before", before=at, states=states, after=after_seq, limit=limit
        )
        return [_job(row) for row in rows]

    async def ids_like(self, text: str, limit: int = 5) -> list[str]:
        """IDs that contain `text`, newest first."""
        escaped = re.sub(r"([\\%_])", r"\\\1", text)
        rows = await self._run("list_ids_like", pattern=f"%{escaped}%", limit=limit)
        return [row["id"] for row in rows]

    async def events(self, job_id: str, limit: int = 1000) -> list[JobEvent]:
        rows = await self._run("list_events", id=job_id, limit=limit)
        return [JobEvent(**dict(row)) for row in rows]

    async def delete(self, job_id: str) -> bool:
        """Forget a job that has ended."""
        return bool(await self._run("delete_job", id=job_id, states=json.dumps(sorted(FINAL))))

    async def checkpoint(self) -> None:
        """Empty the write-ahead log into the database; harmless when others are busy."""
        db = await self._current()
        await db.execute_fetchall("PRAGMA wal_checkpoint(TRUNCATE)")

    def is_current(self) -> bool:
        """Whether the file that is open is still the index: SQLite would go on with a deleted one,
        lose what is written and tell old facts."""
        try:
            status = self._path.stat()
        except OSError:
            return False
        return self._db is not None and (status.st_dev, status.st_ino) == self._file

    async def _current(self) -> aiosqlite.Connection:
        if self._db is None or not self.is_current():
            async with self._opening:
                if self._db is None or not self.is_current():
                    await self._open_again()
        assert self._db is not None
        return self._db

    async def _open_again(self) -> None:
        if not self._path.parent.is_dir():
            raise StateDirectoryError.gone(self._path.parent)
        await self.close()
        await self._open()

    async def _run(self, statement: str, **values: Any) -> list[sqlite3.Row]:
        """Run one statement; its rows, which for a write are those that it changed."""
        for _ in range(_MANY):
            db = await self._current()
            try:
                # One call and no cursor: what is asked of a connection after it was told to close
                # is never answered.
                rows = list(await db.execute_fetchall(self._sql[statement], values))
            except sqlite3.IntegrityError:
                raise
            except sqlite3.Error as error:
                if not index.is_damage(error):
                    raise index.refusal(self._path, error, "used") from None
                inode = self._file[1]
                await asyncio.to_thread(index.replace, self._path, inode, self._fill)
                continue
            if self.is_current():
                return rows
            # Replaced meanwhile: what was written is lost, what was read is old.
        raise StateDirectoryError(f"{self._path} is replaced again and again.")


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
