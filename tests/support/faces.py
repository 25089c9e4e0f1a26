"""Speaking MCP with the server: over pipes, in memory, by hand; and judging each answer."""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import jsonschema
import pytest
from mcp import Client
from mcp_types import CallToolResult, ImageContent, TextContent

from jobs.errors import JobError
from server.mcp_app import build_server
from tests.support.server import COMMAND, REPOSITORY

MODERN = "2026-07-28"
TOOLS = [
    "launch_job",
    "job_status",
    "tail_log",
    "cancel_job",
    "list_artifacts",
    "read_artifact",
    "describe_manifests",
]
#: What a refusal and a reply may hold, however long the arguments were.
REFUSAL_CHARACTERS = 1500
REPLY_BYTES = 100_000


def _codes(kind: type[JobError]) -> set[str]:
    return {kind.code}.union(*map(_codes, kind.__subclasses__()))


#: Every error that is foreseen; `internal_error` is none of them.
KNOWN_CODES = _codes(JobError) - {JobError.code}
#: Where the outside judges are installed. Read here because tests run without the variable.
JUDGES = REPOSITORY / os.environ.get("OUTLAST_TEST_TOOLS", ".cache")
#: A picture of one pixel.
PNG_BASE64 = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJ"
    "RU5ErkJggg=="
)
#: Leaves a table, a text and a picture, writes two lines, then runs until it is ended.
LEAVES_FILES_AND_RUNS = f"""
printf 'step,energy\\n1,-3.5\\n2,-4.25\\n' > energy.csv
printf 'all is well\\n' > notes.txt
printf '%s' {PNG_BASE64} | base64 -d > dot.png
echo step 1; echo step 2
sleep 300
"""


def judge(program: str, script: str) -> Path:
    """An installed judge's program; else the test is skipped, or fails where all must be there."""
    path = JUDGES / program
    if not path.exists():
        reason = f"{path} is missing: run `sh tests/support/{script}`"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return path


def outlast_environment() -> dict[str, str]:
    """The settings in force, for a client that hands on nothing by itself."""
    return {name: value for name, value in os.environ.items() if name.startswith("OUTLAST_")}


@dataclass(frozen=True)
class Answer:
    """What a model is given for one call."""

    text: str
    data: dict[str, Any]
    pictures: list[ImageContent]


class Caller:
    """Calls tools through a client and checks what must hold of every answer."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._schemas: dict[str, Any] = {}

    async def __call__(self, tool: str, **arguments: Any) -> Answer:
        """An answer that is no error, and whose data is what the tool's schema says."""
        result = await self.client.call_tool(tool, arguments)
        assert not result.is_error, result.content
        await self.check_schema(tool, result)
        texts = [block.text for block in result.content if isinstance(block, TextContent)]
        pictures = [block for block in result.content if isinstance(block, ImageContent)]
        assert len(texts) == 1
        assert len(pictures) == len(result.content) - 1
        return Answer(texts[0], result.structured_content or {}, pictures)

    async def refused(self, tool: str, **arguments: Any) -> str:
        """The code of an error in our form."""
        result = await self.client.call_tool(tool, arguments)
        assert result.is_error, result.content
        return refusal_code(result)

    async def ask(self, tool: str, arguments: dict[str, Any]) -> CallToolResult:
        """Whatever was asked: what the schema says, or a refusal in our words; of bounded size."""
        with anyio.fail_after(30):
            result = await self.client.call_tool(tool, arguments)
        whole = result.model_dump_json().encode()
        if result.is_error:
            assert refusal_code(result) in KNOWN_CODES
            assert len(getattr(result.content[0], "text", "")) <= REFUSAL_CHARACTERS
        else:
            await self.check_schema(tool, result)
            if not any(isinstance(block, ImageContent) for block in result.content):
                assert len(whole) <= REPLY_BYTES
        return result

    async def check_schema(self, tool: str, result: CallToolResult) -> None:
        if not self._schemas:
            listed = await self.client.list_tools()
            self._schemas = {info.name: info.output_schema for info in listed.tools}
        jsonschema.Draft202012Validator(self._schemas[tool]).validate(result.structured_content)


@asynccontextmanager
async def connected() -> AsyncIterator[Caller]:
    """Calls a server in memory; a failure leaves it as it is, and not in a group."""
    failure: BaseException | None = None
    async with Client(build_server(), mode=MODERN) as client:
        try:
            yield Caller(client)
        except BaseException as error:
            failure = error
    if failure is not None:
        raise failure


def refusal_code(result: CallToolResult) -> str:
    """The code of an error, which is told in two lines of our own words."""
    assert len(result.content) == 1
    block = result.content[0]
    assert isinstance(block, TextContent)
    first, *rest = block.text.split("\n")
    assert first.startswith("error "), block.text
    assert any(line.startswith("Next: ") and len(line) > 8 for line in rest), block.text
    for foreign in ("Traceback", "pydantic", "Error executing", 'File "'):
        assert foreign not in block.text
    code, _, cause = first.removeprefix("error ").partition(": ")
    assert code.replace("_", "").isalpha()
    assert cause
    return code


class Pipes:
    """A server to which raw lines are sent, as a client that is broken or gone would."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._unread = b""
        self._messages: dict[Any, dict[str, Any]] = {}
        self._last_id = 0

    def send(self, line: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()

    def receive(self, message_id: int | str, seconds: float = 20) -> dict[str, Any]:
        """The answer with this id, in whatever order answers come."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + seconds
        fd = self.process.stdout.fileno()
        while message_id not in self._messages:
            readable, _, _ = select.select([fd], [], [], max(0, deadline - time.monotonic()))
            assert readable, f"no answer to {message_id} within {seconds} s"
            more = os.read(fd, 1 << 16)
            assert more, "the server has closed its output"
            *lines, self._unread = (self._unread + more).split(b"\n")
            for line in lines:
                message: dict[str, Any] = json.loads(line)
                if isinstance(message.get("id"), int | str):
                    self._messages[message["id"]] = message
        return self._messages.pop(message_id)

    def request(self, method: str, raw_params: str = "{}") -> dict[str, Any]:
        """Send one request whose parameters are JSON text just as it stands; gives its answer."""
        self._last_id += 1
        head = f'{{"jsonrpc":"2.0","id":{self._last_id},"method":{json.dumps(method)}'
        self.send(f'{head},"params":{raw_params}}}'.encode())
        return self.receive(self._last_id)

    def greet(self) -> None:
        """The handshake that every client before 2026 begins with."""
        params = {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "by-hand", "version": "1"},
        }
        assert "result" in self.request("initialize", json.dumps(params))
        self.send(b'{"jsonrpc":"2.0","method":"notifications/initialized"}')

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        params = json.dumps({"name": tool, "arguments": arguments})
        result: dict[str, Any] = self.request("tools/call", params)["result"]
        return result

    def close_input(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()


@contextmanager
def server_by_hand() -> Iterator[Pipes]:
    """A server of a process group of its own; ended, if it has not left by itself."""
    process = subprocess.Popen(
        COMMAND,
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield Pipes(process)
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()
