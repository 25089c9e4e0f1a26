"""Every place in the tools' arguments where a text can stand, read from their own schemas.

A place is written `name`, `name[]` for what a list holds, `name{}` for a value of any key and
`name{key}` for a key; `{key}` is the name of an argument itself.
"""

from __future__ import annotations

import copy
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
    name, mark = place, ""
    for ending in ("[]", "{key}", "{}"):
        if place.endswith(ending):
            name, mark = place.removesuffix(ending), ending
    if mark == "[]":
        arguments[name] = [*arguments.get(name, []), *texts]
    elif mark == "{}":
        old = arguments.get(name, {})
        keys = [key for key, value in old.items() if value is None]  # None: to be filled
        keys = keys or [f"V{number}" for number in range(len(texts))]
        arguments[name] = {**old, **dict(zip(keys, texts, strict=True))}
    elif mark == "{key}":
        inner = arguments if not name else arguments.setdefault(name, {})
        inner.update(dict.fromkeys(texts, "1"))
    else:
        (arguments[name],) = texts
    return arguments
