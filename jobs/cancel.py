"""The wish that a job ends: written into its directory, then into the index, for the keeper."""

from __future__ import annotations

import asyncio
import logging

from jobs import clock
from jobs.directory import give_birth, read_record
from jobs.errors import DiskFullError
from jobs.failpoints import reach
from jobs.files import write_durable
from jobs.keeping import CANCEL, send
from jobs.model import CancelWish, Job
from jobs.paths import Home
from jobs.store import Store

log = logging.getLogger(__name__)


async def wish_cancel(
    store: Store, home: Home, job: Job, *, reason: str | None, grace_s: float | None
) -> None:
    """Write the wish down; whoever wants it done soon wakes the keeper.

    The first reason stands, and a later wish can only shorten the grace. Raises DiskFullError when
    it cannot be written down; it is carried out nevertheless if there is a keeper.
    """
    wish = CancelWish(at=clock.now(), reason=reason and reason[:500], grace_s=grace_s)
    if job.cancel_at is not None:
        known = CancelWish(at=job.cancel_at, reason=job.cancel_reason, grace_s=job.cancel_grace_s)
        wish = _joined(known, wish)
    try:
        path = give_birth(home, job).cancel
        # `job` may be older than another's wish, and that one's server may have died half-way.
        written = read_record(path, CancelWish)
        if written is not None:
            wish = _joined(written, wish)
        await asyncio.to_thread(write_durable, path, wish.model_dump_json().encode())
        reach("server.wish_written")
    except OSError as error:  # a job is not to run on because its directory is unusable
        log.warning("%s: the wish to cancel is only in the index: %s", job.id, error)
    try:
        await store.wish_cancel(job.id, wish.at, wish.reason, wish.grace_s)
    except DiskFullError as error:  # the job may be what fills it
        if send(home, CANCEL + job.id.encode()):
            raise DiskFullError(
                f"{error.cause} {job.id} was told to end, but nothing could be written down.",
                "Ask the user to free space, then call job_status for the end of the job.",
            ) from None
        raise
    reach("server.wish_stored")


def _joined(first: CancelWish, later: CancelWish) -> CancelWish:
    graces = [wish.grace_s for wish in (first, later) if wish.grace_s is not None]
    return first.model_copy(update={"grace_s": min(graces, default=None)})
