"""Many jobs, large logs: what is asked for a little costs a little."""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil
import pytest

from jobs.service import Service
from jobs.states import State
from tests.support.launching import bash
from tests.support.server import stdio_server
from tests.support.wait import ended, until


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_a_thousand_launches_through_one_server(home: Path) -> None:
    async with stdio_server() as (client, _):
        job_ids = set()
        for _ in range(1000):
            reply = await client.call_tool("launch_job", {"command": ["true"], "wait_s": 0})
            assert not reply.is_error, reply.content
            assert reply.structured_content is not None
            job_ids.add(reply.structured_content["job_id"])
        assert len(job_ids) == 1000

        async def active() -> int:
            total = 0
            for state in (State.QUEUED, State.STARTING, State.RUNNING):
                reply = await client.call_tool("job_status", {"state": state, "limit": 100})
                assert reply.structured_content is not None
                total += len(reply.structured_content["jobs"])
            return total

        async def all_ended() -> bool:
            return await active() == 0

        await until(all_ended, seconds=300)
        seen: set[str] = set()
        cursor = None
        while True:
            arguments = {"limit": 100, **({"cursor": cursor} if cursor else {})}
            reply = await client.call_tool("job_status", arguments)
            assert reply.structured_content is not None
            page = reply.structured_content["jobs"]
            assert len(page) <= 100
            assert {job["state"] for job in page} == {"completed"}
            seen |= {job["job_id"] for job in page}
            cursor = reply.structured_content.get("next_cursor")
            if cursor is None:
                break
        assert seen == job_ids


def _sparse_log(path: Path, size: int) -> None:
    """A log of `size` bytes that ends in known lines; the middle takes no space."""
    with path.open("wb") as file:
        file.write(b"first line\n")
        file.truncate(size)
        file.seek(0, os.SEEK_END)
        file.writelines(b"line %d\n" % number for number in range(1000))


async def test_the_tail_of_a_large_log_costs_what_that_of_a_small_one_costs(
    service: Service,
) -> None:
    """10 GB against 1 MB, on bytes read and memory; a clock would tell more of the machine."""
    jobs = [await bash(service, "true", wait_s=10) for _ in range(2)]
    for job, size in zip(jobs, (1 << 20, 10 << 30), strict=True):
        _sparse_log(service.directory(job).stdout, size)
    me = psutil.Process()
    read, texts = [], []
    for job in jobs:
        await service.tail(job.id, lines=50)
        before = me.io_counters().read_chars
        rss = me.memory_info().rss
        _, excerpt = await service.tail(job.id, lines=50)
        read.append(me.io_counters().read_chars - before)
        texts.append(excerpt.text)
        assert me.memory_info().rss - rss < 4 << 20
        # From a cursor in the middle, and by searching, too.
        assert excerpt.next_cursor is not None
        _, rest = await service.tail(job.id, cursor=excerpt.next_cursor)
        assert rest.text == ""
        _, found = await service.tail(job.id, grep="^line 99[0-9]$", lines=3)
        assert [line.split(": ")[1] for line in found.text.split("\n")] == [
            "line 997",
            "line 998",
            "line 999",
        ]
        _, found = await service.tail(job.id, grep="^first line$")
        assert found.text == "0: first line"  # what holds nothing is passed over
        assert "of the middle are gone" in found.breaks[0]
    assert texts[0] == texts[1] == "".join(f"line {n}\n" for n in range(950, 1000))
    assert read[1] <= read[0] + 4096


async def test_a_job_that_writes_much_is_not_slowed_by_us(service: Service) -> None:
    """It writes into the file itself: no descriptor of the command is a pipe of ours."""
    script = "readlink /proc/self/fd/1 /proc/self/fd/2; head -c 200000000 /dev/zero; echo done >&2"
    job = await bash(service, script, wait_s=20)
    job_dir = service.directory(job)
    assert job.state is State.COMPLETED
    with job_dir.stdout.open("rb") as log:
        assert log.readline().decode().strip() == str(job_dir.stdout)
        assert log.readline().decode().strip() == str(job_dir.stderr)
    assert job_dir.stdout.stat().st_size > 200_000_000
    job_dir.stdout.unlink()


async def test_waiting_returns_as_soon_as_something_changes(service: Service) -> None:
    job = await bash(service, "sleep 0.5; exit 3")
    started = time.monotonic()
    job = await service.job(job.id, wait_s=20)
    assert job.outcome.exit_code == 3
    assert time.monotonic() - started < 15
    assert (await ended(service, job.id)) == job
