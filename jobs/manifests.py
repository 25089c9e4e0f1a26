"""Kinds of job: `manifests/*.toml`, each a command with typed parameters and rules for reading it.

Each `[params.x]` table is a JSON Schema (2020-12) property, so that one text validates launches,
answers `describe_manifests` and documents itself.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from jobs.errors import (
    BrokenManifestError,
    InvalidParameterError,
    JobError,
    UnknownManifestError,
    UnknownParameterError,
    nearest,
)
from jobs.files import check_relative
from jobs.manifest_check import FaultyManifestError, read_file
from jobs.manifest_faults import OWN_KEYS, PLACEHOLDER
from jobs.rules import Finding, ManifestFile, OutputRule, Resume, Rules, Software, When
from jobs.text import shown


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
    def path(self) -> Path:
        return self.folder / f"{self.name}.toml"

    def params_schema(self) -> dict[str, Any]:
        """JSON Schema of the parameters; those without default are required."""
        properties = {}
        required = []
        for name, table in self.file.params.items():
            properties[name] = {k: v for k, v in table.items() if k not in OWN_KEYS}
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
        replaced = set()  #: whose default gives way to another of its group
        for group in self.file.one_of:
            there = [name for name in group if given.get(name) is not None]
            if there:
                replaced |= set(group)
            if len(there) > 1 or not (there or any("default" in known[name] for name in group)):
                names = ", ".join(there) if there else "none"
                raise InvalidParameterError(
                    f"{self.name} needs exactly one of {', '.join(group)}; given: {names}."
                )
        own = {"manifest_dir": str(self.folder)}
        defaults = {
            name: fill(table["default"], own)
            for name, table in known.items()
            if "default" in table and name not in replaced
        }
        return {**defaults, **given}

    def file_params(self, params: dict[str, Any]) -> dict[str, str]:
        """The parameters that name files."""
        return {
            name: str(value)
            for name, value in params.items()
            if self.file.params[name].get("format") == "file-path"
        }

    def command(
        self, params: dict[str, Any], *, resumes: bool = False, **built_in: str
    ) -> list[str]:
        """The argument list, every placeholder filled."""
        values = {**params, **built_in, "manifest_dir": str(self.folder)}
        command: list[str] = []
        for item in self.file.run.command:
            if isinstance(item, When):
                value = params.get(item.when)
                if value is not None and value is not False:  # 0 is a value
                    command += _arguments(item.args, values)
            else:
                command += _arguments(item, values)
        if resumes and self.file.resume:
            command += _arguments(self.file.resume.args, values)
        return command

    def env(self, params: dict[str, Any], **built_in: str) -> dict[str, str]:
        values = {**params, **built_in, "manifest_dir": str(self.folder)}
        return {name: fill(text, values) for name, text in self.file.run.env.items()}

    def software(self, **built_in: str) -> Software | None:
        """The program, and the command that tells its version as it is to be run."""
        about = self.file.software
        if about is None:
            return None
        values = {**built_in, "manifest_dir": str(self.folder)}
        return about.model_copy(
            update={"version_command": [fill(part, values) for part in about.version_command]}
        )

    def rules_for(self, params: dict[str, Any]) -> Rules:
        """How the program is to be read, with parameters filled in."""
        progress = [
            rule.model_copy(
                update={"total": fill(rule.total, params), "source": fill(rule.source, params)}
            )
            for rule in self.file.progress
        ]

        def filled(rules: list[Finding]) -> list[Finding]:
            return [rule.model_copy(update={"source": fill(rule.source, params)}) for rule in rules]

        summary = self.file.summary
        return Rules(
            progress=progress,
            failures=filled(self.file.failure),
            warnings=filled(self.file.warning),
            success=filled(self.file.success),
            exit_codes=self.file.run.exit,
            summary=summary.model_copy(update={"path": fill(summary.path, params)}),
        )

    def outputs_for(self, params: dict[str, Any]) -> list[OutputRule]:
        return [
            rule.model_copy(update={"path": fill(rule.path, params)}) for rule in self.file.output
        ]

    def stop_file(self, params: dict[str, Any]) -> str | None:
        """Raises InvalidParameterError when a parameter leads it out of the working directory."""
        name: str | None = fill(self.file.stop.file, params)
        if name is not None:
            try:
                check_relative(name)
            except JobError as error:
                raise InvalidParameterError(error.cause) from None
        return name

    def resume_for(self, params: dict[str, Any]) -> Resume | None:
        resume = self.file.resume
        if resume is None:
            return None
        return resume.model_copy(
            update={
                "checkpoint": fill(resume.checkpoint, params),
                "carry": [fill(text, params) for text in resume.carry],
                "link": [fill(text, params) for text in resume.link],
            }
        )

    def resources(self, params: dict[str, Any]) -> dict[str, float]:
        """What a launch gets that asks for nothing else, the time limit among it.

        Raises InvalidParameterError when a parameter that says so holds no number.
        """
        found: dict[str, float] = {}
        for name, value in self.file.resources.model_dump().items():
            if isinstance(value, str):
                text = str(fill(value, params))
                try:
                    value = float(text) if name == "time_limit_s" else int(text)
                except ValueError:
                    raise InvalidParameterError(
                        f"{self.name} takes {name} from {value}, which is {shown(text, 40)!r} and "
                        "no number."
                    ) from None
            found[name] = value
        return found


def fill(template: Any, values: dict[str, Any]) -> Any:
    """`template` with `{name}` filled in, if it is a text. Other braces stay as they are."""
    if not isinstance(template, str):
        return template
    return PLACEHOLDER.sub(
        lambda match: _text(values[match[1]]) if match[1] in values else match[0], template
    )


def _arguments(item: str | list[str], values: dict[str, Any]) -> list[str]:
    """One argument, or a group of them: none when a value is missing, more for arrays."""
    parts = [item] if isinstance(item, str) else item
    names = dict.fromkeys(name for part in parts for name in PLACEHOLDER.findall(part))
    if any(values.get(name) is None for name in names):
        return []
    arrays = [name for name in names if isinstance(values[name], list)]
    if not arrays:
        return [fill(part, values) for part in parts]
    (array,) = arrays  # `faults` has seen to that
    return [fill(part, {**values, array: one}) for one in values[array] for part in parts]


def _text(value: Any) -> str:
    """A parameter as one argument."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else json.dumps(value)


