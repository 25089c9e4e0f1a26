"""Patterns from outside, refused before they can cost a process its memory or its time."""

from __future__ import annotations

import re
import warnings

from jobs.errors import InvalidArgumentError
from jobs.text import shown

PATTERN_LIMIT = 1000  #: characters
#: How often a part of an expression may at least be repeated in all; a part stands in memory as
#: often as it is repeated.
REPEAT_LIMIT = 10_000


def check_glob(what: str, pattern: str) -> None:
    """Raises InvalidArgumentError for one that takes long to understand."""
    if len(pattern) > PATTERN_LIMIT:
        raise InvalidArgumentError(f"{what} has more than {PATTERN_LIMIT} characters.")


def check_regex(what: str, pattern: str) -> None:
    """Raises InvalidArgumentError for what Python's `re` does not know, above all expressions that
    call themselves without end, and for repeats of repeats: both take all memory there is."""
    check_glob(what, pattern)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise InvalidArgumentError(
            f"{what} is not a valid regular expression: {shown(str(error))}."
        ) from None
    repeats = 1
    for least in re.findall(r"(?<!\\)\{\s*(\d+)", pattern):
        repeats *= max(int(least), 1)
    if repeats > REPEAT_LIMIT:
        raise InvalidArgumentError(
            f"{what} repeats parts of itself more than {REPEAT_LIMIT} times in all.",
            "Use smaller numbers in braces, or * and +.",
        )
