"""The nouns: what a launch asks for, what was launched, what a job is now, how it ended.

Times are seconds since the epoch (UTC); durations are seconds; sizes are bytes unless the name
says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field

from jobs.batch import BatchRecord, BatchWishes
from jobs.limits import Bounds, LimitName, Limits, Model
from jobs.rules import Kind, OutputRule, Resume, Rules, Software
from jobs.states import FINAL, State

SCHEMA = 1  #: of job.json and run.json
DEFAULT_PROJECT = "default"

#: One argument of execve may hold 128 KiB on Linux (MAX_ARG_STRLEN), its end mark included.
MAX_ARGUMENT_BYTES = 128 * 1024 - 1
#: Arguments and environment share a quarter of the stack limit, 2 MiB by default; half is ours.
MAX_EXEC_BYTES = 1024 * 1024


class Resources(Model):
    """What a job holds while it runs. `memory_mb` 0 means: not counted."""

    cores: int = Field(1, ge=1, le=4096)
    memory_mb: int = Field(0, ge=0, le=1 << 26)
    gpus: int = Field(0, ge=0, le=64)


class ResourceWishes(Model):
    """What a launch says of resources; what it leaves out comes from the manifest or default."""

    cores: int | None = Field(None, ge=1, le=4096)
    memory_mb: int | None = Field(None, ge=0, le=1 << 26)
    gpus: int | None = Field(None, ge=0, le=64)
    nodes: int | None = Field(None, ge=1, le=100_000)  #: of a cluster
    tasks: int | None = Field(None, ge=1, le=10_000_000)  #: MPI ranks, on a cluster


class LaunchRequest(Model):
    """A wish as a face passes it on. Exactly one of `manifest` and `command`.

    Factories of empty defaults cost a launch less than the copies that are made of `[]` and `{}`.
    """

    manifest: str | None = None
    params: dict[str, Any] = Field(default_factory=dict)
    command: list[str] | None = None
    name: str | None = Field(None, max_length=100)
    project: str | None = None
    cwd: str | None = None
    env: dict[str, str] = Field(default_factory=dict)
    environment: str | None = None
    inputs: list[str] = Field(default_factory=list, max_length=1000)
    outputs: list[str] = Field(default_factory=list, max_length=100)
    resources: ResourceWishes = ResourceWishes()
    time_limit_s: float | None = Field(None, ge=0, le=10 * 365 * 86400)
    idempotency_key: str | None = Field(None, min_length=1, max_length=200)
    engine: str | None = None  #: where it runs: `local`, `slurm`, `slurm:PROFILE`
    #: Of sbatch, if the configuration allows any.
    engine_options: list[str] = Field(default_factory=list, max_length=50)
    resume_from: str | None = None  #: the job to go on from; what is left out is as it was there
    #: One job for each combination of the values, or for each row of a table.
    sweep: dict[str, list[Any]] | list[dict[str, Any]] | None = None


class InputFile(Model):
    path: str
    size: int
    sha256: str | None = None  #: none for a file that is too large to hash at launch, or linked
    kept: str | None = None  #: where it lies in the job directory, unless it is used in its place


class SweepPlace(Model):
    """Which one of a sweep a job is."""

    id: str
    index: int  #: from 0
    size: int
    values: dict[str, Any]  #: the parameters that differ within the sweep


class LaunchManifest(Model):
    """job.json: what exactly was launched. Enough to run it, to watch it and to explain it."""

    schema_: int = Field(SCHEMA, alias="schema")
    job_id: str
    name: str
    project: str
    engine: str = "local"
    created_at: float
    manifest: str | None = None
    manifest_file: str | None = None
    manifest_sha256: str | None = None
    params: dict[str, Any] = {}
    command: list[str]  #: exactly what is executed, argument by argument
    executable: str  #: the file that `command[0]` was found to be
    cwd: str
    env: dict[str, str]  #: the whole environment; a secret's value is "***"
    secret_env: list[str] = []  #: names whose values are in secrets.json until the end
    given_env: list[str] = []  #: names that the launch itself has set
    environment: str | None = None
    inputs: list[InputFile] = []
    given_inputs: list[str] = []  #: of those kept in inputs/, the ones that the launch has named
    outputs: list[OutputRule] = []
    given_outputs: list[str] = []  #: that the launch itself requires
    rules: Rules = Rules()
    resources: Resources
    bounds: Bounds = Bounds()
    time_limit_s: float = 0  #: 0: none
    grace_s: float = 10  #: between the request to end and the kill
    stop_signal: str = "TERM"  #: KILL: the program has no clean way to end
    stop_file: str | None = None  #: made in the working directory instead of sending the signal
    resume: Resume | None = None  #: how a later job can go on from this one
    parent: str | None = None  #: the job that this one goes on from
    sweep: SweepPlace | None = None
    batch: BatchWishes | None = None  #: of an engine that hands jobs to a scheduler
    software: Software | None = None
    cite: list[str] = []  #: DOIs of what a publication of its results should cite
    idempotency_key: str | None = None
    request_sha256: str
    client: str | None = None  #: who asked: name and version of the MCP client, or "cli"
    host: str
    outlast_version: str


Decider = Literal[
    "exit code",
    "signal",
    "failure pattern",
    "required output",
    "success marker",
    "limit",
    "time limit",
    "cancel",
    "start",
    "supervisor",
]


class Outcome(Model):
    """How a job ended; apart from its state, because only facts that are known stand here."""

    exit_code: int | None = None
    signal: str | None = None
    reason: str | None = None
    decided_by: Decider | None = None  #: which of the facts made the verdict
    error: str | None = None  #: the first error that its program told, quoted
    #: What the manifest knows to be doubtful, though no failure.
    warnings: list[str] = Field(default_factory=list)
    resumable: bool | None = None  #: whether a later job can go on from a checkpoint
    summary: dict[str, bool | int | float | str] = Field(default_factory=dict)  #: the key results


class Progress(Model):
    fraction: float | None = Field(None, ge=0, le=1)
    message: str | None = None
    eta_s: float | None = None
    metrics: dict[str, float] = {}


class Job(Model):
    """One job as the index knows it now."""

    seq: int
    id: str
    project: str
    name: str
    manifest: str | None
    engine: str
    state: State
    resources: Resources
    gpu_ids: list[int] = []
    idempotency_key: str | None
    request_sha256: str
    attempt: int
    created_at: float
    started_at: float | None
    ended_at: float | None
    changed_at: float
    heartbeat_at: float | None
    cancel_at: float | None
    cancel_reason: str | None
    cancel_grace_s: float | None
    wait_reason: str | None
    outcome: Outcome
    progress: Progress | None
    parent: str | None = None
    sweep: str | None = None
    sweep_index: int | None = None  #: from 0
    sweep_values: dict[str, Any] | None = None

    @property
    def is_final(self) -> bool:
        return self.state in FINAL

    def elapsed_s(self, now: float) -> float | None:
        """Seconds that the command has run, or ran; none when it never started."""
        if self.started_at is None:
            return None
        return max(0.0, (self.ended_at or now) - self.started_at)


class JobEvent(Model):
    at: float
    event: str
    state: State
    detail: str | None


class BatchPlace(Model):
    """Where a job ran that a batch system has placed."""

    job: str  #: its ID there
    node: str  #: that ran the script
    restarts: int = 0  #: how often the batch system has begun it anew


class ExitRecord(Model):
    """The shim's record of the end, as it stands in the file `exit`."""

    why: Literal["exit", "cancelled", "timeout", "terminated", "start_error"]
    exit_code: int | None
    signal: int | None
    error: str | None = None
    ended_at: float
    wall_s: float
    user_s: float
    system_s: float
    max_rss_kb: int | None
    survivors: list[int] = []
    limit_hit: LimitName | None = None
    batch: BatchPlace | None = None


