"""A real Slurm cluster, when one was brought up; what tests do with it."""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from jobs.directory import read_record
from jobs.engines import slurm_commands
from jobs.engines.base import Phase, Sighting
from jobs.engines.slurm_script import batch_script, job_script
from jobs.engines.slurm_states import FINAL, Seen, sight
from jobs.model import ExitRecord, LaunchManifest, StartedRecord
from jobs.paths import JobDir
from tests.support.wait import until
from tests.unit.test_artifacts import launched

REPOSITORY = Path(__file__).resolve().parent.parent.parent
GIVEN = os.environ.get("OUTLAST_TEST_SLURM")
FOLDER = Path(GIVEN) if GIVEN else REPOSITORY / ".cache" / "slurm"
HOW = "run `sudo bash tests/services/slurm/up.sh`"
NODES = ("n1", "n2", "n3")
_ENDED = (Phase.ENDED, Phase.VANISHED)


class Cluster:
    """The cluster that answers at FOLDER."""

    def __init__(self) -> None:
        self.has_accounting = (FOLDER / "accounting").read_text(encoding="ascii").strip() == "yes"
        self.has_cgroups = "proctrack/cgroup" in (FOLDER / "slurm.conf").read_text(encoding="utf-8")
        self._ended_at: dict[str, float] = {}
        self._ids: list[str] = []

    async def submit(self, *job_dirs: JobDir, token: str = "test", options: Any = ()) -> str:
        """One job, or an array of as many tasks, each with its own directory."""
        array = [f"--array=0-{len(job_dirs) - 1}"] if len(job_dirs) > 1 else []
        log = "/dev/null" if array else str(job_dirs[0].batch_log)
        defaults = ("--no-requeue", "-D", "/", "-o", log, "-t", "10", *array)
        text = batch_script(job_dirs)
        job_id = await slurm_commands.submit(text, token, [*defaults, *options])
        self._ids.append(job_id)
        return job_id

    async def look(self, job_id: str, job_dir: JobDir, *, settle_s: float = 2) -> Sighting:
        """As an engine would, with one call of each kind."""
        queue: dict[str, Any] = {}
        answered = True
        accounts = None
        try:
            queue = await slurm_commands.queue([job_id])
            accounts = await slurm_commands.accounting([job_id])
        except slurm_commands.Unreachable:
            answered = False
        row, account = queue.get(job_id), (accounts or {}).get(job_id)
        over = answered and (row is None or row.state in FINAL)
        since = self._ended_at.setdefault(job_id, time.monotonic()) if over else None
        return sight(
            Seen(
                started=read_record(job_dir.started, StartedRecord),
                exit=read_record(job_dir.exit, ExitRecord),
                queue=row,
                account=account,
                queue_answered=answered,
                settled=since is not None and time.monotonic() - since > settle_s,
            )
        )

    async def until(
        self, phase: Phase, job_id: str, job_dir: JobDir, *, seconds: float = 40
    ) -> Sighting:
        """The first sighting of the phase; AssertionError when it has ended in another, or late."""
        deadline = time.monotonic() + seconds
        while (sighting := await self.look(job_id, job_dir)).phase is not phase:
            assert sighting.phase not in _ENDED, sighting
            assert time.monotonic() < deadline, sighting
            await asyncio.sleep(0.2)
        return sighting

    async def run(self, job_dir: JobDir, script: str, options: Any = (), **more: Any) -> ExitRecord:
        """The record of the end of a command, without what Slurm alone knows of it."""
        write(job_dir, script, **more)
        job_id = await self.submit(job_dir, options=options)
        return await self.end(job_id, job_dir)

    async def end(self, job_id: str, job_dir: JobDir, *, seconds: float = 40) -> ExitRecord:
        record = (await self.until(Phase.ENDED, job_id, job_dir, seconds=seconds)).exit
        assert record is not None
        return record

    def control(self, *words: str) -> None:
        subprocess.run(["scontrol", *words], check=True, timeout=30, capture_output=True)

    async def begin_anew(self, job_id: str) -> None:
        """Have a job that was put back into the queue begin without the pause that Slurm makes: but
        not in the second of its end, whose credentials its node refuses, and Slurm then ends it."""
        ended_by = int(time.time())
        await until(lambda: time.time() >= ended_by + 2)
        self.control("update", f"jobid={job_id}", "starttime=now")

    def set_node(self, node: str, state: str) -> None:
        """`resume` also when it has come back by itself, which Slurm would call an error."""
        words = ("update", f"nodename={node}", f"state={state}", "reason=test")
        try:
            self.control(*words)
        except subprocess.CalledProcessError:
            if state != "resume":
                raise

    async def until_saved(self) -> None:
        """Till the controller has written down what it knows now: it does so every few seconds,
        and forgets what came since when it is killed."""
        asked_at = time.time()
        saved = FOLDER / "state" / "job_state"
        deadline = time.monotonic() + 30
        while not saved.exists() or saved.stat().st_mtime <= asked_at:
            self.control("update", f"jobid={self._ids[-1]}", f"comment={time.time()}")
            assert time.monotonic() < deadline, "the controller does not save its state"
            await asyncio.sleep(0.5)

    def resume_nodes(self) -> None:
        """Returns when all take jobs: one that was away answers first."""
        for node in NODES:
            self.set_node(node, "resume")
        deadline = time.monotonic() + 60
        while re.search(r"down|drain|\*", states := self._asked("sinfo", "-h", "-N", "-o", "%T")):
            assert time.monotonic() < deadline, states
            time.sleep(0.2)

    def _asked(self, *question: str) -> str:
        return subprocess.run(question, check=True, timeout=30, capture_output=True).stdout.decode()

    @contextmanager
    def without_controller(self) -> Iterator[None]:
        """As when its machine is down."""
        pid_file = FOLDER / "run" / "slurmctld.pid"
        os.kill(int(pid_file.read_text(encoding="ascii")), signal.SIGKILL)
        try:
            yield
        finally:
            _start_again("slurmctld", "scontrol", "ping")

    @contextmanager
    def without_accounting(self) -> Iterator[None]:
        """As when the machine of its database is down."""
        pid = int((FOLDER / "run" / "slurmdbd.pid").read_text(encoding="ascii"))
        os.kill(pid, signal.SIGKILL)
        try:
            yield
        finally:
            _start_again("slurmdbd", "sacct", "-n", "-j", "1")

    def until_empty(self) -> None:
        """Till no job of anybody holds a node. A controller that was killed may believe for minutes
        that one runs which ended just before."""
        deadline = time.monotonic() + 90
        while ids := self._asked("squeue", "-h", "-o", "%A").split():
            assert time.monotonic() < deadline, ids
            subprocess.run(["scancel", *ids], timeout=60, capture_output=True)
            time.sleep(0.5)

    def end_all(self) -> None:
        if self._ids:
            subprocess.run(["scancel", *self._ids], timeout=60, capture_output=True)


