"""How fast jobs are accepted, and how fast many short ones pass through."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from benchmarks.ground import (
    OUTLAST,
    client_of,
    completed,
    launch,
    ours,
    say,
    seconds,
    service_of,
    state_directory,
)
from benchmarks.table import Row, paired
from jobs.service import Service

LAUNCHES = 60
SWEPT, SWEEPS = 200, 5
JOBS = 1000
SLOTS = 2
#: About as long as the record of a launch.
RECORD = b"x" * 2000


async def launch_reply(folder: Path) -> list[Row]:
    """The reply to a launch against what any durable acceptance costs on this disk."""
    say(f"launch: {LAUNCHES} launches in turn with as many durable files, twice ...")
    async with service_of(folder, cores=SLOTS) as (service, home):
        direct: list[float] = []
        limits: list[float] = []
        for number in range(LAUNCHES + 1):
            begin = time.perf_counter()
            job = await launch(service, "/bin/true")
            took = time.perf_counter() - begin
            await _quiet(service, job.id)
            limit = seconds(lambda: write_durably(home))
            if number:  # the first has to start a keeper
                direct.append(took * 1000)
                limits.append(limit * 1000)
        by_client: list[float] = []
        client_limits: list[float] = []
        async with client_of(*OUTLAST) as (client, _):
            for number in range(LAUNCHES + 1):
                begin = time.perf_counter()
                reply = await client.call_tool("launch_job", {"command": ["true"], "wait_s": 0})
                took = time.perf_counter() - begin
                assert reply.structured_content is not None, reply.content
                await _quiet(service, reply.structured_content["job_id"])
                limit = seconds(lambda: write_durably(home))
                if number:
                    by_client.append(took * 1000)
                    client_limits.append(limit * 1000)
    against = "new file, fsync, rename, fsync of the directory"
    return [
        paired(
            "reply to a launch, in process",
            direct,
            limits,
            unit="ms",
            against=against,
            at_most_ratio=3,
        ),
        paired(
            "reply to a launch, by an MCP client",
            by_client,
            client_limits,
            unit="ms",
            against="the same",
        ),
    ]


async def sweep_reply(folder: Path) -> list[Row]:
    """One call that launches many jobs, against as many durable files; five times, in turn."""
    say(f"sweep: a call that launches {SWEPT} jobs, {SWEEPS} times ...")
    values: list[float] = []
    limits: list[float] = []
    with state_directory(folder, cores=SLOTS, keeper_idle_s=0.5) as home:
        async with client_of(*OUTLAST) as (client, _):
            for number in range(SWEEPS + 1):
                wish = {
                    "manifest": "shell-script",
                    "params": {"script": "true"},
                    "sweep": {"args": [[str(value)] for value in range(SWEPT)]},
                }
                begin = time.perf_counter()
                reply = await client.call_tool("launch_job", wish)
                took = time.perf_counter() - begin
                assert reply.structured_content is not None, reply.content
                if sum(reply.structured_content["counts"].values()) != SWEPT:
                    raise RuntimeError(str(reply.content))
                job_id = reply.structured_content["job_id"]
                await client.call_tool("cancel_job", {"job_id": job_id})
                while ours(home):  # the keeper has left
                    await asyncio.sleep(0.1)
                limit = seconds(lambda: write_many(home, SWEPT))
                if number:  # the first reads the manifests
                    values.append(took)
                    limits.append(limit)
    against = f"{SWEPT} new files, each as above"
    what = f"reply to a sweep of {SWEPT} jobs, by an MCP client"
    return [paired(what, values, limits, unit="s", against=against, at_most=2)]


async def _quiet(service: Service, job_id: str) -> None:
    """Wait till the job has ended and nothing of it goes on beside the next measurement."""
    await completed(service, await service.job(job_id))
    await asyncio.sleep(0.03)


def write_durably(folder: Path) -> None:
    """The least that keeps a record through a power cut."""
    name = folder / f"record-{time.monotonic_ns()}"
    fd = os.open(f"{name}.tmp", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(fd, RECORD)
    os.fsync(fd)
    os.close(fd)
    os.rename(f"{name}.tmp", name)
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(fd)
    os.close(fd)


def write_many(folder: Path, count: int) -> None:
    for _ in range(count):
        write_durably(folder)


async def thousand_jobs(folder: Path) -> list[Row]:
    """From the first launch till every exit code is recorded."""
    say(f"thousand: {JOBS} jobs of /bin/true on {SLOTS} slots ...")
    async with service_of(folder, cores=SLOTS) as (service, _):
        await completed(service, await launch(service, "/bin/true"))  # the keeper is there
        before = seconds(lambda: spawn_in_a_loop(JOBS, SLOTS))
        begin = time.perf_counter()
        for _ in range(JOBS):
            await launch(service, "/bin/true")
        accepted = time.perf_counter() - begin
        while (await service.list_jobs(limit=1)).active:
            await asyncio.sleep(0.05)
        took = time.perf_counter() - begin
        await _check(service)
        after = seconds(lambda: spawn_in_a_loop(JOBS, SLOTS))
    limit = (before + after) / 2
    say(f"thousand: {accepted:.1f} s to accept them, {took:.1f} s to the last exit code")
    return [
        Row(
            f"{JOBS:,} jobs of /bin/true on {SLOTS} slots, to the last exit code",
            value=took,
            unit="s",
            limit=limit,
            against="posix_spawn in a loop, 2 in flight",
            ratio=took / limit,
        )
    ]


async def _check(service: Service) -> None:
    """Every one of them has its exit code."""
    codes = []
    cursor = None
    while True:
        page = await service.list_jobs(limit=100, cursor=cursor)
        codes += [job.outcome.exit_code for job in page.jobs]
        cursor = page.cursor_after(len(page.jobs))
        if cursor is None:
            break
    if codes != [0] * (JOBS + 1):
        raise RuntimeError(f"{len(codes)} jobs, exit codes {set(codes)}")


def spawn_in_a_loop(count: int, in_flight: int) -> None:
    """Run /bin/true so often, and look at every exit code."""
    running = 0
    for _ in range(count):
        if running == in_flight:
            _collect()
            running -= 1
        os.posix_spawn("/bin/true", ["true"], {})
        running += 1
    for _ in range(running):
        _collect()


def _collect() -> None:
    _, status = os.wait()
    if status:
        raise RuntimeError(f"/bin/true ended with {status}")
