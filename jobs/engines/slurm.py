"""Jobs on clusters: each is asked about in the way in which its launch reached the cluster.

The keeper may have been started by another server than a job's, whose variables name another
cluster, or none: there the job would seem to be unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from jobs.directory import read_record
from jobs.engines import slurm_commands
from jobs.engines.base import Phase, RefusedError, Sighting, Submission
from jobs.engines.slurm_cluster import SlurmCluster
from jobs.model import LaunchManifest
from jobs.paths import JobDir

Access = tuple[tuple[str, str], ...] | None


class SlurmEngine:
    """Implements `Engine`."""

    def __init__(self, poll_s: float) -> None:
        self._poll_s = poll_s
        self._clusters: dict[Access, SlurmCluster] = {}
        self._accesses: dict[Path, Access] = {}  #: of jobs that have not ended

    async def submit(self, batch: Sequence[Submission]) -> None:
        groups: dict[Access, list[Submission]] = {}
        for one in batch:
            groups.setdefault(self._access(one.job_dir), []).append(one)
        refused: dict[Path, str] = {}
        for group in groups.values():
            with self._asking(group[0].job_dir) as cluster:
                try:
                    await cluster.submit(group)
                except RefusedError as error:
                    refused |= error.reasons
        if refused:
            raise RefusedError(refused)

    def is_ready(self, job_dir: JobDir) -> bool:
        with self._asking(job_dir) as cluster:
            return cluster.is_ready()

    async def poll(self, job_dir: JobDir) -> Sighting:
        with self._asking(job_dir) as cluster:
            sighting = await cluster.poll(job_dir)
        if sighting.phase in (Phase.ENDED, Phase.VANISHED):
            self._accesses.pop(job_dir.root, None)
        return sighting

    async def stop(self, job_dir: JobDir, *, grace_s: float | None) -> None:
        with self._asking(job_dir) as cluster:
            await cluster.stop(job_dir, grace_s=grace_s)

    def adopt(self, job_dir: JobDir, on_change: Callable[[], None]) -> Callable[[], None]:
        """The keeper's own looks will do: nothing on this machine tells of a change."""
        return lambda: None

    @contextmanager
    def _asking(self, job_dir: JobDir) -> Iterator[SlurmCluster]:
        """The job's cluster, which whatever is called meanwhile means."""
        access = self._access(job_dir)
        if access not in self._clusters:
            self._clusters[access] = SlurmCluster(self._poll_s)
        with slurm_commands.reaching(None if access is None else dict(access)):
            yield self._clusters[access]

    def _access(self, job_dir: JobDir) -> Access:
        if job_dir.root not in self._accesses:
            launched = read_record(job_dir.launch_manifest, LaunchManifest)
            if launched is None:
                return None  # not for ever: it may only not have its directory yet
            told = launched.batch.access if launched.batch else None
            self._accesses[job_dir.root] = None if told is None else tuple(sorted(told.items()))
        return self._accesses[job_dir.root]
