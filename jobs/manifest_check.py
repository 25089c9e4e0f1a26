"""Every mistake of a manifest, with its line and in words for the person who writes it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from jobs.errors import nearest
from jobs.limits import Model
from jobs.manifest_faults import faults as faults_of_meaning
from jobs.rules import ManifestFile
from jobs.text import shown
from jobs.toml_places import Place, places

Step = str | int
Way = tuple[Step, ...]  #: from the document to a value in it

#: What a value has to be, by the errors that say that it is something else.
_KINDS = {
    "string_type": "a text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
}
_LARGEST_BYTES = 1 << 20
#: What stands in for the keys without which there is no manifest.
_NEEDED: dict[str, Any] = {"schema": 1, "name": "", "title": "", "run": {"command": ["x"]}}


@dataclass(frozen=True)
class Fault:
    """One mistake: where it stands (1 is the first line), and what it is, as a sentence."""

    line: int
    text: str


class FaultyManifestError(ValueError):
    """`faults` are all that were found, from the beginning of the file to its end: at least one.

    What is no text, or not TOML, hides everything else: then that is the only one.
    """

    def __init__(self, *faults: Fault) -> None:
        super().__init__(faults[0].text)
        self.faults = faults


def read_file(path: Path) -> tuple[ManifestFile, bytes]:
    """The manifest in a file, and the bytes of it. Raises FaultyManifestError."""
    try:
        if not path.is_file():
            raise FaultyManifestError(Fault(1, "There is no such file."))
        with path.open("rb") as file:
            raw = file.read(_LARGEST_BYTES + 1)
    except OSError as error:
        raise FaultyManifestError(Fault(1, f"The file cannot be read: {error.strerror}.")) from None
    return read(raw, path.stem), raw


def read(raw: bytes, stem: str) -> ManifestFile:
    """The manifest that `raw` is, in a file `stem`.toml. Raises FaultyManifestError."""
    if len(raw) > _LARGEST_BYTES:
        raise FaultyManifestError(Fault(1, "The file is larger than any manifest can be (1 MB)."))
    text = ""
    try:
        text = raw.decode("utf-8")
        document = tomllib.loads(text)
        try:
            file = ManifestFile.model_validate(document)
            if not any(faults_of_meaning(file, stem)):
                return file
        except ValidationError:
            pass
        faults = _all_faults(document, places(text), stem)
    except UnicodeDecodeError as error:
        faults = [Fault(raw.count(b"\n", 0, error.start) + 1, "This line is not UTF-8 text.")]
    except tomllib.TOMLDecodeError as error:
        faults = [_not_toml(text, str(error))]
    except RecursionError:
        faults = [Fault(1, "Lists or tables stand too deeply in each other.")]
    raise FaultyManifestError(*faults)


def _all_faults(document: dict[str, Any], place: Place, stem: str) -> list[Fault]:
    found: list[Fault] = []
    file = _typed(document, place, stem, found)
    for way, message in faults_of_meaning(file, stem) if file is not None else ():
        found.append(_fault(place, way, f"{_name(way, document)}: {message}"))
    return sorted(dict.fromkeys(found), key=lambda fault: fault.line)


def _fault(place: Place, way: Way, sentence: str) -> Fault:
    sentence = shown(sentence.rstrip("."), 600)
    return Fault(place.find(way).line, sentence + ("" if sentence.endswith("?") else "."))


def _not_toml(text: str, message: str) -> Fault:
    where = re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)$", message)
    said = message[: where.start()] if where else message
    if where is None or where[1] is None:
        return Fault(text.rstrip().count("\n") + 1, f"This is not TOML: {said} at the file's end.")
    return Fault(int(where[1]), f"This is not TOML: {said} at column {where[2]}.")


def _typed(
    document: dict[str, Any], place: Place, stem: str, found: list[Fault]
) -> ManifestFile | None:
    """Find keys that are unknown or missing and values of the wrong type, and take them out of
    `document` and `place`, so that the mistakes of what is left can be found too.

    None where that does not lead to a manifest.
    """
    for attempt in range(12):  # what is taken out can leave something else to be wrong
        try:
            return ManifestFile.model_validate(document)
        except ValidationError as error:
            mistakes = list(_mistakes(error, document))
        for mistake in mistakes if attempt == 0 else ():
            found.append(_fault(place, mistake.way, mistake.sentence))
        for mistake in sorted(mistakes, key=_from_behind, reverse=True):
            _take_out(mistake, document, place, stem)
    return None


@dataclass(frozen=True)
class _Mistake:
    way: Way  #: to the value, or to the table that lacks something
    sentence: str
    lacks: str | None = None
    of_whole: bool = False  #: each key of the table is right, but not all together


def _from_behind(mistake: _Mistake) -> list[tuple[int, str]]:
    """The order in which taking one out moves none of those before it."""
    return [(step, "") if isinstance(step, int) else (-1, step) for step in mistake.way]


def _take_out(mistake: _Mistake, document: dict[str, Any], place: Place, stem: str) -> None:
    """Remove what is wrong, or put something harmless where the language needs something."""
    way = mistake.way
    if way[:2] == ("run", "command") and len(way) > 2:
        way = way[:3]
    elif mistake.lacks is not None:
        way = (*way, mistake.lacks)
    table: Any = document
    for step in way[:-1]:
        table = table[step]
    last: Any = way[-1]
    if len(way) == 1 and last in _NEEDED:
        table[last] = {**_NEEDED, "name": stem}[last]
    elif way[0] == "run" and last == "command":
        table[last] = ["x"]
    elif way[:2] == ("run", "command"):
        table[last] = "x"
    elif way[0] == "params" and len(way) == 2:
        table[last] = {}
    elif mistake.lacks is not None:
        table[last] = "x" if last != "y" else ["x"]
    elif mistake.of_whole and table[last]:
        table[last].popitem()  # of keys that exclude each other the last
    else:
        del table[last]
        if isinstance(last, int):
            del place.find(way[:-1]).items[last]


def _has(value: Any, step: Step) -> bool:
    if isinstance(step, int) and isinstance(value, list):
        return 0 <= step < len(value)
    return isinstance(value, dict) and step in value


def _mistakes(error: ValidationError, document: dict[str, Any]) -> Iterator[_Mistake]:
    """What pydantic found, told once for each place of the document.

    Of a value that may be one of several types it tells why it is none of each: only what is
    wrong within the type that was meant is kept, else that it is none of them.
    """
    kinds: dict[Way, list[str]] = {}
    others: list[tuple[Way, ErrorDetails]] = []
    meant: set[Way] = set()
    for detail in error.errors(include_url=False, include_context=False):
        way, union = _in_document(detail["loc"], document)
        if detail["type"] not in _KINDS or detail["loc"][-1] == "[key]":
            others.append((way, detail))
        elif (kind := _KINDS[detail["type"]]) not in kinds.setdefault(way, []):
            kinds[way].append(kind)
        if union is not None and (len(way) > len(union) or detail["type"] not in _KINDS):
            meant.add(union)
    for way, detail in others:
        lacks = str(detail["loc"][-1]) if detail["type"] == "missing" else None
        whole = detail["type"] == "value_error"
        yield _Mistake(way, _sentence(way, detail, document), lacks, whole)
    for way, names in kinds.items():
        if way not in meant:
            value = _shown_value(_value(document, way))
            yield _Mistake(way, f"{_name(way, document)} must be {_or(names)}, not {value}.")


def _in_document(loc: Way, document: dict[str, Any]) -> tuple[Way, Way | None]:
    """The way that the document has of an error's, which also holds the names of types; and how
    far it leads to the first of these."""
    way: list[Step] = []
    union = None
    value: Any = document
    for step in loc:
        if _has(value, step):
            value = value[step]
            way.append(step)
        elif union is None:
            union = tuple(way)
    return tuple(way), union


def _value(document: Any, way: Way) -> Any:
    for step in way:
        document = document[step]
    return document


def _sentence(way: Way, detail: ErrorDetails, document: dict[str, Any]) -> str:
    kind, last = detail["type"], str(detail["loc"][-1])
    if last == "[key]":
        return f"The key {_name(way, document)} must be {_KINDS.get(kind, 'another')}."
    if kind == "missing":
        field = _fields(way).get(last, "")
        return f"{_name(way, document)} lacks the key `{last}`{': ' if field else '.'}{field}"
    if kind == "extra_forbidden":
        known = _fields(way[:-1])
        hint = nearest(last, known) or f" It knows {', '.join(f'`{key}`' for key in known)}."
        return f"{_name(way[:-1], document)} has no key `{shown(last, 80)}`.{hint}"
    if kind == "literal_error":
        value = _value(document, way)
        allowed = re.findall(r"'([^']*)'", detail["msg"])
        hint = nearest(value, allowed) if isinstance(value, str) else ""
        return (
            f"{_name(way, document)} must be one of {', '.join(allowed)}, "
            f"not {_shown_value(value)}.{hint}"
        )
    said = re.sub(r"^(?:Input|String|List|Value|Dictionary) should ", "must ", detail["msg"])
    said = said.removeprefix("Value error, ").partition(" after validation")[0].rstrip(".")
    if "pattern" in kind:
        said = f"cannot be {_shown_value(_value(document, way))}"
    field = _fields(way[:-1]).get(last, "") if way else ""
    return (
        f"{_name(way, document)}{' ' if said.startswith(('must', 'cannot')) else ': '}{said}."
        + (f" It is {field[0].lower()}{field[1:]}" if field and "pattern" in kind else "")
    )


def _fields(way: Way) -> dict[str, str]:
    """The keys of the table at `way`, with what each means; none where the language has none."""
    model: type[Model] | None = ManifestFile
    for step in way:
        if isinstance(step, str) and model is not None:
            fields = {field.alias or name: field for name, field in model.model_fields.items()}
            model = _model_in(fields[step].annotation) if step in fields else None
    if model is None:
        return {}
    return {
        field.alias or name: field.description or "" for name, field in model.model_fields.items()
    }


def _model_in(annotation: Any) -> type[Model] | None:
    """The model that a field holds, in a list or as one of several types."""
    if isinstance(annotation, type) and issubclass(annotation, Model):
        return annotation
    found = (_model_in(inner) for inner in get_args(annotation))
    return next((model for model in found if model is not None), None)


def _name(way: Way, document: dict[str, Any]) -> str:
    """A value in the words of the file: `kind` of [[output]]."""
    value: Any = document
    depth = 0  #: of the innermost table that has a header
    for index, step in enumerate(way):
        value = value[step] if _has(value, step) else None
        if isinstance(value, dict) and (index == 0 or way[:2] != ("run", "command")):
            depth = index + 1
    table = ".".join(str(step) for step in way[:depth] if isinstance(step, str))
    table = f"[[{table}]]" if depth and isinstance(way[depth - 1], int) else f"[{table}]"
    if depth == len(way):
        return table if way else "The manifest"
    key = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in way[depth:])
    return f"`{shown(key.removeprefix('.'), 80)}`" + (f" of {table}" if depth else "")


def _shown_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "a list"
    return f'"{shown(value, 60)}"' if isinstance(value, str) else shown(str(value), 60)


def _or(names: list[str]) -> str:
    return " or ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)
