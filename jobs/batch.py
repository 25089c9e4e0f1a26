"""What a scheduler is told of a job, and what it tells."""

from __future__ import annotations

from jobs.limits import Model

#: How the wait of a job begins that did run, and was put back into its scheduler's queue.
WAITING_AGAIN = "waiting again in its queue: "


class BatchWishes(Model):
    """What a scheduler is told besides resources: from a profile of the configuration."""

    #: How the launch reached the cluster: its SLURM_CONF and SLURM_CLUSTERS, and as PATH the folder
    #: of the commands. None: as whoever asks.
    access: dict[str, str] | None = None
    profile: str | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    reservation: str | None = None
    nodes: int = 1
    tasks: int = 1
    modules: list[str] = []  #: loaded before the command
    options: list[str] = []  #: further ones of the scheduler's own
    #: What is run when the scheduler starts the job anew after a node has failed; none: it is not.
    restart_command: list[str] | None = None


class BatchRecord(Model):
    """batch.json: what is known of a job in a scheduler's queue. Written by its engine: before a
    submission without an ID, and again at each change."""

    token: str  #: the name under which it is found again
    index: int | None = None  #: which task of an array it is
    id: str | None = None  #: the scheduler's own
    state: str | None = None  #: in the scheduler's words
    detail: str | None = None  #: why it waits, or since when the scheduler has not answered
    nodes: str | None = None
    restarts: int = 0
    requested_s: float | None = None
    elapsed_s: float | None = None
    cpu_efficiency: float | None = None  #: of the cores that it had, 0 to 1
    max_rss_kb: int | None = None

    def __str__(self) -> str:
        """`Slurm job 123 on n2`"""
        text = f"Slurm job {self.id or 'not known yet'}"
        if self.nodes:
            text += f" on {self.nodes}"
        if self.restarts:
            text += f", started anew {self.restarts} times"
        if self.elapsed_s is not None and self.requested_s:
            text += f", used {self.elapsed_s:.0f} of {self.requested_s:.0f} s"
        if self.cpu_efficiency is not None:
            text += f", {100 * self.cpu_efficiency:.0f} % of its cores"
        if self.max_rss_kb is not None:
            text += f", at most {self.max_rss_kb >> 10} MB"
        return text


class PartitionReport(Model):
    """What there is to run on, as one part of a cluster."""

    name: str
    is_default: bool
    is_up: bool
    time_limit_s: float | None  #: none: no limit
    nodes: dict[str, int]  #: how many are in which state, in the scheduler's words
    node: str  #: what one has, in words


class ClusterReport(Model):
    """What a scheduler tells of itself, for people."""

    name: str
    version: str
    controllers: str
    most_tasks: int | None  #: of one array
    remembers_s: float | None  #: how long after its end the controller knows a job
    has_accounting: bool | None  #: none: there is one, which does not answer
    accounting: str  #: of which kind it is, or why it does not answer
    partitions: list[PartitionReport]
