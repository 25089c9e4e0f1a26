"""A fork bomb or a leak ends its own job; the machine, other jobs and every tool go on."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from jobs.directory import read_limits
from jobs.engines.confinement import Confinement
from jobs.model import Job, LaunchRequest, ResourceWishes
from jobs.paths import Home
from jobs.service import Service
from jobs.states import State
from server.wiring import open_service
from tests.support.launching import PYTHON, bash, launch
from tests.support.processes import cgroups_of, is_running, keeper_pid, kill, places, shim_pids
from tests.support.wait import ended, until

MOST = 64
SERVED = {kind for place in places() for kind in place.files}

needs_processes = pytest.mark.skipif(
    "processes" not in SERVED, reason="no pids cgroup can be made here; `outlast doctor` says why"
)
needs_memory = pytest.mark.skipif(
    "memory_mb" not in SERVED, reason="no memory cgroup can be made here; `outlast doctor` says why"
)

BOMBS = {
    "bash": ":(){ :|:& };:; sleep 600",
    "bash, without end": "while :; do sleep 600 & done",
    "python": f"exec {PYTHON} -c 'import os\nwhile True: os.fork()'",
    "python, that goes on": (
        f"{PYTHON} -c 'import os\nwhile True:\n try: os.fork()\n except OSError: pass'"
    ),
    "sessions of their own": (
        f"{PYTHON} -c 'import os\nwhile True:\n try:\n  if not os.fork(): os.setsid()\n"
        " except OSError: pass' & wait"
    ),
}
LEAK = """
import sys, time
held = []
while True:
    held.append(bytearray(b"x" * (10 << 20)))
    print(len(held) * 10, "MB", flush=True)
    time.sleep(0.01)
