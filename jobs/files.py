"""Reading and writing files that others may be replacing, and that a crash may interrupt."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

from jobs.errors import FileNotFoundInJobError, PathRefusedError


def write_durable(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Replace `path` by `content` so that any crash leaves the old file or the new one, whole.

    On return the content is on the disk, not only in the kernel.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        write_synced(temporary, content, mode=mode)
        try:
            temporary.replace(path)
        except IsADirectoryError:  # the job can have made it; nothing of it is lost
            path.replace(temporary.with_suffix(".aside"))
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def write_synced(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Write a file that nobody else can see yet; the caller syncs the directory."""
    write_file(path, content, mode=mode, synced=True)


def write_file(path: Path, content: bytes, *, mode: int = 0o600, synced: bool = False) -> None:
    """Write a file that nobody else can see yet, and that a crash may lose unless `synced`."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(fd, rest) :]
        if synced:
            os.fsync(fd)
    finally:
        os.close(fd)


def append_line(path: Path, line: str) -> None:
    """Add a line to a file of ours. Not durable: a crash may lose it.

    Raises OSError, also for a link or a FIFO, which a job can have put there.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    with _regular(open_undeceived(path, flags), path, "ab") as file:
        file.write(line.encode() + b"\n")


#: Of the process, the machine or a file server, at this moment: nothing follows for the file.
_PASSING = {
    errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE, errno.ETIMEDOUT,
}  # fmt: skip


def is_passing(error: BaseException) -> bool:
    """Whether the same may succeed a little later: what could not be read may well be there."""
    return isinstance(error, OSError) and error.errno in _PASSING


def open_up(folder: Path) -> None:
    """Undo, if we may, what a job has done to the mode of a folder that others use, too."""
    with suppress(OSError):
        mode = folder.lstat().st_mode
        if stat.S_ISDIR(mode) and mode & stat.S_IRWXU != stat.S_IRWXU:
            folder.chmod(stat.S_IRWXU)


def remove_tree(folder: Path) -> None:
    """Remove a folder, also what is closed within it; what we may not remove stays. Blocks."""
    shutil.rmtree(folder, ignore_errors=True)
    if not os.path.lexists(folder):
        return
    open_up(folder)
    for where, names, _ in os.walk(folder):
        for name in names:
            open_up(Path(where, name))
    shutil.rmtree(folder, ignore_errors=True)


def open_own(path: Path) -> BinaryIO:
    """A file of ours that a job could have replaced, for reading.

    Raises OSError, also for a link, and for a FIFO or device, which is not waited for.
    """
    return _regular(open_undeceived(path, os.O_RDONLY), path, "rb")


#: Neither a link is followed nor a FIFO waited for.
_UNDECEIVED = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def open_undeceived(path: Path, flags: int) -> int:
    """A descriptor of what a job could have replaced: no link is followed and no FIFO waited for. A
    file of ours that it has closed is opened up. Raises OSError."""
    flags |= _UNDECEIVED
    try:
        return os.open(path, flags, 0o600)
    except PermissionError:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise
        path.chmod(0o600)
        return os.open(path, flags, 0o600)


def _regular(fd: int, path: Path, mode: str) -> BinaryIO:
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "is not a regular file", str(path))
    return cast(BinaryIO, os.fdopen(fd, mode))


def sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def check_relative(path: str) -> list[str]:
    """The parts of a relative path that stays below where it starts, judged by its text alone.

    Raises PathRefusedError for an absolute path, an empty part, `.`, `..` or NUL.
    """
    parts = path.split("/")
    if path.startswith("/"):
        raise PathRefusedError(f"{_shown(path)} is an absolute path.")
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise PathRefusedError(f"{_shown(path)} has an empty, '.' or '..' part.")
    return parts


@contextmanager
def open_inside(root: Path, path: str) -> Iterator[int]:
    """A read-only descriptor of the regular file `root/path`, whatever was planted there.

    No link is followed, nor may `root` be one: a job can put a link in the place of its working
    directory. A FIFO or device is refused without blocking on it.
    Raises FileNotFoundInJobError, or PathRefusedError with the reason.
    """
    fd = _open_regular(root, check_relative(path), path)
    try:
        yield fd
    finally:
        os.close(fd)


def _open_regular(root: Path, parts: list[str], path: str) -> int:
    folder = -1
    try:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        folder = os.open(root, flags)
        for part in parts[:-1]:
            deeper = os.open(part, flags, dir_fd=folder)
            os.close(folder)
            folder = deeper
        fd = os.open(parts[-1], os.O_RDONLY | _UNDECEIVED, dir_fd=folder)
    except FileNotFoundError:
        raise FileNotFoundInJobError(f"There is no file {_shown(path)}.") from None
    except UnicodeEncodeError:
        raise PathRefusedError(f"{_shown(path)} cannot be a file name here.") from None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            cause = f"A part of {_shown(path)} is a symbolic link or not a folder."
        else:
            cause = f"{_shown(path)} cannot be opened: {os.strerror(error.errno or 0)}."
        raise PathRefusedError(cause) from None
    finally:
        if folder >= 0:
            os.close(folder)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise PathRefusedError(f"{_shown(path)} is not a regular file.")
    return fd


def _shown(path: str) -> str:
    return repr(path if len(path) <= 120 else path[:117] + "...")
