"""What a kind of job knows of its program: how it shows progress and failure, how it is stopped,
what it leaves, and how it goes on. Part of the manifest's language and of `job.json`.
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
    own `total`), give the fraction; any other group that is a number is a metric. Or `count` is a
    text that the program writes again and again, `total` times in all, perhaps on one line that
    has no end yet. `total` and `message` may hold `{group}`; `total` also parameters.
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
