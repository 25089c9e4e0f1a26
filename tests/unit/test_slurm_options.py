"""What sbatch is given, from a launch and its profile."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.batch import BatchRecord
from jobs.engines.base import Submission
from jobs.engines.slurm_submission import furnish, options_of
from jobs.errors import InvalidArgumentError
from jobs.paths import JobDir
from tests.support.batching import configured, resolved

__all__ = ["configured"]


def test_a_profile_says_what_the_scheduler_is_told(
    configured: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm/course.conf")
    monkeypatch.setenv("SLURM_CLUSTERS", "")
    job = resolved(configured(), engine="slurm:gpu")
    assert job.batch is not None
    told = job.batch.model_dump(exclude={"restart_command"})
    assert told == {
        "access": {
            "SLURM_CONF": "/etc/slurm/course.conf",
            "PATH": str(tmp_path / "slurm commands"),
        },
        "profile": "gpu",
        "partition": "gpu",
        "account": "chem",
        "qos": "long",
        "constraint": "a100",
        "reservation": "course",
        "nodes": 2,
        "tasks": 8,
        "modules": ["openmm/8.2", "cuda"],
        "options": ["--exclusive"],
    }
    assert job.time_limit_s == 3600
    options = options_of(job)
    expected = {
        "--partition=gpu",
        "--account=chem",
        "--qos=long",
        "--constraint=a100",
        "--reservation=course",
        "--nodes=2",
        "--ntasks=8",
        "--time=60",
        "--exclusive",
        "--no-requeue",
    }
    assert expected <= set(options)
    assert options[-1] == "--exclusive", "what a profile adds stands over our own"


def test_a_launch_can_ask_for_other_resources_than_the_profile(configured: Any) -> None:
    job = resolved(
        configured(),
        engine="slurm:gpu",
        resources={"nodes": 3, "tasks": 12, "cores": 500, "gpus": 4, "memory_mb": 900_000},
        time_limit_s=60,
    )
    assert job.batch is not None
    assert (job.batch.nodes, job.batch.tasks, job.time_limit_s) == (3, 12, 60)
    options = set(options_of(job))
    assert {"--nodes=3", "--ntasks=12", "--cpus-per-task=500", "--gres=gpu:4"} <= options
    assert "--mem=900000M" in options
    assert "--time=3" in options, "Slurm's own limit leaves the script the time to end it"


def test_a_second_submission_leaves_a_script_that_runs_as_it_is(
    configured: Any, tmp_path: Path
) -> None:
    job_dir = JobDir(tmp_path)
    job_dir.secrets.write_text('{"KEY": "s3 cret"}', encoding="utf-8")
    first = Submission(resolved(configured(), engine="slurm"), job_dir, [], 1)
    furnish(first, BatchRecord(token="a"))
    text = job_dir.batch_script.read_text(encoding="utf-8")
    with job_dir.batch_script.open(encoding="utf-8") as running:
        furnish(replace(first, attempt=2), BatchRecord(token="b"))
        assert running.read() == text
    assert "attempt=2" in job_dir.batch_script.read_text(encoding="utf-8")
    assert job_dir.batch_secrets.read_bytes() == b"KEY=s3 cret\0"


@pytest.mark.parametrize(
    ("limit_s", "grace_s", "minutes", "warning_s"),
    [
        (60, 10, 3, 40),
        (599, 10, 12, 40),
        (600, 10, 10, 40),
        (600, 600, 22, 630),  # of a grace period as long, it would be stopped as it begins
        (2700, 600, 57, 630),
        (2760, 600, 46, 630),
        (0, 10, None, 40),
        (0, 600, None, 300),  # the partition's limit may be as short as that
    ],
)
def test_a_job_has_its_time_before_slurm_tells_it_that_its_end_is_near(
    configured: Any, limit_s: float, grace_s: float, minutes: int | None, warning_s: int
) -> None:
    job = resolved(configured(), engine="slurm", time_limit_s=limit_s)
    options = options_of(job.model_copy(update={"grace_s": grace_s}))
    assert f"--signal=B:USR1@{warning_s}" in options
    times = [option for option in options if option.startswith("--time=")]
    assert times == ([] if minutes is None else [f"--time={minutes}"])


def test_options_are_passed_where_the_configuration_allows_them(configured: Any) -> None:
    settings = configured(allow="true")
    job = resolved(settings, engine="slurm:gpu", engine_options=["--nice=5"])
    assert job.batch is not None
    assert job.batch.options == ["--exclusive", "--nice=5"]


@pytest.mark.parametrize(
    "option",
    [
        "--job-name=x", "--job-n=x", "-J", "-Jx", "-HJx", "--array=0-3", "-a0-3", "-W", "--wait",
        "--output=x", "-o", "-e", "--chdir", "-D/", "--signal=TERM", "--requeue", "--no-requeue",
        "--parsable", "--test-only", "--wrap=x",
    ],
)  # fmt: skip
def test_options_by_which_jobs_are_found_and_ended_are_ours(configured: Any, option: str) -> None:
    settings = configured(allow="true")
    with pytest.raises(InvalidArgumentError, match="is Outlast's own to give"):
        resolved(settings, engine="slurm:gpu", engine_options=["--nice=5", option])


@pytest.mark.parametrize(
    "option",
    [
        "--hold",
        "-H",
        "--wait-all-nodes=1",
        "--exclusive",
        "--nodelist=n1",
        "-w",
        "n1",
        "-pJ",
    ],
)
def test_other_options_are_not(configured: Any, option: str) -> None:
    job = resolved(configured(allow="true"), engine="slurm", engine_options=[option])
    assert job.batch is not None
    assert job.batch.options == [option]
