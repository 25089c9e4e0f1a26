"""The names of everything on disk. No other module spells a file name of the state directory."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

PROJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
JOB_ID = re.compile(r"job-\d{8}-\d{6}-[a-z0-9][a-z0-9-]{0,39}-[a-z2-7]{5}")
#: A job directory that is being made; it takes its final name once the job is accepted.
UNBORN_PREFIX = ".new-"
#: A job directory that is being removed; no index is made from it any more.
GONE_PREFIX = ".gone-"


@dataclass(frozen=True)
class JobDir:
    """One job's directory, which is the truth about the job."""

    root: Path

    @property
    def launch_manifest(self) -> Path:
        """What exactly was launched; written once, before anything runs."""
        return self.root / "job.json"

    @property
    def readme(self) -> Path:
        return self.root / "README.md"

    @property
    def inputs(self) -> Path:
        return self.root / "inputs"

    @property
    def work(self) -> Path:
        """The command's working directory, unless the launch named another."""
        return self.root / "work"

    @property
    def stdout(self) -> Path:
        return self.root / "stdout.log"

    @property
    def stderr(self) -> Path:
        return self.root / "stderr.log"

    @property
    def lock(self) -> Path:
        """Held by the live shim (flock); its content is the shim's pid."""
        return self.root / "lock"

    @property
    def control(self) -> Path:
        """FIFO on which the live shim takes orders."""
        return self.root / "ctl"

    @property
    def started(self) -> Path:
        return self.root / "started"

    @property
    def exit(self) -> Path:
        return self.root / "exit"

    @property
    def batch(self) -> Path:
        """What is known of a job in a scheduler's queue."""
        return self.root / "batch.json"

    @property
    def cancel(self) -> Path:
        """The wish to end the job, durable before anyone acts on it."""
        return self.root / "cancel.json"

    @property
    def secrets(self) -> Path:
        """Values of secret environment variables; removed when the job has ended."""
        return self.root / "secrets.json"

    @property
    def batch_script(self) -> Path:
        """What a node runs of a job that a batch system has placed."""
        return self.root / "slurm.sh"

    @property
    def batch_log(self) -> Path:
        """What the batch system itself, or its script, has to say."""
        return self.root / "slurm.log"

    @property
    def batch_secrets(self) -> Path:
        """`secrets.json` as the node's script reads it; goes with it."""
        return self.root / "slurm.secrets"

    @property
    def progress(self) -> Path:
        return self.root / "progress.jsonl"

    @property
    def run_record(self) -> Path:
        """How it ended and what it left; written once, at the end."""
        return self.root / "run.json"


@dataclass(frozen=True)
class Home:
    """The state directory."""

    root: Path

    @property
    def database(self) -> Path:
        return self.root / "outlast.db"

    @property
    def jobs(self) -> Path:
        return self.root / "jobs"

    @property
    def index_lock(self) -> Path:
        """Held (flock) by the process that is making the index."""
        return self.root / "index.lock"

    @property
    def keeper_lock(self) -> Path:
        """Held by the one keeper (flock); its content is the keeper's pid and version."""
        return self.root / "keeper.lock"

    @property
    def keeper_log(self) -> Path:
        return self.root / "keeper.log"

    @property
    def wake(self) -> Path:
        """FIFO that wakes the keeper; it has a reader exactly while a keeper listens."""
        return self.root / "wake"

    def job(self, project: str, job_id: str) -> JobDir:
        return JobDir(self.jobs.joinpath(project, job_id))

    def unborn(self, project: str, job_id: str) -> JobDir:
        """The same directory before the job is accepted."""
        return JobDir(self.jobs.joinpath(project, UNBORN_PREFIX + job_id))

    def gone(self, project: str, job_id: str) -> Path:
        """The same directory once a person has pruned the job."""
        return self.jobs / project / (GONE_PREFIX + job_id)
