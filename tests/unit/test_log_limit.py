"""What is over the limit gives its middle back, and nothing else is ever touched."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.log_limit import LogLimit
from jobs.paths import JobDir

MB = 1 << 20
ROOT = Path(__file__).resolve().parent.parent.parent


def space(path: Path) -> int:
    return path.stat().st_blocks * 512


@pytest.fixture
def job_dir(tmp_path: Path) -> JobDir:
    return JobDir(tmp_path)


@pytest.mark.parametrize("name", ["stdout.log", "stderr.log"])
def test_a_quarter_of_the_limit_is_kept_at_either_end(job_dir: JobDir, name: str) -> None:
    path = job_dir.root / name
    content = os.urandom(10 * MB + 77)
    path.write_bytes(content)
    assert LogLimit(4, "trim").enforce_one(job_dir) == name
    if space(path) > 4 * MB:
        pytest.skip("no holes in the files here; try: pytest --basetemp=/dev/shm/outlast")
    kept = path.read_bytes()
    assert len(kept) == len(content)
    assert kept[:MB] == content[:MB]
    assert kept[-MB:] == content[-MB:]
    assert not any(kept[MB : -MB - 4096])
    assert space(path) <= 2 * MB + 2 * 4096
    assert LogLimit(4, "trim").enforce_one(job_dir) is None


@pytest.mark.parametrize(("limit_mb", "size"), [(4, 4 * MB), (4, 0), (0, 40 * MB)])
def test_what_is_within_the_limit_is_left_alone(job_dir: JobDir, limit_mb: int, size: int) -> None:
    job_dir.stdout.write_bytes(b"x" * size)
    limit = LogLimit(limit_mb, "trim")
    assert limit.is_due() == bool(limit_mb)
    assert limit.enforce_one(job_dir) is None
    assert job_dir.stdout.read_bytes() == b"x" * size


def test_a_job_that_is_to_end_keeps_its_log_but_not_the_disk(job_dir: JobDir) -> None:
    job_dir.stderr.write_bytes(b"x" * 5 * MB)
    limit = LogLimit(4, "end")
    assert limit.enforce_one(job_dir) == "stderr.log"
    assert job_dir.stderr.read_bytes() == b"x" * 5 * MB
    job_dir.stderr.write_bytes(b"x" * 9 * MB)
    assert limit.enforce_one(job_dir) == "stderr.log"
    assert b"\0" in job_dir.stderr.read_bytes()


@pytest.mark.parametrize("kind", ["link", "hard link", "fifo", "folder", "nothing"])
@pytest.mark.parametrize("action", ["trim", "end"])
def test_what_the_job_put_in_its_place_is_not_touched(
    job_dir: JobDir, kind: str, action: str
) -> None:
    victim = job_dir.root / "victim"
    victim.write_bytes(b"x" * 9 * MB)
    if kind == "link":
        job_dir.stdout.symlink_to(victim)
    elif kind == "hard link":
        job_dir.stdout.hardlink_to(victim)
    elif kind == "fifo":
        os.mkfifo(job_dir.stdout)
    elif kind == "folder":
        job_dir.stdout.mkdir()
    LogLimit(1, action).enforce_one(job_dir)
    assert victim.read_bytes() == b"x" * 9 * MB


def test_where_no_hole_can_be_made_it_is_said_once(tmp_path: Path) -> None:
    """A file system in memory that knows no holes, in a mount namespace of its own."""
    code = """
import sys, logging; from pathlib import Path
from jobs.log_limit import LogLimit; from jobs.paths import JobDir
logging.basicConfig(); job_dir = JobDir(Path(sys.argv[1])); limit = LogLimit(1, "trim")
job_dir.stdout.write_bytes(b"x" * (3 << 20))
print(job_dir.stdout.stat().st_blocks, limit.enforce_one(job_dir), limit.enforce_one(job_dir))
assert job_dir.stdout.read_bytes() == b"x" * (3 << 20)
"""
    script = 'mount -t ramfs none "$1" || exit 77; shift; exec "$@"'
    words = ["unshare", "-m", "sh", "-c", script, "sh", tmp_path, sys.executable, "-c", code]
    try:
        done = subprocess.run(
            [*words, tmp_path], cwd=ROOT, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("needs unshare: apt-get install util-linux")
    if done.returncode in (1, 77) and "Traceback" not in done.stderr:
        pytest.skip("only root may mount a file system: sudo pytest")
    assert done.returncode == 0, done.stderr
    blocks, *seen = done.stdout.split()
    if blocks == "0":
        pytest.skip("this file system does not say what its files hold")
    assert seen == ["stdout.log"] * 2
    assert done.stderr.count("cannot be trimmed here: Operation not supported") == 1
