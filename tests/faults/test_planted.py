"""Jobs can write where Outlast keeps its records of them: what they plant or close there stops
nobody."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from pathlib import Path

import pytest

from jobs.errors import StateDirectoryError
from jobs.service import Service
from jobs.states import State
from server.wiring import open_service
from tests.support.cli import CLI, ROOT
from tests.support.launching import bash
from tests.support.wait import ended, until

PLANTS = {
    "FIFO": "mkfifo {}",
    "link to what has no end": "ln -s /dev/zero {}",
    "link to a file of others": "ln -s $OTHERS {}",
    "unreadable": "touch {0}; chmod 0 {0}",
    "folder": "mkdir {0}; touch {0}/x",
    "sparse terabyte": "truncate -s 1T {}",
    "text": "echo {{}} > {}",
}
NAMES = (
    "run.json",
    "started",
    "exit",
    "cancel.json",
    "batch.json",
    "progress.jsonl",
    "lock",
    "ctl",
    "job.json",
    "README.md",
)


#: What a job may do to itself, and the exit code that is known all the same.
CLOSED = {
    "files and folders without write permission": "mkdir -p a/b; touch a/b/c; chmod -R a-w .",
    "folders within": "mkdir a; touch a/b; chmod 0 a",
    "its working directory": "touch a; chmod 0 .",
    "its directory to writers": 'chmod 500 "$OUTLAST_JOB_DIR"',
    "its directory": 'chmod 0 "$OUTLAST_JOB_DIR"',
    "its records": 'chmod 0 "$OUTLAST_JOB_DIR"/* "$OUTLAST_JOB_DIR"/.exit*',
}
#: Root without what lets it read and write whatever it likes.
ORDINARY = ["setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner"]
AS_USER = [*(ORDINARY if os.geteuid() == 0 else []), *CLI]


@pytest.fixture
async def ordinary(service: Service, home: Path) -> Service:
    """The service, whose jobs are run by a keeper that is no more than an ordinary user."""
    await as_user("launch", "--", "sleep", "600")  # so long it stays
    return service


async def as_user(*words: str) -> bytes:
    process = await asyncio.create_subprocess_exec(
        *AS_USER, *words, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, out
    return out


@pytest.mark.parametrize("plant", PLANTS)
async def test_whatever_is_planted_each_job_ends(
    ordinary: Service, home: Path, plant: str, tmp_path: Path
) -> None:
    service = ordinary
    others = Path("/etc/hostname")
    if os.geteuid() == 0:
        others = tmp_path / "others"
        others.write_text("not ours", encoding="utf-8")
        os.chown(others, 65534, 65534)
        others.chmod(0o600)
    before = others.read_bytes()
    planted = []
    for name in NAMES:
        place = PLANTS[plant].format(name)
        script = f'cd "$OUTLAST_JOB_DIR"; rm -rf {name}; {place}; echo "outlast: progress 0.5 half"'
        env = {"OTHERS": str(others)}
        planted.append(await bash(service, f"{script}; exit 3", name=f"{plant}: {name}", env=env))
    other = await bash(service, "true")
    assert (await ended(service, other.id)).state is State.COMPLETED
    for job in planted:
        final = await ended(service, job.id)
        assert final.state in (State.FAILED, State.LOST), (final.name, final)
        with contextlib.suppress(StateDirectoryError):  # which says what cannot be read
            await service.tail(job.id)
        with contextlib.suppress(StateDirectoryError):
            await service.list_artifacts(job.id)
    readable = [job for job in planted if not job.name.endswith("job.json")]
    states = {job.id: (await service.job(job.id)).state for job in readable}
    for index in home.glob("outlast.db*"):
        index.unlink()
    async with asyncio.timeout(60), open_service() as anew:
        for job_id, state in states.items():
            assert (await anew.job(job_id)).state is state
    assert others.read_bytes() == before


async def test_whatever_a_job_closes_it_ends_and_is_pruned(ordinary: Service, home: Path) -> None:
    jobs = [await bash(ordinary, f"{script}; exit 3", name=name) for name, script in CLOSED.items()]
    for job in jobs:
        final = await ended(ordinary, job.id)
        assert (final.state, final.outcome.exit_code) == (State.FAILED, 3), (final.name, final)
    told = json.loads(await as_user("prune", "--older-than", "0s", "--yes", "--json"))
    assert (told["removed"], told["left"]) == (len(jobs), [])
    assert [path.name for path in home.glob("jobs/*/.gone-*")] == []
    assert (await ordinary.list_jobs(state=State.FAILED)).jobs == []


@pytest.mark.parametrize("plant", [*PLANTS.values(), "chmod 0 {}", "true"])
async def test_a_job_that_takes_its_orders_away_is_cancelled(
    ordinary: Service, plant: str, tmp_path: Path
) -> None:
    place = plant.format("ctl").replace("$OTHERS", "/etc/hostname")
    taken = "" if place.startswith("chmod") else "rm ctl; "
    script = f'cd "$OUTLAST_JOB_DIR"; {taken}{place}; touch {tmp_path}/done; sleep 600'
    job = await bash(ordinary, script)
    await until((tmp_path / "done").exists)
    assert (await ordinary.cancel(job.id, reason="enough", wait_s=0)).id == job.id
    final = await ended(ordinary, job.id)
    assert (final.state, final.outcome.signal) == (State.CANCELLED, "SIGTERM"), final
    assert "enough" in (final.outcome.reason or "")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away: sudo pytest")
async def test_what_others_own_in_a_pruned_job_is_told(ordinary: Service, home: Path) -> None:
    """As a container leaves it."""
    job = await bash(ordinary, "mkdir a; touch a/b", wait_s=20)
    folder = ordinary.directory(job).work / "a"
    os.chown(folder, 65534, 65534)
    told = json.loads(await as_user("prune", "--older-than", "0s", "--yes", "--json"))
    assert told["removed"] == 1
    assert [path.name for path in home.glob("jobs/*/.gone-*")] == [Path(told["left"][0]).name]
