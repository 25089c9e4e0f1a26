"""Kinds of job: `manifests/*.toml`, each a command with typed parameters and rules for reading it.

Each `[params.x]` table is a JSON Schema (2020-12) property, so that one text validates launches,
answers `describe_manifests` and documents itself.
"""

from __future__ import annotations

import hashlib
import re
import sys
import tomllib
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, best_match
from pydantic import Field, ValidationError

from jobs.errors import (
    BrokenManifestError,
    InvalidParameterError,
    SoftwareMissingError,
    UnknownManifestError,
    UnknownParameterError,
    nearest,
)
from jobs.limits import Model
from jobs.rules import Finding, OutputRule, ProgressRule, Resume, Rules, Software, Summary
from jobs.text import shown

_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_BUILT_IN = {"python", "manifest_dir", "job_dir", "cores"}


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
    #: Of the parameters of each group exactly one is given.
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


@dataclass(frozen=True)
class Manifest:
    """A valid kind of job."""

    file: ManifestFile
    folder: Path
    sha256: str

    @property
    def name(self) -> str:
        return self.file.name

    @property
    def rules(self) -> Rules:
        return Rules(
            progress=self.file.progress,
            failures=self.file.failure,
            warnings=self.file.warning,
            success=self.file.success,
            exit_codes=self.file.run.exit,
            summary=self.file.summary,
        )

    def params_schema(self) -> dict[str, Any]:
        """JSON Schema of the parameters; those without default are required."""
        properties = {}
        required = []
        for name, table in self.file.params.items():
            properties[name] = {k: v for k, v in table.items() if k != "optional"}
            if "default" not in table and not table.get("optional"):
                required.append(name)
        schema = {"type": "object", "properties": properties, "additionalProperties": False}
        return {**schema, "required": required} if required else schema

    def resolve_params(self, given: dict[str, Any]) -> dict[str, Any]:
        """All parameters with their defaults.

        Raises UnknownParameterError with the nearest name, or InvalidParameterError.
        """
        known = self.file.params
        for name in given:
            if name not in known:
                raise UnknownParameterError(
                    f"{self.name} has no parameter {shown(name, 80)!r}.{nearest(name, known)}"
                )
        fault = best_match(Draft202012Validator(self.params_schema()).iter_errors(given))
        if fault is not None:
            where = f"The parameter {str(fault.path[0])!r} of" if fault.path else "A parameter of"
            message = shown(fault.message, 200)
            raise InvalidParameterError(f"{where} {self.name} is not valid: {message}.")
        defaults = {
            name: self._fill(table["default"], {"manifest_dir": str(self.folder)})
            for name, table in known.items()
            if "default" in table
        }
        return {**defaults, **given}

    def file_params(self, params: dict[str, Any]) -> dict[str, str]:
        """The parameters that name files."""
        return {
            name: str(value)
            for name, value in params.items()
            if self.file.params[name].get("format") == "file-path"
        }

    def command(self, params: dict[str, Any], **built_in: str) -> list[str]:
        """The argument list, every placeholder filled."""
        values = {**params, **built_in, "manifest_dir": str(self.folder)}
        command: list[str] = []
        for item in self.file.run.command:
            if isinstance(item, When):
                if params.get(item.when) not in (None, False):
                    command += [self._fill(part, values) for part in item.args]
                continue
            parts = [item] if isinstance(item, str) else item
            names = {name for part in parts for name in _PLACEHOLDER.findall(part)}
            if names <= values.keys():
                command += [self._fill(part, values) for part in parts]
        return command

    def rules_for(self, params: dict[str, Any]) -> Rules:
        """The rules with parameters filled into the progress rule's total."""
        rules = self.rules
        progress = [
            rule.model_copy(update={"total": self._fill(rule.total, params)})
            for rule in rules.progress
        ]
        return rules.model_copy(update={"progress": progress})

    @staticmethod
    def _fill(template: Any, values: dict[str, Any]) -> Any:
        """`template` with `{name}` filled in, if it is a text. Other braces stay as they are."""
        if not isinstance(template, str):
            return template
        return _PLACEHOLDER.sub(
            lambda match: _text(values[match[1]]) if match[1] in values else match[0], template
        )


def _text(value: Any) -> str:
    """A parameter as one argument."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


class Manifests:
    """All kinds of job in some folders. Read anew each time, so that an edit counts at once."""

    def __init__(self, folders: list[Path]) -> None:
        self._folders = folders

    def names(self) -> list[str]:
        return sorted(self._files())

    def get(self, name: str) -> Manifest:
        """Raises UnknownManifestError with the nearest name, or BrokenManifestError."""
        files = self._files()
        if name not in files:
            raise UnknownManifestError(
                f"There is no manifest {shown(name, 80)!r}.{nearest(name, files)}"
            )
        return load(files[name])

    def all(self) -> tuple[list[Manifest], list[BrokenManifestError]]:
        """Every manifest that is valid, and the faults of those that are not."""
        good, bad = [], []
        for name in self.names():
            try:
                good.append(self.get(name))
            except BrokenManifestError as error:
                bad.append(error)
        return good, bad

    def _files(self) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for folder in self._folders:
            for path in sorted(folder.glob("*.toml")):
                found.setdefault(path.stem, path)
        return found


def load(path: Path) -> Manifest:
    """Raises BrokenManifestError that names the file and the first fault."""
    try:
        raw = path.read_bytes()
        file = ManifestFile.model_validate(tomllib.loads(raw.decode("utf-8")))
        _check(file, path)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise BrokenManifestError(f"{path}: {where}: {fault['msg']}.") from None
    except (OSError, ValueError, SchemaError, re.error) as error:
        text = str(error).splitlines()[0]
        raise BrokenManifestError(f"{path}: {text}.") from None
    return Manifest(file, path.resolve().parent, hashlib.sha256(raw).hexdigest())


def _check(file: ManifestFile, path: Path) -> None:
    """What the types cannot say. Raises ValueError, SchemaError or re.error."""
    if file.name != path.stem:
        raise ValueError(f"the name {file.name!r} must be the file's own")
    Draft202012Validator.check_schema({"type": "object", "properties": file.params})
    known = _BUILT_IN | file.params.keys()
    for name in _PLACEHOLDER.findall(repr(file.run.command)):
        if name not in known:
            raise ValueError(f"the command uses the unknown {{{name}}}{nearest(name, known)}")
    regexes = [rule.regex or "" for rule in file.progress]
    for regex in regexes + [rule.regex for rule in [*file.failure, *file.warning, *file.success]]:
        re.compile(regex)


def check_software(kind: Manifest) -> None:
    """Whether the Python distributions that a kind of job needs are in our own environment."""
    missing = []
    for requirement in kind.file.software.requires if kind.file.software else []:
        try:
            metadata.version(re.split(r"[^A-Za-z0-9._-]", requirement)[0])
        except metadata.PackageNotFoundError:
            missing.append(requirement)
    if missing:
        wanted = " ".join(f"'{requirement}'" for requirement in missing)
        raise SoftwareMissingError(
            f"{kind.name} needs {', '.join(missing)}, which {sys.executable} does not have.",
            f"Ask the user to run: {sys.executable} -m pip install {wanted}; or to name an "
            f'environment that has it, with manifests = ["{kind.name}"], in the configuration.',
        )
