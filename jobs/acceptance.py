"""Accepting a launch: from a wish to a job that is stored, whole or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from jobs.arguments import check_text
from jobs.directory import give_births, make_unborn, remove_unborn
from jobs.errors import (
    DiskFullError,
    IdempotencyConflictError,
    JobNotFoundError,
    StateDirectoryError,
)
from jobs.failpoints import reach
from jobs.identity import digest
from jobs.intake import DuplicateJobIdError, Intake
from jobs.launch import Launch, resolve
from jobs.manifests import Manifests
from jobs.model import Job, LaunchManifest, LaunchRequest
from jobs.paths import Home
from jobs.resuming import Parent, parent_of
from jobs.settings import Settings
from jobs.store import Store
from jobs.sweeps import Sweep, place_in_sweep
from jobs.text import shown

log = logging.getLogger(__name__)


async def accept(
    request: LaunchRequest,
    store: Store,
    settings: Settings,
    manifests: Manifests,
    *,
    client: str | None,
) -> tuple[list[Job], bool]:
    """Store a job, or all jobs of a sweep, durably as queued; whether they were there already.

    Raises a JobError; then there is no job and no trace of it. Killed in between, there is either
    no job, or all, whose directories the keeper completes. Goes on when it is not waited for.
    """
    # All in one thread: each change of thread costs as much as the checks.
    accepting = asyncio.get_running_loop().run_in_executor(
        None, _accept, request, store.intake, settings, manifests, client
    )
    return await asyncio.shield(accepting)


def _accept(
    request: LaunchRequest,
    intake: Intake,
    settings: Settings,
    manifests: Manifests,
    client: str | None,
) -> tuple[list[Job], bool]:
    home = settings.state
    check_text("idempotency_key", request.idempotency_key)

    def find_parent(job_id: str) -> Parent:
        check_text("resume_from", job_id)
        job = intake.get(job_id)
        if job is None and (place := place_in_sweep(job_id)):
            job = Sweep(place[0], intake.sweep(place[0])).job(place[1])
        if job is None:
            raise JobNotFoundError(f"There is no job {shown(job_id, 100)!r} to resume from.")
        return parent_of(job, home.job(job.project, job.id))

    for _ in range(10):
        # First of all: what the first launch found in order may be gone when it is repeated.
        known = _known_by_key(request, intake)
        if known:
            with contextlib.suppress(OSError):  # its server may have died before it did that
                give_births(home, known)
            return known, True
        launches = resolve(request, settings, manifests, client=client, find_parent=find_parent)
        prepared = _prepare(launches, home)
        if prepared is None:
            continue  # someone drew the same random ID in this second
        with contextlib.ExitStack() as accepting:
            try:
                jobs = accepting.enter_context(intake.insert(prepared))
            except DuplicateJobIdError:
                _undo(home, prepared)
                continue
            except BaseException:
                _undo(home, prepared)
                raise
            if jobs[0].id != prepared[0].job_id:  # the same key came in by another server just now
                _undo(home, prepared)
                continue
            try:
                reach("server.accepted")
                give_births(home, jobs)
                reach("server.named")
            except OSError as error:  # they are accepted: the ID must reach the caller
                log.warning("%s: the keeper is to name its directory: %s", jobs[0].id, error)
            return jobs, False
    raise StateDirectoryError("No free job ID was found in ten attempts.")


def _prepare(launches: list[Launch], home: Home) -> list[LaunchManifest] | None:
    """Make the directories under their unborn names; none when a job ID is taken."""
    made: list[LaunchManifest] = []
    try:
        for launch in launches:
            made.append(launch.manifest)
            placements = launch.placements
            made[-1] = make_unborn(home, launch.manifest, launch.secrets, placements)
        reach("server.directory_made")
        return made
    except FileExistsError:
        _undo(home, made[:-1])  # the last is another's
        return None
    except OSError as error:
        _undo(home, made)
        if not home.root.is_dir():
            raise StateDirectoryError.gone(home.root) from None
        if DiskFullError.is_cause(error.errno):
            raise DiskFullError(f"The disk that holds {home.root} is full.") from None
        raise StateDirectoryError(f"The job directory cannot be made: {error.strerror}.") from None
    except BaseException:
        _undo(home, made)
        raise


def _undo(home: Home, made: list[LaunchManifest]) -> None:
    for manifest in made:
        remove_unborn(home, manifest)


def _known_by_key(request: LaunchRequest, intake: Intake) -> list[Job]:
    """The jobs that have the key. Raises IdempotencyConflictError when it is another request."""
    if request.idempotency_key is None:
        return []
    known = intake.by_key(request.idempotency_key)
    if known and known[0].request_sha256 != digest(request.model_dump(exclude_defaults=True)):
        raise IdempotencyConflictError(
            f"The idempotency_key belongs to {known[0].sweep or known[0].id}, which was launched "
            "differently."
        )
    return known
