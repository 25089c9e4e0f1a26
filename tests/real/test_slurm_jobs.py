"""Jobs on a real cluster, through the service and a keeper: as on this machine."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from jobs.directory import read_launch_manifest, read_record
from jobs.errors import InvalidArgumentError, JobNotFoundError
from jobs.model import Job, LaunchRequest, RunRecord
from jobs.service import Service
from jobs.settings import load_settings
from jobs.states import State
from server.job_replies import headline
from server.wiring import open_service, rebuild_index
from tests.support.countdown import write_kind
from tests.support.launching import bash, launch
from tests.support.processes import all_of, keeper_pid, kill
from tests.support.slurm import Cluster
from tests.support.slurm_engine import alone_on_slurm, batch_of, counted_calls, on_slurm
from tests.support.wait import ended, in_state, until

__all__ = ["alone_on_slurm", "on_slurm"]
pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("on_slurm")]

LATER = '[engines.slurm.profiles.later]\noptions = ["--begin=now+1hour"]\n'


async def start(service: Service, **request: Any) -> Job:
    return (await service.launch(LaunchRequest(engine="slurm", **request), client="test")).job


def configure(home: Path, text: str) -> None:
    (home.parent / "config.toml").write_text(text, encoding="utf-8")


async def until_it_waits(service: Service, job: Job) -> Job:
    async def waits() -> Job | None:
        now = await service.job(job.id)
        return now if "expected start" in (now.wait_reason or "") else None

    waiting = await until(waits, 60)
    assert waiting is not None
    return waiting


async def test_a_job_from_its_launch_to_its_end(service: Service, home: Path) -> None:
    write_kind(home.parent / "manifests")
    job = await start(service, manifest="count", params={"to": 200, "pause_s": 0.03})
    job = await in_state(service, job.id, State.RUNNING, 60)

    async def half_way() -> Job | None:
        now = await service.job(job.id)
        fraction = now.progress.fraction if now.progress else None
        return now if fraction is not None and 0 < fraction < 1 else None

    halfway = await until(half_way, 30)
    assert halfway is not None
    _, excerpt = await service.tail(job.id, lines=2)
    assert "/200 half=" in str(excerpt)
    job = await ended(service, job.id, 60)
    assert (job.state, job.outcome.exit_code) == (State.COMPLETED, 0)
    assert job.outcome.summary == {"last": 200, "inner.twice": 400}
    assert job.progress is not None
    assert job.progress.fraction == 1.0
    page = await service.list_artifacts(job.id)
    assert {"table.csv", "segment.0.txt"} <= {file.path for file in page.artifacts}
    batch = batch_of(service.directory(job))
    assert (service.placement(job) or "").startswith(f"Slurm job {batch.id} on n")
    record = read_record(service.directory(job).run_record, RunRecord)
    assert record is not None
    assert record.batch is not None
    assert record.batch.id == batch.id


async def test_each_end_is_told_as_it_was(service: Service, home: Path, on_slurm: Cluster) -> None:
    def there(script: str, **more: Any) -> Any:
        return bash(service, script, engine="slurm", wait_s=0, **more)

    launched = {
        "exit 0": await there("exit 0"),
        "exit 3": await there("exit 3"),
        "kill -9": await there("kill -9 $$"),
        "exit 139": await there("exit 139"),
        "time limit": await there("exec sleep 60", time_limit_s=1),
        "another hand": await there("exec sleep 60"),
        "too large": await there("true", resources={"memory_mb": 999_999}),
    }
    if on_slurm.has_cgroups:
        launched["memory"] = await there("tail /dev/zero; exit 0", resources={"memory_mb": 60})
    other = await in_state(service, launched["another hand"].id, State.RUNNING, 60)
    subprocess.run(["scancel", str(batch_of(service.directory(other)).id)], check=True, timeout=60)
    jobs = {}
    for name, job in launched.items():
        jobs[name] = await service.job(job.id)
        with contextlib.suppress(AssertionError):
            jobs[name] = await ended(service, job.id, 90)
        assert jobs[name].is_final, (name, jobs[name], service.placement(job))
    told = {
        name: (job.state, job.outcome.exit_code, job.outcome.signal) for name, job in jobs.items()
    }
    expected = {
        "exit 0": (State.COMPLETED, 0, None),
        "exit 3": (State.FAILED, 3, None),
        "kill -9": (State.FAILED, None, "SIGKILL"),
        "exit 139": (State.FAILED, 139, None),
        "time limit": (State.TIMED_OUT, None, "SIGTERM"),
        "another hand": (State.CANCELLED, None, "SIGTERM"),
        "too large": (State.FAILED, None, None),
    }
    assert {name: told[name] for name in expected} == expected
    reason = jobs["too large"].outcome.reason or ""
    assert reason.startswith("slurm refused it: ")
    assert "node configuration is not available" in reason
    assert jobs["too large"].started_at is None
    if on_slurm.has_cgroups:
        assert jobs["memory"].state is State.FAILED
        assert "memory" in (jobs["memory"].outcome.reason or "")


async def test_no_secret_stays_when_a_job_has_ended_in_whatever_way(
    service: Service, home: Path
) -> None:
    secret = {"env": {"KEY_TOKEN": "s3 cret"}, "engine": "slurm"}
    configure(home, LATER)
    async with open_service() as service:
        refused = await launch(service, "true", resources={"memory_mb": 999_999}, **secret)
        ends = await bash(service, "exit ${#KEY_TOKEN}", **secret)
        waits = await launch(service, "true", **{**secret, "engine": "slurm:later"})
        await until_it_waits(service, waits)
        assert service.directory(waits).batch_secrets.exists()
        await service.cancel(waits.id)
        for job in (refused, ends, waits):
            await ended(service, job.id, 60)
            left = [path for path in service.directory(job).root.rglob("*") if path.is_file()]
            assert not [path for path in left if b"s3 cret" in path.read_bytes()]
        assert (await service.job(ends.id)).outcome.exit_code == len("s3 cret")


async def test_nothing_is_counted_twice(service: Service, home: Path) -> None:
    write_kind(home.parent / "manifests")
    first = await start(service, manifest="count", params={"to": 10_000})
    table = service.directory(first).work / "table.csv"
    await until(lambda: table.exists() and table.read_text(encoding="utf-8").count("\n") > 3, 60)
    await service.cancel(first.id, reason="enough")
    first = await ended(service, first.id, 60)
    assert (first.state, first.outcome.resumable) == (State.CANCELLED, True)
    assert first.outcome.reason == "Cancelled: enough"
    to = int(table.read_text(encoding="utf-8").split()[-1]) + 5
    second = await start(service, resume_from=first.id, params={"to": to})
    second = await ended(service, second.id, 60)
    assert (second.state, second.engine) == (State.COMPLETED, "slurm")
    counted = (service.directory(second).work / "table.csv").read_text(encoding="utf-8")
    assert [int(line) for line in counted.split()] == list(range(1, to + 1))


async def test_put_back_into_the_queue_it_is_told_to_wait_again(
    service: Service, home: Path, on_slurm: Cluster
) -> None:
    write_kind(home.parent / "manifests")
    job = await start(service, manifest="count", params={"to": 100_000})
    await in_state(service, job.id, State.RUNNING, 60)
    job_id = str(batch_of(service.directory(job)).id)

    async def says(words: str) -> bool:
        return words in headline(await service.job(job.id))

    on_slurm.control("requeue", job_id)
    await until(lambda: says("waiting again in its queue: not to start before a set time"), 60)
    await on_slurm.begin_anew(job_id)
    await until(lambda: says("running for"), 60)
    await service.cancel(job.id)
    assert (await ended(service, job.id, 60)).state is State.CANCELLED


@pytest.mark.parametrize("told", ["RUNNING", "EXPEDITING"])
async def test_without_a_sign_of_life_a_job_can_be_cancelled(
    on_slurm: Cluster, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str
) -> None:
    """Its node hangs; or Slurm says of it what only a later release means something by."""
    configure(home, LATER)
    with counted_calls(tmp_path / "bin", monkeypatch) as calls:
        calls.instead("squeue", f'"$real" "$@" | sed "s/RUNNING/{told}/"')
        async with open_service() as service:
            job = await launch(service, "true", engine="slurm:later")
            await until_it_waits(service, job)
            job_dir = service.directory(job)
            os.mkfifo(job_dir.root / ".exit.tmp")  # for whose reader its script waits in vain
            on_slurm.control("update", f"jobid={batch_of(job_dir).id}", "starttime=now")
            await until(lambda: batch_of(job_dir).state == told, 60)
            await service.cancel(job.id, reason="it hangs")
            job = await ended(service, job.id, 90)
    assert (job.state, job.outcome.reason) == (State.CANCELLED, "Cancelled: it hangs")


async def test_another_keeper_carries_on(service: Service, home: Path) -> None:
    configure(home, LATER)
    async with open_service() as service:
        runs = await bash(service, "until [ -e go ]; do sleep 0.1; done; exit 7", engine="slurm")
        waits = await launch(service, "true", engine="slurm:later")
        runs = await in_state(service, runs.id, State.RUNNING, 60)
        waiting = await until_it_waits(service, waits)
        assert waiting.state is State.STARTING or waiting.state is State.QUEUED
        keeper = keeper_pid(home)
        assert keeper is not None
        kill(keeper)
        (service.directory(runs).work / "go").touch()
        runs = await ended(service, runs.id, 60)
        assert (runs.state, runs.outcome.exit_code) == (State.FAILED, 7)
        assert not (await service.job(waits.id)).is_final
        await service.cancel(waits.id, reason="not needed")
        waits = await ended(service, waits.id, 60)
        assert (waits.state, waits.started_at) == (State.CANCELLED, None)
        assert waits.outcome.reason == "Cancelled: not needed"


async def test_the_index_is_made_anew_while_jobs_run(service: Service, home: Path) -> None:
    configure(home, LATER)
    async with open_service() as service:
        runs = await bash(service, "until [ -e go ]; do sleep 0.1; done; exit 7", engine="slurm")
        waits = await launch(service, "true", engine="slurm:later")
        runs = await in_state(service, runs.id, State.RUNNING, 60)
        await until_it_waits(service, waits)
        ids = [batch_of(service.directory(job)).id for job in (runs, waits)]
        for path in home.glob("outlast.db*"):
            path.unlink()
        rebuild_index(load_settings())
    async with open_service() as service:
        assert (await service.job(runs.id)).state is State.RUNNING
        assert (await service.job(runs.id)).engine == "slurm"
        await until_it_waits(service, waits)
        (service.directory(runs).work / "go").touch()
        runs = await ended(service, runs.id, 60)
        assert (runs.state, runs.outcome.exit_code) == (State.FAILED, 7)
        await service.cancel(waits.id)
        assert (await ended(service, waits.id, 60)).state is State.CANCELLED
        assert [batch_of(service.directory(job)).id for job in (runs, waits)] == ids


async def test_an_ended_job_is_pruned(service: Service, home: Path) -> None:
    job = await ended(service, (await launch(service, "true", engine="slurm")).id, 60)
    assert await service.pruner.remove(job)
    with pytest.raises(JobNotFoundError):
        await service.job(job.id)
    assert not service.directory(job).root.exists()
    await until(lambda: not all_of(home), 60)
    assert "Traceback" not in (home / "keeper.log").read_text(encoding="utf-8")


async def test_the_users_variables_bend_nothing(
    service: Service, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bending = {
        "SBATCH_PARTITION": "none",
        "SBATCH_TIMELIMIT": "x",
        "SBATCH_ACCOUNT": "none",
        "SBATCH_EXPORT": "NONE",
        "SBATCH_ARRAY_INX": "0-3",
        "SQUEUE_FORMAT": "%A",
        "SQUEUE_STATES": "PENDING",
        "SQUEUE_USERS": "nobody",
        "SACCT_FORMAT": "JobID",
        "SLURM_TIME_FORMAT": "relative",
        "SLURM_JOB_ID": "1",
    }
    for name, value in bending.items():
        monkeypatch.setenv(name, value)
    job = await bash(service, "env | grep -E '^(SBATCH|SQUEUE|SACCT)'; exit 6", engine="slurm")
    job = await ended(service, job.id, 60)
    assert (job.state, job.outcome.exit_code) == (State.FAILED, 6), job.outcome
    assert service.directory(job).stdout.read_text(encoding="utf-8") == ""
    assert (batch_of(service.directory(job)).id or "").isdecimal()


async def test_a_profile_says_where_and_its_errors_are_told(service: Service, home: Path) -> None:
    profile = '[engines.slurm.profiles.brief]\npartition = "short"\nconstraint = "{}"\n'
    configure(home, profile.replace('constraint = "{}"\n', ""))
    async with open_service() as service:
        job = await bash(service, "echo $SLURM_JOB_PARTITION", engine="slurm:brief")
        job = await ended(service, job.id, 60)
        assert service.directory(job).stdout.read_text(encoding="utf-8") == "short\n"
        launched = read_launch_manifest(service.directory(job))
        assert launched.batch is not None
        assert launched.batch.profile == "brief"
        for request, says in (
            ({"engine": "slurm:breif"}, "no Slurm profile 'breif'.*Did you mean 'brief'"),
            ({"engine": "slrum"}, "no engine 'slrum'.*Did you mean 'slurm'"),
            ({"engine": "slurm", "engine_options": ["--exclusive"]}, "does not allow options"),
            ({"resources": {"nodes": 2}}, "go with a scheduler"),
        ):
            with pytest.raises(InvalidArgumentError, match=says):
                await launch(service, "true", **request)
        assert len((await service.list_jobs()).jobs) == 1
    configure(home, profile.format("no such feature"))
    async with open_service() as service:
        job = await ended(service, (await launch(service, "true", engine="slurm:brief")).id, 60)
        assert job.state is State.FAILED
        assert "Invalid feature specification" in (job.outcome.reason or "")


async def test_the_keeper_may_come_from_where_no_cluster_is_known(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when another chat client has started its server without the user's variables."""
    cluster = os.environ["SLURM_CONF"]
    monkeypatch.setenv("SLURM_CONF", str(home.parent / "of another cluster"))
    async with open_service() as service:
        await launch(service, "sleep", "60")
    keeper = keeper_pid(home)
    monkeypatch.setenv("SLURM_CONF", cluster)
    async with open_service() as service:
        job = await bash(service, "exit 3", engine="slurm")
        assert (await ended(service, job.id, 60)).outcome.exit_code == 3
    assert keeper_pid(home) == keeper
