"""Logs are read from the end or a cursor, and nothing is lost or told twice."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.errors import InvalidArgumentError, InvalidCursorError, JobError, PathRefusedError
from jobs.logs import follow, grep, last_line, tail


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def test_tail_gives_the_last_lines(log: Path) -> None:
    log.write_bytes(b"".join(b"line %d\n" % n for n in range(100)))
    assert tail(log.parent, "log", lines=3).text == "line 97\nline 98\nline 99\n"


@pytest.mark.parametrize(
    ("content", "lines", "seen"),
    [
        (b"", 5, ""),
        (b"\n", 5, "\n"),
        (b"no end", 5, "no end"),
        (b"a\nb", 1, "b"),
        (b"a\nb\n", 1, "b\n"),
        (b"a\n\n\n", 2, "\n\n"),
        (b"1%\r2%\r3%", 5, "3%"),
    ],
)
def test_tail_at_the_edges(log: Path, content: bytes, lines: int, seen: str) -> None:
    log.write_bytes(content)
    assert tail(log.parent, "log", lines=lines).text == seen


LINES = st.lists(st.text(st.characters(exclude_categories=["C", "Z"]), max_size=30), max_size=60)


@settings(deadline=None, max_examples=60)
@given(parts=st.lists(st.tuples(LINES, st.booleans()), max_size=6))
def test_following_gives_every_line_once(
    tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[list[str], bool]]
) -> None:
    """The log grows by pieces that may end in the middle of a line."""
    log = tmp_path_factory.mktemp("follow") / "log"
    log.touch()
    cursor = tail(log.parent, "log", lines=1).next_cursor
    seen, written = "", ""
    for lines, whole in parts:
        piece = "\n".join(lines) + ("\n" if whole else "")
        written += piece
        with log.open("ab") as file:
            file.write(piece.encode())
        assert cursor is not None
        excerpt = follow(log.parent, "log", cursor, lines=1000)
        assert excerpt.text == "" or excerpt.text.endswith("\n")
        seen, cursor = seen + excerpt.text, excerpt.next_cursor
    assert cursor is not None
    seen += follow(log.parent, "log", cursor, lines=1000, ended=True).text
    assert seen == written


def test_following_a_long_log_takes_several_calls_and_loses_nothing(log: Path) -> None:
    log.write_bytes(b"")
    cursor = tail(log.parent, "log", lines=1).next_cursor
    content = b"".join(b"%d 3.14159 2.71828 1.41421\n" % n for n in range(3000))
    content += "☃".encode() * 5000
    log.write_bytes(content)
    seen = ""
    for _ in range(400):
        assert cursor is not None
        excerpt = follow(log.parent, "log", cursor, lines=50, ended=True)
        seen, cursor = seen + excerpt.text, excerpt.next_cursor
        if not excerpt.text:
            break
    assert seen == content.decode()


@pytest.mark.parametrize("change", ["truncated", "replaced", "rewritten"])
def test_a_log_that_is_not_the_same_is_noticed(log: Path, change: str) -> None:
    log.write_bytes(b"old content that is quite long\n" * 5)
    cursor = tail(log.parent, "log", lines=1).next_cursor
    assert cursor is not None
    if change == "truncated":
        log.write_bytes(b"new\n")
    elif change == "replaced":
        log.unlink()
        log.write_bytes(b"new\n")
    else:
        os.truncate(log, 0)
        log.write_bytes(b"new\n" * 100)
    excerpt = follow(log.parent, "log", cursor, lines=1)
    assert excerpt.text == "new\n"
    assert "replaced or rewritten" in excerpt.notes[0]


def test_grep_finds_the_last_matches_with_their_place(log: Path) -> None:
    log.write_bytes(b"alpha 1\nbeta\nALPHA 2\nalpha 3\n")
    excerpt = grep(log.parent, "log", "^alpha", lines=2)
    assert excerpt.text == "13: ALPHA 2\n21: alpha 3"


@settings(deadline=None, max_examples=40)
@given(content=st.lists(st.sampled_from([b"x" * 70_000, b"hit", b"", b"miss", b"y" * 65_536])))
def test_grep_offsets_are_true(
    tmp_path_factory: pytest.TempPathFactory, content: list[bytes]
) -> None:
    log = tmp_path_factory.mktemp("grep") / "log"
    raw = b"\n".join(content)
    log.write_bytes(raw)
    excerpt = grep(log.parent, "log", "^hit$", lines=1000)
    places = [int(line.split(":")[0]) for line in excerpt.text.split("\n") if line]
    expected, at = [], 0
    for line in content:
        if line == b"hit":
            expected.append(at)
        at += len(line) + 1
    assert places == expected


def test_a_pattern_that_never_ends_is_given_up(log: Path) -> None:
    log.write_bytes(b"a" * 1900 + b"!\n")
    with pytest.raises(InvalidArgumentError, match="too long"):
        grep(log.parent, "log", "(a|aa|a?)+$", lines=1)


def test_a_pattern_that_is_none_is_refused(log: Path) -> None:
    log.touch()
    with pytest.raises(InvalidArgumentError, match="regular expression"):
        grep(log.parent, "log", "(", lines=1)


@pytest.mark.parametrize("cursor", ["", "x", "1-1:5", "1-1:-5:0", f"1-1:{1 << 64}:0", "ü-1:1:1"])
def test_a_cursor_that_is_none_is_refused(log: Path, cursor: str) -> None:
    log.touch()
    with pytest.raises(InvalidCursorError):
        follow(log.parent, "log", cursor, lines=1)


def test_a_binary_log_is_shown_without_harm(log: Path) -> None:
    log.write_bytes(os.urandom(50_000))
    excerpt = tail(log.parent, "log", lines=50)
    excerpt.text.encode("utf-8")
    assert len(excerpt.text) < 10_000


def test_one_endless_line_is_bounded(log: Path) -> None:
    log.write_bytes(b"1234567890" * 100_000)
    excerpt = tail(log.parent, "log", lines=50)
    assert 0 < len(excerpt.text) < 5000
    assert excerpt.notes
    assert last_line(log.parent, "log").endswith("7890")


@pytest.mark.parametrize("kind", ["link", "fifo", "folder", "missing"])
def test_what_is_no_log_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "log"
    if kind == "link":
        path.symlink_to("/etc/passwd")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    with pytest.raises(JobError) as refused:
        tail(tmp_path, "log", lines=1)
    assert isinstance(refused.value, PathRefusedError) == (kind != "missing")
