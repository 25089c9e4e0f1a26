"""A job that stopped goes on as a new one, with nothing counted twice or lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jobs.directory import read_launch_manifest
from jobs.errors import (
    InputUnusableError,
    InvalidArgumentError,
    JobNotFoundError,
    NotResumableError,
)
from jobs.model import Job, LaunchRequest
from jobs.service import Service
from jobs.states import State
from server.wiring import open_service
from tests.support.countdown import write_kind
from tests.support.launching import kill_command, launch
from tests.support.wait import ended, until


async def start(service: Service, **request: Any) -> Job:
    return (await service.launch(LaunchRequest(**request), client="test")).job


async def has_counted(service: Service, job: Job, to: int) -> None:
    table = service.directory(job).work / "table.csv"
    await until(lambda: table.exists() and table.read_text(encoding="utf-8").count("\n") >= to)


def counted(service: Service, job: Job) -> list[int]:
    text = (service.directory(job).work / "table.csv").read_text(encoding="utf-8")
    return [int(line) for line in text.split()]


@pytest.mark.parametrize("stop", ['signal = "TERM"', 'file = "STOP"'])
@pytest.mark.parametrize("end", ["cancel", "time limit", "SIGKILL"])
async def test_nothing_is_counted_twice(end: str, stop: str, service: Service, home: Path) -> None:
    write_kind(home.parent / "manifests", stop=stop)
    limit = 1.0 if end == "time limit" else None
    params = {"to": 10_000, "label": "of my own", "words": ["a b", "c"]}
    first = await start(service, manifest="count", params=params, time_limit_s=limit)
    await has_counted(service, first, 3)
    if end == "cancel":
        await service.cancel(first.id)
    elif end == "SIGKILL":
        kill_command(service, first)
    first = await ended(service, first.id)
    states = {"cancel": State.CANCELLED, "time limit": State.TIMED_OUT, "SIGKILL": State.FAILED}
    assert first.state is states[end]
    assert first.outcome.resumable
    before = counted(service, first)
    to = before[-1] + 5
    second = await start(service, resume_from=first.id, params={"to": to}, time_limit_s=0)
    second = await ended(service, second.id)
    assert second.state is State.COMPLETED, second.outcome
    assert second.parent == first.id
    assert counted(service, second) == list(range(1, to + 1))
    assert counted(service, first) == before  # its own files are untouched
    launched = read_launch_manifest(service.directory(second))
    assert launched.command[-1] == "--resume"
    assert launched.command.count("--word") == 2
    assert Path(launched.params["label"]).read_text(encoding="utf-8") == "of my own"
    kept = {item.kept: item for item in launched.inputs}
    assert set(kept) == {
        "inputs/label.txt",
        "work/count.chk",
        "work/table.csv",
        "work/segment.0.txt",
    }
    assert kept["inputs/label.txt"].sha256
    work = service.directory(second).work
    assert (work / "segment.0.txt").stat().st_nlink == 2
    assert second.outcome.summary == {"last": to, "inner.twice": 2 * to}
    assert second.progress is not None
    assert second.progress.fraction == 1.0


async def test_a_job_goes_on_in_the_folder_that_it_was_given(service: Service, home: Path) -> None:
    write_kind(home.parent / "manifests")
    folder = home.parent / "mine"
    folder.mkdir()
    env = {"WORD": "given"}
    first = await start(service, manifest="count", params={"to": 4}, cwd=str(folder), env=env)
    first = await ended(service, first.id)
    second = await start(service, resume_from=first.id, params={"to": 6}, name="more")
    second = await ended(service, second.id)
    assert second.state is State.COMPLETED
    launched = read_launch_manifest(service.directory(second))
    assert launched.cwd == str(folder)
    assert launched.env["WORD"] == "given"
    assert (folder / "table.csv").read_text(encoding="utf-8").split() == list("123456")


async def test_a_checkpoint_of_any_size_is_carried(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_kind(home.parent / "manifests")
    monkeypatch.setenv("OUTLAST_COPY_LIMIT_MB", "0")
    async with open_service() as service:
        first = await ended(service, (await start(service, manifest="count")).id)
        second = await start(service, resume_from=first.id, params={"to": 7})
        assert (await ended(service, second.id)).state is State.COMPLETED
        with pytest.raises(InputUnusableError, match="at most 0 MB"):  # what is given now is not
            await start(service, resume_from=first.id, inputs=[__file__])


async def test_resources_are_those_of_the_first_or_of_what_is_said_now(
    service: Service, home: Path
) -> None:
    write_kind(home.parent / "manifests")
    kind = home.parent / "manifests/count.toml"
    kind.write_text(
        kind.read_text(encoding="utf-8")
        + '[resources]\ncores = "{to}"\nmemory_mb = 512\ntime_limit_s = "{limit_s}"\n'
        + '[params.limit_s]\ntype = "number"\ndefault = 1000\n',
        encoding="utf-8",
    )

    async def held(job_id: str | None, **request: Any) -> tuple[Job, tuple[int, int, float]]:
        kind = {"resume_from": job_id} if job_id else {"manifest": "count"}
        job = await ended(service, (await start(service, **kind, **request)).id)
        launched = read_launch_manifest(service.directory(job))
        there = launched.resources
        return job, (there.cores, there.memory_mb, launched.time_limit_s)

    first, there = await held(None, params={"to": 2})
    assert there == (2, 512, 1000)
    again, there = await held(first.id)
    assert there == (2, 512, 1000)
    _, there = await held(again.id, params={"to": 3, "limit_s": 2000})
    assert there == (3, 512, 2000)
    _, there = await held(again.id, params={"to": 3}, resources={"cores": 4}, time_limit_s=9)
    assert there == (4, 512, 9)
    wished, there = await held(None, params={"to": 2}, resources={"cores": 3, "memory_mb": 300})
    assert there == (3, 300, 1000)
    _, there = await held(wished.id, params={"limit_s": 2000})
    assert there == (3, 300, 2000)


#: Adds a line to its checkpoint for each run, with what its input holds.
ADDS = """
from pathlib import Path
data = Path("data.csv").read_text()
with open("checkpoint", "a") as file:
    file.write(data + "\\n")
