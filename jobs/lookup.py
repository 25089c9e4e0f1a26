"""Finding a job or a sweep by what a caller says of its ID."""

from __future__ import annotations

from jobs.errors import InvalidArgumentError, JobNotFoundError, nearest
from jobs.paths import JOB_ID
from jobs.store import Store


async def find_id(store: Store, part: str) -> str:
    """The ID of the job or sweep that is `part`, or the only one that contains it.

    Raises JobNotFoundError, or InvalidArgumentError that names the candidates.
    """
    whole = part.partition("#")[0]
    if await store.get(part) is not None or await store.sweep(whole):
        return part
    similar = await store.ids_like(part) if part else []
    if not similar:
        raise JobNotFoundError(await not_found(store, part))
    if len(similar) > 1:
        raise InvalidArgumentError(
            f"{part!r} is a part of several IDs: {', '.join(similar)}.",
            "Give more of the ID; nothing was changed.",
        )
    return similar[0]


async def not_found(store: Store, job_id: str) -> str:
    """That there is no such job, with the most similar ID."""
    shown = repr(job_id if len(job_id) <= 100 else job_id[:100] + "…")
    similar = await store.ids_like(job_id[-60:]) if job_id else []
    if not similar and JOB_ID.fullmatch(job_id):
        newest = await store.newest(project=None, state=None, before=None, limit=100)
        return f"There is no job {shown}.{nearest(job_id, [job.id for job in newest])}"
    hint = f" Did you mean {similar[0]!r}?" if similar else ""
    return f"There is no job {shown}.{hint}"
