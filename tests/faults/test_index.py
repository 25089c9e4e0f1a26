"""The index is deleted, damaged, locked or old: nothing is lost, and nobody has to restart."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from jobs import index
from jobs.errors import IndexBusyError, StateDirectoryError
from jobs.model import Job, LaunchRequest
from jobs.paths import Home
from jobs.rebuild import rebuild
from jobs.service import Service
from jobs.settings import load_settings
from jobs.states import State
from server.wiring import open_service, open_store
from tests.support.launching import bash, launch
from tests.support.processes import end_all_of, keeper_pid
from tests.support.server import stdio_server
from tests.support.wait import ended, in_state, until

#: What an index that is made anew cannot know, because it is not worth a file.
PASSING = {"seq", "changed_at", "heartbeat_at", "wait_reason"}


def facts(job: Job) -> dict[str, object]:
    return job.model_dump(exclude=PASSING)


def delete(home: Path) -> None:
    for path in home.glob("outlast.db*"):
        path.unlink()


def truncate(home: Path) -> None:
    path = (home / "outlast.db").resolve()
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    path.with_name(path.name + "-wal").unlink(missing_ok=True)


def empty(home: Path) -> None:
    delete(home)
    (home / "outlast.db").touch()


def overwrite(home: Path) -> None:
    path = (home / "outlast.db").resolve()
    path.write_bytes(b"garbage" * 10_000)
    path.with_name(path.name + "-wal").unlink(missing_ok=True)


def scribble(home: Path) -> None:
    """Over the schema, which does not show before a statement names a table."""
    path = (home / "outlast.db").resolve()
    with path.open("r+b") as file:
        file.seek(200)
        file.write(b"garbage" * 500)
    path.with_name(path.name + "-wal").unlink(missing_ok=True)


async def jobs_of_every_kind(service: Service, tmp_path: Path) -> list[str]:
    """IDs of jobs in every state that lasts; the last ones are running and queued."""
    source = tmp_path / "input.txt"
    source.write_text("data", encoding="utf-8")
    made = [
        await bash(service, "echo hi > out.txt; echo 50 %", wait_s=10, project="a"),
        await bash(service, "exit 7", wait_s=10, name="fails"),
        await bash(service, "kill -9 $$", wait_s=10, env={"MY_TOKEN": "secret"}),
        await launch(service, "sleep", "60", time_limit_s=0.2, wait_s=10, idempotency_key="k"),
        await launch(service, "cat", "input.txt", inputs=[str(source)], wait_s=10),
    ]
    stopped = await launch(service, "sleep", "60")
    made.append(await service.cancel(stopped.id, reason="enough"))
    assert all(job.is_final for job in made)
    made.append(await launch(service, "sleep", "60", resources={"cores": 8}))
    made.append(await bash(service, "exit 3", resources={"cores": 2}))
    made.append(await launch(service, "true", resources={"cores": 2}))
    return [job.id for job in made]


async def test_an_index_made_anew_equals_what_was_there(
    service: Service, home: Path, tmp_path: Path
) -> None:
    job_ids = await jobs_of_every_kind(service, tmp_path)
    before = [facts(await service.job(job_id)) for job_id in job_ids]
    files = [(await service.list_artifacts(job_id)).scan for job_id in job_ids]
    listed = [job.id for job in (await service.list_jobs()).jobs]
    assert rebuild(Home(home)).jobs == len(job_ids)
    after = [facts(await service.job(job_id)) for job_id in job_ids]
    assert after == before
    assert [(await service.list_artifacts(job_id)).scan for job_id in job_ids] == files
    assert [job.id for job in (await service.list_jobs()).jobs] == listed
    # Life goes on: what runs can be cancelled, what waits runs, a known key gives its job.
    again = LaunchRequest(command=["sleep", "60"], time_limit_s=0.2, idempotency_key="k")
    assert (await service.launch(again, client=None)).job.id == job_ids[3]
    assert (await service.cancel(job_ids[-3])).state is State.CANCELLED
    assert (await ended(service, job_ids[-2])).outcome.exit_code == 3
    assert (await ended(service, job_ids[-1])).state is State.COMPLETED


@pytest.mark.parametrize("harm", [delete, truncate, empty, overwrite, scribble])
async def test_server_and_keeper_go_on_when_the_index_is_harmed(
    service: Service, home: Path, tmp_path: Path, harm: object
) -> None:
    gate = tmp_path / "gate"
    done = await bash(service, "exit 4", wait_s=10)
    running = await bash(service, f"while [ ! -e {gate} ]; do sleep 0.05; done; exit 5")
    keeper = keeper_pid(home)
    harm(home)  # type: ignore[operator]
    assert (await service.job(done.id)).outcome.exit_code == 4
    assert (await service.job(running.id)).state is State.RUNNING
    assert (await launch(service, "true", wait_s=15)).state is State.COMPLETED
    gate.touch()
    assert (await ended(service, running.id)).outcome.exit_code == 5
    assert keeper_pid(home) == keeper
    async with open_service() as other:
        assert len((await other.list_jobs()).jobs) == 3


async def test_jobs_that_end_while_there_is_no_index_keep_their_exit_codes(home: Path) -> None:
    async with open_service() as service:
        job = await bash(service, "sleep 0.5; exit 6")
        keeper = keeper_pid(home)
        assert keeper is not None
        os.kill(keeper, signal.SIGKILL)
        delete(home)
    async with stdio_server() as (client, _):

        async def is_failed() -> bool:
            reply = await client.call_tool("job_status", {"job_id": job.id, "wait_s": 5})
            assert reply.structured_content is not None
            return bool(reply.structured_content["state"] == "failed")

        await until(is_failed)
        reply = await client.call_tool("job_status", {"job_id": job.id})
        assert reply.structured_content is not None
        assert reply.structured_content["outcome"]["exit_code"] == 6


async def test_an_index_is_made_anew_while_jobs_are_launched(service: Service, home: Path) -> None:
    """Whatever the moment of the exchange: no job is lost, none runs twice."""
    witness = home.parent / "witness"
    exchanging = True

    async def exchange() -> int:
        times = 0
        while exchanging:
            await asyncio.to_thread(rebuild, Home(home))
            times += 1
        return times

    task = asyncio.get_running_loop().create_task(exchange())
    jobs = []
    while len(jobs) < 60:
        with contextlib.suppress(IndexBusyError):  # says: call again in a moment
            jobs.append(await bash(service, f"echo $OUTLAST_JOB_ID >> {witness}", wait_s=0))
    exchanging = False
    assert await task > 3
    for job in jobs:
        assert (await ended(service, job.id)).state is State.COMPLETED
    ran = witness.read_text(encoding="utf-8").split()
    assert sorted(ran) == sorted(job.id for job in jobs)


async def test_a_copied_directory_does_not_become_a_job(service: Service, home: Path) -> None:
    job = await launch(service, "true", wait_s=10, idempotency_key="k")
    root = service.directory(job).root
    shutil.copytree(root, root.with_name(root.name[:-5] + "zzzzz"), ignore=lambda *_: ["ctl"])
    (root.parent / "job-20260101-000000-broken-aaaaa").mkdir()
    rebuilt = rebuild(Home(home))
    assert rebuilt.jobs == 1
    assert sorted(reason.split(": ")[1][:12] for reason in rebuilt.left_out) == [
        "[Errno 2] No",
        "its job.json",
    ]
    assert (await service.job(job.id)).state is State.COMPLETED


async def test_a_state_directory_can_be_moved(service: Service, home: Path) -> None:
    job = await bash(service, "echo result > out.txt", wait_s=10)
    await until(lambda: keeper_pid(home) is None)
    await service._store.close()
    moved = home.rename(home.with_name("moved"))
    delete(moved)
    async with open_service(load_settings(home=moved)) as there:
        _, content = await there.read_artifact(job.id, "out.txt")
        assert content.text == "result\n"
        assert [a.path for a in (await there.list_artifacts(job.id)).artifacts] == ["out.txt"]


async def test_a_state_directory_that_is_gone_is_not_made_anew_by_who_had_it(
    service: Service, home: Path
) -> None:
    job = await launch(service, "true", wait_s=10)
    end_all_of(home)
    shutil.rmtree(home)
    for _ in range(2):
        with pytest.raises(StateDirectoryError, match="is gone"):
            await service.job(job.id)
        with pytest.raises(StateDirectoryError, match="is gone"):
            await launch(service, "true")
    assert not home.exists()


async def test_a_locked_index_is_told_within_the_time_of_a_call(
    service: Service, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await launch(service, "true", wait_s=10)
    monkeypatch.setattr(index, "BUSY_S", 0.2)
    async with open_service() as hurried:
        db = sqlite3.connect(home / "outlast.db", isolation_level=None)
        db.execute("BEGIN EXCLUSIVE")
        assert (await hurried.job(job.id)).state is State.COMPLETED  # reading needs no lock
        with pytest.raises(IndexBusyError, match="locked"):
            await launch(hurried, "true")
        db.execute("COMMIT")
        db.close()
        assert (await launch(hurried, "true", wait_s=10)).state is State.COMPLETED
    names = {path.name for path in home.glob("jobs/*/*")}
    assert len(names) == 2  # of the refused launch nothing is left


async def test_an_index_that_is_being_made_is_waited_for(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "BUSY_S", 0.2)
    home.mkdir()
    lock = index._lock(home / "outlast.db", fcntl.LOCK_EX)
    with pytest.raises(IndexBusyError, match="made anew"):
        await open_store(Home(home))
    os.close(lock)
    await (await open_store(Home(home))).close()


async def test_an_old_index_is_migrated(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By as many processes as there are at once, and what it held is still there."""
    home.mkdir()
    path = home / "outlast.db"
    first = index._scripts()[:1]
    monkeypatch.setattr(index, "_scripts", lambda: first)
    os.close(index.prepare(path, tuple)[1])
    db = sqlite3.connect(path)
    db.execute(
        "INSERT INTO job (id, project, name, engine, state, cores, memory_mb, gpus, "
        "request_sha256, created_at, changed_at) "
        "VALUES ('old', 'p', 'n', 'local', 'completed', 1, 0, 0, '', 1, 1)"
    )
    db.commit()
    db.close()
    new = [*first, "ALTER TABLE job ADD COLUMN new TEXT NOT NULL DEFAULT 'x';\n"]
    monkeypatch.setattr(index, "_scripts", lambda: new)
    opening = [asyncio.to_thread(index.prepare, path, tuple) for _ in range(8)]
    for _, lock in await asyncio.gather(*opening):
        os.close(lock)
    db = sqlite3.connect(path)
    assert db.execute("SELECT id, new FROM job").fetchall() == [("old", "x")]
    assert db.execute("PRAGMA user_version").fetchone() == (2,)
    db.close()


