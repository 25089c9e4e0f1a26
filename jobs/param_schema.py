"""What a `[params.x]` of a manifest may hold: JSON Schema's words for one value, and ours."""

from __future__ import annotations

from typing import Any

_ANY: dict[str, Any] = {"type": ["object", "boolean"]}
_COUNT: dict[str, Any] = {"type": "integer", "minimum": 0}
_SCHEMAS: dict[str, Any] = {"type": "array", "items": _ANY, "minItems": 1}

_TABLE: dict[str, Any] = {"type": "object", "additionalProperties": _ANY}
_NAMES: dict[str, Any] = {"type": "array", "items": {"type": "string"}}

TYPES = ["integer", "number", "string", "boolean", "array", "object"]

#: A JSON Schema of such a table, for editors.
PARAM: dict[str, Any] = {
    "type": "object",
    "description": "A parameter: a JSON Schema property, with some keys more.",
    "additionalProperties": False,
    "properties": {
        "type": {"description": "What kind of value it is.", "enum": TYPES},
        "default": {"description": "The value if none is given; without one it has to be given."},
        "description": {"description": "What it means, in one sentence.", "type": "string"},
        "title": {"description": "Its name for people.", "type": "string"},
        "unit": {"description": "The unit of the number, as people write it.", "type": "string"},
        "optional": {
            "description": "It has no default and may be left out.",
            "type": "boolean",
        },
        "format": {
            "description": '"file-path": the absolute path of a file, which has to be there.',
            "type": "string",
        },
        "input": {
            "description": 'Of a file: "copy" or "link" it into the job\'s inputs/.',
            "enum": ["copy", "link"],
        },
        "save_as": {
            "description": "Of a text: the file in inputs/ to which it is written.",
            "type": "string",
        },
        "enum": {"description": "The values that there are.", "type": "array", "minItems": 1},
        "const": {"description": "The only value."},
        "examples": {"description": "Values for people to start from.", "type": "array"},
        "minimum": {"description": "The least number.", "type": "number"},
        "maximum": {"description": "The greatest number.", "type": "number"},
        "exclusiveMinimum": {"description": "It is greater than this.", "type": "number"},
        "exclusiveMaximum": {"description": "It is less than this.", "type": "number"},
        "multipleOf": {
            "description": "It is a multiple of this.",
            "type": "number",
            "exclusiveMinimum": 0,
        },
        "minLength": {"description": "The least number of characters.", **_COUNT},
        "maxLength": {"description": "The greatest number of characters.", **_COUNT},
        "pattern": {"description": "A regular expression that the text matches.", "type": "string"},
        "items": {"description": "The schema of each item of an array.", **_ANY},
        "prefixItems": {"description": "The schemas of the first items.", **_SCHEMAS},
        "contains": {"description": "At least one item is like this.", **_ANY},
        "minItems": {"description": "The least number of items.", **_COUNT},
        "maxItems": {"description": "The greatest number of items.", **_COUNT},
        "uniqueItems": {"description": "No two items are the same.", "type": "boolean"},
        "properties": {"description": "The schemas of an object's members.", **_TABLE},
        "required": {"description": "The members that an object must have.", **_NAMES},
        "additionalProperties": {"description": "The schema of an object's others.", **_ANY},
        "anyOf": {"description": "It satisfies at least one of these.", **_SCHEMAS},
        "oneOf": {"description": "It satisfies exactly one of these.", **_SCHEMAS},
        "allOf": {"description": "It satisfies all of these.", **_SCHEMAS},
        "not": {"description": "It does not satisfy this.", **_ANY},
    },
}