class StartedRecord(Model):
    """The shim's record of the start, as it stands in the file `started`."""

    pid: int
    start_ticks: str
    boot_id: str
    started_at: float
    attempt: int = 1
    gpu_ids: list[int] = []
    cgroups: list[str] = []  #: folders that were made for the job, and go with it
    limits: Limits | None = None
    batch: BatchPlace | None = None


class CancelWish(Model):
    """cancel.json"""

    at: float
    reason: str | None = None
    grace_s: float | None = None


class Artifact(Model):
    """A file that the job made, relative to its working directory."""

    path: str  #: bytes that are not UTF-8 are shown as \\xNN
    size: int
    modified_at: float
    kind: Kind
    sha256: str | None = None
    description: str = ""


class ExpectedOutput(Model):
    path: str
    required: bool
    present: bool


class ArtifactScan(Model):
    artifacts: list[Artifact]
    expected: list[ExpectedOutput] = []
    total_size: int
    truncated: bool = False  #: the bounds of the scan were reached: there are more files
    skipped: dict[str, int] = {}  #: links, FIFOs and the like that were passed over


class RunRecord(Model):
    """run.json: how it ended and what it left."""

    schema_: int = Field(SCHEMA, alias="schema")
    job_id: str
    state: State
    outcome: Outcome
    created_at: float
    started_at: float | None
    ended_at: float
    wall_s: float | None = None
    user_s: float | None = None
    system_s: float | None = None
    max_rss_kb: int | None = None
    survivors: list[int] = []
    limits: Limits | None = None
    limit_hit: LimitName | None = None
    software_version: str | None = None
    batch: BatchRecord | None = None
    attempt: int
    artifacts: ArtifactScan
    events: list[JobEvent]


@dataclass(frozen=True)
class Launched:
    jobs: list[Job]  #: one, or all of a sweep
    reused: bool = False  #: the idempotency key was known: these are the earlier jobs
    warning: str | None = None

    @property
    def job(self) -> Job:
        """Of a sweep the first."""
        return self.jobs[0]


@dataclass(frozen=True)
class JobPage:
    """Newest first."""

    jobs: list[Job]
    more: bool  #: there are older ones
    active: dict[State, int]  #: how many jobs are not final, by state
    #: Of each sweep that a job on the page stands for: how many jobs it has, by state.
    sweeps: dict[str, dict[State, int]] = field(default_factory=dict)

    def cursor_after(self, count: int) -> str | None:
        """Where the list goes on behind the first `count` jobs; none at its end."""
        return str(self.jobs[count - 1].seq) if self.more or count < len(self.jobs) else None


@dataclass(frozen=True)
class ArtifactPage:
    job: Job
    artifacts: list[Artifact]
    start: int  #: which of those that match is the first of the page
    matching: int
    scan: ArtifactScan  #: all that was found

    def cursor_after(self, count: int) -> str | None:
        """Where the list goes on behind the first `count` artifacts; none at its end."""
        return str(self.start + count) if self.start + count < self.matching else None
