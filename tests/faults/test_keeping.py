"""Keepers that cannot start, are old, or find their index gone."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from pathlib import Path

import pytest

from jobs.errors import SettingsError
from jobs.model import LaunchRequest
from jobs.service import Service
from jobs.settings import load_settings
from jobs.states import State
from server.wiring import open_service
from tests.support.cli import ROOT
from tests.support.launching import PYTHON, bash, launch
from tests.support.processes import is_running, keeper_pid, kill, shim_pids
from tests.support.wait import ended, until


async def test_asking_needs_no_keeper(service: Service, home: Path) -> None:
    job = await launch(service, "sleep", "60")
    keeper = keeper_pid(home)
    assert keeper is not None
    (home.parent / "config.toml").write_text("nonsense = 1\n", encoding="utf-8")
    kill(keeper)
    await until(lambda: not is_running(keeper))
    began = time.monotonic()
    assert (await service.job(job.id)).state is State.RUNNING
    assert (await service.job(job.id)).state is State.RUNNING
    assert len((await service.list_jobs()).jobs) == 1
    assert not (await service.cancel(job.id, wait_s=0)).is_final
    assert time.monotonic() - began < 10  # three attempts at most, each of two seconds
    (home.parent / "config.toml").write_text("", encoding="utf-8")
    await service.cancel(job.id)
    assert (await ended(service, job.id)).state is State.CANCELLED


async def test_an_older_keeper_makes_room_for_a_newer(service: Service, home: Path) -> None:
    job = await bash(service, "sleep 1; exit 4")
    old = keeper_pid(home)
    assert old is not None
    lock = home / "keeper.lock"
    lock.write_text(lock.read_text(encoding="utf-8").replace("0.1.0", "0.0.1"), encoding="utf-8")
    again = await launch(service, "true", wait_s=15)
    assert again.state is State.COMPLETED
    assert keeper_pid(home) not in (None, old)
    await until(lambda: not is_running(old))
    assert (await ended(service, job.id)).outcome.exit_code == 4


@pytest.mark.parametrize("gone", ["keeper.lock", "wake", "all"])
async def test_a_keeper_that_nobody_finds_any_more_makes_room_for_another(
    service: Service, home: Path, gone: str
) -> None:
    job = await launch(service, "sleep", "60")
    old = keeper_pid(home)
    assert old is not None
    if gone == "all":
        home.rename(home.with_name("before"))
    else:
        (home / gone).unlink()
    async with open_service() as another:
        again = await launch(another, "true", wait_s=15)
        assert again.state is State.COMPLETED
        await until(lambda: not is_running(old))
        assert keeper_pid(home) != old
        if gone != "all":
            assert (await another.job(job.id)).state is State.RUNNING


async def test_the_keeper_reads_the_configuration_that_the_server_reads(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OUTLAST_CORES")
    monkeypatch.chdir(home.parent)
    monkeypatch.setenv("OUTLAST_CONFIG", "config.toml")
    (home.parent / "config.toml").write_text("cores = 1\n", encoding="utf-8")
    async with open_service(load_settings()) as service:
        states = [(await launch(service, "sleep", "60")).state for _ in range(2)]
    assert states == [State.RUNNING, State.QUEUED]
    monkeypatch.setenv("OUTLAST_CONFIG", "no-such.toml")
    with pytest.raises(SettingsError, match=r"no-such\.toml"):
        load_settings()


async def test_a_job_that_can_never_fit_says_so(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUTLAST_CORES", "1")
    async with open_service() as service:
        await launch(service, "sleep", "60")  # brings a keeper that may give one core
    monkeypatch.setenv("OUTLAST_CORES", "8")
    async with open_service() as service:
        job = await launch(service, "true", resources={"cores": 4})
        assert "more than this keeper may give" in (job.wait_reason or "")


async def test_a_retry_needs_nothing_of_what_the_first_launch_used(
    service: Service, tmp_path: Path
) -> None:
    source = tmp_path / "input"
    source.touch()
    request = LaunchRequest(command=["true"], inputs=[str(source)], idempotency_key="k")
    first = await service.launch(request, client=None, wait_s=10)
    source.unlink()
    again = await service.launch(request, client=None, wait_s=0)
    assert (again.job.id, again.reused) == (first.job.id, True)


async def test_a_keeper_is_brought_back_once_a_launch_has_shown_that_it_can_be(
    service: Service, home: Path
) -> None:
    job = await launch(service, "sleep", "60")

    async def kill_keeper() -> None:
        keeper = keeper_pid(home)
        assert keeper is not None
        kill(keeper)
        await until(lambda: not is_running(keeper))

    (home.parent / "config.toml").write_text("nonsense = 1\n", encoding="utf-8")
    await kill_keeper()
    await service.job(job.id)  # tries in vain, and no more from now on
    (home.parent / "config.toml").write_text("", encoding="utf-8")
    await launch(service, "true", wait_s=10)
    await kill_keeper()
    await service.job(job.id)  # once is enough
    await until(lambda: keeper_pid(home))


async def test_reads_try_again_after_a_while_to_bring_a_keeper(
    service: Service, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await launch(service, "sleep", "60")
    keeper = keeper_pid(home)
    assert keeper is not None
    (home.parent / "config.toml").write_text("nonsense = 1\n", encoding="utf-8")
    kill(keeper)
    monkeypatch.setattr("jobs.enquiries.KEEPER_AGAIN_S", 0.0)
    await service.job(job.id)  # in vain
    await until(lambda: keeper_pid(home) is None)
    (home.parent / "config.toml").write_text("", encoding="utf-8")

    async def is_back() -> bool:  # one that had read the old configuration may just be leaving
        await service.job(job.id)
        return keeper_pid(home) is not None

    await until(is_back)


@pytest.mark.parametrize("wait_for_its_end", [False, True])
async def test_one_read_brings_a_keeper_back_while_the_kernel_still_takes_the_old_one_apart(
    service: Service, home: Path, wait_for_its_end: bool
) -> None:
    """Its lock is held, and its FIFO open, for some milliseconds after it was killed."""
    job = await launch(service, "sleep", "60")
    for _ in range(6):
        old = keeper_pid(home)
        assert old is not None
        kill(old)
        if wait_for_its_end:
            await until(lambda pid=old: not is_running(pid))
        await service.job(job.id)
        await until(lambda pid=old: keeper_pid(home) not in (None, pid))


async def test_a_job_that_launches_jobs_starts_no_keeper_that_would_end_with_it(
    service: Service, home: Path
) -> None:
    launching = f"{PYTHON} -m server launch --json -- sleep 1"
    script = f"while [ ! -e go ]; do sleep 0.05; done; cd {ROOT}; {launching}"
    outer = await bash(service, script, env={"OUTLAST_HOME": str(home)})
    keeper = keeper_pid(home)
    assert keeper is not None
    kill(keeper)
    await until(lambda: not is_running(keeper))
    (service.directory(outer).work / "go").touch()
    await until(lambda: not shim_pids(home) or keeper_pid(home))
    outer = await ended(service, outer.id)
    assert outer.state is State.COMPLETED, outer.outcome
    _, told = await service.tail(outer.id)
    launched = json.loads(told.text)
    assert launched["state"] == "queued"
    assert (await ended(service, launched["job_id"])).state is State.COMPLETED


async def test_a_job_of_an_engine_that_is_not_there_keeps_no_other_from_running(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a later version leaves it in an index that an earlier one still reads."""
    monkeypatch.setenv("OUTLAST_CORES", "1")
    async with open_service() as service:
        running = await launch(service, "sleep", "60")
        waits = await launch(service, "true")
        with contextlib.closing(sqlite3.connect(home / "outlast.db")) as index, index:
            index.execute("UPDATE job SET engine = 'cloud' WHERE id = ?", [waits.id])
        await service.cancel(running.id)
        assert (await launch(service, "true", wait_s=15)).state is State.COMPLETED
        said = (await service.job(waits.id)).wait_reason
        assert said == "waiting for an Outlast that has the engine 'cloud', as this one has not"
        await service.cancel(waits.id)
        assert (await ended(service, waits.id)).state is State.CANCELLED
