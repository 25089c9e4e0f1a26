"""Small and read-only file systems, for who may mount."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True, timeout=20)


@contextmanager
def small_disk(where: Path, size_mb: int) -> Iterator[Path]:
    """A file system of so many MB at `where`; the test is skipped for who may not mount one."""
    where.mkdir(parents=True)
    try:
        mount("-t", "tmpfs", "-o", f"size={size_mb}m,mode=0700", "tmpfs", str(where))
    except (OSError, subprocess.SubprocessError):
        pytest.skip("mounting a tmpfs needs root: run the tests with sudo or in a user namespace")
    try:
        yield where
    finally:
        subprocess.run(["umount", "--lazy", str(where)], check=True, timeout=20)


def fill(folder: Path, leave_bytes: int = 0) -> Path:
    """A file that takes all room but `leave_bytes`."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(65536))
        except OSError:
            pass
    if leave_bytes:
        os.truncate(path, path.stat().st_size - leave_bytes)
    return path