class Manifests:
    """All kinds of job in some folders. Read anew each time, so that an edit counts at once."""

    def __init__(self, folders: list[Path]) -> None:
        self._folders = folders

    def get(self, name: str, near: Path | None = None) -> Manifest:
        """The kind of that name, or in the file of that absolute path.

        A project's own, in `.outlast/manifests/` of the folder `near`, come first. Raises
        UnknownManifestError with the nearest name, or BrokenManifestError.
        """
        return load(self.path(name, near))

    def path(self, name: str, near: Path | None = None) -> Path:
        """The file of that kind. Raises UnknownManifestError."""
        if os.path.isabs(name) and name.endswith(".toml"):
            if not os.path.isfile(name):
                raise UnknownManifestError(f"There is no manifest file {shown(name)!r}.")
            return Path(name)
        files = self.paths(near)
        if name not in files:
            raise UnknownManifestError(
                f"There is no manifest {shown(name, 80)!r}.{nearest(name, files)}"
            )
        return files[name]

    def all(self, near: Path | None = None) -> tuple[list[Manifest], list[BrokenManifestError]]:
        """Every manifest that is valid, and the faults of those that are not."""
        good, bad = [], []
        for path in self.paths(near).values():
            try:
                good.append(load(path))
            except BrokenManifestError as error:
                bad.append(error)
        return good, bad

    def paths(self, near: Path | None = None) -> dict[str, Path]:
        """The file of each kind, in the order of their names."""
        found: dict[str, Path] = {}
        folders = [near / ".outlast" / "manifests"] if near is not None else []
        for folder in [*folders, *self._folders]:
            try:
                paths = sorted(folder.glob("*.toml"))
            except OSError:
                continue
            for path in paths:
                found.setdefault(path.stem, path)
        return dict(sorted(found.items()))


def load(path: Path) -> Manifest:
    """Raises BrokenManifestError that names the file, the first mistake, and how many there are."""
    try:
        file, raw = read_file(path)
    except FaultyManifestError as error:
        first, more = error.faults[0], len(error.faults) - 1
        rest = f" There {'is 1 more mistake' if more == 1 else f'are {more} more mistakes'}."
        cause = f"{path}, line {first.line}: {first.text}{rest if more else ''}"
        raise BrokenManifestError(cause, error.faults) from None
    return Manifest(file, path.resolve().parent, hashlib.sha256(raw).hexdigest())
