"""python-script and shell-script as jobs: whatever a person brings along."""

from __future__ import annotations

import hashlib
import json
import platform
from pathlib import Path
from typing import Any

import pytest

from jobs.directory import read_launch_manifest
from jobs.errors import JobError
from jobs.service import Service
from jobs.states import State
from tests.support.science import check_whole, run, start, watched
from tests.support.wait import until

#: Tells how far it is until somebody has seen it; leaves its arguments and its place.
STEADY = """
import json, os, sys, time
for step in range(1, 5):
    print(f"outlast: progress {step / 5} step {step} residual={0.1 ** step}", flush=True)
    time.sleep(0.5)
with open("summary.json", "w") as file:
    json.dump({"args": sys.argv[1:], "cwd": os.getcwd(), "answer_m": 0.25}, file)
"""
STEADY_SHELL = """
set -euo pipefail
for step in 1 2 3 4; do
  echo "outlast: progress 0.$step step $step cells=${step}00"
  sleep 0.5
done
printf '{"count": %d, "first": "%s", "second": "%s"}' $# "$1" "$2" > summary.json
"""
ARGS = ["two words", "it's $HOME; *", "", "--flag", 'a "quote"', "líne\nbreak"]


def digests(service: Service, job: Any) -> list[str | None]:
    return [file.sha256 for file in read_launch_manifest(service.directory(job)).inputs]


async def test_a_python_script_given_as_text(service: Service) -> None:
    ran = await run(service, "python-script", params={"script": STEADY, "args": ARGS})
    check_whole(service, ran)
    assert ran.json() == {"args": ARGS, "cwd": str(ran.work), "answer_m": 0.25}
    assert ran.job.outcome.summary["answer_m"] == 0.25
    assert ran.metrics == {"residual"}
    assert ran.record.software_version == platform.python_version()
    saved = service.directory(ran.job).root / "inputs" / "script.py"
    assert saved.read_text(encoding="utf-8") == STEADY
    assert hashlib.sha256(STEADY.encode()).hexdigest() in digests(service, ran.job)


async def test_a_python_script_given_as_a_file(service: Service, tmp_path: Path) -> None:
    script = tmp_path / "my analysis.py"
    script.write_text(STEADY, encoding="utf-8")
    job = await start(service, "python-script", params={"file": str(script)})
    script.write_text("raise SystemExit(9)", encoding="utf-8")  # what was launched is what runs
    ran = await watched(service, job)
    check_whole(service, ran)
    assert ran.json()["args"] == []
    assert hashlib.sha256(STEADY.encode()).hexdigest() in digests(service, ran.job)


async def test_a_shell_script_given_as_text_and_as_a_file(service: Service, tmp_path: Path) -> None:
    args = ["two words", "it's $HOME; *", ""]
    script = tmp_path / "steps.sh"
    script.write_text(STEADY_SHELL, encoding="utf-8")
    for given in ({"script": STEADY_SHELL}, {"file": str(script)}):
        ran = await run(service, "shell-script", params={**given, "args": args})
        check_whole(service, ran)
        assert ran.metrics == {"cells"}
        assert ran.json() == {"count": 3, "first": args[0], "second": args[1]}
        assert hashlib.sha256(STEADY_SHELL.encode()).hexdigest() in digests(service, ran.job)


async def test_the_last_line_of_a_traceback_is_quoted(service: Service) -> None:
    script = "print('error: not this one')\nraise ValueError('the mesh has a hole')\n"
    ran = await run(service, "python-script", params={"script": script})
    assert ran.job.state is State.FAILED
    assert ran.job.outcome.exit_code == 1
    assert ran.job.outcome.error == "ValueError: the mesh has a hole"


async def test_what_a_shell_script_ends_with_decides(service: Service) -> None:
    ran = await run(
        service, "shell-script", params={"script": "set -e\nls /no/such/place\necho never"}
    )
    assert ran.job.state is State.FAILED
    assert "/no/such/place" in (ran.job.outcome.error or "")
    ran = await run(service, "shell-script", params={"script": "no-such-program\necho all right"})
    assert ran.job.state is State.COMPLETED
    assert any("was not found" in warning for warning in ran.job.outcome.warnings)


async def test_a_thread_that_failed_is_a_warning(service: Service) -> None:
    script = "import threading\nt = threading.Thread(target=lambda: 1 / 0)\nt.start()\nt.join()"
    ran = await run(service, "python-script", params={"script": script})
    assert ran.job.state is State.COMPLETED
    assert any("thread" in warning for warning in ran.job.outcome.warnings)


@pytest.mark.parametrize("kind", ["python-script", "shell-script"])
async def test_a_script_longer_than_an_argument_may_be(service: Service, kind: str) -> None:
    script = "# " + "x" * 300_000 + "\necho done\n"
    if kind == "python-script":
        script = script.replace("echo done", "print('done')")
    ran = await run(service, kind, params={"script": script})
    assert ran.job.state is State.COMPLETED
    assert service.directory(ran.job).stdout.read_text(encoding="utf-8") == "done\n"


async def test_a_stopped_script_goes_on_from_its_checkpoint(service: Service) -> None:
    script = """
import pathlib, time
checkpoint = pathlib.Path("checkpoint.txt")
step = int(checkpoint.read_text()) if checkpoint.exists() else 0
print("from", step, flush=True)
checkpoint.write_text(str(step + 5))
time.sleep(0 if step else 600)
"""
    job = await start(service, "python-script", params={"script": script})
    await until(lambda: (service.directory(job).work / "checkpoint.txt").exists())
    await service.cancel(job.id)
    parent = await watched(service, job)
    assert parent.job.state is State.CANCELLED
    assert parent.job.outcome.resumable
    ran = await run(service, None, resume_from=parent.job.id)
    assert ran.job.state is State.COMPLETED
    assert service.directory(ran.job).stdout.read_text(encoding="utf-8") == "from 5\n"
    assert (ran.work / "checkpoint.txt").read_text(encoding="utf-8") == "10"
    assert (parent.work / "checkpoint.txt").read_text(encoding="utf-8") == "5"


@pytest.mark.parametrize("kind", ["python-script", "shell-script"])
@pytest.mark.parametrize(
    "params",
    [
        {},
        {"script": "true", "file": "/etc/hostname"},
        {"script": ""},
        {"file": "/no/such/script"},
        {"file": "relative.py"},
        {"file": "/etc"},
        {"script": "true", "args": "one"},
        {"script": "true", "args": [1]},
        {"script": "true", "argv": []},
    ],
    ids=json.dumps,
)
async def test_what_cannot_be_run_is_refused(
    service: Service, kind: str, params: dict[str, Any]
) -> None:
    with pytest.raises(JobError) as refused:
        await start(service, kind, params=params)
    assert refused.value.next_step
    assert "\n" not in str(refused.value)
    assert not (await service.list_jobs()).jobs
