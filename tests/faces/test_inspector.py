"""MCP Inspector's command line as an outside judge: each of its calls starts a new server."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.faces import (
    LEAVES_FILES_AND_RUNS,
    PNG_BASE64,
    TOOLS,
    judge,
    outlast_environment,
)
from tests.support.server import COMMAND, REPOSITORY

pytestmark = pytest.mark.inspector
TOOL_IS_ERROR = 5  #: Inspector's exit code for an answer that says isError


class Inspector:
    """Runs Inspector on our server."""

    def __init__(self, folder: Path) -> None:
        self._program = judge("inspector/node_modules/.bin/mcp-inspector", "get_inspector.sh")
        path = os.pathsep.join([str(self._program.parent), os.environ["PATH"]])
        self._env = {**os.environ, "PATH": path, "MCP_CATALOG_PATH": str(folder / "mcp.json")}
        # It hands on no variable of its own, so each one that the server needs is named.
        self._settings = [
            word for item in outlast_environment().items() for word in ("-e", "=".join(item))
        ]

    async def run(self, *words: str) -> tuple[int, dict[str, Any]]:
        """Exit code and result; the answer of a tool stands there even when it is an error."""
        process = await asyncio.create_subprocess_exec(
            str(self._program),
            *("--cli", "--cwd", str(REPOSITORY), *self._settings, "--format", "json", *words),
            *("--", *COMMAND),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self._env,
        )
        try:
            out, err = await asyncio.wait_for(process.communicate(), timeout=60)
        finally:
            if process.returncode is None:
                process.kill()
        assert process.returncode is not None
        assert out, err.decode()
        result: dict[str, Any] = json.loads(out)["result"]
        return process.returncode, result

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        words = ("--tool-name", tool, "--tool-args-json", json.dumps(arguments))
        code, result = await self.run("--method", "tools/call", *words)
        assert code == (TOOL_IS_ERROR if result.get("isError") else 0)
        return result


async def test_schemas_are_portable(home: Path, tmp_path: Path) -> None:
    code, result = await Inspector(tmp_path).run("--method", "tools/list", "--strict")
    assert code == 0
    assert [tool["name"] for tool in result["tools"]] == TOOLS


async def test_launch_now_and_inspect_from_later_servers(home: Path, tmp_path: Path) -> None:
    inspector = Inspector(tmp_path)
    script = LEAVES_FILES_AND_RUNS.replace("sleep 300", "")
    launched = await inspector.call("launch_job", command=["bash", "-c", script], wait_s=20)
    assert launched["structuredContent"]["state"] == "completed"
    job_id = launched["structuredContent"]["job_id"]

    status = (await inspector.call("job_status", job_id=job_id))["structuredContent"]
    ended = {"exit_code": 0, "decided_by": "exit code"}
    assert (status["state"], status["outcome"]) == ("completed", ended)
    log = (await inspector.call("tail_log", job_id=job_id))["structuredContent"]
    assert log["text"] == "step 1\nstep 2\n"
    files = (await inspector.call("list_artifacts", job_id=job_id))["structuredContent"]
    assert {file["path"] for file in files["artifacts"]} == {"energy.csv", "notes.txt", "dot.png"}
    assert all(len(file["sha256"]) == 64 for file in files["artifacts"])
    picture = await inspector.call("read_artifact", job_id=job_id, path="dot.png")
    assert picture["content"][1]["data"] == PNG_BASE64


async def test_a_running_job_is_cancelled_by_a_later_server(home: Path, tmp_path: Path) -> None:
    inspector = Inspector(tmp_path)
    launched = await inspector.call("launch_job", command=["sleep", "300"])
    assert launched["structuredContent"]["state"] == "running"
    job_id = launched["structuredContent"]["job_id"]
    cancelled = await inspector.call("cancel_job", job_id=job_id)
    assert cancelled["structuredContent"]["state"] == "cancelled"


async def test_a_refusal_is_an_error_to_inspector(home: Path, tmp_path: Path) -> None:
    inspector = Inspector(tmp_path)
    for tool, arguments, refusal in (
        ("job_status", {"job_id": "job-nope"}, "error job_not_found: "),
        ("launch_job", {"command": ["no-such-program"]}, "error executable_not_found: "),
    ):
        result = await inspector.call(tool, **arguments)
        assert result["isError"] is True
        assert result["content"][0]["text"].startswith(refusal)
