"""Modules of a profile, on a node where only login shells have the function `module`."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from jobs.batch import BatchRecord, BatchWishes
from jobs.directory import read_record
from jobs.engines.base import Submission
from jobs.engines.slurm_submission import furnish
from jobs.model import ExitRecord
from jobs.paths import JobDir
from tests.support.processes import end_all_of
from tests.unit.test_artifacts import launched

#: Sets a variable for what it is asked to load.
MODULE = (
    """module() { [ "$2" != unknown ] || return 1; export "LOADED_$2=yes" "PATH=/of/$2:$PATH"; }"""
)


def run(home: Path, modules: list[str], profile: str | None) -> JobDir:
    """The job's script as a node runs it that has this file, if any, in its /etc/profile.d."""
    job_dir = JobDir(home / "jobs" / "one")
    job_dir.work.mkdir(parents=True)
    order = launched(
        job_dir.work,
        command=["bash", "-c", "echo $LOADED_a $LOADED_b; echo $PATH"],
        executable="/bin/bash",
        env={"PATH": "/usr/bin:/bin"},
        engine="slurm",
        batch=BatchWishes(modules=modules),
    )
    furnish(Submission(order, job_dir, [], 1), BatchRecord(token="t"))
    folder = home / "profile.d"
    folder.mkdir()
    if profile is not None:
        (folder / "z00_lmod.sh").write_text(profile, encoding="utf-8")
    (folder / "other.sh").write_text("export PATH=/wrong", encoding="utf-8")
    inside = f"mount --bind {folder} /etc/profile.d && exec env -i bash slurm.sh"
    node = subprocess.run(
        ["unshare", "--mount", "bash", "-c", inside],
        cwd=job_dir.root, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    end_all_of(home)
    assert job_dir.exit.exists(), node.stderr
    return job_dir


@pytest.fixture(autouse=True)
def _needs_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("a mount namespace needs root: run the tests with sudo")


def test_modules_are_loaded_in_their_order(home: Path) -> None:
    job_dir = run(home, ["a", "b"], MODULE)
    loaded, path = job_dir.stdout.read_text(encoding="utf-8").splitlines()
    assert (loaded, path) == ("yes yes", "/of/b:/of/a:/usr/bin:/bin")


@pytest.mark.parametrize(("profile", "module"), [(MODULE, "unknown"), (None, "a")])
def test_one_that_cannot_be_loaded_is_named(home: Path, profile: str | None, module: str) -> None:
    record = read_record(run(home, ["a", module], profile).exit, ExitRecord)
    assert record is not None
    assert (record.why, record.error) == ("start_error", f"module load {module}")
