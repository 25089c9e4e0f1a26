"""One keeper per state directory: its lock, its wake-up call, and how it is started on demand."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from jobs import __version__
from jobs.errors import KeeperUnreachableError, StateDirectoryError
from jobs.paths import Home

#: Orders on the wake FIFO, each a line; a job ID follows CANCEL.
WAKE, LEAVE, CANCEL = b"w", b"q", b"c"
START_LIMIT_S = 15.0
LOG_LIMIT_BYTES = 1 << 20


def take_keeper_lock(home: Home) -> int | None:
    """The one keeper's lock, held till the process ends; none when another keeper has it."""
    home.root.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(home.keeper_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    tries, give_up_at = 5, time.monotonic() + START_LIMIT_S / 2
    while tries:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not _is_dying(_read_info(fd)) or time.monotonic() > give_up_at:
                tries -= 1  # a prober may hold it for microseconds
            time.sleep(0.001)
            continue
        _write_info(fd)
        return fd
    os.close(fd)
    return None


def _write_info(fd: int) -> None:
    content = json.dumps({"pid": os.getpid(), "version": __version__}).encode()
    os.ftruncate(fd, 0)
    os.pwrite(fd, content, 0)


def _read_info(fd: int) -> dict[str, str | int]:
    try:
        return dict(json.loads(os.pread(fd, 1000, 0)))
    except (ValueError, TypeError):
        return {}


def is_found(home: Home) -> bool:
    """Whether this process is the keeper that others find. It is not once somebody has deleted the
    state directory, or the lock, and made it anew: then another one keeps what is there."""
    try:
        with home.keeper_lock.open("rb") as lock:
            named = _read_info(lock.fileno()).get("pid", os.getpid())  # none: it is being written
        return named == os.getpid() and home.wake.is_fifo()
    except FileNotFoundError:
        return False
    except OSError:
        return True  # nothing follows from it


def _is_dying(info: dict[str, str | int]) -> bool:
    """Whether the process has been killed and the kernel is still taking it apart.

    Its lock and its FIFO last some milliseconds longer than it can do anything: until the memory
    of its last thread is given back. This says only that the lock is about to be free.
    """
    try:
        with open(f"/proc/{info.get('pid')}/status", "rb", buffering=0) as file:
            status = file.read()
        pending = int(status.partition(b"\nShdPnd:\t")[2][:16], 16)
        killed = pending >> (signal.SIGKILL - 1) & 1
        return bool(killed) or status.partition(b"\nState:\t")[2][:1] in (b"Z", b"X")
    except (OSError, ValueError):
        return False


def keeper_info(home: Home) -> dict[str, str | int] | None:
    """pid and version of the keeper that is alive now; none when there is none, or a dying one."""
    try:
        fd = os.open(home.keeper_lock, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        info = _read_info(fd)
        return None if _is_dying(info) else info
    finally:
        os.close(fd)


def send(home: Home, order: bytes) -> bool:
    """Give the keeper an order; False when none listens."""
    try:
        fd = os.open(home.wake, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENOENT):
            return False
        raise StateDirectoryError(f"{home.wake}: {os.strerror(error.errno or 0)}.") from None
    try:
        os.write(fd, order + b"\n")
    except BlockingIOError:
        pass  # the FIFO is full of orders: it will wake
    except BrokenPipeError:
        return False
    finally:
        os.close(fd)
    return True


async def ensure_keeper(
    home: Home, command: Sequence[str], *, limit_s: float = START_LIMIT_S
) -> None:
    """Wake the keeper, starting one with `command` when there is none.

    On return a keeper has taken, or will take, notice of everything that was stored before.
    An older keeper is asked to leave and replaced; running jobs do not notice.
    Raises KeeperUnreachableError when none has come within `limit_s`.
    """
    deadline = asyncio.get_running_loop().time() + limit_s
    asked_to_leave = False
    pause_s = 0.01
    while True:
        info = keeper_info(home)
        if info is None:  # what still listens is dying, and would take the order along
            await asyncio.to_thread(_start, home, command)
            pause_s = min(2 * pause_s, 0.2)  # one that dies at once is not started at full speed
        elif not asked_to_leave and _older(info):
            asked_to_leave = send(home, LEAVE)
        elif send(home, WAKE):
            return
        if asyncio.get_running_loop().time() > deadline:
            raise KeeperUnreachableError(
                f"No keeper has come up within {limit_s:g} s; {home.keeper_log} says why."
            )
        await asyncio.sleep(pause_s)


def become_keeper(home: Home) -> bool:
    """Turn this process into the detached keeper that holds the lock; False in all others.

    Called before anything is imported that costs time or starts threads. The process that was
    started returns False at once, so that whoever started it need not stay its parent.
    """
    fd = take_keeper_lock(home)
    if fd is None or os.fork():
        return False
    os.setsid()
    _write_info(fd)
    return True


def _older(info: dict[str, str | int]) -> bool:
    def parts(version: str) -> list[int]:
        return [int(part) for part in version.split(".") if part.isdigit()]

    return parts(str(info.get("version", ""))) < parts(__version__)


def _start(home: Home, command: Sequence[str]) -> None:
    """Start a keeper that outlives us. Of several that come at once, one stays."""
    if "OUTLAST_JOB_ID" in os.environ:
        raise KeeperUnreachableError(
            "No keeper runs, and one that is started inside a job would be ended with that job.",
            "What was stored starts when this job has ended, or when somebody asks for it.",
        )
    try:
        _trim(home.keeper_log)
        with home.keeper_log.open("ab") as log:
            home.keeper_log.chmod(0o600)
            subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
                timeout=START_LIMIT_S,
                check=True,
            )
    except (OSError, subprocess.SubprocessError) as error:
        raise KeeperUnreachableError(
            f"The keeper could not be started: {error}; {home.keeper_log} may say why."
        ) from None


def _trim(log: Path) -> None:
    """Keep one older log; a keeper that writes at this moment goes on in the older one."""
    try:
        if log.stat().st_size > LOG_LIMIT_BYTES:
            log.replace(log.with_suffix(".old.log"))
    except FileNotFoundError:
        pass
