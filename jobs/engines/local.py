"""Jobs on this machine: one shim per job, a kernel lock as the only sign of life."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from jobs import clock
from jobs.directory import read_record
from jobs.engines.base import Phase, Sighting, Submission
from jobs.engines.confinement import Confinement
from jobs.engines.orphans import Orphans, stop_file
from jobs.engines.shim_system import remove_cgroups
from jobs.failpoints import reach
from jobs.files import is_passing, open_own, open_undeceived
from jobs.model import ExitRecord, LaunchManifest, StartedRecord
from jobs.paths import Home, JobDir
from jobs.secrets import with_secrets

SHIM = Path(__file__).with_name("shim.py")
#: A shim that is alive but has not started its command by then is looked at again later.
HANDSHAKE_S = 15.0


class LocalEngine:
    """Implements `Engine`. Holds no fact of its own: all of them are in the job directories."""

    def __init__(self, wake: Path, keeper_command: Sequence[str]) -> None:
        self._wake = wake
        self._keeper_command = keeper_command
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._home = Home(wake.parent)
        self._confinement = Confinement(self._home)
        self._orphans = Orphans(self._confinement)
        self._remove_leftovers()  # now, as no claimed job shall wait for it

    def is_ready(self, job_dir: JobDir) -> bool:
        return True

    async def submit(self, batch: Sequence[Submission]) -> None:
        """Start a shim for each and wait till it has started the command, or has failed to."""
        for one in batch:
            await self._submit(one)

    async def _submit(self, one: Submission) -> None:
        launched, job_dir = one.launched, one.job_dir

        def order() -> bytes:
            cgroups, bounds = self._confinement.prepare(job_dir, launched.bounds)
            reach("keeper.cgroups_made")
            note = {"attempt": one.attempt, "gpu_ids": one.gpu_ids, "cgroups": cgroups}
            wake, command = self._wake, self._keeper_command
            return _order(launched, job_dir, one.gpu_ids, json.dumps(note), wake, command, bounds)

        ready, child = _spawn_shim(job_dir, order)
        if child is not None:
            self._children[child.pid] = child
        try:
            await _end_of_file(ready, HANDSHAKE_S)
        finally:
            os.close(ready)

    async def poll(self, job_dir: JobDir) -> Sighting:
        self._reap()
        sighting = look(job_dir)
        if sighting.phase is Phase.ENDED and sighting.started is not None:
            recorded = sighting.started.cgroups  # still there when the shim was killed at the last
            remove_cgroups(self._confinement.folders(job_dir, recorded), tries=1)
        return await self._orphans.tend(job_dir, sighting)

    async def stop(self, job_dir: JobDir, *, grace_s: float | None) -> None:
        control = _open_control(job_dir)
        if control is None:
            sighting = look(job_dir)
            if sighting.phase is Phase.ORPHANED and sighting.started is not None:
                await self._orphans.end(job_dir, sighting.started, grace_s)
            elif sighting.phase is Phase.RUNNING:
                _terminate_shim(job_dir)
            return
        try:
            os.write(control, b"T\n" if grace_s is None else b"T%.3f\n" % grace_s)
        except BlockingIOError:
            pass  # so many orders are waiting that one more changes nothing
        finally:
            os.close(control)

    def adopt(self, job_dir: JobDir, on_change: Callable[[], None]) -> Callable[[], None]:
        """Watch the shim's process. On Linux its end wakes us; elsewhere the keeper's polls do."""
        try:
            with open_own(job_dir.lock) as lock:
                pidfd = os.pidfd_open(int(lock.read(9)))
        except (AttributeError, OSError, ValueError):
            return lambda: None
        loop = asyncio.get_running_loop()

        def release() -> None:
            nonlocal pidfd
            if pidfd >= 0:
                loop.remove_reader(pidfd)
                os.close(pidfd)
                pidfd = -1

        def ended() -> None:
            release()
            self._reap()
            on_change()

        loop.add_reader(pidfd, ended)
        return release

    def _remove_leftovers(self) -> None:
        """Remove the cgroups of jobs that nobody looks after and that nothing runs in."""
        for folder, job_id in self._confinement.leftovers():
            for root in self._home.jobs.glob(f"*/{job_id}"):
                with probe(JobDir(root)) as alive:
                    if alive:
                        break
            else:
                remove_cgroups([bytes(folder)], tries=1)

    def _reap(self) -> None:
        """Collect the shims that we started ourselves, so that they do not stay as zombies."""
        for pid, child in list(self._children.items()):
            if child.poll() is not None:
                del self._children[pid]


def look(job_dir: JobDir) -> Sighting:
    """What the job directory and the kernel say. Takes about 0.1 ms."""
    with probe(job_dir) as alive:
        # Read after the probe: a shim writes its record before it lets go of the lock.
        ended = read_record(job_dir.exit, ExitRecord)
        started = read_record(job_dir.started, StartedRecord)
        if ended is not None:
            return Sighting(Phase.ENDED, started, ended)
        if alive:
            return Sighting(Phase.RUNNING if started else Phase.STARTING, started)
        if started is None:
            return Sighting(Phase.NEVER_STARTED)
        if started.boot_id != clock.boot_id():
            return Sighting(Phase.VANISHED, started, detail="the machine was restarted")
        if clock.start_ticks(started.pid) == started.start_ticks != "":
            return Sighting(Phase.ORPHANED, started)
        return Sighting(Phase.VANISHED, started, detail="its supervisor was killed")


@contextmanager
def probe(job_dir: JobDir) -> Iterator[bool]:
    """Whether a live process holds the job's lock. Shared, so that two probers see each other not.

    While the context lasts, a free lock stays free.
    """
    fd = _open_lock(job_dir)
    if fd is None:
        yield False
        return
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            alive = False
        except BlockingIOError:
            alive = True
        yield alive
    finally:
        os.close(fd)


def _open_lock(job_dir: JobDir) -> int | None:
    """None when it is gone with its directory, or a job has put something else there."""
    try:
        return open_undeceived(job_dir.lock, os.O_RDWR | os.O_CREAT)
    except PermissionError:
        job_dir.lock.lstat()  # is refused, too, where it is the directory that is closed
        return None
    except OSError as error:
        gone = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO)
        if error.errno in gone:
            return None
        raise


def _open_control(job_dir: JobDir) -> int | None:
    """None when nobody listens there, or a job has put something else in its place."""
    try:
        fd = os.open(job_dir.control, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if is_passing(error):
            raise
        return None
    if stat.S_ISFIFO(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    return None


def _terminate_shim(job_dir: JobDir) -> None:
    """Have a shim stop its job whose FIFO is gone. Its own words on its command line tell it."""
    try:
        with open_own(job_dir.lock) as lock:
            pid = int(lock.read(9))
        pidfd = os.pidfd_open(pid)
    except (AttributeError, OSError, ValueError):
        return
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if os.fsencode(job_dir.root) in words and any(word.endswith(b"/shim.py") for word in words):
            signal.pidfd_send_signal(pidfd, signal.SIGTERM)
    except OSError:
        pass  # it has ended
    finally:
        os.close(pidfd)


def _take_lock(job_dir: JobDir) -> int | None:
    """The job's lock, held by us alone; none when somebody alive has it."""
    fd = _open_lock(job_dir)
    if fd is None:
        raise OSError(errno.EINVAL, "cannot be locked", str(job_dir.lock))
    for attempt in range(20):  # a prober may hold it for microseconds
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except BlockingIOError:
            time.sleep(0.001 * attempt)
    os.close(fd)
    return None


