"""Reading a file that anyone may have written: so many bytes, so long, and never a crash."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

MAX_BYTES = 32 << 20
MAX_SECONDS = 1.0
MAX_PART_BYTES = 1 << 20  #: of one read, whatever a header says


class NotSoError(Exception):
    """The file is not what its beginning promised, or the bounds are reached."""


@dataclass(frozen=True)
class Format:
    """What a file is: `words` of our own, `details` that hold names from within the file."""

    words: str
    details: tuple[str, ...] = ()


class Bounded:
    """A file read by place. Whoever walks through it asks `spent` and says how far it came."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        self.size = size
        self._left = MAX_BYTES
        self._give_up_at = time.monotonic() + MAX_SECONDS

    @property
    def spent(self) -> bool:
        return self._left <= 0 or time.monotonic() > self._give_up_at

    def some(self, offset: int, count: int) -> bytes:
        """At most so many bytes: fewer at the file's end, and never more than `MAX_PART_BYTES`."""
        if not 0 <= offset <= self.size:
            raise NotSoError
        part = os.pread(self._fd, max(0, min(count, MAX_PART_BYTES)), offset)
        self._left -= len(part)
        return part

    def at(self, offset: int, count: int) -> bytes:
        """Exactly so many bytes. Raises NotSoError where there are not so many."""
        part = self.some(offset, count)
        if len(part) != count:
            raise NotSoError
        return part

    def blocks(self, *, overlap: int = 0) -> Iterator[tuple[int, bytes]]:
        """The file from its beginning, as (offset, bytes), until its end or the bounds; each block
        begins with the last `overlap` bytes of the one before."""
        offset = 0
        while not self.spent and (block := self.some(offset, MAX_PART_BYTES)):
            yield offset, block
            if offset + len(block) >= self.size or len(block) <= overlap:
                return
            offset += len(block) - overlap


def number(text: bytes) -> int:
    """A count as a text file gives it. Raises NotSoError for what is none, or an absurd one."""
    digits = text.strip()
    if not digits.isdigit() or len(digits) > 12:
        raise NotSoError
    return int(digits)
