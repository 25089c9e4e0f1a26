"""Jobs whose shim was killed: nobody waits for them and nobody else can end them.

Their processes are found anew each time, from /proc, and signalled through pidfds: one is opened,
then it is looked again whether the process is the one that was chosen, and only then signalled.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from jobs import clock
from jobs.directory import read_record
from jobs.engines.base import Phase, Sighting
from jobs.engines.confinement import Confinement
from jobs.engines.shim_system import kill_cgroups, remove_cgroups, touch
from jobs.model import LaunchManifest, StartedRecord
from jobs.paths import JobDir

SWEEP_S = 10.0  #: only processes that the kernel will not let die survive this
DEFAULT_GRACE_S = 10.0


@dataclass(frozen=True)
class Trace:
    """What tells a process from one that has its number later, and what it has to do with a job."""

    pid: int
    parent: int
    group: int
    ticks: str
    marked: bool  #: it is in a cgroup of the job, or carries the job's mark


class Orphans:
    """Ends orphans when they are to end, and what they left. Holds no fact but why it did."""

    def __init__(self, confinement: Confinement) -> None:
        self._confinement = confinement
        self._enders: dict[Path, asyncio.Task[None]] = {}
        self._overdue: dict[Path, str] = {}

    async def tend(self, job_dir: JobDir, sighting: Sighting) -> Sighting:
        """Enforce the time limit of an orphan, and end what one that has ended left behind."""
        started = sighting.started
        if started is None or started.boot_id != clock.boot_id():
            return sighting
        if sighting.phase is Phase.ORPHANED:
            self._enforce_limit(job_dir, started)
        elif sighting.phase is Phase.VANISHED:
            details = [sighting.detail, self._overdue.get(job_dir.root)]
            if survivors := await self._kill(job_dir, started):
                pids = ", ".join(map(str, survivors))
                details.append(f"even SIGKILL did not end the processes {pids}")
            return replace(sighting, detail="; ".join(filter(None, details)))
        return sighting

    async def end(
        self, job_dir: JobDir, started: StartedRecord, grace_s: float | None = None
    ) -> None:
        """End an orphan as its shim would have: its signal or file, its grace, the kill."""
        launched = read_record(job_dir.launch_manifest, LaunchManifest)
        if grace_s is None:
            grace_s = launched.grace_s if launched else DEFAULT_GRACE_S
        number = getattr(signal, "SIG" + launched.stop_signal) if launched else signal.SIGTERM
        with _closing(await asyncio.to_thread(self._find, job_dir, started)) as family:
            group = [pidfd for pidfd, trace in family.items() if trace.group == started.pid]
            if launched is None or not touch(os.fsencode(stop_file(launched))):
                _send(group, number)
            _send(group, signal.SIGCONT)  # a frozen process cannot end
            deadline = time.monotonic() + grace_s
            while _some_live(family):
                if time.monotonic() >= deadline:
                    break
                await asyncio.sleep(0.05)
            # Now, while they are at hand: without its leader the group is not found again.
            _kill_all(family)
        await self._kill(job_dir, started)

    def _enforce_limit(self, job_dir: JobDir, started: StartedRecord) -> None:
        launched = read_record(job_dir.launch_manifest, LaunchManifest)
        if launched is None or not launched.time_limit_s or job_dir.root in self._enders:
            return
        # By the kernel's own clock, which no step of the wall clock moves.
        ran_s = time.clock_gettime(time.CLOCK_BOOTTIME) - int(started.start_ticks) / os.sysconf(
            "SC_CLK_TCK"
        )
        if ran_s < launched.time_limit_s:
            return
        limit = f"{launched.time_limit_s:g} s"
        self._overdue[job_dir.root] = f"it was then ended at its time limit of {limit}"
        task = asyncio.get_running_loop().create_task(self.end(job_dir, started))
        self._enders[job_dir.root] = task
        task.add_done_callback(lambda _: self._enders.pop(job_dir.root))

    async def _kill(self, job_dir: JobDir, started: StartedRecord) -> list[int]:
        """Kill all that can be found of it, until nothing is and its cgroups are gone; gives the
        pids of what would not end in SWEEP_S."""
        cgroups = self._confinement.folders(job_dir, started.cgroups)
        give_up_at = time.monotonic() + SWEEP_S
        while True:
            kill_cgroups(cgroups)
            with _closing(await asyncio.to_thread(self._find, job_dir, started)) as family:
                _kill_all(family)
                left = sorted(trace.pid for trace in family.values())
            # The kernel removes no cgroup that somebody is in.
            gone = await asyncio.to_thread(remove_cgroups, cgroups, tries=10)
            if (gone and not left) or time.monotonic() > give_up_at:
                return left

    def _find(self, job_dir: JobDir, started: StartedRecord) -> dict[int, Trace]:
        """Pidfds of its living processes: its cgroups, whoever has its mark, the command with its
        process group, and all below these. Blocks.

        Without a cgroup, a process that left the group, lost its parent and cleaned its
        environment is not among them.
        """
        name = self._confinement.name(job_dir)
        traces = {pid: trace for pid in _pids() if (trace := _trace(pid, name, job_dir))}
        leader = traces.get(started.pid)
        has_leader = leader is not None and leader.ticks == started.start_ticks
        chosen = {
            pid
            for pid, trace in traces.items()
            if trace.marked or (has_leader and started.pid in (pid, trace.group))
        }
        grown = True
        while grown:
            below = {pid for pid, trace in traces.items() if trace.parent in chosen} - chosen
            chosen |= below
            grown = bool(below)
        family = {}
        for pid in chosen - {os.getpid()}:
            with suppress(OSError):
                pidfd = os.pidfd_open(pid)
                family[pidfd] = traces[pid]
                if _trace(pid, name, job_dir) != traces[pid]:  # another one, or it has changed
                    del family[pidfd]
                    os.close(pidfd)
        return family


def stop_file(launched: LaunchManifest) -> str:
    """The file that asks the program to end; empty when a signal does."""
    return f"{launched.cwd}/{launched.stop_file}" if launched.stop_file else ""


@contextmanager
def _closing(family: dict[int, Trace]) -> Iterator[dict[int, Trace]]:
    try:
        yield family
    finally:
        for pidfd in family:
            os.close(pidfd)


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _trace(pid: int, cgroup: str, job_dir: JobDir) -> Trace | None:
    """None when there is no such process, or it is a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        paths = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat[stat.rindex(b")") + 2 :].split()
    if fields[0] in (b"Z", b"X"):
        return None
    marked = any(cgroup in path.split("/") for path in paths.splitlines())
    with suppress(OSError):  # another user's
        mark = b"OUTLAST_JOB_DIR=" + os.fsencode(job_dir.root)
        marked = marked or mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return Trace(pid, int(fields[1]), int(fields[2]), fields[19].decode(), marked)


def _send(pidfds: Iterable[int], number: int) -> None:
    for pidfd in pidfds:
        with suppress(OSError):
            signal.pidfd_send_signal(pidfd, number)


def _kill_all(pidfds: Collection[int]) -> None:
    for number in (signal.SIGSTOP, signal.SIGKILL):  # stopped first, none outruns us by forking
        _send(pidfds, number)


def _some_live(pidfds: Iterable[int]) -> bool:
    poll = select.poll()
    pidfds = list(pidfds)
    for pidfd in pidfds:
        poll.register(pidfd, select.POLLIN)
    return len(poll.poll(0)) < len(pidfds)