def _spawn_shim(
    job_dir: JobDir, order: Callable[[], bytes]
) -> tuple[int, subprocess.Popen[bytes] | None]:
    """Start a shim that inherits the job's lock.

    Gives a pipe that ends once it has started the command, and its process; none when somebody
    else has the lock. How a shim comes to life is this function alone.
    """
    ready, ready_write = os.pipe()
    lock = None
    try:
        lock = _take_lock(job_dir)
        if lock is None:
            return ready, None
        reach("keeper.lock_taken")
        with tempfile.TemporaryFile() as stdin:
            stdin.write(order())
            stdin.seek(0)
            child = subprocess.Popen(
                [
                    sys.executable,
                    "-I",
                    "-S",
                    str(SHIM),
                    str(job_dir.root),
                    str(lock),
                    str(ready_write),
                ],
                stdin=stdin,
                stdout=subprocess.DEVNULL,
                stderr=None,  # the keeper's log: a shim that cannot work says why there
                pass_fds=(lock, ready_write),
                cwd="/",
                start_new_session=True,
            )
        reach("keeper.shim_spawned")
    except BaseException:
        os.close(ready)
        raise
    finally:
        os.close(ready_write)
        if lock is not None:
            os.close(lock)
    return ready, child


def _order(
    launched: LaunchManifest,
    job_dir: JobDir,
    gpu_ids: list[int],
    note: str,
    wake: Path,
    keeper_command: Sequence[str],
    bounds: list[str],
) -> bytes:
    """What the shim reads on its standard input; `shim_job.Order` says how."""
    env = with_secrets(launched, job_dir)
    if gpu_ids:
        env.setdefault("CUDA_VISIBLE_DEVICES", ",".join(map(str, gpu_ids)))
    fields = [
        str(wake),
        launched.executable,
        launched.cwd,
        launched.stop_signal,
        stop_file(launched),
        str(launched.grace_s),
        str(launched.time_limit_s),
        f", {note[1:-1]}",
        str(len(keeper_command)),
        str(len(launched.command)),
        str(len(bounds)),
        *keeper_command,
        *launched.command,
        *bounds,
        *(f"{name}={value}" for name, value in env.items()),
    ]
    return b"".join(os.fsencode(field) + b"\0" for field in fields)


async def _end_of_file(fd: int, seconds: float) -> None:
    """Return when the other ends of the pipe are closed, or after `seconds`."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(fd, ended.set)
    try:
        async with asyncio.timeout(seconds):
            await ended.wait()
    except TimeoutError:
        pass
    finally:
        loop.remove_reader(fd)
