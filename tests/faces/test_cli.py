"""The command line as people use it: real processes, real jobs, real exit codes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from jobs.service import Service
from jobs.states import State
from tests.support.cli import CLI, ROOT, add_kind, data, read_until, run, terminal
from tests.support.launching import PYTHON, bash, launch
from tests.support.wait import ended, until

JOB_ID = re.compile(r"job-\d{8}-\d{6}-[a-z0-9-]+-[a-z2-7]{5}")


async def test_version_and_help() -> None:
    assert re.fullmatch(r"outlast \d+\.\d+\.\d+\n", (await run("--version"))[0])
    assert "outlast launch -- python sim.py" in (await run())[0]
    verbs = ["serve", "demo", "launch", "ps", "status", "logs", "cancel", "artifacts"]
    verbs += ["manifests", "doctor", "prune"]
    helps = await asyncio.gather(*(run(verb, "--help") for verb in verbs))
    for verb, (out, err) in zip(verbs, helps, strict=True):
        assert f"outlast {verb}" in out
        assert err == ""


async def test_looking_at_jobs_does_not_load_mcp(home: Path) -> None:
    code = (
        "import sys; from server.cli import app; app(['ps'], standalone_mode=False);"
        "sys.exit('mcp' in sys.modules or 'openmm' in sys.modules)"
    )
    process = await asyncio.create_subprocess_exec(
        PYTHON, "-c", code, cwd=ROOT, stderr=subprocess.DEVNULL
    )
    assert await process.wait() == 0


async def test_a_launch_prints_the_id_alone_on_stdout(service: Service) -> None:
    out, err = await run("launch", "--name", "Six Times 7", "--", "sleep", "60")
    assert JOB_ID.fullmatch(out.strip())
    assert "six-times-7" in out
    assert "running" in err
    out, err = await run("launch", "--quiet", "--", "true")
    assert JOB_ID.fullmatch(out.strip())
    assert err == ""


async def test_a_launch_passes_everything_on(service: Service, home: Path, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("7", encoding="utf-8")
    words = ["launch", "--project", "villin", "--env", "A=b=c", "--output", "o.txt"]
    words += ["--input", str(tmp_path / "in.txt"), "--cores", "2", "--memory-mb", "10"]
    words += ["--time-limit", "2m", "--idempotency-key", "k1"]
    words += ["--", "bash", "-c", 'echo "$A $(cat in.txt)" > o.txt', "--json"]
    reply = await data(*words)
    assert reply["project"] == "villin"
    job = await ended(service, reply["job_id"])
    assert job.state is State.COMPLETED, job.outcome
    assert (job.resources.cores, job.resources.memory_mb) == (2, 10)
    launched = json.loads((service.directory(job).launch_manifest).read_text(encoding="utf-8"))
    assert (launched["time_limit_s"], launched["client"]) == (120, "cli")
    assert launched["command"][-1] == "--json"
    assert (service.directory(job).work / "o.txt").read_text(encoding="utf-8") == "b=c 7\n"
    assert (await data(*words))["job_id"] == job.id  # the same key, the same job


async def test_a_launch_in_this_folder(service: Service, tmp_path: Path) -> None:
    (tmp_path / "x.sh").write_text("echo here", encoding="utf-8")
    relative = os.path.relpath(tmp_path, ROOT)
    out, _ = await run("launch", "--wait", "-q", "--cwd", relative, "--", "bash", "x.sh")
    assert (await run("logs", out.strip()))[0] == "here\n"


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("1.5h", 5400), ("1d2h", 93600)])
async def test_time_limits(service: Service, text: str, seconds: float) -> None:
    reply = await data("launch", "--time-limit", text, "--", "true")
    job_dir = Path(reply["job_dir"])
    launched = json.loads((job_dir / "job.json").read_text(encoding="utf-8"))
    assert launched["time_limit_s"] == seconds


async def test_manifest_parameters_are_json_where_they_can_be(home: Path, tmp_path: Path) -> None:
    add_kind(tmp_path, "echo")
    (tmp_path / "here.txt").touch()
    file = os.path.relpath(tmp_path / "here.txt", ROOT)
    words = ["launch", "--manifest", "echo", "-p", "n=3", "-p", "word=a=b", "-p", f"file={file}"]
    reply = await data(*words, "--wait")
    launched = json.loads((Path(reply["job_dir"]) / "job.json").read_text(encoding="utf-8"))
    assert launched["params"]["n"] == 3
    assert launched["params"]["word"] == "a=b"
    assert launched["params"]["file"] == os.path.join(ROOT, file)
    refusal = await data("launch", "--manifest", "echo", "-p", "nn=3", code=2)
    assert refusal["error"]["code"] == "unknown_parameter"


async def test_wait_tells_the_end_and_its_exit_code(service: Service) -> None:
    out, err = await run("launch", "--wait", "--", "bash", "-c", "echo 42")
    assert "completed with exit code 0" in out
    assert "42" in out
    assert "accepted" in err
    out, _ = await run("launch", "--wait", "--", "bash", "-c", "echo bad >&2; exit 3", code=1)
    assert "Exit code 3." in out
    assert "bad" in out
    job = await launch(service, "sleep", "0.5")
    assert (await data("status", job.id, "--wait"))["state"] == "completed"


async def test_interrupting_a_wait_leaves_the_job(service: Service) -> None:
    process = await asyncio.create_subprocess_exec(
        *CLI, "launch", "--wait", "--", "sleep", "60", cwd=ROOT, stderr=subprocess.PIPE,
        stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert process.stderr is not None
    seen = b""
    while b"running" not in seen:
        seen += await asyncio.wait_for(process.stderr.readline(), 30)
    os.killpg(process.pid, signal.SIGINT)
    out, err = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 130
    assert out == b""
    assert b"goes on" in err
    assert b"Traceback" not in err
    job = (await service.list_jobs()).jobs[0]
    assert job.state is State.RUNNING


async def test_ps_lists_what_there_is(service: Service) -> None:
    assert (await run("ps"))[1] == "There are no jobs yet.\n"
    assert await data("ps") == {"jobs": []}
    running = await launch(service, "sleep", "60", project="a")
    failed = await ended(service, (await bash(service, "exit 9", project="b")).id)
    out, _ = await run("ps")
    lines = out.splitlines()
    assert lines[0].split() == ["JOB", "PROJECT", "STATE", "TIME", "HOW"]
    assert lines[1].split()[:3] == [failed.id, "b", "failed"]
    assert "Exit code 9" in lines[1]
    assert lines[2].split()[:3] == [running.id, "a", "running"]
    assert failed.id not in (await run("ps", "--project", "a"))[0]
    assert running.id not in (await run("ps", "--state", "failed"))[0]
    out, err = await run("ps", "--limit", "1")
    assert "older" in err
    assert len((await data("ps", "--limit", "1"))["jobs"]) == 1
    listed = await data("ps", "--all")
    assert [job["job_id"] for job in listed["jobs"]] == [failed.id, running.id]
    assert "next_cursor" not in listed


async def test_status_takes_a_part_of_an_id(service: Service) -> None:
    one = await launch(service, "sleep", "60", name="one")
    two = await launch(service, "sleep", "60", name="two")
    reply = await data("status", one.id[-5:])
    assert reply["job_id"] == one.id
    assert reply["state"] == "running"
    out, _ = await run("status", "two")
    assert f"{two.id}: running" in out
    assert str(service.directory(two).root) in out
    refusal = await data("status", "job-", code=2)
    assert one.id in refusal["error"]["cause"]
    assert two.id in refusal["error"]["cause"]


async def test_a_name_is_text_and_nothing_else(service: Service) -> None:
    job = await launch(service, "true", name="[red]x[/red] \x1b[31m\u202ehidden :smile:")
    await ended(service, job.id)
    out, _ = await run("status", job.id)
    assert "[red]x[/red]" in out
    assert ":smile:" in out
    assert "\x1b" not in out
    assert "\u202e" not in out


async def test_refusals_are_told_in_words(home: Path, tmp_path: Path) -> None:
    out, err = await run("status", "nix", code=3)
    assert out == ""
    lines = err.splitlines()
    assert lines == [
        "error job_not_found: There is no job 'nix'.",
        "next: `outlast ps` lists the newest jobs.",
    ]
    refusal = await data("status", "nix", code=3)
    assert refusal["error"]["code"] == "job_not_found"
    assert set(refusal["error"]) == {"code", "cause", "next_step"}
    for words, code, name in (
        (["launch", "--", "no-such-program"], 2, "executable_not_found"),
        (["launch"], 2, "invalid_argument"),
        (["launch", "--env", "X", "--", "true"], 2, "invalid_argument"),
        (["launch", "--time-limit", "soon", "--", "true"], 2, "invalid_argument"),
        (["launch", "--name", "x" * 200, "--", "true"], 2, "invalid_argument"),
        (["launch", "--manifest", "nix"], 3, "unknown_manifest"),
        (["manifests", "nix"], 3, "unknown_manifest"),
        (["logs", "nix"], 3, "job_not_found"),
        (["logs", "nix", "--stderr", "--stream", "x"], 2, "invalid_argument"),
        (["prune", "--older-than", "90", "--yes"], 2, "invalid_argument"),
        (["frobnicate"], 2, "usage"),
        (["ps", "--frobnicate"], 2, "usage"),
        (["ps", "--state", "sleepy"], 2, "usage"),
        (["status"], 2, "usage"),
    ):
        out, err = await run(words[0], "--json", *words[1:], code=code)
        assert json.loads(out)["error"]["code"] == name, words
        assert err.startswith(f"error {name}: ")
        assert "\nnext: " in err


async def test_logs(service: Service) -> None:
    script = "for i in 1 2 3; do echo out $i; done; echo '[bold]err[/bold]' >&2; echo x > a.log"
    job = await ended(service, (await bash(service, script)).id)
    assert (await run("logs", job.id))[0] == "out 1\nout 2\nout 3\n"
    assert (await run("logs", job.id, "-n", "1"))[0] == "out 3\n"
    assert (await run("logs", job.id, "--stderr"))[0] == "[bold]err[/bold]\n"
    assert (await run("logs", job.id, "--stream", "a.log"))[0] == "x\n"
    assert (await run("logs", job.id, "--grep", "t 2$"))[0].endswith("out 2\n")
    reply = await data("logs", job.id)
    assert reply["text"] == "out 1\nout 2\nout 3\n"
    assert reply["stream"] == "stdout"
    assert (await data("logs", job.id, "-f", code=2))["error"]["code"] == "invalid_argument"
    refusal = await data("logs", job.id, "--stream", "../job.json", code=2)
    assert refusal["error"]["code"] == "path_refused"


async def test_following_a_log_gives_every_byte(service: Service, tmp_path: Path) -> None:
    go = tmp_path / "go"
    script = f"echo first; until [ -e {go} ]; do sleep 0.05; done; seq 20000; printf 'no newline'"
    job = await bash(service, script)
    process = await asyncio.create_subprocess_exec(
        *CLI, "logs", job.id, "-f", cwd=ROOT, stdout=subprocess.PIPE, limit=1 << 20
    )
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), 30) == b"first\n"
    go.touch()
    rest, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0
    assert rest.decode() == "".join(f"{n}\n" for n in range(1, 20001)) + "no newline"


async def test_following_begins_before_the_job_does(service: Service, tmp_path: Path) -> None:
    blocker = await launch(service, "sleep", "60", resources={"cores": 8})
    job = await bash(service, "seq 3000")
    process = await asyncio.create_subprocess_exec(
        *CLI, "logs", job.id, "-f", cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    said = await asyncio.wait_for(process.stderr.readline(), 30)
    assert said == b"(nothing has been written yet)\n"
    await run("cancel", blocker.id)
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert out.decode() == "".join(f"{n}\n" for n in range(1, 3001))


async def test_a_reader_that_leaves_is_no_error(service: Service) -> None:
    job = await ended(service, (await bash(service, "seq 100000")).id)
    command = " ".join([*CLI, "logs", job.id, "-n", "1000", "|", "head", "-1"])
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), 30)
    assert out.count(b"\n") == 1
    assert b"Traceback" not in err
    assert b"BrokenPipe" not in err


async def test_cancel_ends_the_job(service: Service) -> None:
    job = await launch(service, "sleep", "60")
    out, _ = await run("cancel", job.id[-5:], "--reason", "wrong field")
    assert f"{job.id} is cancelled" in out
    assert "wrong field" in ((await service.job(job.id)).outcome.reason or "")
    assert "had already ended" in (await run("cancel", job.id))[0]
    assert (await data("cancel", job.id, "--grace", "1m"))["state"] == "cancelled"


async def test_artifacts_are_all_listed(service: Service) -> None:
    job = await bash(service, "for i in $(seq 40); do echo $i > f$i.txt; done; echo 1 > a.csv")
    await ended(service, job.id)
    reply = await data("artifacts", job.id)
    assert (len(reply["artifacts"]), reply["total"]) == (41, 41)
    assert "next_cursor" not in reply
    assert all(len(file["sha256"]) == 64 for file in reply["artifacts"])
    out, err = await run("artifacts", job.id, "--pattern", "*.csv")
    assert [line.split()[:2] for line in out.splitlines()[1:]] == [["a.csv", "table"]]
    assert str(service.directory(job).work) in err
    assert len((await data("artifacts", job.id, "--pattern", "*.csv"))["artifacts"]) == 1


async def test_expected_outputs_that_are_missing_are_named(service: Service) -> None:
    job = await launch(service, "true", outputs=["result.csv"])
    await ended(service, job.id)
    assert "not there: result.csv (required)" in (await run("artifacts", job.id))[1]


async def test_a_terminal_gets_a_live_bar_within_its_width(service: Service) -> None:
    job = await launch(service, "sleep", "60")
    with terminal("status", job.id, "--wait", columns=60) as (process, fd):
        seen = await asyncio.to_thread(read_until, fd, b"running")
        process.send_signal(signal.SIGINT)
        seen += await asyncio.to_thread(read_until, fd, b"goes on")
        await until(lambda: process.poll() is not None)
    assert process.returncode == 130
    plain = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", seen).decode()
    assert "━" in plain
    assert all(len(line) <= 60 for line in re.split(r"[\r\n]+", plain))
