"""How soon a client that starts a server knows its tools."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import IO, Any

from benchmarks.ground import BARE, OUTLAST, PYTHON, ROOT, say, state_directory
from benchmarks.table import Row, paired

STARTS = 25
#: What a client sends until it knows the tools. The SDK's own client would take as long as the
#: server does, and so hide the difference.
GREETING = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "benchmark", "version": "1"},
    },
}
GREETED = {"jsonrpc": "2.0", "method": "notifications/initialized"}
LIST = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}


async def server_start(folder: Path) -> list[Row]:
    """From the start of the process to its answer to tools/list."""
    say(f"start: {STARTS} starts of our server in turn with a bare one ...")
    ours: list[float] = []
    limits: list[float] = []
    with state_directory(folder):
        for number in range(STARTS + 1):
            took, limit = _start(*OUTLAST), _start(*BARE)
            if number:  # the first makes the state directory
                ours.append(took * 1000)
                limits.append(limit * 1000)
    return [
        paired(
            "server start to the answer to tools/list",
            ours,
            limits,
            unit="ms",
            against="a bare MCPServer with one empty tool",
            at_most_ratio=1.25,
        )
    ]


def _start(*module: str) -> float:
    begin = time.perf_counter()
    with subprocess.Popen(
        [PYTHON, "-m", *module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env=dict(os.environ),
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            _send(server.stdin, GREETING)
            _answer(server.stdout)
            _send(server.stdin, GREETED)
            _send(server.stdin, LIST)
            tools = _answer(server.stdout)["tools"]
            took = time.perf_counter() - begin
        finally:
            server.kill()
    assert tools
    return took


def _send(pipe: IO[bytes], message: object) -> None:
    pipe.write(json.dumps(message).encode() + b"\n")
    pipe.flush()


def _answer(pipe: IO[bytes]) -> dict[str, Any]:
    """The result of the next answer; what the server tells by itself is passed over."""
    while line := pipe.readline():
        message = json.loads(line)
        if "result" in message:
            return dict(message["result"])
    raise RuntimeError("the server has ended without an answer")
