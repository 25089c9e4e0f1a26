"""What a caller says, checked before anything is done with it: texts, folders, files, patterns."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from jobs.errors import DirectoryUnusableError, InputUnusableError, InvalidArgumentError
from jobs.files import check_relative
from jobs.patterns import check_glob
from jobs.rules import OutputRule

_HALF = re.compile("[\ud800-\udfff]")  #: of a surrogate pair


def check_text(what: str, value: Any) -> None:
    """Refuse text that neither a process nor JSON can carry, anywhere within `value`."""
    if isinstance(value, str):
        if "\0" in value or not (value.isascii() or _HALF.search(value) is None):
            raise InvalidArgumentError(
                f"A text in {what} holds a NUL character or half of a surrogate pair."
            )
    elif isinstance(value, dict):
        for key, item in value.items():
            check_text(what, key)
            check_text(str(key), item)
    elif isinstance(value, list):
        for item in value:
            check_text(what, item)


def check_cwd(cwd: str) -> str:
    path = Path(os.path.expanduser(cwd))
    if not path.is_absolute():
        raise DirectoryUnusableError(f"cwd {cwd[:200]!r} is not an absolute path.")
    try:
        path = path.resolve(strict=True)
        os.scandir(path).close()
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DirectoryUnusableError(f"cwd {cwd[:200]!r} cannot be used: {reason}.") from None
    if not os.access(path, os.X_OK | os.R_OK):
        raise DirectoryUnusableError(f"cwd {cwd[:200]!r} cannot be entered.")
    if any("\ud800" <= char <= "\udfff" for char in str(path)):
        raise DirectoryUnusableError(f"cwd {cwd[:200]!r} leads to a name that is not UTF-8.")
    return str(path)


def check_input(path: str, what: str) -> Path:
    """The file, absolute. A name that is no text for the file system cannot exist either."""
    full = Path(os.path.expanduser(path))
    if not full.is_absolute():
        raise InputUnusableError(f"{what} must be an absolute path, not {path[:200]!r}.")
    if not os.path.isfile(full):  # unlike Path.is_file it takes a name of any length
        raise InputUnusableError(f"{what} names no regular file: {path[:200]!r}.")
    if not os.access(full, os.R_OK):
        raise InputUnusableError(f"{what} cannot be read: {path[:200]!r}.")
    return full


def check_outputs(patterns: list[str]) -> list[OutputRule]:
    for pattern in patterns:
        check_relative(pattern)
        check_glob("An output", pattern)
    return [OutputRule(path=pattern, required=True) for pattern in patterns]