def write(job_dir: JobDir, script: str, *, again: Any = None, **more: Any) -> LaunchManifest:
    """The node's part of a job that runs `script`."""
    values: dict[str, Any] = {"command": ["bash", "-c", script], "executable": "/bin/bash"}
    values |= {"env": {"PATH": "/usr/bin:/bin"}, **more}
    job_dir.work.mkdir(parents=True, exist_ok=True)
    order = launched(job_dir.work, **values)
    text = job_script(order, job_dir, attempt=1, again=again)
    job_dir.batch_script.write_bytes(os.fsencode(text))
    return order


def _start_again(daemon: str, *question: str) -> None:
    """Till it answers."""
    # Without the marks of the test, at whose end all that has them is ended.
    env = {name: os.environ[name] for name in ("PATH", "SLURM_CONF")}
    subprocess.run([daemon], check=True, timeout=30, env=env)
    deadline = time.monotonic() + 90
    while (answer := subprocess.run(question, timeout=60, capture_output=True)).returncode:
        assert time.monotonic() < deadline, f"{daemon} did not come back: {answer.stderr!r}"
        time.sleep(0.2)


def _answers() -> bool:
    try:
        return subprocess.run(["scontrol", "ping"], timeout=20, capture_output=True).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


@contextmanager
def _cluster(monkeypatch: pytest.MonkeyPatch, how: int) -> Iterator[Cluster]:
    configuration = FOLDER / "slurm.conf"
    monkeypatch.setenv("SLURM_CONF", str(configuration))
    if not configuration.exists():
        _without_cluster()
    with (FOLDER / "tests.lock").open("w") as lock:
        fcntl.flock(lock, how)
        if not _answers():  # asked with the lock held: another test may have it down
            _without_cluster()
        cluster = Cluster()
        yield cluster
        cluster.end_all()


def _without_cluster() -> None:
    reason = f"no Slurm cluster answers at {FOLDER}: {HOW}"
    if GIVEN and os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The cluster, which other tests may use at the same time."""
    with _cluster(monkeypatch, fcntl.LOCK_SH) as cluster:
        yield cluster


@pytest.fixture
def slurm_alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The cluster for one test only, which may take its nodes or its controller down."""
    with _cluster(monkeypatch, fcntl.LOCK_EX) as cluster:
        cluster.until_empty()
        yield cluster
        cluster.resume_nodes()
