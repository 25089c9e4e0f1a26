"""The lines of a TOML document's keys and values, against the standard parser and the text."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.toml_places import Place, places

ROOT = Path(__file__).resolve().parents[2]
FILES = [*ROOT.glob("manifests/*.toml"), ROOT / "docs/examples/relax.toml", ROOT / "pyproject.toml"]

EVERYTHING = '''# a comment with [brackets] = and "quotes"
bare = 1
"quo.ted \\"key\\" \\u00e9" = 'lit # eral'
'lit.eral' . inner . "x" = true
long = """first # no comment
[no.table]
say \\"""no end\\""" and ""two"" """""
other = \'\'\'
[neither]
it's''fine\'\'\'\'\'
when = 1979-05-27 07:32:00 # with a space
[ a . "b c" ] # header
list = [ 1, [ "]", '}' ], # one
  { x = 1, y . z = [2] },

  """
  """, 3
]
empty = []
none = {}
[[rows]]
n = 1
[rows.sub]
deep = 1
[[rows]]
n = 2
[[rows.inner]]
k = 1
[[rows.inner]]
k = 2
[a]
late = -inf
'''
LINES = {
    ("bare",): 2,
    ('quo.ted "key" é',): 3,
    ("lit.eral", "inner", "x"): 4,
    ("long",): 5,
    ("other",): 8,
    ("when",): 11,
    ("a", "b c"): 12,
    ("a", "b c", "list"): 13,
    ("a", "b c", "list", 0): 13,
    ("a", "b c", "list", 1, 1): 13,
    ("a", "b c", "list", 2, "y", "z", 0): 14,
    ("a", "b c", "list", 3): 16,
    ("a", "b c", "list", 4): 17,
    ("a", "b c", "none"): 20,
    ("rows", 0): 21,
    ("rows", 0, "sub", "deep"): 24,
    ("rows", 1): 25,
    ("rows", 1, "inner", 1): 29,
    ("rows", 1, "inner", 1, "k"): 30,
    ("a",): 31,
    ("a", "late"): 32,
}


def same_shape(place: Place, value: Any) -> bool:
    keys = value if isinstance(value, dict) else {}
    items = value if isinstance(value, list) else []
    return (
        place.keys.keys() == keys.keys()
        and len(place.items) == len(items)
        and all(same_shape(place.keys[key], keys[key]) for key in keys)
        and all(same_shape(inner, item) for inner, item in zip(place.items, items, strict=True))
    )


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_every_way_of_writing_it(ends: str) -> None:
    text = EVERYTHING.replace("\n", ends)
    found = places(text)
    assert same_shape(found, tomllib.loads(text))
    assert {way: found.find(way).line for way in LINES} == LINES


def ways(value: Any, way: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    yield way
    inner = value.items() if isinstance(value, dict) else ()
    for step, item in enumerate(value) if isinstance(value, list) else inner:
        yield from ways(item, (*way, step))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_line_of_a_key_holds_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    document = tomllib.loads(text)
    found = places(text)
    assert same_shape(found, document)
    for way in ways(document):
        if way and isinstance(way[-1], str):
            line = text.splitlines()[found.find(way).line - 1]
            assert re.search(rf"(^|[\s\[.{{\"]){re.escape(way[-1])}[\s\].=\"]", line), (way, line)


keys = st.text(max_size=5) | st.sampled_from(["a", "b", "c-d"])
values = st.recursive(
    st.integers(-5, 5) | st.booleans() | st.text(max_size=8) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=12,
)


def quoted(text: str) -> str:
    """As a basic string: JSON's escapes, but for characters that it writes as two."""
    return "".join(
        json.dumps(char)[1:-1] if char < "\x7f" else f"\\U{ord(char):08x}" for char in text
    ).join('""')


def written(value: Any, gap: str) -> str:
    """The value in TOML, `gap` where blanks and ends of lines may stand in an array."""
    if isinstance(value, dict):
        pairs = (f"{quoted(key)} = {written(item, gap)}" for key, item in value.items())
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list):
        return f"[{gap}" + f",{gap}".join(written(item, gap) for item in value) + f"{gap}]"
    return quoted(value) if isinstance(value, str) else repr(value).lower()


@settings(deadline=None)
@given(st.dictionaries(keys, values, max_size=4), st.sampled_from(["", " ", "\n", " # ]\n\t"]))
def test_any_document(document: dict[str, Any], gap: str) -> None:
    text = "".join(f"{quoted(key)} = {written(value, gap)}\n" for key, value in document.items())
    assert tomllib.loads(text) == document
    found = places(text)
    assert same_shape(found, document)
    line = 1
    for key, value in document.items():
        assert found.keys[key].line == line
        line += written(value, gap).count("\n") + 1


@settings(deadline=None)
@given(st.data())
def test_whatever_the_parser_takes_has_places(data: st.DataObject) -> None:
    """A manifest with something cut out or put in: where it is still TOML, it is understood."""
    text = data.draw(st.sampled_from(FILES)).read_text(encoding="utf-8")[:3000]
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(start + 40, len(text))))
    put = data.draw(st.text("[]{}\"'=.,#\\\n ax1", max_size=6))
    text = text[:start] + put + text[end:]
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    assert same_shape(places(text), document)
