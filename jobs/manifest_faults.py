"""What can be wrong with a manifest that its types cannot say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from jobs.errors import JobError, nearest
from jobs.files import check_relative
from jobs.param_schema import PARAM
from jobs.patterns import check_regex
from jobs.rules import Finding, ManifestFile, ProgressRule, When
from jobs.text import shown

PLACEHOLDER = re.compile(r"\{(\w+)\}")
#: What a command, an environment and a version command may hold besides parameters.
BUILT_IN = {"python", "manifest_dir", "job_dir", "cores"}
#: Keys of a parameter that are ours and no JSON Schema.
OWN_KEYS = {"optional", "input", "save_as"}
_PARAM = Draft202012Validator(PARAM)
#: Keys of a JSON Schema that hold another, or several.
_ONE = ("items", "contains", "additionalProperties", "not")
_MANY = ("prefixItems", "anyOf", "oneOf", "allOf")

Place = tuple[str | int, ...]  #: where in the document: keys and indices


def faults(file: ManifestFile, stem: str) -> Iterator[tuple[Place, str]]:
    """What the types cannot say: every mistake, with its place in the document."""
    if file.name != stem:
        yield ("name",), f"the name {file.name!r} must be that of the file, {stem!r}"
    for name, table in file.params.items():
        if not re.fullmatch(r"\w+", name):
            yield ("params", name), "a parameter's name is letters, digits and '_'"
        elif name in BUILT_IN:
            yield ("params", name), f"{{{name}}} has a meaning of its own; give it another name"
        yield from _param_faults(("params", name), table)
    for index, group in enumerate(file.one_of):
        for name in group:
            if name not in file.params:
                yield ("one_of", index), f"no parameter {name!r}.{nearest(name, file.params)}"
            elif not file.params[name].get("optional") and "default" not in file.params[name]:
                text = "one of a group in one_of must be `optional = true` or have a default"
                yield ("params", name), text
        if sum("default" in file.params.get(name, {}) for name in group) > 1:
            yield ("one_of", index), "only one of a group can have a default"
    for key, value in file.resources:
        if isinstance(value, str) and not PLACEHOLDER.search(value):
            yield ("resources", key), 'it is no number, and no parameter such as "{threads}"'
    yield from _placeholder_faults(file)
    yield from _requirement_faults(file)
    rules: dict[Place, ProgressRule | Finding] = {}
    rules |= {("progress", i, "regex"): rule for i, rule in enumerate(file.progress)}
    for key in ("failure", "warning", "success"):
        rules |= {(key, i, "regex"): rule for i, rule in enumerate(getattr(file, key))}
    for place, rule in rules.items():
        try:
            check_regex("it", rule.regex or "")
        except JobError as error:
            yield place, error.cause
        for key in ("regex", "meaning"):
            held = PLACEHOLDER.findall(getattr(rule, key, None) or "")
            for name in sorted(file.params.keys() & held):
                if not name.isdecimal():  # \d{3} counts
                    yield (*place[:-1], key), f"no parameter is filled in here: {{{name}}} stays"
    globs: dict[Place, str] = {
        ("output", i, "path"): rule.path for i, rule in enumerate(file.output)
    }
    resume = file.resume
    if resume is not None:
        globs |= {("resume", "checkpoint"): resume.checkpoint}
        globs |= {("resume", "carry", i): text for i, text in enumerate(resume.carry)}
        globs |= {("resume", "link", i): text for i, text in enumerate(resume.link)}
    for place, text in globs.items():
        try:
            check_relative(text)
        except JobError as error:
            yield place, f"{error.cause[:-1]}; it must stay in the working directory"


def _param_faults(place: Place, table: dict[str, Any]) -> Iterator[tuple[Place, str]]:
    wrong = list(_schema_faults(place, table))
    if wrong:
        yield from wrong
        return
    if "default" in table and table.get("optional"):
        yield (*place, "optional"), "a parameter with a default cannot be optional, too"
    if "default" in table and table.get("format") != "file-path":
        fault = best_match(Draft202012Validator(table).iter_errors(table["default"]))
        if fault is not None:
            yield (*place, "default"), shown(fault.message)
    if "input" in table and table.get("format") != "file-path":
        yield (*place, "input"), 'only a parameter with format = "file-path" is an input file'
    saved = table.get("save_as")
    if saved is not None and ("/" in saved or saved in ("", ".", "..")):
        yield (*place, "save_as"), "save_as must be a plain file name"
    elif saved is not None and table.get("type") != "string":
        yield (*place, "save_as"), 'only a parameter of type = "string" can be saved'


def _schema_faults(place: Place, table: dict[str, Any]) -> Iterator[tuple[Place, str]]:
    """What is no JSON Schema that we take, in it and in those within it.

    A `$ref` is none: it could lead out of the file.
    """
    for error in _PARAM.iter_errors(table):
        where = (*place, *error.absolute_path)
        if error.validator == "additionalProperties":
            known = PARAM["properties"]
            for key in table.keys() - known.keys():
                yield (*where, key), f"no key of a parameter.{nearest(key, known)}"
        elif error.validator == "enum":
            allowed = [str(value) for value in error.validator_value]
            hint = nearest(str(error.instance), allowed)
            yield where, f"{shown(repr(error.instance), 80)} is none of {', '.join(allowed)}.{hint}"
        else:
            yield where, shown(error.message)
    if isinstance(table.get("pattern"), str):
        try:
            check_regex("it", table["pattern"])
        except JobError as error:
            yield (*place, "pattern"), error.cause
    for key, value in table.items():
        inner: list[tuple[Place, Any]] = [((), value)] if key in _ONE else []
        if key == "properties" and isinstance(value, dict):
            inner = [((name,), schema) for name, schema in value.items()]
        elif key in _MANY and isinstance(value, list):
            inner = [((index,), schema) for index, schema in enumerate(value)]
        for step, schema in inner:
            if isinstance(schema, dict):
                yield from _schema_faults((*place, key, *step), schema)


def _requirement_faults(file: ManifestFile) -> Iterator[tuple[Place, str]]:
    if file.software is None or not file.software.requires:
        return
    from packaging.requirements import InvalidRequirement, Requirement  # not at a server's start

    for index, text in enumerate(file.software.requires):
        try:
            Requirement(text)
        except InvalidRequirement:
            words = f"{shown(repr(text), 80)} names no Python distribution as in 'openmm>=8.2'"
            yield ("software", "requires", index), words


def _placeholder_faults(file: ManifestFile) -> Iterator[tuple[Place, str]]:
    """Names in braces that nothing stands behind, and groups with more than one array."""
    params, whole = set(file.params), BUILT_IN | file.params.keys()
    arrays = {name for name, table in file.params.items() if table.get("type") == "array"}
    files = _file_names(file)
    places: list[tuple[Place, Any, set[str]]] = [
        *((place, text, params) for place, text in files.items()),
        *((("run", "command", i), item, whole) for i, item in enumerate(file.run.command)),
        *((("run", "env", name), text, whole) for name, text in file.run.env.items()),
        *((("resources", name), value, params) for name, value in file.resources),
    ]
    if file.software:
        command = file.software.version_command
        places.append((("software", "version_command"), command, BUILT_IN))
    if file.resume:
        places.append((("resume", "args"), file.resume.args, whole))
    for i, rule in enumerate(file.progress):
        try:
            groups = set(re.compile(rule.regex or "(?P<step>)").groupindex)
        except (re.error, OverflowError, RecursionError):
            continue  # told already
        places.append((("progress", i, "total"), rule.total, params | groups))
        places.append((("progress", i, "message"), rule.message, groups | {"total"}))
    unsure = {name for name, table in file.params.items() if table.get("optional")}
    unsure = unsure.union(*file.one_of)
    for place, item, known in places:
        if isinstance(item, When):
            if item.when not in file.params:
                hint = nearest(item.when, file.params)
                yield (*place, "when"), f"no parameter {item.when!r}.{hint}"
            item = item.args
        parts = [item] if isinstance(item, str) else item if isinstance(item, list) else []
        names = [name for part in parts for name in PLACEHOLDER.findall(part)]
        for name in names:
            if name not in known:
                yield place, f"unknown placeholder {{{name}}}.{nearest(name, known)}"
            elif place in files and name in unsure:
                yield place, f"{{{name}}} may have no value, and then there is no such file"
        if len(arrays & set(names)) > 1:
            yield place, "only one array can be repeated in one group of arguments"


def _file_names(file: ManifestFile) -> dict[Place, str | None]:
    """Names and globs of files in the working directory, in which parameters may stand."""
    names: dict[Place, str | None] = {("stop", "file"): file.stop.file}
    names |= {("output", i, "path"): rule.path for i, rule in enumerate(file.output)}
    for key in ("progress", "failure", "warning", "success"):
        names |= {(key, i, "source"): rule.source for i, rule in enumerate(getattr(file, key))}
    names["summary", "path"] = file.summary.path
    if file.resume:
        names["resume", "checkpoint"] = file.resume.checkpoint
        names |= {("resume", "carry", i): text for i, text in enumerate(file.resume.carry)}
        names |= {("resume", "link", i): text for i, text in enumerate(file.resume.link)}
    return names
