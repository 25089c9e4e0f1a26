"""Reading logs from their end or from a cursor, at a cost that does not depend on their size.

A cursor is `DEVICE-INODE:OFFSET:MARK` in hexadecimal, decimal and hexadecimal: MARK is the crc32
of up to 64 bytes before OFFSET, so that a file that was truncated, replaced or rewritten is told
from one that has grown. The middle of a log may have been dropped (`jobs/log_limit.py`): such a
hole is passed over and told, also when it has taken what a mark was made of.
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
from jobs.holes import data_extents, next_hole, read_data
from jobs.patterns import check_regex
from jobs.text import (
    clean,
    first_lines_within,
    last_lines_within,
    prefix_within,
    token_estimate,
    without_cut_character,
    without_partial_character,
)
from jobs.text import size as amount

#: The most that is read of a log for one reply.
REPLY_BYTES = 32 * 1024
#: How far back `grep` looks, how long, and for how much.
GREP_BYTES = 16 << 20
GREP_SECONDS = 3.0
#: The longest part of one line that is shown or searched.
LINE_BYTES = 2000
#: How much of one line, a progress bar's, `follow` passes over to reach its newest state.
BAR_BYTES = 16 << 20
MARK_BYTES = 64
#: The cursor of a log that is not there yet.
BEGINNING = "0-0:0:0"
_BLOCK = 64 * 1024
_CURSOR = re.compile(r"([0-9a-f]{1,16}-[0-9a-f]{1,16}):(\d{1,19}):([0-9a-f]{1,8})")


@dataclass(frozen=True)
class Excerpt:
    """A part of a log. `text` holds whole lines but for the last, which may still grow."""

    text: str
    next_cursor: str
    size: int  #: of the log, in bytes
    notes: list[str] = field(default_factory=list)  #: what a reader has to know to read it right
    breaks: list[str] = field(default_factory=list)  #: those that say: it does not simply go on


NOTHING_YET = Excerpt("", BEGINNING, 0, ["nothing has been written yet"])


def tail(root: Path, name: str, *, lines: int) -> Excerpt:
    """The last `lines` lines, as far as a reply reaches."""
    with open_inside(root, name) as fd:
        size = os.fstat(fd).st_size
        start = max(0, size - REPLY_BYTES)
        raw = read_data(fd, start, size)
        whole = without_cut_character(raw)  # its rest is still to come: for a follower to tell
        next_cursor = _cursor(fd, size - len(raw) + len(whole))
        gaps = _gap(size - sum(end - begin for begin, end in data_extents(fd, size)))
    raw = whole
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
    return Excerpt(kept, next_cursor, size, notes + gaps, gaps)


def follow(root: Path, name: str, cursor: str, *, lines: int, ended: bool = False) -> Excerpt:
    """What came after `cursor`, whole lines; with `ended` also a last line without its end.

    Raises InvalidCursorError for a text that is no cursor.
    """
    generation, offset, mark = _parse_cursor(cursor)
    breaks = []
    with open_inside(root, name) as fd:
        size = os.fstat(fd).st_size
        same = generation == _generation(fd) and offset <= size
        here = _Window(fd, offset if same else 0)
        if not (same and here.follows(mark)):
            if cursor != BEGINNING:
                breaks.append("the log was replaced or rewritten since; this is its new beginning")
            here = _Window(fd, 0)
        if here.hole and here.hole[0] == here.offset:
            breaks += _gap(here.hole[1] - here.offset)
            here = _Window(fd, here.hole[1])
            rest = without_partial_character(here.raw.lstrip(b"\0"))
            here.drop(len(here.raw) - len(rest))
        for _ in range(BAR_BYTES // REPLY_BYTES):
            if not here.drop_overwritten(size):
                break
            here = _Window(fd, here.offset)
        generation = _generation(fd)
    size = max(size, here.offset + len(here.raw))  # it may have grown since
    raw, stop = here.raw, here.hole[0] if here.hole else size
    whole = raw.rfind(b"\n") + 1
    if here.offset + len(raw) < stop:
        raw = raw[:whole] or without_cut_character(raw)
    elif not (ended or here.hole):
        raw = raw[:whole]  # the rest of the last line is still to come
    taken = first_lines_within(raw, reply_tokens(lines), lines)
    end = here.offset + len(taken)
    text = clean(taken)
    if here.hole and end == stop and taken and not taken.endswith(b"\n"):
        text += "\n"  # the rest of this line is gone
    notes = list(breaks)
    left = size - end - (here.hole[1] - here.hole[0] if here.hole else 0)
    if left and (len(taken) < len(raw) or here.offset + len(here.raw) < size):
        notes.append(f"{left} bytes follow; call again with next_cursor")
    elif left:
        notes.append(f"the last line ({left} bytes) has not ended; without cursor it is shown")
    next_cursor = f"{generation}:{end}:{here.mark(len(taken))}"
    return Excerpt(text, next_cursor, size, notes, breaks)


class _Window:
    """What stands behind an offset, up to a hole, and what stood before it: from a single read."""

    def __init__(self, fd: int, offset: int) -> None:
        self.offset = offset
        before = min(MARK_BYTES, offset)
        seen = os.pread(fd, before + REPLY_BYTES, offset - before)
        self._before, self.raw = seen[:before], seen[before:]
        self._unmarked = b"\0" in self._before and bool(next_hole(fd, offset - before, offset))
        #: The first hole that begins within it, with the zeros before that fill up a block.
        self.hole: tuple[int, int] | None = None
        if b"\0" in self.raw:
            hole = next_hole(fd, offset, offset + len(self.raw))
            if hole:
                self.raw = self.raw[: hole[0] - offset].rstrip(b"\0")
                self.hole = offset + len(self.raw), hole[1]

    def follows(self, mark: str) -> bool:
        """Whether what stood before is what it was: the same, or dropped since."""
        return self.mark(0) == mark or self._unmarked

    def mark(self, length: int) -> str:
        """The mark of a cursor `length` bytes on."""
        return _mark((self._before + self.raw[:length])[-MARK_BYTES:])

    def drop(self, length: int) -> None:
        self.offset += length
        self._before = (self._before + self.raw[:length])[-MARK_BYTES:]
        self.raw = self.raw[length:]

    def drop_overwritten(self, size: int) -> bool:
        """Of a progress bar that is longer than a window, leave but the last state."""
        if self.hole or b"\n" in self.raw or self.offset + len(self.raw) >= size:
            return False
        overwritten = self.raw.rstrip(b"\r").rfind(b"\r") + 1
        self.drop(overwritten)
        return overwritten > 0


def grep(root: Path, name: str, pattern: str, *, lines: int) -> Excerpt:
    """The last `lines` lines that match a regular expression, within the last 16 MiB of the log.

    Each begins with its byte offset. Raises InvalidArgumentError for a pattern that is not valid,
    or so slow that it was given up.
    """
    import regex  # unlike `re` it can be given up; loaded here because few calls need it

    check_regex("grep", pattern)
    try:
        compiled = regex.compile(pattern.encode("utf-8"), regex.IGNORECASE)
    except (regex.error, UnicodeEncodeError, RecursionError) as error:
        raise InvalidArgumentError(f"grep is not a valid regular expression: {error}.") from None
    with open_inside(root, name) as fd:
        size = os.fstat(fd).st_size
        extents = data_extents(fd, size)
        gaps = _gap(size - sum(end - begin for begin, end in extents))
        searched = _newest(extents, GREP_BYTES)
        limit = searched[0][0] if searched else 0
        found: list[str] = []
        budget: float = reply_tokens(lines)
        give_up_at = time.monotonic() + GREP_SECONDS
        try:
            for offset, line in _lines_backwards(fd, searched):
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
        if extents and limit > extents[0][0]:
            notes.append(f"searched only the last {size - limit} bytes")
        return Excerpt("\n".join(reversed(found)), _cursor(fd, size), size, notes + gaps, gaps)


def last_line(root: Path, name: str) -> str:
    """The last line that is not empty, cleaned; empty when there is none."""
    with open_inside(root, name) as fd:
        size = os.fstat(fd).st_size
        raw = read_data(fd, max(0, size - LINE_BYTES), size)
    lines = [line for line in clean(raw).split("\n") if line.strip()]
    return lines[-1] if lines else ""


def reply_tokens(lines: int) -> int:
    """How many tokens a reply of so many lines may cost: 1,200 for 50, never above 6,500."""
    return min(6500, max(1200, 24 * lines))


def _newest(extents: list[tuple[int, int]], most: int) -> list[tuple[int, int]]:
    """The last parts of a file that hold `most` bytes in all."""
    chosen: list[tuple[int, int]] = []
    for begin, end in reversed(extents):
        if most <= 0:
            break
        chosen.insert(0, (max(begin, end - most), end))
        most -= end - begin
    return chosen


def _lines_backwards(fd: int, extents: list[tuple[int, int]]) -> Iterator[tuple[int, bytes]]:
    """(offset, line) from the last line to the first; of a long line its beginning."""
    for begin, end in reversed(extents):
        rest = b""
        while end > begin:
            start = max(begin, end - _BLOCK)
            block = os.pread(fd, end - start, start) + rest
            first, *others = block.split(b"\n")
            offset = start + len(block)
            for line in reversed(others):
                offset -= len(line)
                if line.strip(b"\0"):  # else it is empty, or was dropped this very moment
                    yield offset, line[:LINE_BYTES]
                offset -= 1
            rest = first if len(first) < _BLOCK else first[:LINE_BYTES]
            end = start
        if rest.strip(b"\0"):
            yield begin, rest[:LINE_BYTES]


def _gap(dropped: int) -> list[str]:
    if not dropped:
        return []
    return [
        f"{amount(dropped)} of the middle are gone: dropped to keep the log within its limit, "
        "or never written"
    ]


def _parse_cursor(cursor: str) -> tuple[str, int, str]:
    match = _CURSOR.fullmatch(cursor)
    if match is None or int(match[2]) >= 1 << 63:
        raise InvalidCursorError("The cursor is not one that tail_log has given.")
    return match[1], int(match[2]), match[3]


def _cursor(fd: int, offset: int) -> str:
    length = min(MARK_BYTES, offset)
    return f"{_generation(fd)}:{offset}:{_mark(os.pread(fd, length, offset - length))}"


def _generation(fd: int) -> str:
    stat = os.fstat(fd)
    return f"{stat.st_dev:x}-{stat.st_ino:x}"


def _mark(before: bytes) -> str:
    return f"{zlib.crc32(before):x}" if before else "0"
