"""Jobs that write too much: they run on, the disk does not fill, and their logs can be read."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from pathlib import Path

import pytest

from jobs.logs import BEGINNING, Excerpt
from jobs.model import Job
from jobs.service import Service
from jobs.states import State
from tests.support.cli import CLI, ROOT
from tests.support.launching import PYTHON, bash, launch
from tests.support.processes import is_running, shim_pids
from tests.support.wait import ended, until

MB = 1 << 20

#: Writes 300 MB in numbered lines, waits for a file, writes its last words.
WRITER = """
import os, sys, time
gate, last, code = sys.argv[1:]
print("the first line")
for block in range(int(os.environ["BLOCKS"])):
    first = block * 30000
    print("\\n".join("%09d and so on and on" % n for n in range(first, first + 30000)))
sys.stdout.flush()
while not os.path.exists(gate):
    time.sleep(0.02)
sys.stderr.write("x" * 3000000 + "\\nRuntimeError: too many words\\n")
sys.stdout.write(last)
sys.stdout.flush()
os._exit(int(code))
"""
LINE = 26  #: characters of a line without its end
BLOCK = 30_000 * (LINE + 1)


@pytest.fixture
def limit_mb(home: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """A limit of 2 MB, set before a keeper reads it."""
    monkeypatch.setenv("OUTLAST_LOG_LIMIT_MB", "2")
    return 2


async def write(service: Service, gate: Path, last: str, code: int = 0, blocks: int = 371) -> Job:
    return await launch(
        service, PYTHON, "-c", WRITER, str(gate), last, str(code), env={"BLOCKS": str(blocks)}
    )


def space(path: Path) -> int:
    return path.stat().st_blocks * 512


async def trimmed(service: Service, job: Job, blocks: int = 371) -> Path:
    """The job's log once all of it was written and its middle given back."""
    path = service.directory(job).stdout
    await until(lambda: path.exists() and path.stat().st_size > blocks * BLOCK, 60)
    await until(lambda: space(path) <= 2 * MB, 30, "it was not trimmed")
    return path


async def test_a_job_that_writes_300_mb_runs_on_within_2_mb(
    service: Service, limit_mb: int, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    job = await write(service, gate, "the last line")
    path = await trimmed(service, job)
    assert (await service.job(job.id)).state is State.RUNNING
    gate.touch()
    job = await ended(service, job.id)
    assert (job.state, job.outcome.exit_code) == (State.COMPLETED, 0)
    assert path.stat().st_size > 300_000_000
    assert space(path) <= limit_mb * MB
    # What was written after the last look of the keeper is trimmed at the end.
    assert space(service.directory(job).stderr) <= limit_mb * MB

    _, excerpt = await service.tail(job.id, lines=2)
    assert excerpt.text == f"{371 * 30_000 - 1:09d} and so on and on\nthe last line"
    assert any("of the middle are gone" in note for note in excerpt.notes)

    async def all_searched() -> Excerpt | None:
        """A busy machine may need more than the seconds that a search may take."""
        _, found = await service.tail(job.id, grep="^the (first|last) line$")
        return None if any("searched only" in note for note in found.notes) else found

    found = await until(all_searched, 60)
    assert found is not None
    assert [line.split(": ")[1] for line in found.text.split("\n")] == [
        "the first line",
        "the last line",
    ]
    seen, breaks = await read_all(service, job, BEGINNING)
    assert seen.startswith("the first line\n000000000 and so on and on\n000000001 ")
    assert seen.endswith(" and so on and on\nthe last line")
    assert "\ufffd" not in seen
    assert len(breaks) == 1
    assert "MB of the middle are gone" in breaks[0]
    numbers = [int(line[:9]) for line in seen.split("\n")[1:-1] if len(line) == LINE]
    assert numbers == sorted(set(numbers))
    assert len(seen) > 0.4 * limit_mb * MB


async def read_all(service: Service, job: Job, cursor: str) -> tuple[str, list[str]]:
    seen, breaks = "", []
    while True:
        _, excerpt = await service.tail(job.id, cursor=cursor, lines=1000)
        seen += excerpt.text
        breaks += excerpt.breaks
        if excerpt.next_cursor == cursor:
            return seen, breaks
        cursor = excerpt.next_cursor


async def test_a_failure_is_told_from_what_is_left_of_the_logs(
    service: Service, limit_mb: int, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    job = await ended(service, (await write(service, gate, "", code=3, blocks=5)).id)
    assert job.outcome.exit_code == 3
    assert job.outcome.reason == "Exit code 3."
    assert job.outcome.error == "RuntimeError: too many words"
    assert space(service.directory(job).stderr) <= limit_mb * MB
    assert service.last_line(job) == ("stderr", "RuntimeError: too many words")


async def test_a_job_can_be_ended_for_what_it_writes(
    service: Service, home: Path, limit_mb: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUTLAST_LOG_LIMIT_ACTION", "end")
    quiet = await bash(service, "echo enough; until [ -e go ]; do sleep 0.05; done")
    loud = await bash(service, "yes | head -c 3000000 >&2; sleep 300 & echo $!; wait")
    loud = await ended(service, loud.id)
    assert loud.state is State.CANCELLED
    assert loud.outcome.reason == "Cancelled: Its stderr.log passed log_limit_mb = 2"
    assert "log_limit_mb" in service.directory(loud).cancel.read_text(encoding="utf-8")
    assert service.directory(loud).stderr.stat().st_blocks * 512 >= 3_000_000
    _, excerpt = await service.tail(loud.id)
    assert not is_running(int(excerpt.text))
    await until(lambda: len(shim_pids(home)) == 1)
    (service.directory(quiet).work / "go").touch()
    assert (await ended(service, quiet.id)).state is State.COMPLETED


async def test_following_goes_on_behind_what_was_dropped_to_the_last_byte(
    service: Service, limit_mb: int, tmp_path: Path
) -> None:
    """The follower is stopped while the log is written and trimmed, then reads on."""
    gate, begin = tmp_path / "gate", tmp_path / "begin"
    script = f'echo before; until [ -e {begin} ]; do sleep 0.02; done; exec "$@"'
    job = await launch(
        service, "bash", "-c", script, "bash", PYTHON, "-c", WRITER, str(gate), "no end", "0",
        env={"BLOCKS": "20"},
    )  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        *CLI, "logs", job.id, "-f", cwd=ROOT, limit=1 << 20,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        assert await asyncio.wait_for(process.stdout.readline(), 30) == b"before\n"
        process.send_signal(signal.SIGSTOP)
        begin.touch()
        await trimmed(service, job, blocks=20)
        process.send_signal(signal.SIGCONT)
        gate.touch()
        out, err = await asyncio.wait_for(process.communicate(), 60)
    except BaseException:
        process.kill()
        raise
    assert process.returncode == 0, err
    lines = out.decode().split("\n")
    assert lines[0] == "the first line"
    assert lines[-1] == "no end"
    numbers = [int(line[:9]) for line in lines if len(line) == LINE]
    assert numbers == sorted(set(numbers))
    assert numbers[:2] == [0, 1]
    assert numbers[-1] == 20 * 30_000 - 1
    assert err.decode().count("MB of the middle are gone") == 1
    assert "rewritten" not in err.decode()
    assert "call again" not in err.decode()
