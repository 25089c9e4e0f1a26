"""The demonstration: a job is launched in one turn, its server killed, its result read in another.

Both turns are those of an assistant: a real MCP client that talks to a real server over stdio.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import struct
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import psutil
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp_types import CallToolResult, ImageContent, Implementation, TextContent
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jobs import __version__
from jobs.states import FINAL, State
from jobs.text import shown, size
from server.cli_views import short_id
from server.cli_watch import Moment, Onlooker
from server.job_replies import duration
from server.terminal import out

#: What `outlast serve` does, from the folder that holds our `server/`: it needs neither the script
#: on the PATH nor an installation, and a folder of that name elsewhere is not taken for ours.
_SERVE = [
    "-c",
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from server.mcp_app import serve_stdio; serve_stdio()",
    str(Path(__file__).resolve().parent.parent),
]
LOOK_EVERY_S = 1.0
MEMORY_MB = 1000  #: of the simulation, on a cluster
PICTURE = "md.png"
#: What of summary.json is told, and how.
_FACTS = {
    "mean_temperature_k": "mean temperature {:.0f} K",
    "final_potential_kj_mol": "final potential energy {:.1f} kJ/mol",
    "ns_per_day": "{:.0f} ns/day",
}


class DemoError(Exception):
    """Something did not hold."""


@dataclass(frozen=True)
class Turn:
    """One client and the server process that it talks to."""

    client: Client
    server: psutil.Process

    async def call(self, tool: str, **arguments: Any) -> tuple[CallToolResult, dict[str, Any]]:
        """The tool's reply, whole and as data. Raises DemoError with a refusal's own words."""
        result = await self.client.call_tool(tool, arguments)
        if result.is_error:
            words = " ".join(c.text for c in result.content if isinstance(c, TextContent))
            if "error software_missing" in words:
                words += "\nThe demo's software is installed by: pip install 'outlast[demo]'"
            raise DemoError(f"{tool} was refused: {words}")
        return result, result.structured_content or {}


def run(steps: int, home: Path | None, engine: str) -> int:
    """Show it all on standard output; 0 only if everything held."""
    console = out()
    try:
        asyncio.run(_show(_Story(console), steps, home, engine))
    except DemoError as error:
        console.print(Text.assemble(("failed: ", "bold red"), str(error)), soft_wrap=True)
        return 1
    return 0


class _Story:
    """Says what happens, a line or two at a time."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def turn(self, title: str) -> None:
        self.console.print(Text(f"\n{title}", style="bold"))

    def tell(self, text: str, mark: str = " ") -> None:
        grid = Table.grid(padding=(0, 1, 0, 0))
        grid.add_column(style="green")
        grid.add_column()
        grid.add_row(Text(f" {mark}"), Text(text))
        self.console.print(grid)

    def done(self, text: str) -> None:
        self.tell(text, "✓")

    def quote(self, line: str) -> None:
        """A line of the program's own, cut at the terminal's edge."""
        text = Text(f"     {shown(line)}", style="dim", no_wrap=True, overflow="ellipsis")
        self.console.print(text)

    def path(self, label: str, path: Path) -> None:
        self.console.print(Text.assemble((f"   {label:<10}", "dim"), str(path)), soft_wrap=True)


async def _show(story: _Story, steps: int, home: Path | None, engine: str) -> None:
    job_id = await _first_turn(story, steps, home, engine)
    try:
        await _second_turn(story, job_id, home)
    except asyncio.CancelledError:
        story.tell(f"Interrupted; the job goes on: outlast status {short_id(job_id)} --wait")
        raise
    again = "" if home is None else f"OUTLAST_HOME={home.absolute()} "
    story.turn("What next")
    story.tell(f"{again}outlast status {short_id(job_id)}     the job, at any later time")
    story.tell(f"{again}outlast artifacts {short_id(job_id)}  all its files")
    story.tell(
        "Connect Claude Desktop or another MCP client (README.md shows how) and ask for a short "
        "simulation of alanine dipeptide; in a later chat ask how it went."
    )


async def _first_turn(story: _Story, steps: int, home: Path | None, engine: str) -> str:
    """Launch, then kill the server. The ID is all that remains of this turn."""
    story.turn("Turn 1: an assistant launches a job")
    job_id = ""
    killed = False
    try:
        async with _turn("outlast-demo-turn-1", home) as turn:
            server = turn.server
            story.tell(f"An MCP server was started: process {server.pid}.")
            wish: dict[str, Any] = {"manifest": "md-openmm", "params": {"steps": steps}}
            if engine != "local":  # where a job may have less memory than it does not ask for
                wish |= {"engine": engine, "resources": {"memory_mb": MEMORY_MB}}
            _, job = await turn.call("launch_job", **wish)
            job_id = job["job_id"]
            story.done(f"launch_job gave {job_id}, {job['state']}.")
            server.kill()  # SIGKILL; psutil makes sure that the pid is still this process
            killed = True
    except DemoError:
        # The client may complain that its server has gone. Everything before that is an error.
        if not killed:
            raise
    if _is_alive(server):
        raise DemoError(f"the server, process {server.pid}, survived SIGKILL")
    story.done(f"The server was killed with SIGKILL: process {server.pid} is gone.")
    return job_id


