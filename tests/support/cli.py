"""Running `outlast` as people do: as a process, in a pipe or on a terminal."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
CLI = [sys.executable, "-m", "server"]


async def run(*words: str, stdin: str = "", code: int = 0) -> tuple[str, str]:
    """What `outlast WORDS` writes to stdout and stderr; it has to end with `code`."""
    process = await asyncio.create_subprocess_exec(
        *CLI, *words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(stdin.encode()), 60)
    assert process.returncode == code, (words, out, err)
    assert b"Traceback" not in out + err
    return out.decode(), err.decode()


async def data(verb: str, *words: str, code: int = 0) -> Any:
    """The JSON that is all of standard output of `outlast VERB --json WORDS`."""
    out, _ = await run(verb, "--json", *words, code=code)
    return json.loads(out)


@contextmanager
def terminal(*words: str, columns: int) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """`outlast WORDS` on a terminal of its own."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": "24"}
    process = subprocess.Popen(
        [*CLI, *words], cwd=ROOT, env=env, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    try:
        yield process, ours
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def read_until(fd: int, wanted: bytes, seconds: float = 30) -> bytes:
    seen = b""
    deadline = time.monotonic() + seconds
    while wanted not in seen:
        assert time.monotonic() < deadline, seen
        if select.select([fd], [], [], 0.1)[0]:
            seen += os.read(fd, 65536)
    return seen


def add_kind(tmp_path: Path, name: str) -> Path:
    """A folder of manifests of one's own, with one that is valid."""
    folder = tmp_path / "kinds"
    folder.mkdir()
    (folder / f"{name}.toml").write_text(
        f"""
schema = 1
name = "{name}"
title = "Say what was given"
[params.n]
type = "integer"
default = 1
[params.word]
type = "string"
default = ""
[params.file]
type = "string"
format = "file-path"
optional = true
[run]
command = ["echo", "{{n}}", "{{word}}", ["{{file}}"]]
""",
        encoding="utf-8",
    )
    (tmp_path / "config.toml").write_text(
        f"manifest_dirs = [{json.dumps(str(folder))}]\n", encoding="utf-8"
    )
    return folder
