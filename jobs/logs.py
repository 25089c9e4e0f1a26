"""Reading logs from their end or from a cursor, at a cost that does not depend on their size.

A cursor is `DEVICE-INODE:OFFSET:MARK` in hexadecimal, decimal and hexadecimal: MARK is the crc32
of up to 64 bytes before OFFSET, so that a file that was truncated, replaced or rewritten is told
from one that has grown.
"""

from __future__ import annotations

import os
import re
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from jobs.errors import InvalidArgumentError, InvalidCursorError
from jobs.files import open_inside
from jobs.text import (
    clean,
    first_lines_within,
    last_lines_within,
    prefix_within,
    token_estimate,
    without_cut_character,
    without_partial_character,
)

#: The most that is read of a log for one reply.
REPLY_BYTES = 32 * 1024
#: How far back `grep` looks, how long, and for how much.
GREP_BYTES = 16 << 20
GREP_SECONDS = 3.0
PATTERN_LIMIT = 1000
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
    if position >= 0:
        raw = raw[position + 1 :]
    elif start > 0:
        raw = without_partial_character(raw)
    text = clean(raw)
    kept = last_lines_within(text, reply_tokens(lines))
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
        raw = first_lines_within(raw, reply_tokens(lines), lines)
        end = offset + len(raw)
        if end < size and not (at_end and end == offset + whole):
            notes.append(f"{size - end} bytes follow; call again with next_cursor")
        return Excerpt(clean(raw), _cursor(fd, end), size, notes)


def grep(root: Path, name: str, pattern: str, *, lines: int) -> Excerpt:
    """The last `lines` lines that match a regular expression, within the last 16 MiB of the log.

    Each begins with its byte offset. Raises InvalidArgumentError for a pattern that is not valid,
    or so slow that it was given up.
    """
    import regex  # unlike `re` it can be given up; loaded here because few calls need it

    if len(pattern) > PATTERN_LIMIT:
        raise InvalidArgumentError(f"grep has more than {PATTERN_LIMIT} characters.")
    try:
        compiled = regex.compile(pattern.encode("utf-8"), regex.IGNORECASE)
    except (regex.error, UnicodeEncodeError, RecursionError) as error:
        raise InvalidArgumentError(f"grep is not a valid regular expression: {error}.") from None
    with open_inside(root, name) as fd:
        size = os.fstat(fd).st_size
        limit = max(0, size - GREP_BYTES)
        found: list[str] = []
        budget: float = reply_tokens(lines)
        give_up_at = time.monotonic() + GREP_SECONDS
        try:
            for offset, line in _lines_backwards(fd, size, limit):
                left = give_up_at - time.monotonic()
                if left <= 0:
                    limit = offset
                    break
                if compiled.search(line, timeout=left) is None:
                    continue
                text = prefix_within(f"{offset}: {clean(line)}", reply_tokens(lines))
                budget -= token_estimate(text) + 1
                if len(found) == lines or (found and budget < 0):
                    break
                found.append(text)
        except TimeoutError:
            raise InvalidArgumentError(
                "grep took too long on one line; use a simpler expression."
            ) from None
        notes = ["each line begins with its byte offset"] if found else ["no line matches"]
        if limit:
            notes.append(f"searched only the last {size - limit} bytes")
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
