"""The MCP server as chat clients run it: a process that speaks over its standard streams."""

from __future__ import annotations

import base64
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from jobs.service import Service
from jobs.states import State
from tests.support.faces import (
    LEAVES_FILES_AND_RUNS,
    MODERN,
    PNG_BASE64,
    TOOLS,
    Caller,
    server_by_hand,
)
from tests.support.launching import bash
from tests.support.processes import shim_pids
from tests.support.server import parameters
from tests.support.wait import ended, in_state, until

#: How each client chooses its protocol, and what comes of it.
ERAS = [("legacy", "2025-11-25"), (MODERN, MODERN), ("auto", MODERN)]
#: Ends well once the file `go` is there.
WAITS_FOR_GO = "echo on my way; until [ -e go ]; do sleep 0.05; done; echo done"


@pytest.mark.parametrize(("mode", "version"), ERAS)
async def test_all_tools_in_every_protocol_era(home: Path, mode: str, version: str) -> None:
    async with Client(parameters(), mode=mode) as client:
        assert client.protocol_version == version
        await _check_hints_and_schemas(client)
        call = Caller(client)
        launched = await call("launch_job", command=["bash", "-c", LEAVES_FILES_AND_RUNS])
        job_id = launched.data["job_id"]
        assert launched.data["state"] == "running"
        assert job_id in launched.text

        async def two_lines() -> bool:
            tail = await call("tail_log", job_id=job_id)
            return str(tail.data["text"]) == "step 1\nstep 2\n"

        await until(two_lines)
        assert "step 2" in (await call("job_status", job_id=job_id)).text
        assert [job["job_id"] for job in (await call("job_status")).data["jobs"]] == [job_id]

        files = (await call("list_artifacts", job_id=job_id)).data["artifacts"]
        kinds = {file["path"]: file["kind"] for file in files}
        assert kinds == {"energy.csv": "table", "notes.txt": "text", "dot.png": "image"}
        table = await call("read_artifact", job_id=job_id, path="energy.csv")
        assert table.data["text"].splitlines()[2] == "2,-4.25"
        picture = (await call("read_artifact", job_id=job_id, path="dot.png")).pictures[0]
        assert picture.mime_type == "image/png"
        assert base64.b64decode(picture.data) == base64.b64decode(PNG_BASE64)

        kind = (await call("describe_manifests")).data["manifests"][0]["name"]
        whole = (await call("describe_manifests", name=kind)).data["manifests"]
        assert whole[0]["params"]["type"] == "object"

        cancelled = await call("cancel_job", job_id=job_id, reason="seen enough", grace_s=0)
        assert cancelled.data["state"] == "cancelled"
        assert await call.refused("job_status", job_id="job-nope") == "job_not_found"


async def _check_hints_and_schemas(client: Client) -> None:
    listed = (await client.list_tools()).tools
    assert [tool.name for tool in listed] == TOOLS
    for tool in listed:
        assert tool.description
        assert tool.input_schema["type"] == "object"
        assert tool.output_schema is not None
        assert tool.output_schema["type"] == "object"
        hints = tool.annotations
        assert hints is not None
        assert hints.read_only_hint == (tool.name not in ("launch_job", "cancel_job"))
        if tool.name == "launch_job":
            assert (hints.destructive_hint, hints.idempotent_hint) == (True, False)
        if tool.name == "cancel_job":
            assert (hints.destructive_hint, hints.idempotent_hint) == (True, True)


