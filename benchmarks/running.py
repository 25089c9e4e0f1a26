"""What a running job costs the machine, and what its output costs the job."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from benchmarks.ground import completed, cpu_s, launch, ours, pss_mb, say, service_of, settle
from benchmarks.table import Row, best
from jobs.service import Service
from jobs.states import State

JOBS = 100
CPU_S = 20.0
GONE_AFTER_S = 60.0
PAIRS = 24
LOG_BYTES = 2 << 30
#: Writes the log as lines, in blocks as a program's buffer does, and tells how long that took. The
#: block begins at a page: where else it lay would depend on the environment, and decides how fast
#: the kernel copies it.
WRITER = f"""
import mmap, os, time
block = mmap.mmap(-1, 1 << 16)
block.write(((b"x" * 99 + b"\\n") * 656)[:1 << 16])
begin = time.perf_counter()
for _ in range({LOG_BYTES >> 16}):
    os.write(1, block)
os.write(2, b"%.6f\\n" % (time.perf_counter() - begin))
"""


async def idle_jobs(folder: Path) -> list[Row]:
    """Memory and processor time of keeper and shims while jobs run, and what is left later."""
    say(f"idle: {JOBS} jobs that sleep ...")
    async with service_of(folder, cores=JOBS) as (service, home):
        for _ in range(JOBS):
            await launch(service, "sleep", "3600")
        while (await service.list_jobs(limit=1)).active != {State.RUNNING: JOBS}:
            await asyncio.sleep(0.2)
        await asyncio.sleep(5)  # the keeper has looked at all of them, and has nothing new to do
        processes = ours(home)
        memory = pss_mb(processes) / JOBS
        say(f"idle: {len(processes)} processes of ours; their processor time in {CPU_S:g} s ...")
        begin, used = time.perf_counter(), cpu_s(processes)
        await asyncio.sleep(CPU_S)
        percent = 100 * (cpu_s(processes) - used) / (time.perf_counter() - begin)
        await _end(service)
        ended_at = time.perf_counter()
        say(f"idle: what is left {GONE_AFTER_S:g} s after the last job has ended ...")
        await asyncio.sleep(GONE_AFTER_S - (time.perf_counter() - ended_at))
        left = ours(home)
    limit = _memory_of_shells() / JOBS
    return [
        Row(
            f"memory of ours for each of {JOBS} running jobs (PSS)",
            value=memory,
            unit="MB",
            limit=limit,
            against="a shell that waits for each",
            ratio=memory / limit,
        ),
        Row(f"processor time of ours with {JOBS} idle jobs", value=percent, unit="% of a core"),
        Row(
            f"processes of ours {GONE_AFTER_S:g} s after the last job has ended",
            value=len(left),
            unit="processes",
            at_most=0,
        ),
        Row(
            "memory of ours with nothing to do (PSS)", value=pss_mb(left), unit="MB", at_most=0
        ),
    ]  # fmt: skip


async def _end(service: Service) -> None:
    for job in (await service.list_jobs(limit=JOBS)).jobs:
        await service.cancel(job.id, wait_s=0)
    while (await service.list_jobs(limit=1)).active:
        await asyncio.sleep(0.05)


def _memory_of_shells() -> float:
    """What the least supervisor takes that could tell an exit code: one `sh` for each job."""
    shells = [
        subprocess.Popen(["sh", "-c", "sleep 3600; exit $?"], start_new_session=True)
        for _ in range(JOBS)
    ]
    try:
        time.sleep(1)
        return pss_mb([psutil.Process(shell.pid) for shell in shells])
    finally:
        for shell in shells:
            os.killpg(shell.pid, signal.SIGKILL)
            shell.wait()


async def large_log(folder: Path) -> list[Row]:
    """A job that writes 2 GB to its standard output, against the same with a redirect."""
    say(f"log: {PAIRS} pairs of 2 GB each ...")
    through: list[float] = []
    direct: list[float] = []
    whole: list[float] = []
    whole_direct: list[float] = []
    async with service_of(folder) as (service, home):
        for number in range(PAIRS + 1):
            turns = [True, False] if number % 2 else [False, True]  # none is always the second
            for is_direct in turns:
                settle()
                began = time.perf_counter()
                if is_direct:
                    took = _redirect(home)
                else:
                    took = await _job(service)
                total = time.perf_counter() - began
                _remove_logs(home)
                if number:
                    (direct if is_direct else through).append(took)
                    (whole_direct if is_direct else whole).append(total)
            if number:
                say(f"log: {through[-1]:.3f} s through us, {direct[-1]:.3f} s by a redirect")
    return [
        best(
            "2 GB to standard output, as the program sees it",
            through,
            direct,
            unit="s",
            against="redirect to a file",
            at_most_ratio=1.02,
        ),
        best(
            "the same, from the launch to the recorded exit code",
            whole,
            whole_direct,
            unit="s",
            against="from the start to the end of the process",
        ),
    ]


async def _job(service: Service) -> float:
    job = await completed(service, await launch(service, sys.executable, "-c", WRITER))
    return float(service.directory(job).stderr.read_text(encoding="ascii"))


def _redirect(folder: Path) -> float:
    with (folder / "direct.log").open("wb") as log:
        ended = subprocess.run(
            [sys.executable, "-c", WRITER], stdout=log, stderr=subprocess.PIPE, check=True
        )
    return float(ended.stderr)


def _remove_logs(home: Path) -> None:
    for path in [home / "direct.log", *home.glob("jobs/*/*/stdout.log")]:
        path.unlink(missing_ok=True)
