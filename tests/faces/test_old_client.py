"""A client of the 1.x series of `mcp`, in an environment of its own, uses all seven tools."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.support.faces import (
    LEAVES_FILES_AND_RUNS,
    PNG_BASE64,
    TOOLS,
    judge,
)
from tests.support.server import COMMAND, REPOSITORY

SESSION = REPOSITORY / "tests" / "support" / "old_client_session.py"


@pytest.mark.old_client
async def test_a_whole_session_of_the_old_client(home: Path) -> None:
    python = judge("old-client/bin/python", "get_old_client.sh")
    process = await asyncio.create_subprocess_exec(
        python,
        SESSION,
        REPOSITORY,
        *COMMAND,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(
            process.communicate(LEAVES_FILES_AND_RUNS.encode()), timeout=60
        )
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, err.decode()
    seen = json.loads(out)

    assert seen["mcp"].startswith("1.")
    assert seen["protocol"] == "2025-11-25"
    assert seen["server"] == "outlast"
    assert seen["tools"] == TOOLS
    assert all(seen["schemas"])
    job_id = seen["launch"]["structuredContent"]["job_id"]
    for answer in ("launch", "status"):
        assert seen[answer]["structuredContent"]["state"] == "running"
        assert job_id in seen[answer]["content"][0]["text"]
    assert seen["tail"]["structuredContent"]["text"] == "step 1\nstep 2\n"
    assert [job["job_id"] for job in seen["list"]["structuredContent"]["jobs"]] == [job_id]
    files = seen["artifacts"]["structuredContent"]["artifacts"]
    assert {file["path"] for file in files} == {"energy.csv", "notes.txt", "dot.png"}
    assert "2,-4.25" in seen["table"]["content"][0]["text"]
    picture = seen["picture"]["content"][1]
    assert (picture["type"], picture["mimeType"]) == ("image", "image/png")
    assert picture["data"] == PNG_BASE64
    assert len(seen["manifests"]["structuredContent"]["manifests"]) >= 1
    assert seen["cancel"]["structuredContent"]["state"] == "cancelled"
    for answer, code in (("error", "job_not_found"), ("wrong_type", "invalid_argument")):
        assert seen[answer]["isError"] is True
        text = seen[answer]["content"][0]["text"]
        assert text.startswith(f"error {code}: ")
        assert "\nNext: " in text
