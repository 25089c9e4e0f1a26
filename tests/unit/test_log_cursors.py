"""A follower misses nothing and is told nothing twice, whatever becomes of the log meanwhile."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.log_limit import punch_hole
from jobs.logs import BEGINNING, MARK_BYTES, follow, grep, last_line, tail
from jobs.text import clean, without_partial_character

BLOCK = 4096


def _can_punch(folder: Path) -> bool:
    path = folder / "probe"
    path.write_bytes(b"x" * 3 * BLOCK)
    with path.open("r+b") as file:
        try:
            punch_hole(file.fileno(), BLOCK, 2 * BLOCK)
            return os.lseek(file.fileno(), 0, os.SEEK_HOLE) == BLOCK
        except OSError:
            return False


@pytest.fixture
def log(tmp_path: Path) -> Path:
    if not _can_punch(tmp_path):
        pytest.skip("no holes in the files here; try: pytest --basetemp=/dev/shm/outlast")
    return tmp_path / "log"


def punch(path: Path, begin: int, end: int) -> None:
    with path.open("r+b") as file:
        punch_hole(file.fileno(), begin, end)


class Follower:
    """Reads by cursors, and compares each reply with the file as it is, byte by byte."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cursor = BEGINNING
        self.rewritten = False  #: what was read has been changed since

    @property
    def offset(self) -> int:
        return int(self.cursor.split(":")[1])

    def read(self, *, ended: bool = False) -> list[str]:
        """Read as far as there is anything; gives what was told."""
        told = []
        for _ in range(1000):
            before = self.cursor
            told += self._read_once(ended)
            if self.cursor == before:
                return told
        raise AssertionError("it never comes to an end")

    def _read_once(self, ended: bool) -> list[str]:
        content, start = self.path.read_bytes(), self.offset
        marked = (max(0, start - MARK_BYTES), max(0, start - 1))
        mark_is_there = all(self._hole_end(at) is None for at in marked)
        excerpt = follow(self.path.parent, self.path.name, self.cursor, lines=1000, ended=ended)
        told = " ".join(excerpt.breaks)
        if "rewritten" in told:
            assert self.rewritten
            start = 0
        elif self.rewritten and start > 0:
            assert not mark_is_there
        self.rewritten = False
        hole_end = self._hole_end(start)
        assert (hole_end is not None) == ("gone" in told)
        if hole_end is not None:
            rest = content[hole_end:]
            start = len(content) - len(without_partial_character(rest.lstrip(b"\0")))
        self.cursor = excerpt.next_cursor
        piece = content[start : self.offset]
        assert piece == content[start:][: len(piece)]
        cut = self._hole_end(self.offset) is not None and not piece.endswith(b"\n")
        assert excerpt.text == clean(piece) + ("\n" if piece and cut else "")
        for at in range(start, self.offset, 97):
            assert self._hole_end(at) is None
        assert ended or not piece or piece.endswith(b"\n") or cut or len(piece) > 10_000
        return excerpt.breaks

    def _hole_end(self, offset: int) -> int | None:
        """Where the hole ends in which `offset` lies, or before which only zeros are left."""
        with self.path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if offset >= size:
                return None
            hole = os.lseek(file.fileno(), offset, os.SEEK_HOLE)
            if hole == size or any(os.pread(file.fileno(), hole - offset, offset)):
                return None
            try:
                return os.lseek(file.fileno(), hole, os.SEEK_DATA)
            except OSError:
                return size


TEXT = st.sampled_from(
    [
        b"\n",
        b"\r",
        b"\r\n",
        b" 50%\r 51%\r",
        b"\x1b[1;31mred\x1b[0m",
        b"\x1b]0;title",
        b"\0",
        b"\xff",
        b"plain words ",
        *("é".encode()[:1], "☃".encode()[:2], "☃".encode()[2:], "𝄞".encode()),
    ]
)
APPEND = st.tuples(
    st.just("append"), st.lists(TEXT | st.binary(max_size=20), max_size=20).map(b"".join)
)
CHANGES = st.one_of(
    APPEND,
    APPEND,
    st.tuples(st.just("append lines"), st.integers(1, 12)),
    st.tuples(st.just("read"), st.none()),
    st.tuples(st.just("punch what was read"), st.integers(1, 4)),
    st.tuples(st.just("truncate"), st.floats(0, 1)),
    st.tuples(st.just("copytruncate"), st.booleans()),
    st.tuples(st.just("replace"), st.none()),
    st.tuples(st.just("punch"), st.tuples(st.integers(0, 12), st.integers(1, 12))),
)