async def test_an_index_can_be_made_anew_by_command(service: Service, home: Path) -> None:
    job = await launch(service, "true", wait_s=10)
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "server", "doctor", "--rebuild", "--json"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, json.loads(done.stdout)) == (0, {"jobs": 1, "left_out": []})
    assert (await in_state(service, job.id, State.COMPLETED)).id == job.id


async def test_what_is_just_being_started_is_not_queued_in_an_index_made_anew(
    service: Service, home: Path
) -> None:
    """Else a cancel would make it final while its supervisor is about to run it."""
    await launch(service, "sleep", "60", resources={"cores": 8})
    job = await launch(service, "true", resources={"cores": 2})
    keeper = keeper_pid(home)
    assert keeper is not None
    os.kill(keeper, signal.SIGKILL)
    with service.directory(job).lock.open("wb") as lock:  # a keeper has died behind this
        fcntl.flock(lock, fcntl.LOCK_EX)
        rebuild(Home(home))
        assert (await service.job(job.id)).state is State.STARTING
    assert (await service.cancel(job.id)).state is State.CANCELLED


async def test_a_job_that_was_told_of_is_in_an_index_made_anew(
    service: Service, home: Path
) -> None:
    """Though the server that accepted it died before it named the directory."""
    await launch(service, "sleep", "60", resources={"cores": 8})
    job = await launch(service, "true", resources={"cores": 2}, idempotency_key="k")
    service.directory(job).root.rename(Home(home).unborn(job.project, job.id).root)
    again = await launch(service, "true", resources={"cores": 2}, idempotency_key="k")
    assert again.id == job.id
    assert rebuild(Home(home)).jobs == 2
    assert (await service.job(job.id)).state is State.QUEUED