"""


def _limit_in_force(job: Job, home: Path, file: str) -> int:
    """What the kernel says, read from outside, of the cgroup that the command is in."""
    found = []
    for folder in cgroups_of(home):
        if folder.name.endswith(job.id) and (folder / file).exists():
            assert (folder / "cgroup.procs").read_text(encoding="ascii").split()
            found.append(int((folder / file).read_text(encoding="ascii")))
    (limit,) = found
    return limit


@pytest.fixture
def few_processes(home: Path) -> None:
    config = home.parent / "config.toml"
    config.write_text(f"max_processes = {MOST}\n", encoding="utf-8")


async def _armed(service: Service, home: Path, script: str) -> Job:
    """A job that runs `script`; only after the kernel has been asked for its limit."""
    gate = home.parent / "gate"
    job = await bash(service, f"while [ ! -e {gate} ]; do sleep 0.05; done; {script}")
    assert job.state is State.RUNNING
    assert _limit_in_force(job, home, "pids.max") == MOST
    limits = read_limits(service.directory(job))
    assert limits is not None
    assert (limits.processes, limits.processes_by) == (MOST, "cgroup")
    gate.touch()
    return job


def _members(job: Job, home: Path) -> set[int]:
    found = set()
    for folder in cgroups_of(home):
        if folder.name.endswith(job.id):
            found |= {int(pid) for pid in (folder / "cgroup.procs").read_text().split()}
    return found


@needs_processes
@pytest.mark.parametrize("kind", BOMBS)
async def test_a_fork_bomb_ends_its_own_job(few_processes: None, home: Path, kind: str) -> None:
    async with open_service() as service:
        other = await launch(service, "sleep", "600")
        bomb = await _armed(service, home, BOMBS[kind])

        async def full() -> bool:
            return len(_members(bomb, home)) >= MOST - 4 or (await service.job(bomb.id)).is_final

        await until(full)
        seen = _members(bomb, home)
        small = await launch(service, "true", wait_s=20)  # the machine is alive
        assert small.state is State.COMPLETED
        bomb = await service.cancel(bomb.id, grace_s=0.2, wait_s=20)
        bomb = await ended(service, bomb.id)
        assert bomb.state in (State.FAILED, State.CANCELLED), bomb.outcome
        assert f"Its limit of {MOST} processes was reached." in (bomb.outcome.reason or "")
        assert [pid for pid in seen if is_running(pid)] == []
        assert [folder for folder in cgroups_of(home) if folder.name.endswith(bomb.id)] == []
        assert (await service.job(other.id)).state is State.RUNNING
        await service.cancel(other.id, grace_s=0)


@needs_processes
async def test_a_bomb_that_is_left_behind_ends(few_processes: None, home: Path) -> None:
    """The command itself ends at once, with exit code 0, perhaps before its bomb is refused a fork;
    it is no success when one was, and nothing survives."""
    async with open_service() as service:
        bomb = await _armed(service, home, ":(){ :|:& };:")
        bomb = await ended(service, bomb.id)
        refused = "Its limit of" in (bomb.outcome.reason or "")
        assert bomb.state is (State.FAILED if refused else State.COMPLETED)
        assert bomb.outcome.exit_code == 0
        assert cgroups_of(home) == []  # the kernel removes none that a process is in


@needs_processes
async def test_a_bomb_whose_shim_was_killed_ends_too(few_processes: None, home: Path) -> None:
    async with open_service() as service:
        bomb = await _armed(service, home, BOMBS["sessions of their own"])
        await until(lambda: len(_members(bomb, home)) >= MOST - 4)
        seen = _members(bomb, home)
        (shim,) = shim_pids(home)
        kill(shim)
        await until(lambda: not is_running(shim))
        await service.cancel(bomb.id, grace_s=0)
        assert (await ended(service, bomb.id)).state is State.LOST
        assert [pid for pid in seen if is_running(pid)] == []
        assert cgroups_of(home) == []


@needs_memory
async def test_a_leak_ends_its_own_job(service: Service, home: Path) -> None:
    other = await launch(service, "sleep", "600")
    request = LaunchRequest(
        command=[PYTHON, "-c", LEAK], resources=ResourceWishes(memory_mb=200), time_limit_s=60
    )
    leak = (await service.launch(request, client="test")).job
    leak = await ended(service, leak.id, 60)
    assert (leak.state, leak.outcome.signal) == (State.FAILED, "SIGKILL")
    assert (leak.outcome.reason or "").startswith("Its memory limit of 200 MB was reached.")
    last = service.last_line(leak)
    assert last is not None
    assert 100 <= int(last[1].split()[0]) <= 200
    record = service.directory(leak).run_record.read_text(encoding="utf-8")
    assert '"limit_hit": "memory_mb"' in record
    assert (await service.job(other.id)).state is State.RUNNING
    await service.cancel(other.id, grace_s=0)


@needs_memory
async def test_a_part_that_was_killed_is_no_success(service: Service) -> None:
    """A part of the program is killed, the program itself ends with exit code 0: both are said."""
    script = f"{PYTHON} -c '{LEAK}' > /dev/null; echo $?; exit 0"
    request = LaunchRequest(
        command=["bash", "-c", script], resources=ResourceWishes(memory_mb=100), time_limit_s=60
    )
    job = (await service.launch(request, client="test")).job
    job = await ended(service, job.id, 60)
    assert job.state is State.FAILED
    if not any(place.files.get("memory_mb") == "memory.max" for place in places()):
        assert job.outcome.exit_code == 0  # elsewhere the kernel ends all of the job
    assert "Its memory limit of 100 MB was reached." in (job.outcome.reason or "")


@needs_memory
@needs_processes
async def test_without_wishes_the_settings_count(service: Service, home: Path) -> None:
    job = await bash(service, "cat /proc/self/oom_score_adj; sleep 600")
    limits = read_limits(service.directory(job))
    assert limits is not None
    assert limits.processes == 4096 == _limit_in_force(job, home, "pids.max")
    memory = int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20) * 9 // 10
    assert limits.memory_mb == memory
    await until(lambda: service.last_line(job) == ("stdout", "500"))
    await service.cancel(job.id, grace_s=0)


async def test_no_limit_is_claimed_when_none_is_wanted(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUTLAST_MAX_PROCESSES", "0")
    async with open_service() as service:
        job = await launch(service, "true", wait_s=20)
        limits = read_limits(service.directory(job))
        assert limits is None or limits.processes is None


async def test_an_orphan_ends_at_its_time_limit(service: Service, home: Path) -> None:
    script = "trap '' TERM; (setsid sleep 601 & echo $!); echo $$; while :; do sleep 0.1; done"
    job = await bash(service, script, time_limit_s=3)
    log = service.directory(job).stdout
    await until(lambda: len(log.read_text(encoding="utf-8").split()) == 2)
    pids = [int(word) for word in log.read_text(encoding="utf-8").split()]
    kill(*shim_pids(home))
    manifest = service.directory(job).launch_manifest
    text = manifest.read_text(encoding="utf-8").replace('"grace_s": 10.0', '"grace_s": 0.2')
    manifest.write_text(text, encoding="utf-8")
    job = await ended(service, job.id)
    assert (job.state, job.outcome.exit_code) == (State.LOST, None)
    assert "ended at its time limit of 3 s" in (job.outcome.reason or "")
    assert [pid for pid in pids if is_running(pid)] == []


async def test_what_an_orphan_leaves_is_ended(service: Service, home: Path) -> None:
    """The command ends by itself; nobody but the keeper can end what it started."""
    job = await bash(service, "setsid sleep 601 & echo $!; until [ -e go ]; do sleep 0.05; done")
    log = service.directory(job).stdout
    await until(lambda: log.read_text(encoding="utf-8"))
    kill(*shim_pids(home))
    (service.directory(job).work / "go").touch()
    assert (await ended(service, job.id)).state is State.LOST
    assert not is_running(int(log.read_text(encoding="utf-8")))


@pytest.mark.skipif(not places(), reason="no cgroup can be made here; `outlast doctor` says why")
@pytest.mark.parametrize("pause_s", [0.02, 0.0005])
async def test_no_daemon_of_an_orphan_escapes(service: Service, home: Path, pause_s: float) -> None:
    """Daemons that start one another, without the job's environment: only a cgroup knows them."""
    code = (
        "import os, time\nwhile True:\n if os.fork(): os._exit(0)\n"
        f" os.setsid(); time.sleep({pause_s})"
    )
    job = await bash(service, f"env -i {PYTHON} -S -c '{code}' & sleep 600")
    await until(lambda: len(_members(job, home)) >= 2)
    kill(*shim_pids(home))
    await until(lambda: not shim_pids(home))
    await asyncio.sleep(0.1)
    await service.cancel(job.id, grace_s=0)
    assert (await ended(service, job.id)).state is State.LOST
    assert cgroups_of(home) == []  # the kernel removes none that a process is in


@pytest.mark.skipif(not places(), reason="no cgroup can be made here; `outlast doctor` says why")
async def test_a_cgroup_that_nobody_removed_goes_with_the_next_keeper(
    service: Service, home: Path
) -> None:
    done = await launch(service, "true", wait_s=20)
    state = Home(home)
    name = Confinement(state).name(state.job(done.project, done.id))
    folder = places()[0].folder / name
    folder.mkdir()
    assert cgroups_of(home) == [folder]
    await until(lambda: not shim_pids(home))
    await until(lambda: keeper_pid(home) is None)
    await launch(service, "true", wait_s=20)
    await until(lambda: cgroups_of(home) == [])
