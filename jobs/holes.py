"""Holes: parts of a file that take no space and read as zeros, as a trimmed log has one.

A file system that cannot tell where they are has none for us: its zeros are read as content.
"""

from __future__ import annotations

import os

#: How many pieces of a file are told apart; what follows counts as one piece.
MOST_PIECES = 1000
_BLOCK = 4096


def next_hole(fd: int, start: int, end: int) -> tuple[int, int] | None:
    """(begin, end) of the first hole at or after `start` that begins before `end`."""
    if not hasattr(os, "SEEK_HOLE"):
        return None
    try:
        begin = os.lseek(fd, start, os.SEEK_HOLE)
    except OSError:  # the file ends before, or its file system cannot say
        return None
    if begin >= end:
        return None
    try:
        finish = os.lseek(fd, begin, os.SEEK_DATA)
    except OSError:  # the hole ends with the file
        finish = os.fstat(fd).st_size
    return (begin, finish) if finish > begin else None


def read_data(fd: int, start: int, end: int) -> bytes:
    """What stands from `start` to `end`. A hole takes no part in it, but ends a line.

    Nor do the zeros beside it, with which it fills up a block.
    """
    raw = os.pread(fd, end - start, start)
    if b"\0" not in raw:  # so that a log without a hole costs nothing more
        return raw
    cut = []
    position, end = start, start + len(raw)
    while position < end and (hole := next_hole(fd, position, end)):
        cut.append(raw[position - start : hole[0] - start].strip(b"\0"))
        position = hole[1]
    if not cut:
        return raw
    lines = [piece if piece.endswith(b"\n") else piece + b"\n" for piece in cut if piece]
    return b"".join(lines) + raw[position - start :].lstrip(b"\0")


def data_extents(fd: int, size: int) -> list[tuple[int, int]]:
    """Where the first `size` bytes of the file hold anything, as (begin, end) in order.

    The zeros with which a hole fills up a block do not count.
    """
    extents: list[tuple[int, int]] = []
    position = 0
    if os.fstat(fd).st_blocks * 512 < size:  # else it has no hole that is worth the search
        while len(extents) < MOST_PIECES and (hole := next_hole(fd, position, size)):
            if hole[0] > position:
                extents.append((position, hole[0]))
            block = os.pread(fd, _BLOCK, hole[1])
            position = hole[1] + len(block) - len(block.lstrip(b"\0"))
    if position < size:
        extents.append((position, size))
    return extents
