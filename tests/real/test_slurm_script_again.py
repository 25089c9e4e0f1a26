"""The batch script is begun a second time: by Slurm, or by another submission of the same job."""

from __future__ import annotations

import signal
from fnmatch import fnmatchcase

import pytest

from jobs.artifacts import Walk
from jobs.engines.slurm_script import RAN_BEFORE
from jobs.model import BatchPlace
from jobs.paths import JobDir
from jobs.rules import Resume
from tests.support.slurm_script import (
    Node,
    ended,
    exit_of,
    job_dir,
    node,
    run,
    said,
    started,
    write,
)
from tests.support.wait import until

__all__ = ["job_dir", "node"]


async def test_it_runs_once(node: Node, job_dir: JobDir) -> None:
    first = await run(node, job_dir, "echo ran")
    assert (await ended(await node.begin(job_dir)))[0] == RAN_BEFORE
    job_dir.exit.unlink()  # as after the failure of its node
    assert (await ended(await node.begin(job_dir, SLURM_RESTART_COUNT="1")))[0] == RAN_BEFORE
    assert job_dir.stdout.read_text(encoding="utf-8") == "ran\n"
    assert first.exit_code == 0


@pytest.mark.parametrize("again", [None, ["bash", "-c", "echo ran"]])
async def test_of_several_submissions_one_runs(
    node: Node, job_dir: JobDir, again: list[str] | None
) -> None:
    """Whichever comes first, and no other after its end."""
    write(job_dir, "echo ran; sleep 0.5; kill -9 $PPID; sleep 60", again=again)
    ids = [str(number) for number in range(10, 18)]
    several = [await node.begin(job_dir, SLURM_JOB_ID=id) for id in ids]
    codes = [(await ended(process))[0] for process in several]
    assert sorted(codes) == [-signal.SIGKILL, *[RAN_BEFORE] * 7]
    assert job_dir.stdout.read_text(encoding="utf-8") == "ran\n"
    begun = (await started(job_dir)).batch
    assert begun is not None
    assert begun.job == ids[codes.index(-signal.SIGKILL)]
    assert (await ended(await node.begin(job_dir, SLURM_JOB_ID="99")))[0] == RAN_BEFORE
    code, _ = await ended(await node.begin(job_dir, SLURM_JOB_ID=begun.job))
    assert code == (RAN_BEFORE if again is None else 0)
    assert not list(job_dir.root.glob(".claim.*"))


async def test_begun_anew_it_goes_on_where_it_can(node: Node, job_dir: JobDir) -> None:
    write(job_dir, "echo first; kill -9 $PPID; sleep 60", again=["bash", "-c", "echo again"])
    await ended(await node.begin(job_dir))
    assert (job_dir.started.exists(), job_dir.exit.exists()) == (True, False)
    await ended(await node.begin(job_dir, SLURM_RESTART_COUNT="1"))
    assert job_dir.stdout.read_text(encoding="utf-8") == "first\nagain\n"
    assert exit_of(job_dir).batch == BatchPlace(job="7", node="n1", restarts=1)


@pytest.mark.parametrize(
    ("left", "checkpoint", "goes_on"),
    [
        ("state.chk", "state.chk", True),
        ("deep/er/a 7.chk", "a *.chk", False),
        ("deep/er/a 7.chk", "deep/*[0-9].chk", True),
        (".state+(1)", ".state+(?)", True),
        ("state+1", "state+(1)", False),
        ("other", "*.chk", False),
    ],
)
async def test_begun_anew_it_goes_on_only_from_a_checkpoint(
    node: Node, job_dir: JobDir, left: str, checkpoint: str, goes_on: bool
) -> None:
    """As `resume_from` would find it; what asked the first run to stop does not stop the second."""
    script = f"mkdir -p deep/er; touch '{left}'; echo up; exec sleep 60"
    first = f"[ -e '{left}' ] && {{ [ -e stop ]; echo first $?; exit; }}; {script}"
    again = ["bash", "-c", "[ -e stop ]; echo again $?"]
    resume = Resume(checkpoint=checkpoint)
    write(job_dir, first, again=again, resume=resume, stop_file="stop")
    process = await node.begin(job_dir)
    await until(said(1, job_dir))
    process.send_signal(signal.SIGTERM)  # the stop file is made, but nothing heeds it
    await until(lambda: (job_dir.work / "stop").exists())
    process.kill()
    await ended(process)
    is_there = Walk(job_dir.work).files()
    assert any(fnmatchcase(file.path, checkpoint) for file in is_there) is goes_on
    await ended(await node.begin(job_dir, SLURM_RESTART_COUNT="1"))
    assert job_dir.stdout.read_text(encoding="utf-8").split("\n")[1:] == [
        "again 1" if goes_on else "first 1",
        "",
    ]


@pytest.mark.parametrize("wished", [False, True])
async def test_begun_anew_after_an_end_from_outside_it_goes_on_unless_it_was_wished(
    node: Node, job_dir: JobDir, wished: bool
) -> None:
    write(job_dir, "echo first; exec sleep 60", again=["bash", "-c", "echo again"])
    process = await node.begin(job_dir)
    await started(job_dir)
    if wished:
        job_dir.cancel.write_text("{}\n", encoding="utf-8")
    process.send_signal(signal.SIGTERM)  # as when its node is taken from it
    await ended(process)
    code, _ = await ended(await node.begin(job_dir, SLURM_RESTART_COUNT="1"))
    assert code == (RAN_BEFORE if wished else 0)
    assert exit_of(job_dir).why == ("cancelled" if wished else "exit")
    said = job_dir.stdout.read_text(encoding="utf-8")
    assert said.endswith("again\n") is not wished
