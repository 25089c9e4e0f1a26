"""What every engine does for the keeper, and what it may say that it saw."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from jobs.model import ExitRecord, LaunchManifest, StartedRecord
from jobs.paths import JobDir


class Phase(StrEnum):
    NEVER_STARTED = "never_started"  #: nothing ran and nothing will: safe to start
    WAITING = "waiting"  #: in the queue of a scheduler, which will start it; it can be stopped
    STARTING = "starting"  #: somebody alive is about to start it
    RUNNING = "running"  #: alive, and somebody will write down how it ends
    ORPHANED = "orphaned"  #: alive, but how it ends will not be written down
    ENDED = "ended"  #: there is a record of the end
    VANISHED = "vanished"  #: it did start, it is gone, and nobody wrote down how
    UNKNOWN = "unknown"  #: could not ask; never to be read as "does not exist"


@dataclass(frozen=True)
class Sighting:
    """What an engine saw of one job. Only facts that are known are set."""

    phase: Phase
    started: StartedRecord | None = None
    exit: ExitRecord | None = None
    detail: str | None = None


@dataclass(frozen=True)
class Submission:
    """A job that is to be started."""

    launched: LaunchManifest
    job_dir: JobDir
    gpu_ids: list[int]
    attempt: int


class RefusedError(Exception):
    """The scheduler will never start some jobs as they are. `reasons` says why, by job directory:
    the others of the same batch were submitted."""

    def __init__(self, reasons: Mapping[Path, str]) -> None:
        super().__init__("; ".join(dict.fromkeys(reasons.values())))
        self.reasons = reasons


class UnreachableError(OSError):
    """The scheduler could not be asked: this says nothing about any job."""


class Engine(Protocol):
    """Where jobs run. An engine touches processes and job directories, never the store."""

    async def submit(self, batch: Sequence[Submission]) -> None:
        """Start jobs, each at most once whatever else happens. Those of one sweep come together.

        GPUs and attempt are written down with the start, so that the index can be made anew.
        Raises OSError when they could not be started just now (no memory, no descriptors, a
        scheduler that does not answer): what a poll then says was never started may be tried again.
        Raises RefusedError, when all were tried, for those that can never be.
        """
        ...

    def is_ready(self, job_dir: JobDir) -> bool:
        """Whether it is worth submitting the job now."""
        ...

    async def poll(self, job_dir: JobDir) -> Sighting:
        """Look, without waiting."""
        ...

    async def stop(self, job_dir: JobDir, *, grace_s: float | None) -> None:
        """Ask the whole job to end, and kill what is left of it after `grace_s` seconds; without,
        after the job's own grace.

        Returns at once; a later poll shows the end. Harmless when repeated.
        """
        ...

    def adopt(self, job_dir: JobDir, on_change: Callable[[], None]) -> Callable[[], None]:
        """Call `on_change` in the event loop whenever the job may have changed.

        Returns the function that ends this. Changes may also go unnoticed: the keeper polls too.
        """
        ...
