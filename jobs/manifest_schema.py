"""The language of manifests as a JSON Schema, for editors: they complete, explain and underline."""

from __future__ import annotations

import json
from typing import Any

from jobs.rules import ManifestFile


def editor_schema() -> dict[str, Any]:
    """Draft 2020-12, which Taplo and Tombi read."""
    schema = _for_toml(ManifestFile.model_json_schema(by_alias=True))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "Outlast manifest",
    }


def editor_schema_text() -> str:
    """As it is committed, and as `outlast manifests schema` prints it."""
    return json.dumps(editor_schema(), indent=1, ensure_ascii=False) + "\n"


def _for_toml(node: Any) -> Any:
    """Without null, which TOML does not have, and without names that only repeat a key."""
    if isinstance(node, list):
        return [_for_toml(item) for item in node]
    if not isinstance(node, dict):
        return node
    found = {
        key: _for_toml(value)
        for key, value in node.items()
        if not (key == "title" and isinstance(value, str))
        and not (key == "default" and value is None)
    }
    if not isinstance(found.get("anyOf"), list):  # a parameter's table has a key of this name
        return found
    options = [option for option in found.pop("anyOf") if option != {"type": "null"}]
    return {**options[0], **found} if len(options) == 1 else {"anyOf": options, **found}
