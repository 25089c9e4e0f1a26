"""The verbs that every face calls. Validates, writes wishes, reads facts; starts no job."""

from __future__ import annotations

import asyncio
import fnmatch
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from jobs import artifacts, disk, logs
from jobs.acceptance import accept
from jobs.arguments import check_text
from jobs.batch import BatchRecord
from jobs.batching import Place, places
from jobs.cancel import wish_cancel
from jobs.directory import give_birth, glimpse, read_launch_manifest
from jobs.enquiries import Enquiries, check_wait, parse_number
from jobs.errors import (
    FileNotFoundInJobError,
    InvalidArgumentError,
    JobError,
    StateDirectoryError,
)
from jobs.failpoints import reach
from jobs.keeping import WAKE, ensure_keeper, send
from jobs.manifests import Manifest, Manifests
from jobs.model import (
    Artifact,
    ArtifactPage,
    ArtifactScan,
    Job,
    Launched,
    LaunchManifest,
    LaunchRequest,
    RunRecord,
)
from jobs.paths import JobDir
from jobs.patterns import check_glob
from jobs.progress import log_place
from jobs.pruning import Pruner
from jobs.settings import Settings
from jobs.states import State
from jobs.store import Store
from jobs.sweeps import SWEEP_TABLE, Sweep, is_sweep

if TYPE_CHECKING:
    from jobs.contents import Content, Part

log = logging.getLogger(__name__)

PROOF_OF_LIFE_S = 2.0  #: how long a launch waits to be told that the command runs
MAX_LINES = 1000
ARTIFACT_PAGE = 15
SCAN_S = 5.0  #: of a list while the job runs; at its end there is more time
LISTED_S = 60.0  #: how long a list is kept for those who read its further pages
MOST_HIGHLIGHTS = 6
HIGHLIGHT_BYTES = 1 << 20  #: a longer run record is not read for them