async def _second_turn(story: _Story, job_id: str, home: Path | None) -> None:
    """Ask another server how it went, and have everything that the job left."""
    story.turn("Turn 2: another chat, another server, the same job")
    async with _turn("outlast-demo-turn-2", home) as turn:
        story.tell(f"A new MCP server was started: process {turn.server.pid}.")
        placed, job = await _until_ended(story.console, turn, job_id)
        _check_completed(job)
        ran = duration(job.get("elapsed_s") or 0)
        story.done(f"job_status says completed, exit code 0, after {ran}.")
        if placed:
            story.tell(f"{placed}.")
        await _read_log(story, turn, job_id)
        files = await _list_files(story, turn, job_id)
        await _read_summary(story, turn, job_id)
        await _fetch_picture(story, turn, job_id, files)
    job_dir = Path(job["job_dir"])
    story.path("directory", job_dir)
    story.path("picture", job_dir / "work" / PICTURE)


async def _until_ended(console: Console, turn: Turn, job_id: str) -> tuple[str, dict[str, Any]]:
    """The job, and before it where a scheduler has put it, if one has."""
    with Onlooker(console) as onlooker:
        while True:
            reply, job = await turn.call("job_status", job_id=job_id, wait_s=LOOK_EVERY_S)
            progress = job.get("progress") or {}
            moment = Moment(
                State(job["state"]),
                job.get("elapsed_s"),
                progress.get("fraction"),
                progress.get("eta_s"),
                shown(progress.get("message") or ""),
            )
            onlooker.show(moment)
            if moment.state in FINAL:
                words = "".join(c.text for c in reply.content if isinstance(c, TextContent))
                placed = [line for line in words.splitlines() if line.startswith("Slurm job ")]
                return "".join(placed[:1]), job


def _check_completed(job: dict[str, Any]) -> None:
    outcome = job.get("outcome") or {}
    if job["state"] != State.COMPLETED or outcome.get("exit_code") != 0:
        reason = outcome.get("reason") or f"exit code {outcome.get('exit_code')}"
        error = f" {outcome['error']}" if outcome.get("error") else ""
        raise DemoError(f"the job is {job['state']}: {reason}{error}; its folder: {job['job_dir']}")


async def _read_log(story: _Story, turn: Turn, job_id: str) -> None:
    _, log = await turn.call("tail_log", job_id=job_id, lines=2)
    lines = log["text"].strip().splitlines()
    if not lines:
        raise DemoError("the job's log is empty")
    story.done("tail_log gave the program's last lines:")
    for line in lines:
        story.quote(line)


async def _list_files(story: _Story, turn: Turn, job_id: str) -> dict[str, dict[str, Any]]:
    _, page = await turn.call("list_artifacts", job_id=job_id)
    missing = [output["path"] for output in page["expected"] if not output["present"]]
    if missing:
        raise DemoError(f"outputs are missing: {', '.join(missing)}")
    story.done(f"list_artifacts gave {page['total']} files, {size(page['total_size'])}.")
    return {file["path"]: file for file in page["artifacts"]}


async def _read_summary(story: _Story, turn: Turn, job_id: str) -> None:
    _, content = await turn.call("read_artifact", job_id=job_id, path="summary.json")
    summary = json.loads(content["text"])
    facts = [text.format(summary[key]) for key, text in _FACTS.items() if key in summary]
    story.done(f"read_artifact gave summary.json: {', '.join(facts) or content['size']}.")


async def _fetch_picture(
    story: _Story, turn: Turn, job_id: str, files: dict[str, dict[str, Any]]
) -> None:
    """The picture as a chat gets it, compared with the checksum of the file that the job left."""
    result, content = await turn.call("read_artifact", job_id=job_id, path=PICTURE)
    images = [item for item in result.content if isinstance(item, ImageContent)]
    if not images:
        raise DemoError(f"{PICTURE} came without a picture")
    import base64

    data = base64.b64decode(images[0].data)
    if hashlib.sha256(data).hexdigest() != files[PICTURE]["sha256"]:
        raise DemoError(f"{PICTURE} is not the file that the job left: its checksum differs")
    width, height = png_dimensions(data)
    story.done(
        f"read_artifact gave the picture {PICTURE}, {width} x {height} pixels, "
        f"{size(content['size'])}; its checksum is the recorded one."
    )


def png_dimensions(data: bytes) -> tuple[int, int]:
    """Width and height. Raises DemoError for what is no PNG."""
    if data[:8] != b"\x89PNG\r\n\x1a\n" or len(data) < 24:
        raise DemoError("the picture is no PNG")
    width, height = struct.unpack(">II", data[16:24])
    return width, height


@asynccontextmanager
async def _turn(name: str, home: Path | None) -> AsyncIterator[Turn]:
    """A client with a server of its own, which ends with it."""
    env = dict(os.environ)
    if home is not None:
        env["OUTLAST_HOME"] = str(home.absolute())
    server = StdioServerParameters(command=sys.executable, args=_SERVE, env=env)
    info = Implementation(name=name, version=__version__)
    before = set(psutil.Process().children())
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
        try:
            async with Client(stdio_client(server, errlog=said), client_info=info) as client:
                yield Turn(client, _new_child(before))
        except Exception as error:
            raise _as_demo_error(error, said) from error


def _new_child(before: set[psutil.Process]) -> psutil.Process:
    """The one server that was started since."""
    servers = [
        child
        for child in set(psutil.Process().children()) - before
        if child.cmdline()[1:] == _SERVE
    ]
    if len(servers) != 1:
        raise DemoError(f"{len(servers)} server processes were found instead of one")
    return servers[0]


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _as_demo_error(error: BaseException, said: TextIO) -> DemoError:
    """The error itself, out of the groups in which the client's tasks wrap it, and with what the
    server said last."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, DemoError):
        return error
    said.seek(0)
    last = said.read().strip().rpartition("\n")[2]
    words = f"{type(error).__name__}: {error}"
    return DemoError(f"{words}; the server said: {last}" if last else words)
