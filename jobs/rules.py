"""The language of manifests: the TOML file as types. What is needed after the launch (how a
program shows progress and failure, what it leaves, how it goes on) is in `job.json`, too.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema, field_validator, model_validator

from jobs.limits import Model
from jobs.param_schema import PARAM

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

    source: str = Field(
        "stdout",
        description=(
            'Where it is read: `"stdout"`, `"stderr"`, or a file in the working directory. It may '
            "hold parameters."
        ),
    )
    regex: str | None = Field(
        None,
        description=(
            "Tried on each line; its named groups `fraction`, `percent`, or `step` with `total` "
            "give the fraction, `eta_s` the seconds left, any other that is a number a metric."
        ),
    )
    count: str | None = Field(
        None,
        min_length=1,
        description="A text that is counted instead of a `regex`, also on a line without end.",
    )
    total: str | None = Field(
        None,
        description=(
            "How many steps, or texts, there are in all. It may hold `{group}` and parameters."
        ),
    )
    message: str | None = Field(
        None,
        description="What people read; it may hold `{group}`. Default: the line, or the count.",
    )

    @model_validator(mode="after")
    def _one_way(self) -> ProgressRule:
        if (self.regex is None) == (self.count is None):
            raise ValueError("exactly one of regex and count must be given")
        if self.count is not None and self.total is None:
            raise ValueError("count needs a total")
        return self


class Finding(Model):
    """A line that means something, whatever the exit code is."""

    source: str | None = Field(
        None,
        description=(
            'Where it is looked for: `"stdout"`, `"stderr"`, or a file in the working directory. '
            "It may hold parameters. Default: the first two."
        ),
    )
    regex: str = Field(description="What is looked for; `^` and `$` match at every line.")
    meaning: str = Field(
        description=(
            "What it means, for a person; of a `[[success]]`, what it means that there is none."
        )
    )


class Plot(Model):
    """How a table is drawn: columns by name; without `x` against the number of the row."""

    x: str | None = Field(
        None, description="The column along the axis. Default: the number of the row."
    )
    y: list[str] = Field(min_length=1, description="The columns that are drawn.")


class OutputRule(Model):
    """A file, or a glob of files, that the job is to leave in its working directory."""

    path: str = Field(
        description="A file in the working directory, or a glob of files. It may hold parameters."
    )
    kind: Kind | None = Field(
        None, description="What the file is; `table` and `image` can be looked at in a chat."
    )
    description: str = Field("", description="What it holds, with units.")
    required: bool = Field(False, description="Whether a job that does not leave it has failed.")
    plot: Plot | None = Field(
        None, description='How a table is drawn, as in `{ x = "step", y = ["energy_ev"] }`.'
    )


class Summary(Model):
    """A JSON file of results, and which of its keys (`a.b` for one within another) matter most."""

    path: str = Field(
        "summary.json",
        description="A JSON file in the working directory. It may hold parameters.",
    )
    keys: list[str] = Field(
        [],
        description=(
            "What matters most, best 8 or fewer; `a.b` is a key within another. Default: the "
            "first numbers, texts and truths at its top."
        ),
    )


class Resume(Model):
    """How another job goes on from where one has stopped."""

    checkpoint: str = Field(
        description=(
            "A glob in the working directory: only a job that left a match can be gone on with. "
            "It may hold parameters."
        )
    )
    carry: list[str] = Field(
        [], description="Globs of further files that are copied. They may hold parameters."
    )
    link: list[str] = Field(
        [],
        description=(
            "Globs of files that are hard-linked, since they are large and never written again. "
            "They may hold parameters."
        ),
    )
    args: list[str] = Field(
        [], description="Arguments that are added to the command; they may hold placeholders."
    )


class Software(Model):
    """The program behind a kind of job."""

    name: str = Field(description="The program's name.")
    url: str | None = Field(None, description="Where it is described.")
    licence: str | None = Field(None, description="The program's licence.")
    requires: list[str] = Field(
        [], description='Python distributions that `{python}` must have, as in `["openmm>=8.2"]`.'
    )
    programs: list[str] = Field(
        [], description='Executables that must be on the PATH of the job, as in `["gmx"]`.'
    )
    install: str | None = Field(None, description="One line that a person runs to get it.")
    version_command: list[str] = Field(
        [], description="A command, as a list, that tells the version, which is kept with the job."
    )
    version_regex: str | None = Field(
        None,
        description=(
            "Finds the version in what that command writes: its first group, or else all that it "
            "matches."
        ),
    )


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

    when: str = Field(
        description=(
            "A parameter: the arguments are given when it is true, or has a value and is no "
            "boolean."
        )
    )
    args: list[str] = Field(min_length=1, description="The arguments.")


class Run(Model):
    command: list[str | list[str] | When] = Field(
        min_length=1, description="The program and its arguments, as a list. No shell reads it."
    )
    environment: str | None = Field(
        None, description="A named environment of the configuration in which it runs by default."
    )
    env: dict[str, str] = Field(
        {}, description="Further environment variables; the values may hold placeholders."
    )
    exit: dict[int, str] = Field(
        {}, description='What exit codes other than 0 mean, as in `65 = "the simulation blew up"`.'
    )


class Stop(Model):
    """How the program is asked to end: by a signal, or by a file that it looks for."""

    signal: str = Field(
        "TERM",
        pattern="^(TERM|INT|HUP|USR1|USR2|QUIT|KILL)$",
        description=(
            "`TERM`, `INT`, `HUP`, `USR1`, `USR2`, `QUIT`, or `KILL`: there is no clean way."
        ),
    )
    file: str | None = Field(
        None,
        description=(
            'A file that is made in the working directory instead, as in `"pwscf.EXIT"`. It may '
            "hold parameters."
        ),
    )
    grace_s: float | None = Field(
        None,
        ge=0,
        le=86400,
        description=(
            "Seconds until whatever is left is killed. Default: `grace_s` of the configuration."
        ),
    )


class ManifestResources(Model):
    """Numbers, or the `"{parameter}"` that holds one."""

    cores: int | str = Field(1, description="CPU cores that it holds while it runs.")
    memory_mb: int | str = Field(
        0, description="Memory that it holds and may not exceed; 0: not counted."
    )
    gpus: int | str = Field(0, description="GPUs that it holds.")
    time_limit_s: int | float | str = Field(
        0, description="Seconds after which it is ended; 0: never."
    )


class ManifestFile(Model):
    """The TOML file as it stands. Unknown keys are refused."""

    schema_: int = Field(alias="schema", ge=1, le=1, description="The version of this language: 1.")
    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9-]{0,39}$",
        description=(
            "Lower-case letters, digits and hyphens, at most 40; that of the file without `.toml`."
        ),
    )
    title: str = Field(max_length=120, description="What it does, in one line.")
    description: str = Field(
        "", max_length=2000, description="What it does, for whom, and how long the default takes."
    )
    licence: str | None = Field(None, description="The licence of the manifest and its scripts.")
    cite: list[str] = Field(
        [], description="DOIs of what its users should cite, which are kept with each job."
    )
    software: Software | None = Field(
        None, description="The program, and what has to be installed."
    )
    params: dict[str, Annotated[dict[str, Any], WithJsonSchema(PARAM)]] = Field(
        {}, description="The parameters, each a JSON Schema property."
    )
    one_of: list[list[str]] = Field(
        [],
        description=(
            "Groups of parameters that are `optional` or, one of each, have a default, as in "
            '`[["smiles", "ligand"]]`: of each exactly one is given, or none for the default.'
        ),
    )
    run: Run = Field(description="The command.")
    stop: Stop = Field(Stop(), description="How it is asked to end.")
    resume: Resume | None = Field(
        None, description="How another job goes on from where one has stopped."
    )
    resources: ManifestResources = Field(
        ManifestResources(),
        description=(
            'What it needs: numbers, or the parameter that holds one, as in `"{threads}"`.'
        ),
    )
    progress: list[ProgressRule] = Field([], description="How far it is, and what it measures.")
    failure: list[Finding] = Field(
        [], description="What it writes when it has failed, whatever its exit code is."
    )
    warning: list[Finding] = Field([], description="What it writes when the result is doubtful.")
    success: list[Finding] = Field(
        [],
        description=(
            "What it writes when it has succeeded; without a match of each the job has failed."
        ),
    )
    summary: Summary = Field(Summary(), description="Its key results.")
    output: list[OutputRule] = Field([], description="What it leaves.")
