"""Accepting jobs into the index, in the thread that has made their directories.

A plain connection beside the store's: each change of thread costs a launch as much as its checks.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jobs import index
from jobs.errors import StateDirectoryError
from jobs.index import Fill
from jobs.model import Job, LaunchManifest, Outcome, Progress, Resources
from jobs.states import State
from jobs.sweeps import MOST_JOBS


class DuplicateJobIdError(Exception):
    """The random part of the ID is taken: make another."""


class Intake:
    """The index as one who launches needs it. All calls block; any thread may make them."""

    def __init__(self, path: Path, fill: Fill) -> None:
        self._path = path
        self._fill = fill
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None
        self._file = index.NO_FILE

    @contextlib.contextmanager
    def insert(self, launched: list[LaunchManifest]) -> Iterator[list[Job]]:
        """Accept jobs as queued, all or none, or give those of the launch that has their key.

        Only the first may have an idempotency key. Nobody makes the index anew before the block of
        new jobs ends, in which their directories get their names: an index that lacks a row is made
        when the name is there. Raises DuplicateJobIdError when an ID is taken, StateDirectoryError
        when the index cannot be used; then nothing is stored.
        """
        key = launched[0].idempotency_key
        rows = [_row(one) for one in launched]
        if len(rows) == 1:
            statement, values = "insert_job", rows[0]
        else:
            statement, values = "insert_jobs", {"jobs": json.dumps(rows), "key": key}
        while True:
            try:
                inserted, held = self._execute(statement, values)
            except sqlite3.IntegrityError as error:
                if "job.id" in str(error):
                    raise DuplicateJobIdError(launched[0].job_id) from None
                raise
            try:
                if inserted:
                    yield [job_of(row) for row in inserted]
                    return
            finally:
                os.close(held)
            known = self.by_key(key) if key is not None else []
            if known:  # else the index was made anew in between
                yield known
                return

    def get(self, job_id: str) -> Job | None:
        rows = self._read("get_job", {"id": job_id})
        return job_of(rows[0]) if rows else None

    def by_key(self, idempotency_key: str) -> list[Job]:
        """The jobs of the launch that has the key: one, those of a sweep, or none."""
        jobs = [job_of(row) for row in self._read("get_job_by_key", {"key": idempotency_key})]
        return self.sweep(jobs[0].sweep) if jobs and jobs[0].sweep else jobs

    def sweep(self, sweep_id: str) -> list[Job]:
        rows = self._read("list_sweep", {"sweep": sweep_id, "limit": MOST_JOBS})
        return [job_of(row) for row in rows]

    def close(self) -> None:
        with self._lock:
            self._close()

    def _read(self, statement: str, values: dict[str, Any]) -> list[sqlite3.Row]:
        rows, held = self._execute(statement, values)
        os.close(held)
        return rows

    def _execute(self, statement: str, values: dict[str, Any]) -> tuple[list[sqlite3.Row], int]:
        """The rows of one statement, which for a write are those that it changed, and a
        descriptor: until it is closed the index is not made anew."""
        with self._lock:
            for _ in range(index.MANY):
                db, held = self._current()
                try:
                    return db.execute(index.queries()[statement], values).fetchall(), held
                except BaseException as error:
                    os.close(held)
                    if isinstance(error, sqlite3.IntegrityError) or not isinstance(
                        error, sqlite3.Error
                    ):
                        raise
                    index.mend(self._path, error, self._file, self._fill)
        raise StateDirectoryError(f"{self._path} is replaced again and again.")

    def _current(self) -> tuple[sqlite3.Connection, int]:
        """The connection to the index, and the descriptor that keeps others from replacing it."""
        if self._db is not None and index.is_current(self._path, self._file):
            held = index.hold(self._path)
            if index.is_current(self._path, self._file):
                return self._db, held
            os.close(held)
        return self._open()

    def _open(self) -> tuple[sqlite3.Connection, int]:
        self._close()
        file, held = index.prepare(self._path, self._fill, anew=True)
        try:
            self._db = db = sqlite3.connect(check_same_thread=False, **index.how_to_connect(file))
            db.row_factory = sqlite3.Row
            for pragma in index.PRAGMAS:
                db.execute(pragma).fetchall()
            self._file = index.identity(file)
            return db, held
        except BaseException as error:
            self._close()
            os.close(held)
            if isinstance(error, sqlite3.Error | OSError):
                raise index.refusal(self._path, error, "opened") from None
            raise

    def _close(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            db.close()


def _row(launched: LaunchManifest) -> dict[str, Any]:
    """What the statement `insert_jobs` takes of one job."""
    sweep = launched.sweep
    return {
        "id": launched.job_id,
        "state": State.QUEUED,
        "project": launched.project,
        "name": launched.name,
        "manifest": launched.manifest,
        "engine": launched.engine,
        "idempotency_key": launched.idempotency_key,
        "request_sha256": launched.request_sha256,
        "created_at": launched.created_at,
        "cores": launched.resources.cores,
        "memory_mb": launched.resources.memory_mb,
        "gpus": launched.resources.gpus,
        "parent": launched.parent,
        "sweep": sweep.id if sweep else None,
        "sweep_index": sweep.index if sweep else None,
        "sweep_values": json.dumps(sweep.values) if sweep else None,
    }


def job_of(row: sqlite3.Row) -> Job:
    """A row of the table `job`."""
    values = dict(zip(row.keys(), row, strict=True))  # dict(row) looks each name up
    progress = values.pop("progress")
    values.pop("last_event")
    told = {key: values.pop(key) for key in ("exit_code", "signal", "reason")}
    outcome = values.pop("outcome")
    swept = values.pop("sweep_values")
    return Job(
        resources=Resources(**{key: values.pop(key) for key in ("cores", "memory_mb", "gpus")}),
        outcome=Outcome.model_validate_json(outcome) if outcome else Outcome(**told),
        gpu_ids=json.loads(values.pop("gpu_ids")),
        progress=Progress.model_validate_json(progress) if progress else None,
        sweep_values=json.loads(swept) if swept else None,
        **values,
    )