@pytest.mark.parametrize("end", ["input closed", "killed", "process group killed"])
async def test_a_job_outlives_its_server(service: Service, home: Path, end: str) -> None:
    with server_by_hand() as server:
        server.greet()
        launched = server.call("launch_job", command=["bash", "-c", WAITS_FOR_GO])
        job_id = launched["structuredContent"]["job_id"]
        shims = shim_pids(home)
        assert len(shims) == 1
        if end == "input closed":
            server.close_input()
        elif end == "killed":
            server.process.kill()
        else:
            os.killpg(server.process.pid, signal.SIGKILL)
        assert server.process.wait(20) == (0 if end == "input closed" else -signal.SIGKILL)
        assert shim_pids(home) == shims
    job = await in_state(service, job_id, State.RUNNING)
    (service.directory(job).work / "go").touch()
    job = await ended(service, job_id)
    assert (job.state, job.outcome.exit_code) == (State.COMPLETED, 0)


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "in a call"])
async def test_the_server_leaves_when_its_input_closes(service: Service, busy: bool) -> None:
    """Clients kill a server, and whatever is in its process group, that takes longer than 2 s."""
    job = await bash(service, "sleep 60")

    def leaving_s() -> float:
        with server_by_hand() as server:
            server.greet()
            server.call("job_status", job_id=job.id)
            if busy:
                arguments = {"job_id": job.id, "wait_s": 20}
                params = {"name": "job_status", "arguments": arguments}
                request = {"jsonrpc": "2.0", "id": 99, "method": "tools/call", "params": params}
                server.send(json.dumps(request).encode())
                server.request("tools/list")  # by its answer the call before it is being waited for
            began = time.monotonic()
            server.close_input()
            assert server.process.wait(19) == 0, "before the call that it was in would have ended"
            return time.monotonic() - began

    # A busy machine may hold up one of them.
    assert any(leaving_s() < 2 for _ in range(3))


MODERN_META = (
    '"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28",'
    '"io.modelcontextprotocol/clientInfo":{"name":"by-hand","version":"1"},'
    '"io.modelcontextprotocol/clientCapabilities":{}}'
)


#: `params` of calls that a strict parser of JSON refuses, as raw JSON: half a surrogate pair,
#: a number of very many digits, arguments nested very deeply.
UNREADABLE = [
    r'"name":"job_status","arguments":{"job_id":"job-\ud800"}',
    r'"name":"job_status","arguments":{"job_id":"\uDFFF\\ud800\ud83d"}',
    r'"name":"tail_log","arguments":{"job_id":"job-x","grep":"\udc00\ud800"}',
    r'"name":"launch_job","arguments":{"command":["true","\ud800"]}',
    r'"name":"launch_job","arguments":{"command":["true"],"env":{"A\udfff":"b"}}',
    r'"name":"job_status","arguments":{"\ud800":1}',
    r'"name":"\ud800","arguments":{}',
    f'"name":"launch_job","arguments":{{"command":["true"],"resources":{{"cores":{"9" * 5000}}}}}',
    f'"name":"launch_job","arguments":{{"manifest":"x","params":{{"a":{"[" * 400}{"]" * 400}}}}}',
]


@pytest.mark.parametrize("modern", [False, True], ids=["legacy", "modern"])
def test_what_cannot_be_read_is_refused_in_words(home: Path, modern: bool) -> None:
    meta = f",{MODERN_META}" if modern else ""
    with server_by_hand() as server:
        if not modern:
            server.greet()
        for call in UNREADABLE:
            result = server.request("tools/call", f"{{{call}{meta}}}")["result"]
            assert result["isError"] is True, call
            text = result["content"][0]["text"]
            assert text.startswith("error invalid_argument: "), call
            assert "\nNext: " in text
        whole = r'"name":"job_status","arguments":{"job_id":"\ud83d\ude00"}'
        result = server.request("tools/call", f"{{{whole}{meta}}}")["result"]
        assert "There is no job '\U0001f600'" in result["content"][0]["text"]


MALFORMED = [
    b"{",
    b"",
    b"null",
    b"[]",
    b'"text"',
    b"\xff\xfe\x00\x80",
    b'{"jsonrpc":"2.0","id":700,"method":"tools/call"}',
    b'{"jsonrpc":"2.0","id":700,"method":"tools/call","params":[1]}',
    b'{"jsonrpc":"2.0","id":700,"method":"tools/call","params":{"name":5}}',
    b'{"jsonrpc":"2.0","id":700,"method":"no/such"}',
    b'{"jsonrpc":"2.0","id":{"a":1},"method":"ping"}',
    b'{"jsonrpc":"2.0","id":700,"result":{}}',
    b'{"jsonrpc":"1.0"}',
    b'{"jsonrpc":"2.0","id":700,"method":"tools/call","params":{"name":"job_status",'
    b'"arguments":{"limit":1e999}}}',
    b"[" * 100_000,
    b'{"jsonrpc":"2.0","method":"' + b"x" * 2_000_000 + b'"}',
]


