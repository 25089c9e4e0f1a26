"""Which patterns are refused before anything runs them."""

from __future__ import annotations

import pytest

from jobs.errors import InvalidArgumentError
from jobs.patterns import PATTERN_LIMIT, check_glob, check_regex


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "error",
        "[1]",
        r"step\s+(\d+)",
        "(a+)+$",
        "a{3,}",
        "^\\{90000",
        "[[a]",
        "(?i)nan|inf",
        "{x}",
    ],
)
def test_what_people_search_for_is_allowed(pattern: str) -> None:
    check_regex("grep", pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        *("(?R)", "(?R)*", "((?1))", "(?<x>(?&x))", "(?P<x>(?P>x))", r"\g<0>"),
        *("a{1000000000}", "a{4294967296}", "(?:(?:a{99}){99}){99}", "(?x)(?:a{ 999}){ 999}"),
        *("(", "[", "*", "(" * 900, "a" * (PATTERN_LIMIT + 1)),
    ],
)
def test_what_could_take_all_memory_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidArgumentError, match="grep "):
        check_regex("grep", pattern)


def test_a_glob_is_bounded() -> None:
    check_glob("pattern", "*" * PATTERN_LIMIT)
    with pytest.raises(InvalidArgumentError):
        check_glob("pattern", "*" * (PATTERN_LIMIT + 1))
