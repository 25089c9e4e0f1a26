"""The demonstration holds what it says."""

from __future__ import annotations

import asyncio
import re
import subprocess
from pathlib import Path

import pytest

from server.demo import DemoError, png_dimensions
from tests.support.cli import CLI, ROOT
from tests.support.processes import is_running


async def _demo(*words: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        *CLI, "demo", *words, cwd=ROOT, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await asyncio.wait_for(process.communicate(), 110)
    return process.returncode, out.decode()


@pytest.mark.slow
async def test_the_demo_holds(home: Path) -> None:
    pytest.importorskip("openmm")
    code, said = await _demo("--steps", "2000")
    assert code == 0, said
    servers = [int(pid) for pid in re.findall(r"server was started: process (\d+)", said)]
    assert len(set(servers)) == 2
    assert not any(is_running(pid) for pid in servers)
    job_id = re.search(r"launch_job gave (\S+), ", said)
    assert job_id is not None
    job_dir = home / "jobs" / "default" / job_id[1]
    assert str(job_dir) in said
    assert (job_dir / "work" / "md.png").is_file()
    assert "completed, exit code 0" in said
    assert re.search(r"md\.png, \d+ x \d+ pixels", said)


async def test_missing_software_is_named_with_its_cure(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "kinds"
    folder.mkdir()
    (folder / "md-openmm.toml").write_text(
        'schema = 1\nname = "md-openmm"\ntitle = "x"\n'
        '[software]\nname = "x"\nrequires = ["no-such-distribution"]\n'
        '[params.steps]\ntype = "integer"\ndefault = 1\n'
        '[run]\ncommand = ["true"]\n',
        encoding="utf-8",
    )
    (tmp_path / "config.toml").write_text(f"manifest_dirs = ['{folder}']\n", encoding="utf-8")
    code, said = await _demo()
    assert code == 1
    assert "pip install 'outlast[demo]'" in said
    assert "Traceback" not in said


async def test_a_job_that_fails_fails_the_demo(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "kinds"
    folder.mkdir()
    (folder / "md-openmm.toml").write_text(
        'schema = 1\nname = "md-openmm"\ntitle = "x"\n'
        '[params.steps]\ntype = "integer"\ndefault = 1\n'
        '[run]\ncommand = ["bash", "-c", "echo no luck >&2; exit 5"]\n',
        encoding="utf-8",
    )
    (tmp_path / "config.toml").write_text(f"manifest_dirs = ['{folder}']\n", encoding="utf-8")
    code, said = await _demo("--home", str(home))
    assert code == 1
    assert "the job is failed: Exit code 5. no luck" in said


def test_what_is_no_picture_is_told() -> None:
    with pytest.raises(DemoError):
        png_dimensions(b"<html>")
