"""Writing up a job that has ended: the verdict, what it left, and run.json."""

from __future__ import annotations

from jobs import clock, outcome
from jobs.artifacts import scan
from jobs.batch import BatchRecord
from jobs.batching import LOCAL
from jobs.directory import read_launch_manifest, read_record
from jobs.engines.base import Sighting
from jobs.failpoints import reach
from jobs.files import is_passing, write_durable
from jobs.limits import Limits
from jobs.model import (
    ArtifactScan,
    ExitRecord,
    Job,
    JobEvent,
    LaunchManifest,
    RunRecord,
)
from jobs.paths import JobDir
from jobs.software import software_version
from jobs.states import after


def conclude(
    job: Job,
    job_dir: JobDir,
    sighting: Sighting,
    events: list[JobEvent],
    *,
    hash_limit_bytes: int,
) -> RunRecord:
    """Look at what is left and write run.json, durably. Blocks, for long where files are large.

    The keeper makes the job final with what stands in the record; killed before that, the next
    keeper reads the record instead of judging anew, so that the two never differ.
    """
    started_at = sighting.started.started_at if sighting.started else job.started_at
    if started_at is not None and sighting.exit is not None:
        # Later than that, if the clock was set back while it ran.
        started_at = min(started_at, sighting.exit.ended_at - sighting.exit.wall_s)
    verdict, found = _judge(job, job_dir, sighting, started_at, hash_limit_bytes)
    limits = sighting.started.limits if sighting.started else None
    here = sighting.started and job.engine == LOCAL
    version = software_version(job_dir) if here else None
    return write_up(
        job, job_dir, verdict, events, found, sighting.exit, started_at, limits, version
    )


def write_up(
    job: Job,
    job_dir: JobDir,
    verdict: outcome.Verdict,
    events: list[JobEvent],
    found: ArtifactScan | None = None,
    ended: ExitRecord | None = None,
    started_at: float | None = None,
    limits: Limits | None = None,
    software_version: str | None = None,
) -> RunRecord:
    """Write run.json, durably, if there is still a job directory. Blocks."""
    ended_at = ended.ended_at if ended else clock.now()
    state = after(job.state, verdict.event)
    last = JobEvent(at=ended_at, event=verdict.event, state=state, detail=verdict.outcome.reason)
    used = {"wall_s", "user_s", "system_s", "max_rss_kb", "survivors", "limit_hit"}
    record = RunRecord(
        schema=1,
        job_id=job.id,
        state=state,
        outcome=verdict.outcome,
        created_at=job.created_at,
        started_at=started_at,
        ended_at=ended_at,
        limits=limits,
        software_version=software_version,
        batch=read_record(job_dir.batch, BatchRecord),
        attempt=job.attempt,
        artifacts=found or ArtifactScan(artifacts=[], total_size=0),
        events=[*events, last],
        **(ended.model_dump(include=used) if ended else {}),
    )
    if job_dir.root.is_dir():
        text = record.model_dump_json(by_alias=True, indent=1) + "\n"
        write_durable(job_dir.run_record, text.encode())
        reach("keeper.record_written")
    return record


def _judge(
    job: Job,
    job_dir: JobDir,
    sighting: Sighting,
    started_at: float | None,
    hash_limit_bytes: int,
) -> tuple[outcome.Verdict, ArtifactScan]:
    launched: LaunchManifest | None
    try:
        launched = read_launch_manifest(job_dir)
    except (OSError, ValueError) as error:
        if is_passing(error):
            raise
        nothing = ArtifactScan(artifacts=[], total_size=0)
        return outcome.judge(None, sighting, cancel_reason=job.cancel_reason), nothing
    found = scan(launched, job_dir, started_at=started_at, hash_limit_bytes=hash_limit_bytes)
    evidence = outcome.gather(launched, job_dir, found)
    return outcome.judge(launched, sighting, evidence, cancel_reason=job.cancel_reason), found
