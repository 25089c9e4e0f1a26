"""A real server over stdio with a real client, and the server's pid."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
from mcp import Client, StdioServerParameters

REPOSITORY = Path(__file__).resolve().parent.parent.parent
COMMAND = [sys.executable, "-m", "server", "serve"]


def parameters() -> StdioServerParameters:
    """What starts a server with this process's environment."""
    return StdioServerParameters(
        command=COMMAND[0], args=COMMAND[1:], env=dict(os.environ), cwd=str(REPOSITORY)
    )


@asynccontextmanager
async def stdio_server(mode: str = "auto") -> AsyncIterator[tuple[Client, int]]:
    """A client and the pid of its server; a server that was killed meanwhile is no error."""
    mine = psutil.Process()
    before = {child.pid for child in mine.children()}
    pid = 0
    try:
        async with Client(parameters(), mode=mode) as client:  # type: ignore[arg-type]
            (pid,) = {child.pid for child in mine.children()} - before
            yield client, pid
    except BaseExceptionGroup:
        if pid and psutil.pid_exists(pid):
            raise
