"""A working directory may hold anything; what is told of it is true and nothing is followed."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs import artifacts, contents
from jobs.errors import FileNotFoundInJobError, JobError, PathRefusedError
from jobs.files import check_relative, open_inside
from jobs.model import LaunchManifest, Resources
from jobs.paths import JobDir
from jobs.rules import OutputRule

HASH_ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def launched(cwd: Path, **more: Any) -> LaunchManifest:
    values: dict[str, Any] = {
        "job_id": "job-20260101-000000-x-aaaaa",
        "name": "x",
        "project": "default",
        "created_at": 0.0,
        "command": ["true"],
        "executable": "/bin/true",
        "cwd": str(cwd),
        "env": {},
        "resources": Resources(),
        "request_sha256": "",
        "host": "h",
        "outlast_version": "0",
    }
    return LaunchManifest(schema=1, **{**values, **more})


@pytest.fixture
def work(tmp_path: Path) -> Path:
    work = tmp_path / "work"
    work.mkdir()
    (tmp_path / "outside.txt").write_text("secret", encoding="utf-8")
    return work


def plant_everything(work: Path) -> None:
    """One of each kind of thing that a program, or an enemy, may leave."""
    (work / "plain.txt").write_text("abc", encoding="utf-8")
    (work / "deep").mkdir()
    (work / "deep" / "table.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    (work / "link.txt").symlink_to(work.parent / "outside.txt")
    (work / "linked").symlink_to(work.parent)
    os.mkfifo(work / "fifo")
    (work / "loop").symlink_to(work)
    Path(os.fsdecode(bytes(work) + b"/caf\xe9.txt")).write_bytes(b"x")
    (work / "new\nline \u202e.txt").write_bytes(b"y")
    with (work / "sparse.bin").open("wb") as file:
        file.truncate(1 << 40)
    here = os.getcwd()
    os.chdir(work)  # a socket's path must be short
    try:
        socket.socket(socket.AF_UNIX).bind("sock")
    finally:
        os.chdir(here)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_scan_tells_regular_files_and_counts_the_rest(work: Path) -> None:
    plant_everything(work)
    job_dir = JobDir(work.parent)
    rules = [OutputRule(path="*.csv", kind="table", required=True), OutputRule(path="no.txt")]
    found = artifacts.scan(
        launched(work, outputs=rules), job_dir, started_at=1.0, hash_limit_bytes=1 << 20
    )
    by_path = {artifact.path: artifact for artifact in found.artifacts}
    assert set(by_path) == {
        "plain.txt",
        "deep/table.csv",
        "caf\\xe9.txt",
        "new\nline \u202e.txt",
        "sparse.bin",
    }
    assert by_path["plain.txt"].sha256 == HASH_ABC
    assert by_path["sparse.bin"].sha256 is None
    assert found.skipped == {"symbolic link": 3, "FIFO": 1, "socket": 1}
    assert [(e.path, e.present) for e in found.expected] == [("*.csv", True), ("no.txt", False)]
    found.model_dump_json().encode("utf-8")


def test_elsewhere_only_what_is_new_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "_CLOCK_SLACK_S", 0.0)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "old.txt").touch()
    started_at = (elsewhere / "old.txt").stat().st_ctime + 0.02
    new = elsewhere / "new.txt"
    while not new.exists() or new.stat().st_ctime < started_at:
        new.unlink(missing_ok=True)
        new.touch()
    os.utime(new, (1000, 1000))  # as a copy that keeps the time of what was copied
    job_dir = JobDir(tmp_path)
    found = artifacts.scan(launched(elsewhere), job_dir, started_at=started_at)
    assert [artifact.path for artifact in found.artifacts] == ["new.txt"]
    assert artifacts.scan(launched(elsewhere), job_dir, started_at=None).artifacts == []


def test_a_scan_is_bounded(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        (work / f"{number:02}").touch()
    monkeypatch.setattr(artifacts, "MAX_ENTRIES", 10)
    found = artifacts.scan(launched(work), JobDir(work.parent), started_at=1.0)
    assert (len(found.artifacts), found.truncated) == (10, True)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize(
    "path",
    [
        "../outside.txt",
        "/etc/passwd",
        "link.txt",
        "linked/outside.txt",
        "deep/../plain.txt",
        "./plain.txt",
        "fifo",
        "sock",
        "deep",
        "",
        "plain.txt/",
        "plain.txt/x",
        "a\0b",
        "x" * 5000,
        "no/such/file",
    ],
)
def test_what_is_no_file_of_the_job_is_refused(work: Path, path: str) -> None:
    plant_everything(work)
    with pytest.raises((PathRefusedError, FileNotFoundInJobError)):
        contents.read(launched(work), JobDir(work.parent), path)


def test_devices_are_refused() -> None:
    with (
        pytest.raises(PathRefusedError, match="not a regular file"),
        open_inside(Path("/dev"), "null"),
    ):
        pass


@given(st.text(max_size=60))
def test_a_path_never_leads_out(path: str) -> None:
    """Whatever passes the check of its text stays below the root by its text."""
    try:
        parts = check_relative(path)
    except JobError:
        return
    assert not os.path.isabs(path)
    assert os.path.normpath(path) == "/".join(parts)
    assert ".." not in parts  # "..0" is a name like any other
