"""Every place in the tools' arguments where a text can stand, read from their own schemas.

A place is written `name`, `name[]` for what a list holds, `name{}` for a value of any key and
`name{key}` for a key; `{key}` is the name of an argument itself.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any


def text_places(schema: dict[str, Any]) -> Iterator[str]:
    """All of one tool's input schema."""
    yield "{key}"
    for name, inner in schema["properties"].items():
        yield from _within(name, inner)


def _within(place: str, schema: dict[str, Any]) -> Iterator[str]:
    for option in schema.get("anyOf", []):
        yield from _within(place, option)
    kind = schema.get("type", None if "anyOf" in schema else "string")
    if kind == "string":
        yield place
    elif kind == "array":
        yield from _within(place + "[]", schema.get("items", {}))
    elif kind == "object":
        yield place + "{key}"
        for name, inner in schema.get("properties", {}).items():
            yield from _within(f"{place}.{name}", inner)
        values = schema.get("additionalProperties", {})
        if values is not False:
            yield from _within(place + "{}", {} if values is True else values)


def put(arguments: dict[str, Any], place: str, texts: list[str]) -> dict[str, Any]:
    """The same arguments with `texts` at a place, which takes one of them or several."""
    arguments = copy.deepcopy(arguments)
    name = re.split(r"[\[{]", place, maxsplit=1)[0]
    marks = re.findall(r"\[\]|\{key\}|\{\}", place[len(name) :])
    if not name:
        return {**arguments, **dict.fromkeys(texts, "1")}
    arguments[name] = _filled(arguments.get(name), marks, texts)
    return arguments


def _filled(old: Any, marks: list[str], texts: list[str]) -> Any:
    if not marks:
        (text,) = texts
        return text
    mark, *rest = marks
    if mark == "[]" and rest:  # what is there is how each is to look
        (like,) = old or [None]
        return [_filled(copy.deepcopy(like), rest, [text]) for text in texts]
    if mark == "[]":
        return [*(old or []), *texts]
    old = old or {}
    if mark == "{key}":
        return {**old, **dict.fromkeys(texts, "1")}
    keys = [key for key, value in old.items() if value is None]  # None: to be filled
    if rest:
        return {**old, **{key: _filled(None, rest, texts) for key in keys}}
    keys = keys or [f"V{number}" for number in range(len(texts))]
    return {**old, **dict(zip(keys, texts, strict=True))}
