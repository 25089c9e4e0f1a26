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
from jobs.index import Fill
from jobs.intake import Intake, job_of
from jobs.model import Job, JobEvent, Outcome, Progress, Resources
from jobs.states import ACTIVE, FINAL, Event, State, after
from jobs.sweeps import MOST_JOBS

_LAST = 1 << 62  #: larger than any seq


class Store:
    """One connection to the index. Use `await Store.open(path)` and `await store.close()`.

    When the file is deleted, replaced or found damaged, every call goes on with a new one, made
    from what `fill` gives.
    """

    def __init__(self, path: Path, fill: Fill) -> None:
        self._path = path
        self._fill = fill
        self.intake = Intake(path, fill)
        self._opening = asyncio.Lock()
        self._db: aiosqlite.Connection | None = None
        self._file = index.NO_FILE

    @classmethod
    async def open(cls, path: Path, fill: Fill = tuple) -> Store:
        """Open the index, made and migrated as needed; safe for many processes at once.

        Raises StateDirectoryError with the cause when it cannot be used.
        """
        store = cls(path, fill)
        await store._open()
        return store

    async def _open(self) -> None:
        anew = self._file != index.NO_FILE
        file, lock = await asyncio.to_thread(index.prepare, self._path, self._fill, anew=anew)
        db = None
        try:
            db = await aiosqlite.connect(**index.how_to_connect(file))
            db.row_factory = sqlite3.Row
            for pragma in index.PRAGMAS:
                await db.execute_fetchall(pragma)
            identity = index.identity(file)
        except BaseException as error:
            if db is not None:
                await db.close()
            if isinstance(error, sqlite3.Error | OSError):
                raise index.refusal(self._path, error, "opened") from None
            raise
        finally:
            os.close(lock)
        self._db, self._file = db, identity

    async def close(self) -> None:
        self.intake.close()
        await self._close()

    async def _close(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            await db.close()

    async def get(self, job_id: str) -> Job | None:
        rows = await self._run("get_job", id=job_id)
        return job_of(rows[0]) if rows else None

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
        told = outcome or Outcome()
        values = {
            "id": job.id,
            "old": job.state,
            "new": after(job.state, event),
            "event": event,
            "at": now(),
            "started_at": started_at,
            "ended_at": ended_at,
            "gpu_ids": None if gpu_ids is None else json.dumps(gpu_ids),
            "exit_code": told.exit_code,
            "signal": told.signal,
            "reason": told.reason,
            "outcome": None if outcome is None else outcome.model_dump_json(exclude_defaults=True),
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
        return [job_of(row) for row in rows]

    async def next_fitting(self, free: Resources | None) -> Job | None:
        """The oldest queued job that fits into what is free."""
        if free is None:
            return None
        rows = await self._run("next_fitting", **free.model_dump())
        return job_of(rows[0]) if rows else None

    async def queued_elsewhere(self, limit: int = 1000) -> list[Job]:
        """Queued jobs of engines that have a queue of their own, oldest first."""
        return [job_of(row) for row in await self._run("queued_elsewhere", limit=limit)]

    async def note(self, job_id: str, reason: str | None) -> None:
        """Say of a job that has not ended why it waits, or what else keeps it."""
        await self._run("note", id=job_id, reason=reason, states=json.dumps(sorted(ACTIVE)))

    async def queued_to_cancel(self) -> list[Job]:
        return [job_of(row) for row in await self._run("queued_to_cancel")]

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
        return [job_of(row) for row in rows]

    async def sweep(self, sweep_id: str) -> list[Job]:
        """The jobs of a sweep, oldest first."""
        rows = await self._run("list_sweep", sweep=sweep_id, limit=MOST_JOBS)
        return [job_of(row) for row in rows]

    async def count_sweeps(self, sweep_ids: Iterable[str]) -> dict[str, dict[State, int]]:
        """How many jobs of each sweep there are, by state."""
        counts: dict[str, dict[State, int]] = {}
        for row in await self._run("count_sweeps", sweeps=json.dumps(list(sweep_ids))):
            counts.setdefault(row["sweep"], {})[State(row["state"])] = row["jobs"]
        return counts

    async def ended_before(self, at: float, *, after_seq: int = 0, limit: int = 1000) -> list[Job]:
        """Final jobs that ended before `at`, oldest first."""
        states = json.dumps(sorted(FINAL))
        rows = await self._run(
            "list_ended_before", before=at, states=states, after=after_seq, limit=limit
        )
        return [job_of(row) for row in rows]

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
        db, _ = await self._current()
        await db.execute_fetchall("PRAGMA wal_checkpoint(TRUNCATE)")

    def is_current(self) -> bool:
        """Whether the file that is open is still the index."""
        return self._db is not None and index.is_current(self._path, self._file)

    async def _current(self) -> tuple[aiosqlite.Connection, index.FileId]:
        if self._db is None or not self.is_current():
            async with self._opening:
                if self._db is None or not self.is_current():
                    await self._close()
                    await self._open()
        assert self._db is not None
        return self._db, self._file

    async def _run(self, statement: str, **values: Any) -> list[sqlite3.Row]:
        """Run one statement; its rows, which for a write are those that it changed."""
        for _ in range(index.MANY):
            db, file = await self._current()
            try:
                # One call and no cursor: what is asked of a connection after it was told to close
                # is never answered.
                rows = list(await db.execute_fetchall(index.queries()[statement], values))
            except sqlite3.IntegrityError:
                raise
            except sqlite3.Error as error:
                await asyncio.to_thread(index.mend, self._path, error, file, self._fill)
                continue
            if index.is_current(
                self._path, file
            ):  # not only ours: another call may have changed it
                return rows
            # Replaced meanwhile: what was written is lost, what was read is old.
        raise StateDirectoryError(f"{self._path} is replaced again and again.")
