"""Where the measurements take place: state directories of their own, and the processes in them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import psutil
from mcp import Client, StdioServerParameters

from jobs.model import Job, LaunchRequest
from jobs.service import Service
from server.wiring import open_service

ROOT = Path(__file__).resolve().parent.parent
PYTHON = sys.executable
OUTLAST = ("server", "serve")
BARE = ("benchmarks.bare_server",)  #: the least that an MCP server in Python can be


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def state_directory(folder: Path, **settings: object) -> Iterator[Path]:
    """An empty state directory in `folder` that this process and its children use.

    No file of it and no process that works for it is left, however the measurement ends.
    """
    home = folder / f"state-{os.getpid()}-{time.monotonic_ns()}"
    home.mkdir(mode=0o700)
    config = home / "empty.toml"
    config.touch()
    environment = {"OUTLAST_HOME": str(home), "OUTLAST_CONFIG": str(config)}
    environment |= {f"OUTLAST_{name.upper()}": str(value) for name, value in settings.items()}
    os.environ.update(environment)
    try:
        yield home
    finally:
        end_all(home)
        for name in environment:
            del os.environ[name]
        shutil.rmtree(home)


@asynccontextmanager
async def service_of(folder: Path, **settings: object) -> AsyncIterator[tuple[Service, Path]]:
    """The service over a new state directory."""
    with state_directory(folder, **settings) as home:
        async with open_service() as service:
            yield service, home


async def launch(service: Service, *command: str) -> Job:
    """Launch a command and give the reply as soon as there is one."""
    request = LaunchRequest(command=list(command))
    launched = await service.launch(request, client="benchmark", wait_s=0)
    if launched.warning:
        raise RuntimeError(launched.warning)
    return launched.job


async def completed(service: Service, job: Job) -> Job:
    """The job once it has ended well."""
    while not job.is_final:
        job = await service.job(job.id, wait_s=20)
    if job.state != "completed":
        raise RuntimeError(f"{job.id} ended as {job.state}: {job.outcome.reason}")
    return job


@asynccontextmanager
async def client_of(*module: str) -> AsyncIterator[tuple[Client, psutil.Process]]:
    """A real MCP client over stdio, and the process of its server."""
    before = set(psutil.Process().children())
    parameters = StdioServerParameters(
        command=PYTHON, args=["-m", *module], env=dict(os.environ), cwd=str(ROOT)
    )
    async with Client(parameters) as client:
        (server,) = set(psutil.Process().children()) - before
        yield client, server


def ours(home: Path) -> list[psutil.Process]:
    """Keeper and shims that work for `home`; neither the jobs' own processes nor servers."""
    servers = set(psutil.Process().children(recursive=True))
    return [
        process
        for process, environment in _all_of(home)
        if "OUTLAST_JOB_ID" not in environment and process not in servers
    ]


def end_all(home: Path) -> None:
    """Kill every process of `home`; keeper and shims first, so that they start nothing more."""
    give_up_at = time.monotonic() + 20
    while found := [process for process, _ in _all_of(home)]:
        for process in [*ours(home), *found]:
            with contextlib.suppress(psutil.Error):
                process.kill()  # checks that the pid is still the same process's
        if time.monotonic() > give_up_at:
            raise RuntimeError(f"processes survived: {found}")
        time.sleep(0.02)


def _all_of(home: Path) -> Iterator[tuple[psutil.Process, dict[str, str]]]:
    """Every process but this one that names `home` in its command or environment."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            environment = process.environ()
            marks = [*process.cmdline(), environment.get("OUTLAST_JOB_DIR", "")]
            if environment.get("OUTLAST_HOME") == str(home) or str(home) in " ".join(marks):
                yield process, environment


def pss_mb(processes: list[psutil.Process]) -> float:
    """Memory of the processes, what they share with others counted by its share."""
    return float(sum(process.memory_full_info().pss for process in processes)) / 1e6


def cpu_s(processes: list[psutil.Process]) -> float:
    """Processor time that the processes have used so far."""
    times = [process.cpu_times() for process in processes]
    return float(sum(one.user + one.system for one in times))


def seconds(action: Callable[[], object]) -> float:
    """How long `action` takes."""
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def settle() -> None:
    """Let what was written before reach the disk, so that it does not weigh on what comes."""
    os.sync()


def end_on_sigterm() -> None:
    """SIGTERM ends us as ^C does: all is cleared away on the way out."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
