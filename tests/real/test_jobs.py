"""Jobs from launch to end, with real processes, a real keeper and a real index."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from jobs import clock
from jobs.errors import IdempotencyConflictError, JobError
from jobs.model import Job, LaunchRequest
from jobs.paths import Home
from jobs.service import Service
from jobs.states import State
from server.job_replies import headline
from server.wiring import open_service
from tests.support.launching import PYTHON, bash, launch
from tests.support.processes import all_of, keeper_pid
from tests.support.wait import ended, in_state, until


async def test_exit_code_zero_completes(service: Service) -> None:
    job = await ended(service, (await launch(service, "true")).id)
    assert job.state is State.COMPLETED
    assert job.outcome.exit_code == 0
    assert job.outcome.reason is None


async def test_exit_code_and_its_cause_are_told(service: Service) -> None:
    job = await ended(service, (await bash(service, "echo boom: no such file >&2; exit 7")).id)
    assert job.state is State.FAILED
    assert job.outcome.exit_code == 7
    assert job.outcome.reason == "Exit code 7."
    assert job.outcome.error == "boom: no such file"
    assert job.outcome.decided_by == "exit code"


async def test_death_by_a_signal_is_no_exit_code(service: Service) -> None:
    job = await ended(service, (await bash(service, "kill -SEGV $$")).id)
    assert job.state is State.FAILED
    assert (job.outcome.exit_code, job.outcome.signal) == (None, "SIGSEGV")


async def test_launch_returns_with_proof_of_life(service: Service) -> None:
    job = await launch(service, "sleep", "60")
    assert job.state is State.RUNNING
    assert job.started_at is not None


async def test_time_limit_ends_the_job(service: Service) -> None:
    job = await launch(service, "sleep", "60", time_limit_s=0.3)
    job = await ended(service, job.id)
    assert job.state is State.TIMED_OUT
    assert "0.3 s" in (job.outcome.reason or "")


async def test_a_job_that_ignores_the_time_limit_is_killed(service: Service, home: Path) -> None:
    (home.parent / "config.toml").write_text("grace_s = 0.2\n", encoding="utf-8")
    async with open_service() as quick:
        job = await bash(quick, "trap '' TERM; while :; do sleep 1; done", time_limit_s=0.3)
        job = await ended(quick, job.id)
    assert (job.state, job.outcome.signal) == (State.TIMED_OUT, "SIGKILL")


async def test_the_environment_is_controlled(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/leaked")
    monkeypatch.setenv("SOME_LEAK", "leaked")
    job = await bash(service, "env -0 > seen", env={"GREETING": "héllo\nthere"})
    job = await ended(service, job.id)
    raw = (service.directory(job).work / "seen").read_bytes()
    seen = dict(item.decode().split("=", 1) for item in raw.split(b"\0") if item)
    assert "LD_LIBRARY_PATH" not in seen
    assert "SOME_LEAK" not in seen
    assert seen["GREETING"] == "héllo\nthere"
    assert seen["OUTLAST_JOB_ID"] == job.id
    assert seen["OUTLAST_JOB_DIR"] == str(service.directory(job).root)
    assert seen["OMP_NUM_THREADS"] == "1"


async def test_a_secret_reaches_the_job_and_no_file(service: Service) -> None:
    script = '[ "$MY_TOKEN" = "$(printf "hunter2%s" secret)" ]'
    job = await bash(service, script, env={"MY_TOKEN": "hunter2secret"}, wait_s=10)
    assert job.state is State.COMPLETED
    await until(lambda: not service.directory(job).secrets.exists())
    for path in service.directory(job).root.rglob("*"):
        if path.is_file():
            assert b"hunter2secret" not in path.read_bytes(), path


async def test_named_environment(home: Path) -> None:
    (home.parent / "config.toml").write_text(
        "[environments.lab]\nactivate = \"export FROM_LAB=yes\"\nenv = {MORE = 'too'}\n",
        encoding="utf-8",
    )
    async with open_service() as service:
        job = await bash(service, 'echo "$FROM_LAB $MORE"', environment="lab", wait_s=10)
        _, excerpt = await service.tail(job.id)
        assert excerpt.text == "yes too\n"
        with pytest.raises(JobError, match="Did you mean 'lab'"):
            await bash(service, "true", environment="labb")


async def test_inputs_are_copied_hashed_and_linked(service: Service, tmp_path: Path) -> None:
    source = tmp_path / "data.txt"
    source.write_text("abc", encoding="utf-8")
    job = await bash(service, "cat data.txt", inputs=[str(source)], wait_s=10)
    _, excerpt = await service.tail(job.id)
    assert excerpt.text == "abc"
    record = json.loads(service.directory(job).launch_manifest.read_text(encoding="utf-8"))
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert record["inputs"] == [
        {"path": str(source), "size": 3, "sha256": digest, "kept": "inputs/data.txt"}
    ]
    assert (await service.list_artifacts(job.id)).matching == 0  # an input is no artifact


async def test_a_missing_required_output_is_a_failure(service: Service) -> None:
    good = await bash(service, "echo > there.txt", outputs=["*.txt"], wait_s=10)
    bad = await bash(service, "true", outputs=["result.csv"], wait_s=10)
    assert good.state is State.COMPLETED
    assert bad.state is State.FAILED
    assert bad.outcome.reason == "Exit code 0, but a required output is missing: result.csv."


async def test_same_key_same_job(service: Service) -> None:
    request = LaunchRequest(command=["true"], idempotency_key="once")
    first, *others = await asyncio.gather(
        *(service.launch(request, client=None, wait_s=0) for _ in range(5))
    )
    assert {other.job.id for other in others} == {first.job.id}
    changed = LaunchRequest(command=["false"], idempotency_key="once")
    with pytest.raises(IdempotencyConflictError, match=first.job.id):
        await service.launch(changed, client=None)


async def test_slots_are_never_exceeded_and_never_idle(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUTLAST_CORES", "2")
    async with open_service() as service:
        big = await launch(service, "sleep", "60", resources={"cores": 2})
        wide = await launch(service, "sleep", "60", resources={"cores": 2})
        small = await launch(service, "sleep", "60")
        assert [big.state, wide.state, small.state] == [State.RUNNING, State.QUEUED, State.QUEUED]
        assert wide.wait_reason
        await service.cancel(big.id, grace_s=0)
        await in_state(service, wide.id, State.RUNNING)
        await service.cancel(wide.id, grace_s=0)
        await in_state(service, small.id, State.RUNNING)
        # One core is free: a job of two cores lets one of one core pass.
        wide2 = await launch(service, "true", resources={"cores": 2})
        small2 = await launch(service, "sleep", "60")
        assert [wide2.state, small2.state] == [State.QUEUED, State.RUNNING]


async def test_a_queued_job_can_be_cancelled(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTLAST_CORES", "1")
    async with open_service() as service:
        await launch(service, "sleep", "60")
        queued = await launch(service, "touch", str(home / "ran"))
        job = await service.cancel(queued.id, reason="not needed")
        assert job.state is State.CANCELLED
        assert not (home / "ran").exists()
        assert job.started_at is None


async def test_gpus_are_handed_out_one_by_one(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTLAST_GPUS", "3")
    script = 'echo "$CUDA_VISIBLE_DEVICES"; sleep 60'
    async with open_service() as service:
        jobs = [await bash(service, script, resources={"gpus": 1}) for _ in range(3)]
        await until(lambda: all(service.last_line(job) for job in jobs))
        assert sorted(service.last_line(job)[1] for job in jobs) == ["0", "1", "2"]  # type: ignore[index]
        assert (await launch(service, "true", resources={"gpus": 1})).state is State.QUEUED


async def test_progress_of_a_manifest(home: Path) -> None:
    folder = home.parent / "mine"
    folder.mkdir()
    (folder / "steps.toml").write_text(
        """