@settings(deadline=None, max_examples=300)
@given(changes=st.lists(CHANGES, max_size=25))
def test_a_follower_gets_every_byte_once(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[str, object]]
) -> None:
    folder = tmp_path_factory.mktemp("cursors")
    if not _can_punch(folder):
        changes = [change for change in changes if "punch" not in change[0]]
    path = folder / "log"
    path.touch()
    follower = Follower(path)
    number = 0

    def append(content: bytes) -> None:
        # What is written is never the same twice, as far back as a mark reaches.
        nonlocal number
        with path.open("ab") as file:
            for start in range(0, len(content) or 1, 40):
                number += 1
                file.write(hashlib.sha256(b"%d" % number).hexdigest()[:8].encode())
                file.write(content[start : start + 40])

    for change, argument in changes:
        size = path.stat().st_size
        match change, argument:
            case "append", bytes(content):
                append(content)
            case "append lines", int(blocks):
                append((b"some line of a log\n" * 200)[: blocks * BLOCK] * blocks)
            case "read", _:
                follower.read()
            case "truncate", float(part):
                left = int(part * size)
                follower.rewritten |= left < follower.offset
                os.truncate(path, left)
            case "copytruncate", bool(grows_past):
                follower.rewritten |= follower.offset > 0
                os.truncate(path, 0)
                if grows_past:
                    append(b"grown \n" * (size // 7 + 1))
            case "replace", _:
                follower.rewritten = True
                path.unlink()  # its inode is often taken again
                path.touch()
            case "punch what was read", int(blocks):
                end = min(-(-follower.offset // BLOCK), size // BLOCK)
                begin = max(0, end - blocks)
                if end > begin:
                    punch(path, begin * BLOCK, end * BLOCK)
            case "punch", (int(first), int(blocks)):
                begin, end = first * BLOCK, min(first + blocks, size // BLOCK) * BLOCK
                if end > begin:
                    punch(path, begin, end)
    follower.read(ended=True)
    assert follower.offset == path.stat().st_size
    assert follower.read(ended=True) == []


LINES = [b"line %06d\n" % number for number in range(100_000)]
WHOLE = b"".join(LINES)
HOLE = (BLOCK * 10, BLOCK * 200)


@pytest.fixture
def trimmed(log: Path) -> Path:
    """A log of 1.2 MB of which the middle is gone."""
    log.write_bytes(WHOLE)
    punch(log, *HOLE)
    return log


@pytest.mark.parametrize("at", [HOLE[0] - 5, HOLE[0], HOLE[0] + 1, 99_999, HOLE[1] - 1, HOLE[1]])
def test_a_cursor_whose_surroundings_are_dropped_goes_on_behind(log: Path, at: int) -> None:
    log.write_bytes(WHOLE[:at])
    cursor = tail(log.parent, "log", lines=1).next_cursor
    with log.open("ab") as file:
        file.write(WHOLE[at:])
    punch(log, *HOLE)
    seen, breaks = "", []
    for _ in range(1000):
        excerpt = follow(log.parent, "log", cursor, lines=1000)
        seen, cursor = seen + excerpt.text, excerpt.next_cursor
        breaks += excerpt.breaks
        if not excerpt.text:
            break
    assert "\ufffd" not in seen
    assert seen.endswith(WHOLE[HOLE[1] :].decode())
    assert not any("rewritten" in told for told in breaks)
    assert bool(breaks) == (at < HOLE[1])
    if at < HOLE[0]:
        assert seen.startswith(WHOLE[at : HOLE[0]].decode() + "\n")


def test_a_trimmed_log_that_is_rewritten_is_noticed(trimmed: Path) -> None:
    cursor = tail(trimmed.parent, "log", lines=1).next_cursor
    os.truncate(trimmed, 0)
    trimmed.write_bytes(b"new and longer\n" * 100_000)
    excerpt = follow(trimmed.parent, "log", cursor, lines=1)
    assert excerpt.text == "new and longer\n"
    assert "rewritten" in excerpt.breaks[0]


def test_tail_and_grep_show_both_ends_of_a_trimmed_log_and_say_so(trimmed: Path) -> None:
    excerpt = tail(trimmed.parent, "log", lines=2)
    assert excerpt.text == "line 099998\nline 099999\n"
    assert "778 kB of the middle are gone" in excerpt.breaks[0]
    assert excerpt.breaks[0] in excerpt.notes
    found = grep(trimmed.parent, "log", "^line 0(00007|50000|99999)$", lines=5)
    assert found.text == "84: line 000007\n1199988: line 099999"
    assert found.breaks == excerpt.breaks
    assert not any("searched only" in note for note in found.notes)
    assert grep(trimmed.parent, "log", r"\x00", lines=5).text == ""


def test_a_hole_near_the_end_leaves_no_trace_in_the_text(log: Path) -> None:
    log.write_bytes(b"begin\n" + b"x" * (3 * BLOCK) + b"\nend\n")
    punch(log, BLOCK, 3 * BLOCK)
    text = tail(log.parent, "log", lines=1000).text
    assert text == "begin\n" + "x" * (BLOCK - 6) + "\n" + "x" * 6 + "\nend\n"
    os.truncate(log, 10 * BLOCK)
    assert tail(log.parent, "log", lines=2).text == "xxxxxx\nend\n"
    assert last_line(log.parent, "log") == ""


def test_a_log_whose_writer_went_on_at_its_old_place_is_read_from_there(log: Path) -> None:
    """It was truncated under a program that does not append."""
    with log.open("wb", buffering=0) as file:
        file.write(b"old\n" * 5000)
        cursor = tail(log.parent, "log", lines=1).next_cursor
        os.truncate(log, 0)
        assert follow(log.parent, "log", cursor, lines=5).size == 0
        file.write(b"new\n")
    for from_cursor in (BEGINNING, cursor):
        excerpt = follow(log.parent, "log", from_cursor, lines=5)
        assert excerpt.text == "new\n"
        assert excerpt.breaks
    assert tail(log.parent, "log", lines=5).text == "new\n"
    assert grep(log.parent, "log", ".", lines=5).text.endswith("new")


def test_nul_bytes_that_were_written_are_shown_as_before(log: Path) -> None:
    log.write_bytes(b"a" + b"\0" * 2 * BLOCK + b"b\n")
    excerpt = follow(log.parent, "log", BEGINNING, lines=5)
    assert excerpt.text == "a" + "\ufffd" * len(excerpt.text[1:])
    assert excerpt.breaks == []
    assert tail(log.parent, "log", lines=1).notes[0] == "holds bytes that are no text"


def test_a_bar_that_is_still_drawn_is_told_once_and_at_its_end(log: Path) -> None:
    """A progress bar of 3 MB on one line, followed while it grows."""
    log.write_bytes(b"start\n")
    cursor, seen, calls = BEGINNING, "", 0
    with log.open("ab", buffering=0) as file:
        for hour in range(3):
            file.write(
                b"".join(b"\r%7d of 300000" % n for n in range(hour * 60000, hour * 60000 + 60000))
            )
            while calls := calls + 1:
                excerpt = follow(log.parent, "log", cursor, lines=50)
                moved = excerpt.next_cursor != cursor
                seen, cursor = seen + excerpt.text, excerpt.next_cursor
                if not moved:
                    break
            assert seen == "start\n"
            assert "has not ended" in excerpt.notes[0]
        file.write(b"\rdone\nafter\n")
    assert calls < 12
    assert follow(log.parent, "log", cursor, lines=50).text == "done\nafter\n"


def test_a_tail_in_the_middle_of_a_character_loses_it_not(log: Path) -> None:
    log.write_bytes("snow ☃".encode()[:-1])
    excerpt = tail(log.parent, "log", lines=1)
    assert excerpt.text == "snow "
    with log.open("ab") as file:
        file.write("☃".encode()[-1:])
    assert follow(log.parent, "log", excerpt.next_cursor, lines=1, ended=True).text == "☃"
