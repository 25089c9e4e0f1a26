"""Eight servers at once on a state directory that is not there yet."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from jobs.states import State
from server.wiring import open_service
from tests.support.processes import keeper_pid
from tests.support.wait import until

ROOT = Path(__file__).resolve().parent.parent.parent
SERVERS, JOBS = 8, 100

#: Launches from a process of its own and prints the IDs.
LAUNCHER = """
import asyncio, json, sys
from jobs.model import LaunchRequest
from server.wiring import open_service

async def main():
    sys.stdin.readline()  # all begin together
    async with open_service() as service:
        request = LaunchRequest(command=["true"])
        jobs = [
            (await service.launch(request, client="crowd", wait_s=0)).job.id
            for _ in range(int(sys.argv[1]))
        ]
    print(json.dumps(jobs))

asyncio.run(main())
"""


def listens(home: Path, pid: int) -> bool:
    """Whether it takes orders: the process that starts a keeper has the lock for a moment too."""
    try:
        opened = [os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return False
    return str(home / "wake") in opened


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_many_servers_fill_a_new_state_directory_together(home: Path) -> None:
    assert not home.exists()
    crowd = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", LAUNCHER, str(JOBS)),
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        for _ in range(SERVERS)
    ]
    keepers = set()

    async def watch() -> None:
        while True:
            pid = keeper_pid(home)
            if pid is not None and listens(home, pid):
                keepers.add(pid)
            await asyncio.sleep(0.05)

    watching = asyncio.get_running_loop().create_task(watch())
    ends = await asyncio.gather(*(process.communicate(b"go\n") for process in crowd))
    assert [process.returncode for process in crowd] == [0] * SERVERS, ends
    assert [errors for _, errors in ends] == [b""] * SERVERS
    job_ids = [job_id for output, _ in ends for job_id in json.loads(output)]
    assert len(set(job_ids)) == SERVERS * JOBS
    async with open_service() as service:

        async def all_ended() -> bool:
            return not (await service.list_jobs(limit=1)).active

        await until(all_ended, seconds=200)
        watching.cancel()
        assert len(keepers) == 1
        seen: dict[str, State] = {}
        cursor = None
        while True:
            page = await service.list_jobs(limit=100, cursor=cursor)
            seen |= {job.id: job.state for job in page.jobs}
            cursor = page.cursor_after(len(page.jobs))
            if cursor is None:
                break
    assert seen == dict.fromkeys(job_ids, State.COMPLETED)
