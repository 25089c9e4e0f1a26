"""Accepting a launch: from a wish to a job that is stored, whole or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from jobs.directory import give_birth, make_unborn, remove_unaccepted, remove_unborn
from jobs.errors import DiskFullError, IdempotencyConflictError, StateDirectoryError
from jobs.failpoints import reach
from jobs.intake import DuplicateJobIdError, Intake
from jobs.launch import check_text, digest, resolve
from jobs.manifests import Manifests
from jobs.model import Job, LaunchManifest, LaunchRequest
from jobs.settings import Settings
from jobs.store import Store

log = logging.getLogger(__name__)


async def accept(
    request: LaunchRequest,
    store: Store,
    settings: Settings,
    manifests: Manifests,
    *,
    client: str | None,
) -> tuple[Job, bool]:
    """Store a job durably as queued; (the job, whether it was there under its key already).

    Raises a JobError; then there is no job and no trace of it. Killed in between, there is either
    no job, or one whose directory the keeper completes. Goes on when it is not waited for.
    """
    # All in one thread: each change of thread costs as much as the checks.
    return await asyncio.to_thread(_accept, request, store.intake, settings, manifests, client)


def _accept(
    request: LaunchRequest,
    intake: Intake,
    settings: Settings,
    manifests: Manifests,
    client: str | None,
) -> tuple[Job, bool]:
    home = settings.state
    check_text("idempotency_key", request.idempotency_key)
    for _ in range(10):
        # First of all: what the first launch found in order may be gone when it is repeated.
        known = _known_by_key(request, intake)
        if known is not None:
            with contextlib.suppress(OSError):  # its server may have died before it did that
                give_birth(home, known)
            return known, True
        manifest = _prepare(request, settings, manifests, client)
        if manifest is None:
            continue  # someone drew the same random ID in this second
        try:
            job, file = intake.insert(manifest)
        except DuplicateJobIdError:
            remove_unborn(home, manifest)
            continue
        except Exception:
            remove_unborn(home, manifest)
            raise
        if job.id != manifest.job_id:  # the same key came in by another server just now
            remove_unborn(home, manifest)
            continue
        try:
            reach("server.accepted")
            give_birth(home, job)
            reach("server.named")
        except OSError as error:  # the job is accepted: its ID must reach the caller
            log.warning("%s: the keeper is to name its directory: %s", job.id, error)
        if not intake.is_current(file):
            # Made anew from the directories, perhaps a moment before ours was seen among them.
            with contextlib.suppress(DuplicateJobIdError):
                job, _ = intake.insert(manifest)
            if job.id != manifest.job_id:  # meanwhile the key went to another server's launch
                remove_unaccepted(home, manifest)
                return job, True
        return job, False
    raise StateDirectoryError("No free job ID was found in ten attempts.")


def _prepare(
    request: LaunchRequest, settings: Settings, manifests: Manifests, client: str | None
) -> LaunchManifest | None:
    """Resolve, and make the directory under its unborn name; none when the job ID is taken."""
    launch = resolve(request, settings, manifests, client=client)
    try:
        made = make_unborn(settings.state, launch.manifest, launch.secrets, launch.copies)
        reach("server.directory_made")
        return made
    except FileExistsError:
        return None
    except OSError as error:
        home = settings.state
        remove_unborn(home, launch.manifest)
        if not home.root.is_dir():
            raise StateDirectoryError.gone(home.root) from None
        if DiskFullError.is_cause(error.errno):
            raise DiskFullError(f"The disk that holds {home.root} is full.") from None
        raise StateDirectoryError(f"The job directory cannot be made: {error.strerror}.") from None


def _known_by_key(request: LaunchRequest, intake: Intake) -> Job | None:
    """The job that has the key. Raises IdempotencyConflictError when it is another request."""
    if request.idempotency_key is None:
        return None
    known = intake.by_key(request.idempotency_key)
    if known is not None and known.request_sha256 != digest(request.model_dump()):
        raise IdempotencyConflictError(
            f"The idempotency_key belongs to {known.id}, which was launched differently."
        )
    return known
