"""On which line each key and value of a TOML document stands; the standard parser does not tell."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_KEY = re.compile(r"""[ \t]*(?:"((?:[^"\\\n]|\\.)*)"|'([^'\n]*)'|([A-Za-z0-9_-]+))[ \t]*""")
#: Long texts first: `\"` ends none, and of five quotation marks at the end two are the text's.
_TEXT = re.compile(
    r'"""(?:[^"\\]|\\.|"(?!""))*"{3,5}'
    r"|'''(?:[^']|'(?!''))*'{3,5}"
    r'|"(?:[^"\\]|\\.)*"'
    r"|'[^']*'",
    re.DOTALL,
)
_BARE = re.compile(r"[^,\]}#\n]+")


@dataclass
class Place:
    """Where a value begins: of one with a key the key's line, of a table its header's."""

    line: int
    keys: dict[str, Place] = field(default_factory=dict)  #: of a table
    items: list[Place] = field(default_factory=list)  #: of an array

    def find(self, path: Sequence[str | int]) -> Place:
        """The innermost place on the way along `path` that the document has."""
        here = self
        for step in path:
            inner = here.child(step)
            if inner is None:
                break
            here = inner
        return here

    def child(self, step: str | int) -> Place | None:
        if isinstance(step, int):
            return self.items[step] if 0 <= step < len(self.items) else None
        return self.keys.get(step)


def places(text: str) -> Place:
    """The places of a document that `tomllib` has taken; of any other this tells nothing."""
    return _Scanner(text).document()


class _Scanner:
    """Knows as much of TOML as it takes to step over values."""

    def __init__(self, text: str) -> None:
        self._text = text.replace("\r\n", "\n")
        self._at = 0
        self._line = 1

    def document(self) -> Place:
        root = table = Place(1)
        while self._skip_blank():
            line = self._line
            if self._took("[["):
                *outer, last = self._path()
                rows = _enter(root, outer, line).keys.setdefault(last, Place(line)).items
                rows.append(table := Place(line))
                self._take("]]")
            elif self._took("["):
                path = self._path()
                table = _enter(root, path, line)
                table.line = line  # a table that was only the way to another so far
                self._take("]")
            else:
                self._pair(table)
        return root

    def _pair(self, table: Place) -> None:
        line = self._line
        *outer, last = self._path()
        self._take("=")
        _enter(table, outer, line).keys[last] = self._value(line)

    def _value(self, line: int) -> Place:
        """Step over a value; its place is the line that is given."""
        place = Place(line)
        self._skip_blank()
        if self._took("["):
            while self._skip_blank() and not self._took("]"):
                place.items.append(self._value(self._line))
                self._skip_blank()
                self._took(",")
        elif self._took("{"):
            while self._skip_blank() and not self._took("}"):
                self._pair(place)
                self._skip_blank()
                self._took(",")
        else:
            self._match(_TEXT if self._text[self._at] in "\"'" else _BARE)
        return place

    def _path(self) -> list[str]:
        path = []
        while True:
            key = self._match(_KEY)
            quoted, literal, bare = key.groups()
            path.append(_unescaped(quoted) if quoted is not None else literal or bare or "")
            if not self._took("."):
                return path

    def _skip_blank(self) -> bool:
        """Whether anything follows."""
        self._match(_BLANK)
        return self._at < len(self._text)

    def _took(self, token: str) -> bool:
        if not self._text.startswith(token, self._at):
            return False
        self._at += len(token)
        return True

    def _take(self, token: str) -> None:
        if not self._took(token):
            raise ValueError(f"line {self._line}: {token!r} was expected")

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str]:
        match = pattern.match(self._text, self._at)
        if match is None:
            raise ValueError(f"line {self._line} cannot be understood")
        self._line += match[0].count("\n")
        self._at = match.end()
        return match


def _enter(table: Place, path: list[str], line: int) -> Place:
    """The table at `path`, made where it is not there; of an array of tables the last."""
    for key in path:
        table = table.keys.setdefault(key, Place(line))
        if table.items:
            table = table.items[-1]
    return table


def _unescaped(quoted: str) -> str:
    """A key between double quotes; TOML's escapes are JSON's but for the long one."""
    escaped = re.sub(r"\\U([0-9A-Fa-f]{8})", lambda match: chr(int(match[1], 16)), quoted)
    return str(json.loads(f'"{escaped}"', strict=False))