schema = 1
name = "steps"
title = "Counts"
[params.steps]
type = "integer"
minimum = 1
[run]
command = ["bash", "-c", "printf 'step 1 T=300.5\\\\rstep %s T=301.5' {steps}; sleep 60"]
[[progress]]
regex = 'step (?P<step>\\d+) T=(?P<T>[\\d.]+)'
total = "{steps}"
message = "{step} of {total} at {T} K"
""",
        encoding="utf-8",
    )
    (home.parent / "config.toml").write_text(f'manifest_dirs = ["{folder}"]\n', encoding="utf-8")
    async with open_service() as service:
        request = LaunchRequest(manifest="steps", params={"steps": 4})
        job = (await service.launch(request, client=None)).job

        async def seen() -> bool:
            nonlocal job
            job = await service.job(job.id)
            return job.progress is not None and job.progress.fraction == 1.0

        await until(seen)
        assert job.progress is not None
        assert job.progress.fraction == 1.0
        assert job.progress.message == "4 of 4 at 301.5 K"
        assert job.progress.metrics == {"T": 301.5}
        samples = service.directory(job).progress.read_text(encoding="utf-8").splitlines()
        assert json.loads(samples[-1])["metrics"] == {"T": 301.5}


async def test_the_keeper_leaves_when_nothing_is_left_and_comes_back(
    service: Service, home: Path
) -> None:
    await ended(service, (await launch(service, "true")).id)
    first = await until(lambda: keeper_pid(home))
    await until(lambda: keeper_pid(home) is None)
    await until(lambda: all_of(home) == [])
    await ended(service, (await launch(service, "true")).id)
    assert keeper_pid(home) not in (None, first)


async def test_two_services_see_and_cancel_each_others_jobs(home: Path) -> None:
    async with open_service() as one, open_service() as two:
        job = await bash(one, "echo from one; sleep 60")
        assert (await two.job(job.id)).state is State.RUNNING
        await until(lambda: two.last_line(job))
        _, excerpt = await two.tail(job.id)
        assert excerpt.text == "from one\n"
        assert (await two.cancel(job.id, reason="by two")).state is State.CANCELLED
        assert (await one.job(job.id)).outcome.reason == "Cancelled: by two"


async def test_a_script_without_interpreter_is_a_clear_failure(
    service: Service, tmp_path: Path
) -> None:
    script = tmp_path / "script"
    script.write_bytes(b"\x7fELF but not really")
    script.chmod(0o755)
    job = await launch(service, str(script), wait_s=10)
    assert job.state is State.FAILED
    assert job.outcome.exit_code is None
    assert "Exec format error" in (job.outcome.reason or "")


async def test_every_file_is_private(service: Service, home: Path) -> None:
    job = await ended(service, (await bash(service, "echo hi")).id)
    root = service.directory(job).root
    for path in [home / "outlast.db", *root.iterdir()]:
        assert path.stat().st_mode & 0o077 == 0, path
    for folder in (root, root.parent, home):
        assert folder.stat().st_mode & 0o077 == 0, folder


async def test_nothing_is_left_of_a_refused_launch(service: Service, home: Path) -> None:
    for request in (
        LaunchRequest(command=["no-such-program-here"]),
        LaunchRequest(command=[PYTHON], inputs=["/no/such/file"]),
        LaunchRequest(command=[PYTHON], cwd="/no/such/folder"),
        LaunchRequest(command=[PYTHON, "x" * 300_000]),
    ):
        with pytest.raises(JobError):
            await service.launch(request, client=None)
    assert list(Home(home).jobs.rglob("*")) == []
    assert (await service.list_jobs()).jobs == []


async def test_a_job_that_nobody_has_looked_at_for_long_says_so(service: Service) -> None:
    job = await launch(service, "sleep", "60")

    async def was_seen() -> Job | None:
        now = await service.job(job.id)
        return now if now.heartbeat_at else None

    seen = await until(was_seen)
    assert seen is not None
    assert "last seen alive" not in headline(seen)
    long_ago = seen.model_copy(update={"heartbeat_at": clock.now() - 95})
    assert "running for" in headline(long_ago)
    assert "last seen alive 1 min 35 s ago" in headline(long_ago)
