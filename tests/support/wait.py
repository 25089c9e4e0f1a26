"""Waiting for conditions, never for time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from jobs.model import Job
from jobs.service import Service
from jobs.states import State

Seen = TypeVar("Seen")


async def until(
    condition: Callable[[], Seen | Awaitable[Seen]], seconds: float = 20, what: str = ""
) -> Seen:
    """The first true value of `condition`; AssertionError when there is none in time."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if isinstance(value, Awaitable):
            value = await value
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what or condition}")
        await asyncio.sleep(0.02)


async def ended(service: Service, job_id: str, seconds: float = 30) -> Job:
    """The job once it is final."""

    async def final() -> Job | None:
        job = await service.job(job_id)
        return job if job.is_final else None

    job = await until(final, seconds, f"{job_id} did not end")
    assert job is not None
    return job


async def in_state(service: Service, job_id: str, state: State, seconds: float = 20) -> Job:
    async def there() -> Job | None:
        job = await service.job(job_id)
        return job if job.state is state else None

    job = await until(there, seconds, f"{job_id} did not become {state}")
    assert job is not None
    return job
