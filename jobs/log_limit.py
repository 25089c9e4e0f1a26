"""A bound on the space that a job's stdout and stderr hold, without a hand in the writing.

The command writes into the file itself, so that nothing can be rotated. What can be done is to give
the space of the middle back: a hole is punched there. The file keeps its size and every offset, and
whoever appends to it notices nothing.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import stat
import time
from collections.abc import Iterable
from pathlib import Path

from jobs.failpoints import reach
from jobs.model import Job
from jobs.paths import Home, JobDir

log = logging.getLogger(__name__)

EVERY_S = 1.0  #: between looks, however often the keeper is woken
_KEEP_SIZE, _PUNCH_HOLE = 1, 2  # linux/falloc.h
_LARGEST_BLOCK = 1 << 20


class LogLimit:
    """The limit on each of the two streams of each job. Holds no fact about any of them."""

    def __init__(self, limit_mb: int, action: str) -> None:
        self._limit_mb = limit_mb
        self._ends_jobs = action == "end"
        self._cannot_trim = False
        self._looked_at = 0.0

    def is_due(self) -> bool:
        """Whether it is time for `enforce`; true at most every second."""
        now = time.monotonic()
        if not self._limit_mb or now - self._looked_at < EVERY_S:
            return False
        self._looked_at = now
        return True

    def enforce(self, home: Home, jobs: Iterable[Job]) -> list[tuple[Job, str]]:
        """Trim what is over the limit; gives the jobs that are to be ended for it, and why.

        Costs an lstat for each stream that is within its limit. Never raises; blocks.
        """
        to_end = []
        for job in jobs:
            over = self.enforce_one(home.job(job.project, job.id))
            if over and self._ends_jobs and job.cancel_at is None:
                to_end.append((job, f"Its {over} passed log_limit_mb = {self._limit_mb}"))
        return to_end

    def enforce_one(self, job_dir: JobDir) -> str | None:
        """The same for one job; gives the name of a stream that was over the limit."""
        limit = self._limit_mb << 20
        over = None
        for path in (job_dir.stdout, job_dir.stderr):
            held = _space(path) if limit else 0
            if held > limit:
                over = path.name
                # A job that is to end is left its log, but not the disk, for its last seconds.
                if not self._ends_jobs or held > 2 * limit:
                    self._trim(path, limit)
        return over

    def _trim(self, path: Path, limit: int) -> None:
        """Leave a quarter of the limit at either end: the next trim is half a limit away."""
        try:
            fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return  # exchanged since, or made unwritable: not the file that the command writes
        try:
            found = os.fstat(fd)
            # The job may have put something else in its place, a file with a second name too.
            if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
                return
            block = min(max(found.st_blksize, 4096), _LARGEST_BLOCK)
            begin = -(-(limit // 4) // block) * block
            end = (found.st_size - limit // 4) // block * block
            if end > begin:
                punch_hole(fd, begin, end)
                reach("keeper.log_trimmed")
        except OSError as error:
            if not self._cannot_trim:
                self._cannot_trim = True
                log.error(
                    "%s is over log_limit_mb = %d but cannot be trimmed here: %s; "
                    "log_limit_action = 'end' would end such jobs",
                    *(path, self._limit_mb, os.strerror(error.errno or 0)),
                )
        finally:
            os.close(fd)


def punch_hole(fd: int, begin: int, end: int) -> None:
    """Free the space from `begin` to `end`, which reads as zeros from then on.

    Raises OSError where the system or the file system cannot.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    fallocate = getattr(libc, "fallocate64", None) or getattr(libc, "fallocate", None)
    if fallocate is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    while fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, begin, end - begin):
        if ctypes.get_errno() != errno.EINTR:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _space(path: Path) -> int:
    """What a regular file holds of the disk, in bytes; 0 for anything else."""
    try:
        found = path.lstat()
    except OSError:
        return 0
    return found.st_blocks * 512 if stat.S_ISREG(found.st_mode) else 0
