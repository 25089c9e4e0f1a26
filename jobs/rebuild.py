"""What the job directories tell: the rows of an index that is made anew."""

from __future__ import annotations

import errno
import itertools
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs import index
from jobs.directory import read_launch_manifest, read_record
from jobs.engines.local import probe
from jobs.files import open_own
from jobs.index import Entry
from jobs.model import CancelWish, JobEvent, LaunchManifest, Progress, RunRecord, StartedRecord
from jobs.paths import JOB_ID, PROJECT, Home, JobDir
from jobs.states import Event, State

log = logging.getLogger(__name__)

_SECOND = len("job-20261122-143022")


@dataclass
class Rebuilt:
    jobs: int = 0
    left_out: list[str] = field(default_factory=list)  #: job directories, each with the reason


def rebuild(home: Home) -> Rebuilt:
    """Make the index anew while others may be using it; the file of the old one is kept.

    They go on with the new one; jobs are not touched. Blocks. Raises StateDirectoryError.
    """
    rebuilt = Rebuilt()

    def fill() -> Iterator[Entry]:
        for entry in entries(home, rebuilt.left_out):
            rebuilt.jobs += 1
            yield entry

    inode = home.database.stat().st_ino if home.database.exists() else 0
    index.replace(home.database, inode, fill)
    return rebuilt


def entries(home: Home, left_out: list[str] | None = None) -> Iterator[Entry]:
    """Every job whose directory can be read, oldest first. Blocks; takes 0.2 ms a job.

    A job that has ended is as its run record says. Any other is queued, starting while somebody
    holds its lock, or running once there is a record of its start, and the keeper finds out what
    has become of it.
    """
    found = [
        (path.name, path)
        for project in _folders(home.jobs)
        if PROJECT.fullmatch(project.name)
        for path in _folders(project)
        if JOB_ID.fullmatch(path.name)
    ]
    # An ID begins with the second of its launch: only the jobs of one second are held at once.
    for _, group in itertools.groupby(sorted(found), key=lambda item: item[0][:_SECOND]):
        batch = []
        for _, path in group:
            try:
                batch.append(_entry(path))
            except (OSError, ValueError) as error:
                if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                    raise  # says nothing of this job
                reason = f"{path}: {str(error).splitlines()[0]}"
                log.warning("left out of the index: %s", reason)
                if left_out is not None:
                    left_out.append(reason)
        yield from sorted(batch, key=lambda entry: float(entry.row["created_at"]))


def _folders(path: Path) -> list[Path]:
    """None where there is none. Raises OSError: an index made without it would be false."""
    try:
        return [item for item in path.iterdir() if item.is_dir() and not item.is_symlink()]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _entry(root: Path) -> Entry:
    job_dir = JobDir(root)
    launched = read_launch_manifest(job_dir)
    if (launched.project, launched.job_id) != (root.parent.name, root.name):
        raise ValueError(f"its job.json is that of {launched.job_id}")
    row = {
        **launched.model_dump(
            include={
                "project", "name", "manifest", "engine", "idempotency_key", "request_sha256",
                "created_at",
            }
        ),
        **launched.resources.model_dump(),
        **_cancel_wish(job_dir),
        "id": launched.job_id,
        "parent": launched.parent,
        "sweep": launched.sweep.id if launched.sweep else None,
        "sweep_index": launched.sweep.index if launched.sweep else None,
        "sweep_values": json.dumps(launched.sweep.values) if launched.sweep else None,
        "progress": _last_progress(job_dir),
    }  # fmt: skip
    state, events = _what_became_of_it(job_dir, launched, row)
    row |= {"state": state, "changed_at": events[-1].at, "last_event": events[-1].event}
    return Entry(row, events)


def _cancel_wish(job_dir: JobDir) -> dict[str, Any]:
    wish = read_record(job_dir.cancel, CancelWish)
    if wish is None:
        return {}
    return {"cancel_at": wish.at, "cancel_reason": wish.reason, "cancel_grace_s": wish.grace_s}


def _what_became_of_it(
    job_dir: JobDir, launched: LaunchManifest, row: dict[str, Any]
) -> tuple[State, list[JobEvent]]:
    """State and events; adds to the row what belongs to them."""
    events = [
        JobEvent(at=launched.created_at, event="accepted", state=State.QUEUED, detail=None),
    ]
    record = read_record(job_dir.run_record, RunRecord)
    # Asked first: `started` comes later. What a scheduler may have is for its engine to find out.
    starting = record is None and (job_dir.batch.exists() or _has_supervisor(job_dir))
    started = read_record(job_dir.started, StartedRecord)
    if started is not None:
        row |= {"attempt": started.attempt, "gpu_ids": json.dumps(started.gpu_ids)}
    if record is not None:
        # The keeper removes them before it makes a job final; it may have been killed in between.
        job_dir.secrets.unlink(missing_ok=True)
        row |= {"attempt": record.attempt, "started_at": record.started_at}
        told = record.outcome
        row |= {"exit_code": told.exit_code, "signal": told.signal, "reason": told.reason}
        row |= {"ended_at": record.ended_at}
        row["outcome"] = told.model_dump_json(exclude_defaults=True)
        return record.state, record.events or events
    if started is None and starting:
        # Which GPUs it was given is known once it has started; till then no other gets one.
        at = (job_dir.batch if job_dir.batch.exists() else job_dir.lock).stat().st_mtime
        events.append(JobEvent(at=at, event=Event.START, state=State.STARTING, detail=None))
        row["attempt"] = 1
        return State.STARTING, events
    if started is None:
        return State.QUEUED, events
    row["started_at"] = started.started_at
    for event, state in ((Event.START, State.STARTING), (Event.ALIVE, State.RUNNING)):
        events.append(JobEvent(at=started.started_at, event=event, state=state, detail=None))
    return State.RUNNING, events


def _has_supervisor(job_dir: JobDir) -> bool:
    if not job_dir.lock.exists():
        return False
    with probe(job_dir) as alive:
        return alive


def _last_progress(job_dir: JobDir) -> str | None:
    try:
        with open_own(job_dir.progress) as file:
            file.seek(max(0, file.seek(0, 2) - 8192))
            sample = json.loads(file.read().splitlines()[-1])
        for name in ("at", "elapsed_s"):
            sample.pop(name, None)
        return Progress.model_validate(sample).model_dump_json()
    except (OSError, ValueError, LookupError, TypeError):
        return None