class Service(Enquiries):
    """All verbs: what is asked of the index is `Enquiries`, and here what is done to jobs and what
    is read of their directories."""

    def __init__(
        self,
        *,
        store: Store,
        settings: Settings,
        manifests: Manifests,
        keeper_command: Sequence[str],
    ) -> None:
        super().__init__(store=store, home=settings.state, keeper_command=keeper_command)
        self._settings = settings
        self._manifests = manifests
        self._listed: dict[tuple[str, bool], ArtifactScan] = {}
        self.pruner = Pruner(store=store, home=self._home)

    async def launch(
        self, request: LaunchRequest, *, client: str | None, wait_s: float | None = None
    ) -> Launched:
        """Accept a job durably and have it started as soon as there is room.

        Without `wait_s`, waits up to 2 s for proof of life; with it, that long for the end. The
        same idempotency key gives the same job. Once accepted the job is not lost, even when the
        caller is gone before the answer. Raises a JobError; then there is no job.
        """
        check_wait(wait_s)
        jobs, reused = await accept(
            request, self._store, self._settings, self._manifests, client=client
        )
        launched = Launched(jobs, reused)
        try:
            await ensure_keeper(self._home, self._keeper_command)
            reach("server.keeper_called")
            self._keeper_again_at = 0.0
            launched = replace(launched, warning=self.disk_warning())
            return replace(launched, jobs=await self._first_look(jobs, wait_s))
        except JobError as error:  # the job is accepted: its ID must reach the caller
            return replace(launched, warning=str(error))

    async def _first_look(self, jobs: list[Job], wait_s: float | None) -> list[Job]:
        """What has become of accepted jobs, after their end or, without `wait_s`, once the first
        is known to live."""
        job, *others = jobs
        if wait_s is None:
            job = await self._wait(job, _known, PROOF_OF_LIFE_S)
        elif not others:
            job = await self._wait(job, _ended, wait_s)
        if not others:
            return [job]
        swept = await self.sweep(
            job.sweep or "", wait_s=wait_s or 0, until=lambda now: now.is_final
        )
        return swept.jobs

    async def tail(
        self,
        job_id: str,
        *,
        stream: str = "stdout",
        lines: int = 50,
        cursor: str | None = None,
        grep: str | None = None,
    ) -> tuple[Job, logs.Excerpt]:
        """The end of a log, what came after a cursor, or the lines that match. `stream` is stdout,
        stderr or a file that the program writes in its working directory."""
        if not 1 <= lines <= MAX_LINES:
            raise InvalidArgumentError(f"lines must be from 1 to {MAX_LINES}.")
        if cursor is not None and grep is not None:
            raise InvalidArgumentError("Give cursor or grep, not both.")
        for what, text in (("stream", stream), ("grep", grep)):
            check_text(what, text)
        job = await self.job(job_id)
        launched, job_dir = self._launched(job)
        root, name = log_place(launched, job_dir, stream)
        if root == job_dir.root and not (root / name).exists():
            return job, logs.NOTHING_YET
        if cursor is not None:
            excerpt = await asyncio.to_thread(
                logs.follow, root, name, cursor, lines=lines, ended=job.is_final
            )
        elif grep is not None:
            excerpt = await asyncio.to_thread(logs.grep, root, name, grep, lines=lines)
        else:
            excerpt = await asyncio.to_thread(logs.tail, root, name, lines=lines)
        return job, excerpt

    def highlights(self, job: Job) -> list[Artifact]:
        """The files of an ended job that are worth a look, pictures and tables first. Blocks."""
        path = self.directory(job).run_record
        try:
            if not job.is_final or path.stat().st_size > HIGHLIGHT_BYTES:
                return []
        except OSError:
            return []
        record = glimpse(path, RunRecord)
        found = record.artifacts.artifacts if record else []
        declared = [artifact for artifact in found if artifact.description] or found
        order = ("image", "table", "structure", "trajectory", "text")
        chosen = [artifact for artifact in declared if artifact.kind in order]
        return sorted(chosen, key=lambda artifact: order.index(artifact.kind))[:MOST_HIGHLIGHTS]

    def last_line(self, job: Job) -> tuple[str, str] | None:
        """(stream, its last line) for the stream that says most about the job now."""
        order = ("stderr", "stdout") if job.state is State.FAILED else ("stdout", "stderr")
        job_dir = self.directory(job)
        names = {"stdout": job_dir.stdout.name, "stderr": job_dir.stderr.name}
        for stream in order:
            try:
                line = logs.last_line(job_dir.root, names[stream])
            except (JobError, OSError):
                continue
            if line:
                return stream, line
        return None

    async def cancel(
        self,
        job_id: str,
        *,
        reason: str | None = None,
        grace_s: float | None = None,
        wait_s: float = 5.0,
    ) -> Job:
        """Wish the job to end; on return it has ended, or the wish is stored and acted upon.

        Harmless when repeated or when the job has already ended.
        """
        check_cancel(reason, grace_s, wait_s)
        job = await self.job(job_id)
        if job.is_final:
            return job
        await wish_cancel(self._store, self._home, job, reason=reason, grace_s=grace_s)
        await self._have_cancelled()
        return await self._wait(job, _ended, wait_s)

    async def cancel_sweep(
        self,
        sweep_id: str,
        *,
        reason: str | None = None,
        grace_s: float | None = None,
        wait_s: float = 5.0,
    ) -> Sweep:
        """The same for every job of a sweep that has not ended."""
        check_cancel(reason, grace_s, wait_s)
        for job in (await self.sweep(sweep_id)).jobs:
            if not job.is_final:
                await wish_cancel(self._store, self._home, job, reason=reason, grace_s=grace_s)
        await self._have_cancelled()
        return await self.sweep(sweep_id, wait_s=wait_s, until=lambda now: now.is_final)

    async def _have_cancelled(self) -> None:
        """Have the keeper act on what was wished."""
        self._keeper_again_at = 0.0
        await self._revive_keeper()
        send(self._home, WAKE)

    async def list_artifacts(
        self, job_id: str, *, pattern: str | None = None, cursor: str | None = None
    ) -> ArtifactPage:
        """The files that the job has left, a page of those that match the glob `pattern`."""
        check_text("pattern", pattern)
        check_glob("pattern", pattern or "")
        skip = parse_number(cursor, "list_artifacts") or 0
        job = await self.job(job_id)
        key = (job.id, job.is_final)
        found = self._listed.get(key) if cursor else None
        if found is None:
            found = await asyncio.to_thread(self._scan, job)
            # Its further pages are of the same look, which costs as much as there are files.
            self._listed = {key: found}
            asyncio.get_running_loop().call_later(LISTED_S, self._listed.clear)
        chosen = [
            artifact
            for artifact in found.artifacts
            if pattern is None or fnmatch.fnmatch(artifact.path, pattern)
        ]
        page = chosen[skip : skip + ARTIFACT_PAGE]
        return ArtifactPage(job, page, skip, len(chosen), found)

    def _scan(self, job: Job) -> ArtifactScan:
        """From the run record when there is one: it is the list as it was at the end."""
        job_dir = self.directory(job)
        record = glimpse(job_dir.run_record, RunRecord) if job.is_final else None
        if record is not None:
            return record.artifacts
        launched, job_dir = self._launched(job)
        return artifacts.scan(launched, job_dir, started_at=job.started_at, seconds=SCAN_S)

    async def read_artifact(
        self, job_id: str, path: str, part: Part | None = None
    ) -> tuple[str, Content]:
        """A part of a text, what is in a table or a binary, a picture, or a plot of a table; with
        the ID of what it belongs to. Of a sweep there is its table, `sweep.csv`."""
        from jobs import contents  # much that no other verb needs

        part = part or contents.BEGINNING
        for what, text in (("path", path), ("plot", part.plot)):
            check_text(what, text)
        if is_sweep(job_id):
            sweep = await self.sweep(job_id)
            if path != SWEEP_TABLE:
                raise FileNotFoundInJobError(
                    f"Of a sweep there is only {SWEEP_TABLE}.",
                    f"Use {job_id}#1 as job_id for the files of its first job.",
                )
            return job_id, await asyncio.to_thread(contents.read_csv, path, sweep.csv(), part)
        job = await self.job(job_id)
        launched, job_dir = self._launched(job)
        read = contents.read
        return job.id, await asyncio.to_thread(read, launched, job_dir, path, part, job.started_at)

    def describe_manifests(
        self, name: str | None = None, near: Path | None = None
    ) -> list[Manifest]:
        """All valid kinds of job, or the named one; with those of the project in the folder
        `near`."""
        if name is None:
            return self._manifests.all(near)[0]
        check_text("name", name)
        return [self._manifests.get(name, near)]

    def places(self) -> list[Place]:
        """Where a launch can have its job run."""
        return places(self._settings)

    def environments(self) -> list[str]:
        """What a launch can name as its environment."""
        return list(self._settings.environments)

    def placement(self, job: Job) -> str | None:
        """Where a scheduler has put the job, and what it used there; none for jobs of here."""
        record = glimpse(self.directory(job).batch, BatchRecord)
        return str(record) if record else None

    def disk_warning(self) -> str | None:
        return disk.warning(self._settings)

    def directory(self, job: Job) -> JobDir:
        return self._home.job(job.project, job.id)

    def _launched(self, job: Job) -> tuple[LaunchManifest, JobDir]:
        job_dir = self.directory(job)
        try:
            return read_launch_manifest(give_birth(self._home, job)), job_dir
        except (OSError, ValueError) as error:
            raise StateDirectoryError(
                f"The job directory {job_dir.root} cannot be read: {str(error).splitlines()[0]}.",
                "Ask the user whether the folder was moved or removed.",
            ) from None


def check_cancel(reason: str | None, grace_s: float | None, wait_s: float) -> None:
    if grace_s is not None and not 0 <= grace_s <= 86400:
        raise InvalidArgumentError("grace_s must be from 0 to 86400.")
    check_text("reason", reason)
    check_wait(wait_s)


def _ended(job: Job) -> bool:
    return job.is_final


def _known(job: Job) -> bool:
    """Whether a launch has nothing more to wait for: it runs, it ended, or it has to queue."""
    return job.state not in (State.QUEUED, State.STARTING) or job.wait_reason is not None
