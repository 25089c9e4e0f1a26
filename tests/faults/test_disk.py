"""A disk that is full, small or read-only: nothing is lost, and what is refused says why."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.batching import LOCAL
from jobs.cancel import wish_cancel
from jobs.engines.local import LocalEngine
from jobs.errors import DiskFullError, StateDirectoryError
from jobs.keeper import Keeper
from jobs.keeping import CANCEL, send
from jobs.model import LaunchRequest, Progress
from jobs.paths import Home
from jobs.rebuild import entries, rebuild
from jobs.service import Service
from jobs.settings import load_settings
from jobs.states import State
from jobs.store import Store
from server.wiring import open_service
from tests.support.launching import bash, launch
from tests.support.mounts import fill, mount, small_disk
from tests.support.processes import end_all_of, is_running, keeper_pid, kill, shim_pids
from tests.support.server import stdio_server
from tests.support.wait import ended, in_state, until


@pytest.fixture
def disk(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """`home` on a disk of 20 MB of its own."""
    monkeypatch.setenv("OUTLAST_DISK_REFUSE_MB", "2")
    with small_disk(home, 20):
        yield home
        end_all_of(home)


def waiting_for(gate: Path, code: int) -> str:
    return f"while [ ! -e {gate} ]; do sleep 0.05; done; exit {code}"


async def test_exit_codes_are_kept_on_a_full_disk_and_all_goes_on(
    disk: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    async with open_service() as service:
        jobs = [await bash(service, waiting_for(gate, code)) for code in (0, 3, 7)]
        filler = fill(disk)
        gate.touch()
        await until(lambda: not shim_pids(disk))
        with pytest.raises(DiskFullError, match="free") as refused:
            await launch(service, "true")
        assert "free space" in refused.value.next_step
        for job in jobs:  # nobody is told something false meanwhile
            assert (await service.job(job.id)).state in (State.RUNNING, State.COMPLETED)
        kill(keeper_pid(disk) or 0)  # the exit codes are on the disk, not in its memory
        filler.unlink()
        codes = [(await ended(service, job.id)).outcome.exit_code for job in jobs]
        assert codes == [0, 3, 7]
        assert (await launch(service, "true", wait_s=15)).state is State.COMPLETED
    assert not list(disk.glob("jobs/*/.new-*"))


async def test_a_job_that_fills_the_disk_can_be_cancelled(disk: Path) -> None:
    async with open_service() as service:
        job = await bash(service, "cat /dev/zero > big; sleep 600")
        big = service.directory(job).work / "big"
        await until(lambda: os.statvfs(disk).f_bavail == 0, what=str(big))
        with contextlib.suppress(DiskFullError):  # the index may still have a little room
            await service.cancel(job.id, grace_s=0.1, wait_s=0)
        await until(lambda: not shim_pids(disk))
        big.unlink()
        assert (await ended(service, job.id)).state is State.CANCELLED


class FullFor(Store):
    """An index that has no more room for what is told of one job."""

    job_id = ""

    async def set_progress(self, job_id: str, progress: Progress) -> None:
        if job_id == self.job_id:
            raise DiskFullError("The disk is full.")
        await super().set_progress(job_id, progress)


async def test_a_job_that_cannot_be_noted_keeps_no_other_from_being_ended(
    service: Service, home: Path
) -> None:
    talks = await bash(service, "while :; do echo outlast: progress 0.$RANDOM; sleep 0.1; done")
    fills = await launch(service, "sleep", "600")
    await in_state(service, fills.id, State.RUNNING)
    kill(keeper_pid(home) or 0)
    settings = load_settings()
    store = await FullFor.open(Home(home).database, lambda: entries(Home(home)))
    store.job_id = talks.id
    engine = LocalEngine(Home(home).wake, [sys.executable, "-c", "pass"])
    keeper = Keeper(store=store, engines={LOCAL: engine}, home=Home(home), settings=settings)
    try:
        wished = await store.get(fills.id)
        assert wished is not None
        await wish_cancel(store, Home(home), wished, reason=None, grace_s=0)

        said = service.directory(talks).stdout

        async def has_ended() -> bool:
            before = said.stat().st_size
            await until(lambda: said.stat().st_size > before)  # so that each pass has to note it
            await keeper._pass_or_pause()
            return service.directory(fills).exit.exists()

        await until(has_ended)
    finally:
        await store.close()


async def test_a_wish_that_cannot_be_written_down_is_carried_out(
    service: Service, home: Path
) -> None:
    job = await launch(service, "sleep", "60")
    assert send(home=Home(home), order=CANCEL + job.id.encode())
    assert (await ended(service, job.id)).state is State.CANCELLED


async def test_a_checkpoint_for_whose_copy_there_is_no_room_is_told(disk: Path) -> None:
    async with open_service() as service:
        script = "head -c 11000000 /dev/zero > checkpoint"
        wish = LaunchRequest(manifest="shell-script", params={"script": script})
        first = (await service.launch(wish, client="test")).job
        assert (await ended(service, first.id)).state is State.COMPLETED
        with pytest.raises(DiskFullError, match="10 MB are to be copied") as refused:
            await service.launch(LaunchRequest(resume_from=first.id), client="test")
        assert "free space" in refused.value.next_step
    assert not list(disk.glob("jobs/*/.new-*"))


async def test_a_full_disk_can_be_pruned(disk: Path) -> None:
    async with open_service() as service:
        job = await bash(service, "head -c 3000000 /dev/zero > big", wait_s=10)
        other = await bash(service, "exit 1", wait_s=10)
        await until(lambda: keeper_pid(disk) is None)
        fill(disk)
        chosen = await service.pruner.choose(
            older_than_s=0, keep_bytes=None, states={State.COMPLETED}
        )
        assert [item.job.id for item in chosen] == [job.id]
        assert await service.pruner.remove(job)
        assert not service.directory(job).root.exists()
        assert (await service.job(other.id)).state is State.FAILED
        assert (await launch(service, "true", wait_s=15)).state is State.COMPLETED


async def test_an_index_that_cannot_be_made_anew_is_the_old_one(disk: Path) -> None:
    async with open_service() as service:
        job = await launch(service, "true", wait_s=15)
        await until(lambda: keeper_pid(disk) is None)
        filler = fill(disk)
        before = sorted(path.name for path in disk.glob("*outlast.db*"))
        for _ in range(2):
            with pytest.raises(DiskFullError):
                rebuild(Home(disk))
        assert sorted(path.name for path in disk.glob("*outlast.db*")) == before
        assert (await service.job(job.id)).state is State.COMPLETED
    async with open_service() as service:
        assert (await service.job(job.id)).state is State.COMPLETED
        filler.unlink()
        rebuild(Home(disk))
        assert (await service.job(job.id)).state is State.COMPLETED


async def test_little_room_is_told_before_there_is_none(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stdio_server() as (client, _):
        reply = await client.call_tool("launch_job", {"command": ["sleep", "60"]})
        assert "Warning: The disk that holds" in reply.content[0].text  # type: ignore[union-attr]
        assert reply.structured_content is not None
        call = {"job_id": reply.structured_content["job_id"]}
        reply = await client.call_tool("job_status", call)
        assert "MB free; `outlast prune`" in reply.content[0].text  # type: ignore[union-attr]
        assert reply.structured_content is not None
        assert "MB free; `outlast prune`" in reply.structured_content["warning"]
        fill(disk, leave_bytes=1 << 20)
        reply = await client.call_tool("launch_job", {"command": ["true"]})
        text = reply.content[0].text  # type: ignore[union-attr]
        assert text.startswith("error disk_full: The disk that holds")
        assert "disk_refuse_mb = 2" in text


async def test_a_read_only_state_directory_is_told(disk: Path) -> None:
    async with open_service() as service:
        job = await launch(service, "true", wait_s=10)
        await until(lambda: keeper_pid(disk) is None and not shim_pids(disk))
    mount("-o", "remount,ro", str(disk))
    try:
        async with stdio_server() as (client, _):
            for tool, arguments in (
                ("launch_job", {"command": ["true"]}),
                ("job_status", {"job_id": job.id}),
            ):
                reply = await client.call_tool(tool, arguments)
                text = reply.content[0].text  # type: ignore[union-attr]
                assert text.startswith("error state_directory_unusable:"), text
                assert "read-only" in text.lower() or "readonly" in text, text
            mount("-o", "remount,rw", str(disk))
            reply = await client.call_tool("job_status", {"job_id": job.id})
            assert reply.structured_content is not None
            assert reply.structured_content["state"] == "completed"
    finally:
        mount("-o", "remount,rw", str(disk))


async def test_a_keeper_leaves_when_its_state_directory_is_gone(home: Path, tmp_path: Path) -> None:
    async with open_service() as service:
        job = await launch(service, "sleep", "60")
        keeper = keeper_pid(home)
        (shim,) = shim_pids(home)
        shutil.rmtree(home)
        assert keeper is not None
        await until(lambda: not is_running(keeper))
        with pytest.raises(StateDirectoryError, match="is gone"):
            await service.job(job.id)
        # The shim notices by itself that nobody can look at its job any more, and ends it.
        await until(lambda: not is_running(shim), seconds=30)
