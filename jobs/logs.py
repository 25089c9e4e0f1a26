"""Reading logs from their end or from a cursor, at a cost that does not depend on their size.

A cursor is `DEVICE-INODE:OFFSET:MARK` in hexadecimal, decimal and hexadecimal: MARK is the crc32
of up to 64 bytes before OFFSET, so that a file that was truncated, replaced or rewritten is told
from one that has grown.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from jobs.errors import InvalidArgumentError, InvalidCursorError
from jobs.files import open_inside
from jobs.text import clean, token_estimate, without_cut_character, without_partial_character

#: The most that is read of a log for one reply.
REPLY_BYTES = 32 * 1024
#: How far back `grep` looks.
GREP_BYTES = 16 << 20
#: The longest part of one line that is shown or searched.
LINE_BYTES = 2000
_BLOCK = 64 * 1024
_CURSOR = re.compile(r"([0-9a-f]{1,16}-[0-9a-f]{1,16}):(\d{1,19}):([0-9a-f]{1,8})")


@dataclass(frozen=True)
class Excerpt:
    """A part of a log. `text` holds whole lines but for the last, which may still grow."""

    text: str
    next_cursor: str | None  #: none when there is no log yet
    size: int  #: of the log, in bytes
    notes: list[str] = field(default_factory=list)  #: what a reader has to know to read it right


def tail(root: Path, name: str, *, lines: int) -> Excerpt:
    """The last `lines` lines, as far as a reply reaches."""
    with open_inside(root, name) as fd:
        size = os.fstat(fd).st_size
        start = max(0, size - REPLY_BYTES)
        raw = os.pread(fd, size - start, start)
    notes = ["holds bytes that are no text"] if b"\0" in raw else []
    position = len(raw)
    for _ in range(lines + raw.endswith(b"\n")):
        position = raw.rfind(b"\n", 0, position)
        if position < 0:
            break
    budget = reply_tokens(lines)
    if position >= 0:
        raw = raw[position + 1 :]
    elif start > 0:
        raw = without_partial_character(raw)
    text = clean(raw)
    kept = _last_that_fit(text, budget)
    if len(kept) < len(text) or (position < 0 and start > 0):
        notes.append("earlier lines are left out; ask for more lines, or use grep")
    with open_inside(root, name) as fd:
        return Excerpt(kept, _cursor(fd, size), size, notes)


def follow(root: Path, name: str, cursor: str, *, lines: int, ended: bool = False) -> Excerpt:
    """What came after `cursor`, whole lines; with `ended` also a last line without its end.

    Raises InvalidCursorError for a text that is no cursor.
    """
    generation, offset, mark = _parse_cursor(cursor)
    with open_inside(root, name) as fd:
        size = os.fstat(fd).st_size
        notes = []
        if _generation(fd) != generation or offset > size or _mark(fd, offset) != mark:
            notes.append("the log was replaced or rewritten since; this is its new beginning")
            offset = 0
        raw = os.pread(fd, REPLY_BYTES, offset)
        at_end = offset + len(raw) >= size
        whole = raw.rfind(b"\n") + 1
        if at_end and not ended:
            raw = raw[:whole]  # the rest of the last line is still to come
        elif not at_end:
            raw = raw[:whole] or without_cut_character(raw)
        raw, text = _first_that_fit(raw, lines)
        end = offset + len(raw)
        if end < size and not (at_end and end == offset + whole):
            notes.append(f"{size - end} bytes follow; call again with next_cursor")
        return Excerpt(text, _cursor(fd, end), size, notes)


def grep(root: Path, name: str, pattern: str, *, lines: int) -> Excerpt:
    """The last `lines` lines that match a regular expression, within the last 16 MiB of the log.

    Each begins with its byte offset. Raises InvalidArgumentError for a pattern that is not valid,
    or so slow that it was given up.
    """
    import regex  # unlike `re` it can be given up; loaded here because few calls need it

    try:
        compiled = regex.compile(pattern.encode("utf-8"), regex.IGNORECASE)
    except (regex.error, UnicodeEncodeError) as error:
        raise InvalidArgumentError(f"grep is not a valid regular expression: {error}.") from None
    with open_inside(root, name) as fd:
        size = os.fstat(fd).st_size
        limit = max(0, size - GREP_BYTES)
        found: list[str] = []
        budget = reply_tokens(lines)
        try:
            for offset, line in _lines_backwards(fd, size, limit):
                if compiled.search(line, timeout=1.0) is None:
                    continue
                text = f"{offset}: {clean(line)}"
                budget -= token_estimate(text)
                if len(found) == lines or budget < 0:
                    break
                found.append(text)
        except TimeoutError:
            raise InvalidArgumentError(
                "grep took more than a second on one line; use a simpler expression."
            ) from None
        notes = ["each line begins with its byte offset"] if found else []
        if limit:
            notes.append(f"searched only the last {GREP_BYTES >> 20} MiB")
        if not found:
            notes.append("no line matches")
        return Excerpt("\n".join(reversed(found)), _cursor(fd, size), size, notes)


def last_line(root: Path, name: str) -> str:
    """The last line that is not empty, cleaned; empty when there is none."""
    with open_inside(root, name) as fd:
        size = os.fstat(fd).st_size
        raw = os.pread(fd, LINE_BYTES, max(0, size - LINE_BYTES))
    lines = [line for line in clean(raw).split("\n") if line.strip()]
    return lines[-1] if lines else ""


def reply_tokens(lines: int) -> int:
    """How many tokens a reply of so many lines may cost: 1,200 for 50, never above 6,500."""
    return min(6500, max(1200, 24 * lines))


def _last_that_fit(text: str, budget: int) -> str:
    """The last lines whose cost stays within the budget; of one that is too long, its end."""
    lines = text.split("\n")
    first = len(lines)
    while first > 0 and (budget := budget - token_estimate(lines[first - 1]) - 1) >= 0:
        first -= 1
    if first >= len(lines) - 1 and first > 0 and not "".join(lines[first:]):
        return lines[first - 1][-LINE_BYTES // 2 :] + "\n" * (len(lines) - first)
    return "\n".join(lines[first:])


def _first_that_fit(raw: bytes, lines: int) -> tuple[bytes, str]:
    """The first lines that fit into a reply: as bytes, and as they are shown."""
    budget = reply_tokens(lines)
    taken: list[bytes] = []
    for line in raw.splitlines(keepends=True)[:lines]:
        budget -= token_estimate(clean(line)) + 1
        if budget < 0:
            if not taken:
                taken.append(without_cut_character(line[: LINE_BYTES // 2]))
            break
        taken.append(line)
    kept = b"".join(taken)
    return kept, clean(kept)


def _lines_backwards(fd: int, end: int, limit: int) -> Iterator[tuple[int, bytes]]:
    """(offset, line) from the last line to the one at `limit`; of a long line its beginning."""
    rest = b""
    while end > limit:
        start = max(limit, end - _BLOCK)
        block = os.pread(fd, end - start, start) + rest
        first, *others = block.split(b"\n")
        offset = start + len(block)
        for line in reversed(others):
            offset -= len(line)
            if line:
                yield offset, line[:LINE_BYTES]
            offset -= 1
        rest = first if len(first) < _BLOCK else first[:LINE_BYTES]
        end = start
    if rest:
        yield limit, rest[:LINE_BYTES]


def _parse_cursor(cursor: str) -> tuple[str, int, str]:
    match = _CURSOR.fullmatch(cursor)
    if match is None or int(match[2]) >= 1 << 63:
        raise InvalidCursorError("The cursor is not one that tail_log has given.")
    return match[1], int(match[2]), match[3]


def _cursor(fd: int, offset: int) -> str:
    return f"{_generation(fd)}:{offset}:{_mark(fd, offset)}"


def _generation(fd: int) -> str:
    stat = os.fstat(fd)
    return f"{stat.st_dev:x}-{stat.st_ino:x}"


def _mark(fd: int, offset: int) -> str:
    length = min(64, offset)
    return f"{zlib.crc32(os.pread(fd, length, offset - length)):x}"