def test_malformed_lines_do_not_end_the_server(home: Path) -> None:
    with server_by_hand() as server:
        server.greet()
        for line in MALFORMED:
            server.send(line)
            text = server.call("job_status")["content"][0]["text"]
            assert "There are no jobs yet" in text, line[-80:]


async def test_two_servers_agree(home: Path) -> None:
    async with (
        Client(parameters(), mode="legacy") as first,
        Client(parameters(), mode=MODERN) as second,
    ):
        one, two = Caller(first), Caller(second)
        job_ids = []
        for call, word in ((one, "one"), (two, "two")):
            command = ["bash", "-c", f"echo from {word}; sleep 300"]
            job_ids.append((await call("launch_job", command=command)).data["job_id"])
        for call in (one, two):
            listed = (await call("job_status", state="running")).data["jobs"]
            assert [job["job_id"] for job in listed] == job_ids[::-1]
        for call, job_id, word in ((two, job_ids[0], "one"), (one, job_ids[1], "two")):
            await until(lambda c=call, j=job_id, w=word: _tail_says(c, j, f"from {w}\n"))
            assert (await call("cancel_job", job_id=job_id)).data["state"] == "cancelled"
        for call, job_id in ((one, job_ids[0]), (two, job_ids[1])):
            assert (await call("job_status", job_id=job_id)).data["state"] == "cancelled"
            again = await call("cancel_job", job_id=job_id)
            assert "had already ended" in again.text


async def _tail_says(call: Caller, job_id: str, text: str) -> bool:
    return bool((await call("tail_log", job_id=job_id)).data["text"] == text)


#: Arguments with which each tool would do its work.
GOOD_CALLS: dict[str, dict[str, Any]] = {
    "launch_job": {"command": ["true"], "wait_s": 10},
    "job_status": {},
    "tail_log": {"job_id": "job-x"},
    "cancel_job": {"job_id": "job-x"},
    "list_artifacts": {"job_id": "job-x"},
    "read_artifact": {"job_id": "job-x", "path": "a.txt"},
    "describe_manifests": {},
}


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("a file is in its place", "state_directory_unusable"),
        ("a file is above it", "state_directory_unusable"),
        ("a folder is in the index's place", "state_directory_unusable"),
        ("config.toml is no TOML", "settings_invalid"),
        ("config.toml is no text", "settings_invalid"),
        ("config.toml has an unknown key", "settings_invalid"),
        ("config.toml has a value of a wrong type", "settings_invalid"),
    ],
)
async def test_a_server_that_cannot_work_says_so_and_recovers(
    home: Path, monkeypatch: pytest.MonkeyPatch, fault: str, code: str
) -> None:
    config = home.parent / "config.toml"
    broken = config
    if "config.toml" in fault:
        content = {
            "config.toml is no TOML": b"cores = = 3",
            "config.toml is no text": b"\xff\xfe\x00",
            "config.toml has an unknown key": b"corse = 3",
            "config.toml has a value of a wrong type": b'cores = "many"\ngrace_s = "long"',
        }[fault]
        monkeypatch.delenv("OUTLAST_CORES")  # the environment would be stronger
        config.write_bytes(content)
    elif fault == "a folder is in the index's place":
        broken = home / "outlast.db"
        broken.mkdir(parents=True)
    else:
        broken = home
        if fault == "a file is above it":
            monkeypatch.setenv("OUTLAST_HOME", str(home / "inner"))
        broken.write_text("in the way", encoding="utf-8")

    async with Client(parameters(), mode="legacy") as client:
        call = Caller(client)
        for tool, arguments in GOOD_CALLS.items():
            assert await call.refused(tool, **arguments) == code, tool
        if broken.is_dir():
            broken.rmdir()
        else:
            broken.unlink()
        config.touch()
        assert (await call("launch_job", **GOOD_CALLS["launch_job"])).data["state"] == "completed"


def test_calls_that_come_at_once_are_all_answered(home: Path) -> None:
    with server_by_hand() as server:
        server.greet()
        lines = []
        for number in range(100, 130):
            params = {"name": "job_status", "arguments": {"job_id": f"job-{number}"}}
            request = {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}
            lines.append(json.dumps(request))
        server.send("\n".join(lines).encode())
        for number in range(100, 130):
            answer = server.receive(number)
            assert f"'job-{number}'" in answer["result"]["content"][0]["text"]