if "leave" in data:
    Path("result.txt").write_text(data)
"""


async def test_inputs_and_outputs_of_the_launch_are_asked_for_again(
    service: Service, tmp_path: Path
) -> None:
    data = tmp_path / "data.csv"
    data.write_text("leave", encoding="utf-8")
    wish = {"manifest": "python-script", "params": {"script": ADDS}, "outputs": ["result.txt"]}
    first = await ended(service, (await start(service, **wish, inputs=[str(data)])).id)
    assert first.state is State.COMPLETED, first.outcome
    data.write_text("changed since", encoding="utf-8")

    async def went_on(job_id: str, **request: Any) -> tuple[Job, list[str]]:
        job = await ended(service, (await start(service, resume_from=job_id, **request)).id)
        work = service.directory(job).work
        return job, (work / "checkpoint").read_text(encoding="utf-8").split("\n")[:-1]

    second, seen = await went_on(first.id)
    assert second.state is State.COMPLETED, second.outcome
    assert seen == ["leave", "leave"]
    third, seen = await went_on(second.id)  # also from one that was itself gone on with
    assert third.state is State.COMPLETED, third.outcome
    assert seen == ["leave"] * 3
    other, seen = await went_on(third.id, inputs=[str(data)])
    assert (other.state, other.outcome.decided_by) == (State.FAILED, "required output")
    assert seen == [*["leave"] * 3, "changed since"]
    last, _ = await went_on(other.id, outputs=["checkpoint"])
    assert last.state is State.COMPLETED, last.outcome
    (service.directory(last).inputs / "data.csv").unlink()
    with pytest.raises(NotResumableError, match=r"data\.csv of .* is gone") as refused:
        await start(service, resume_from=last.id)
    assert "inputs again" in refused.value.next_step


async def test_a_file_in_the_place_of_an_input_goes_on_as_the_program_left_it(
    service: Service, tmp_path: Path
) -> None:
    given = tmp_path / "checkpoint.txt"
    given.write_text("0\n", encoding="utf-8")
    script = "(cat checkpoint.txt; echo more) > new && mv new checkpoint.txt"
    wish = {"manifest": "shell-script", "params": {"script": script}, "inputs": [str(given)]}
    job = await ended(service, (await start(service, **wish)).id)
    for count in (2, 3):
        job = await ended(service, (await start(service, resume_from=job.id)).id)
        assert job.state is State.COMPLETED, job.outcome
        left = service.directory(job).work / "checkpoint.txt"
        assert left.read_text(encoding="utf-8") == "0\n" + "more\n" * count
        kept = service.directory(job).inputs / "checkpoint.txt"
        assert kept.read_text(encoding="utf-8") == "0\n"
    with pytest.raises(InvalidArgumentError, match=f"that {job.id} left") as refused:
        await start(service, resume_from=job.id, inputs=[str(given)])
    assert "another name" in refused.value.next_step


#: Each name of a file holds its parameter.
NAMES = """
schema = 1
name = "names"
title = "Writes files of the name that it is told"
[params]
prefix = { type = "string", default = "a" }
word = { type = "string", default = "fine" }
[run]
command = ["bash", "-c", '''
ls
echo "$2" > $1.log; echo "$2" > $1.chk; echo x > $1.more; echo x > $1.linked
echo '{"word": "'$2'"}' > $1.json
[ $2 != worse ] || exit 4
''', "-", "{prefix}", "{word}"]
exit = { 4 = "it could not end" }
[resume]
checkpoint = "{prefix}.chk"
carry = ["{prefix}.more"]
link = ["{prefix}.link*"]
[[failure]]
source = "{prefix}.log"
regex = "bad|worse"
meaning = "it went badly"
[[warning]]
source = "{prefix}.log"
regex = "odd"
meaning = "it is odd"
[[success]]
source = "{prefix}.log"
regex = "fine|odd"
meaning = "it said nothing good"
[summary]
path = "{prefix}.json"
"""


async def test_names_of_files_hold_parameters(service: Service, home: Path) -> None:
    folder = home.parent / "manifests"
    folder.mkdir()
    (folder / "names.toml").write_text(NAMES, encoding="utf-8")
    ends = []
    for word in ("fine", "odd", "bad", "worse", "none"):
        params = {"prefix": "mine", "word": word}
        job = await ended(service, (await start(service, manifest="names", params=params)).id)
        ends.append((job.outcome.decided_by, job.outcome.reason, job.outcome.warnings))
        assert job.outcome.summary == {"word": word}
    assert ends == [
        ("exit code", None, []),
        ("exit code", None, ["it is odd"]),
        ("failure pattern", "Exit code 0, but it went badly.", []),
        ("exit code", "Exit code 4: it could not end; it went badly.", []),
        ("success marker", "Exit code 0, but it said nothing good.", []),
    ]
    job = await ended(service, (await start(service, resume_from=job.id)).id)
    stdout = service.directory(job).stdout.read_text(encoding="utf-8")
    assert stdout.split() == ["mine.chk", "mine.linked", "mine.more"]


async def test_what_cannot_go_on_is_refused(service: Service, home: Path) -> None:
    write_kind(home.parent / "manifests")
    running = await start(service, manifest="count", params={"to": 10_000})
    with pytest.raises(NotResumableError, match="has not ended"):
        await start(service, resume_from=running.id)
    await has_counted(service, running, 1)
    await service.cancel(running.id)
    done = await ended(service, running.id)
    for request, error, says in (
        ({"manifest": "other"}, InvalidArgumentError, "leave manifest out"),
        ({"command": ["true"]}, InvalidArgumentError, "do not go with"),
        ({"sweep": {"to": [1]}}, InvalidArgumentError, "do not go with"),
    ):
        with pytest.raises(error, match=says):
            await start(service, resume_from=done.id, **request)
    (service.directory(done).work / "count.chk").unlink()
    with pytest.raises(NotResumableError, match="no checkpoint"):
        await start(service, resume_from=done.id)
    command = await ended(service, (await launch(service, "true")).id)
    with pytest.raises(NotResumableError, match="as a command"):
        await start(service, resume_from=command.id)
    with pytest.raises(JobNotFoundError):
        await start(service, resume_from="job-20260101-000000-none-aaaaa")
    assert len((await service.list_jobs()).jobs) == 2


async def test_a_secret_is_to_be_given_again(service: Service, home: Path) -> None:
    write_kind(home.parent / "manifests")
    env = {"MY_TOKEN": "hidden"}
    first = await start(service, manifest="count", params={"to": 2}, env=env)
    first = await ended(service, first.id)
    with pytest.raises(InvalidArgumentError, match="MY_TOKEN"):
        await start(service, resume_from=first.id, params={"to": 3})
    second = await start(service, resume_from=first.id, params={"to": 3}, env=env)
    assert (await ended(service, second.id)).state is State.COMPLETED


async def test_what_decided_an_end_is_told(service: Service, home: Path) -> None:
    write_kind(home.parent / "manifests")
    cases = {
        0: (State.COMPLETED, "exit code", None),
        3: (State.FAILED, "exit code", "Exit code 3."),
        98: (State.FAILED, "success marker", "Exit code 0, but the count did not come to its end."),
        99: (State.FAILED, "failure pattern", "Exit code 0, but the count had bad luck."),
    }
    for code, (state, decided_by, reason) in cases.items():
        job = await start(service, manifest="count", params={"to": 14, "exit": code})
        job = await ended(service, job.id)
        assert (job.state, job.outcome.decided_by, job.outcome.reason) == (
            state,
            decided_by,
            reason,
        )
        assert job.outcome.warnings == ["thirteen was passed"]
        assert job.outcome.summary["last"] == 14
        if code == 99:
            assert job.outcome.error == "bad luck, it was 14"
