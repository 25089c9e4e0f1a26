"""The language of manifests: the TOML file as types. What is needed after the launch (how a
program shows progress and failure, what it leaves, how it goes on) is in `job.json`, too.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from jobs.limits import Model

Kind = Literal[
    "table",
    "image",
    "text",
    "json",
    "trajectory",
    "structure",
    "checkpoint",
    "log",
    "data",
]


class ProgressRule(Model):
    """How far a program is, and what it measures, read from what it writes.

    `regex` has named groups: `fraction`, `percent`, or `step` with `total` (a group, or the rule's
    own `total`), give the fraction; `eta_s` is what is left by the program's own reckoning; any
    other group that is a number is a metric. Or `count` is a text that the program writes again and
    again, `total` times in all, perhaps on one line that has no end yet. `total` and `message` may
    hold `{group}`; `total` and `source` also parameters.
    """

    source: str = "stdout"  #: stdout, stderr, or a file in the working directory
    regex: str | None = None
    count: str | None = Field(None, min_length=1)
    total: str | None = None
    message: str | None = None

    @model_validator(mode="after")
    def _one_way(self) -> ProgressRule:
        if (self.regex is None) == (self.count is None):
            raise ValueError("exactly one of regex and count must be given")
        if self.count is not None and self.total is None:
            raise ValueError("count needs a total")
        return self


class Finding(Model):
    """A line that means something, whatever the exit code is."""

    source: str | None = None  #: stdout, stderr or a file; by default both stdout and stderr
    regex: str
    meaning: str


class Plot(Model):
    """How a table is drawn: columns by name; without `x` against the number of the row."""

    x: str | None = None
    y: list[str] = Field(min_length=1)


class OutputRule(Model):
    """A file, or a glob of files, that the job is to leave in its working directory."""

    path: str
    kind: Kind | None = None
    description: str = ""
    required: bool = False
    plot: Plot | None = None


class Summary(Model):
    """A JSON file of results, and which of its keys (`a.b` for one within another) matter most."""

    path: str = "summary.json"
    keys: list[str] = []  #: empty: the first numbers, texts and truths at its top


class Resume(Model):
    """How another job goes on from where one has stopped."""

    checkpoint: str  #: a glob in the working directory; without a match there is no going on
    carry: list[str] = []  #: globs of files that are copied, the checkpoint too
    link: list[str] = []  #: globs of files that are hard-linked: never written again
    args: list[str] = []  #: added to the command


class Software(Model):
    """The program behind a kind of job."""

    name: str
    url: str | None = None
    licence: str | None = None
    requires: list[str] = []  #: Python distributions that its environment must hold
    programs: list[str] = []  #: executables that must be on the PATH that jobs get
    install: str | None = None  #: what a person runs when it is missing
    version_command: list[str] = []
    version_regex: str | None = None  #: its first group, else its match, is the version


class Rules(Model):
    """What a manifest knows about reading its program."""

    progress: list[ProgressRule] = []
    failures: list[Finding] = []
    warnings: list[Finding] = []
    #: Without a match of each of these the job has failed, and `meaning` says how.
    success: list[Finding] = []
    exit_codes: dict[int, str] = {}  #: meaning of codes other than 0
    summary: Summary = Summary()

    @field_validator("progress", mode="before")
    @classmethod
    def _as_a_list(cls, value: Any) -> Any:
        """Older records hold one rule or none."""
        return [] if value is None else [value] if isinstance(value, dict) else value


class When(Model):
    """Arguments that are given only when a parameter is true, or has a value."""

    when: str
    args: list[str] = Field(min_length=1)


class Run(Model):
    #: An inner list is left out as a whole when one of its parameters has no value, and repeated
    #: for each value of one that is an array. `"{x}"` alone becomes one argument for each value.
    command: list[str | list[str] | When] = Field(min_length=1)
    environment: str | None = None
    env: dict[str, str] = {}  #: values may hold placeholders
    exit: dict[int, str] = {}


class Stop(Model):
    """How the program is asked to end: by a signal, or by a file that it looks for."""

    signal: str = Field("TERM", pattern="^(TERM|INT|HUP|USR1|USR2|QUIT|KILL)$")
    file: str | None = None  #: its name may hold placeholders
    grace_s: float | None = Field(None, ge=0, le=86400)


class ManifestResources(Model):
    """Numbers, or the `"{parameter}"` that holds one."""

    cores: int | str = 1
    memory_mb: int | str = 0
    gpus: int | str = 0
    time_limit_s: int | float | str = 0


class ManifestFile(Model):
    """The TOML file as it stands. Unknown keys are refused."""

    schema_: int = Field(alias="schema", ge=1, le=1)
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")
    title: str = Field(max_length=120)
    description: str = Field("", max_length=2000)
    licence: str | None = None
    cite: list[str] = []  #: DOIs
    software: Software | None = None
    params: dict[str, dict[str, Any]] = {}
    #: Of the parameters of each group exactly one is given, or none if one has a default.
    one_of: list[list[str]] = []
    run: Run
    stop: Stop = Stop()
    resume: Resume | None = None
    resources: ManifestResources = ManifestResources()
    progress: list[ProgressRule] = []
    failure: list[Finding] = []
    warning: list[Finding] = []
    success: list[Finding] = []
    summary: Summary = Summary()
    output: list[OutputRule] = []
