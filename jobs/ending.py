"""Making jobs final: the last moves, each after its record is on the disk."""

from __future__ import annotations

import asyncio
import contextlib

from jobs.directory import give_birth, read_record
from jobs.failpoints import reach
from jobs.finish import write_up
from jobs.model import Job, Outcome, RunRecord
from jobs.outcome import Verdict
from jobs.paths import Home, JobDir
from jobs.states import Event, event_towards
from jobs.store import Store


class Ending:
    """A part of the keeper, and like it without a fact of its own."""

    def __init__(self, store: Store, home: Home) -> None:
        self._store = store
        self._home = home

    async def end_unstarted(self, job: Job, event: Event, reason: str | None) -> None:
        """Write up and make final a job that never ran."""
        with contextlib.suppress(OSError):
            give_birth(self._home, job)
        job_dir = self._home.job(job.project, job.id)
        record = read_record(job_dir.run_record, RunRecord)
        if record is None:
            verdict = Verdict(event, Outcome(reason=reason))
            events = await self._store.events(job.id)
            record = await asyncio.to_thread(write_up, job, job_dir, verdict, events)
        await self.make_final(job, job_dir, record)

    async def make_final(self, job: Job, job_dir: JobDir, record: RunRecord) -> None:
        for path in (job_dir.secrets, job_dir.batch_secrets):
            path.unlink(missing_ok=True)
        reach("keeper.secrets_removed")
        await self._store.move(
            job,
            event_towards(job.state, record.state),
            outcome=record.outcome,
            started_at=record.started_at,
            ended_at=record.ended_at,
        )
        reach("keeper.final_stored")
