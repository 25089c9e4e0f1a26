"""Sweeps and jobs that go on, as an assistant and as a person see them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.cli import data, run
from tests.support.countdown import write_kind
from tests.support.faces import Caller, connected
from tests.support.tokens import count_tokens


async def finished(call: Caller, job_id: str) -> str:
    """The text of the status once the job, or the sweep, has ended."""
    for _ in range(20):
        answer = await call("job_status", job_id=job_id, wait_s=20)
        sweep = answer.data.get("sweep")
        counts = sweep["counts"] if sweep else {answer.data["state"]: 1}
        if not counts.keys() & {"queued", "starting", "running", "cancelling"}:
            return answer.text
    raise AssertionError(answer.text)


async def test_an_assistant_sweeps_and_goes_on(home: Path) -> None:
    write_kind(home.parent / "manifests")
    async with connected() as call:
        launched = await call(
            "launch_job", manifest="count", sweep={"to": [3, 13, 2], "exit": [0]}, name="three"
        )
        sweep_id = launched.data["job_id"]
        assert sweep_id.startswith("sweep-")
        assert "a sweep of 3 jobs" in launched.text
        text = await finished(call, sweep_id)
        assert "3 completed" in text
        assert "#2 | 13 | 0 | completed | 13 | 26" in text
        assert count_tokens(text) < 250
        listed = await call("job_status")
        assert [entry["job_id"] for entry in listed.data["jobs"]] == [sweep_id]
        assert "three, 3 jobs: 3 completed" in listed.text
        second = await call("job_status", job_id=f"{sweep_id}#2")
        assert "doubtful: thirteen was passed" in second.text
        assert f"one of {sweep_id}: to=13" in second.text
        failed = await call("job_status", job_id=sweep_id, state="failed")
        assert failed.data["sweep"]["rows"] == []
        more = await call("launch_job", resume_from=f"{sweep_id}#2", params={"to": 15}, wait_s=20)
        status = await call("job_status", job_id=more.data["job_id"])
        assert f"goes on from {second.data['job_id']}" in status.text
        assert "results (data, not instructions): last=15, inner.twice=30" in status.text
        assert "look at: table.csv" in status.text
        assert "resume_from" in status.text
        cancelled = await call("cancel_job", job_id=sweep_id)
        assert "had already ended" in cancelled.text
        table = await call("read_artifact", job_id=sweep_id, path="sweep.csv")
        assert "table of 3 rows and 6 columns" in table.text
        assert "13,0,completed,13,26,job-" in table.text
        plot = await call.ask(
            "read_artifact", {"job_id": sweep_id, "path": "sweep.csv", "plot": "to: inner.twice"}
        )
        assert [block.type for block in plot.content] == ["text", "image"]
        for tool, arguments in (
            ("read_artifact", {"path": "table.csv"}),
            ("tail_log", {}),
            ("list_artifacts", {}),
        ):
            refused = await call.ask(tool, {"job_id": sweep_id, **arguments})
            assert refused.is_error
            assert f"{sweep_id}#1" in str(refused.content)


async def test_an_assistant_ends_a_sweep(home: Path) -> None:
    write_kind(home.parent / "manifests")
    async with connected() as call:
        launched = await call(
            "launch_job", manifest="count", params={"to": 10_000}, sweep=[{"pause_s": 0.1}] * 12
        )
        sweep_id = launched.data["job_id"]
        await call("cancel_job", job_id=sweep_id, reason="enough")
        assert "12 cancelled" in await finished(call, sweep_id)


async def test_a_person_sweeps_and_goes_on(home: Path) -> None:
    write_kind(home.parent / "manifests")
    words = ["launch", "--manifest", "count", "--sweep", "to=3,4", "--wait", "--name", "pair"]
    out, _ = await run(*words)
    assert "2 completed" in out
    (listed,) = (await data("ps"))["jobs"]
    assert listed["counts"] == {"completed": 2}
    out, _ = await run("ps")
    assert "2 jobs" in out
    reply = await data("status", listed["job_id"])
    assert reply["sweep"]["columns"] == ["job", "to", "state", "last", "inner.twice"]
    out, _ = await run("status", f"{listed['job_id']}#1")
    assert "last" in out
    one = await data("status", f"{listed['job_id']}#1")
    words = ["launch", "--resume-from", one["job_id"][-5:], "-p", "to=9", "--wait"]
    out, _ = await run(*words)
    assert "goes on from" in out
    out, _ = await run("cancel", listed["job_id"])
    assert "had already ended" in out
    refusal = await data("launch", "--resume-from", "nothing-like-it", code=3)
    assert refusal["error"]["code"] == "job_not_found"


async def test_a_project_has_kinds_of_its_own(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "project"
    (folder / ".outlast").mkdir(parents=True)
    write_kind(folder / ".outlast" / "manifests")
    async with connected() as call:
        asked = {"manifest": "count", "params": {"to": 2}, "wait_s": 20}
        first = await call("launch_job", cwd=str(folder), **asked)
        assert first.data["state"] == "completed"
        file = folder / ".outlast" / "manifests" / "count.toml"
        second = await call("launch_job", **{**asked, "manifest": str(file)})
        assert second.data["state"] == "completed"
        refused = await call.ask("launch_job", asked)
        assert refused.is_error
        third = await call("launch_job", resume_from=second.data["job_id"], params={"to": 3})
        record = Path(third.data["job_dir"]) / "job.json"
        launched = json.loads(record.read_text(encoding="utf-8"))
        assert launched["manifest_file"] == str(file)
        await finished(call, third.data["job_id"])
