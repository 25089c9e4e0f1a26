"""One case of the crash matrix: a process is killed, frozen or failed at a step of a job's life.

`run_case` gives what came of the job, and raises AssertionError when a promise was broken.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import psutil

from jobs.clock import now
from jobs.directory import read_record
from jobs.errors import JobNotFoundError
from jobs.model import Job, LaunchRequest, RunRecord
from jobs.service import Service
from jobs.settings import load_settings
from jobs.states import State
from server.wiring import open_service
from tests.support.cli import ROOT
from tests.support.processes import all_of, end_all_of, is_running
from tests.support.wait import ended, in_state, until

#: What each command leaves to be cleaned up: a daemon of a session of its own.
DAEMON = "setsid sleep 300 & "
STORY = 'say() {{ echo "$1 $OUTLAST_JOB_ID $2" >> {witness}; }}; say start; '
BODIES = {
    "run": DAEMON + "sleep 0.2; say end 7; exit 7",
    "watch": "head -c 3000000 /dev/zero; echo; echo outlast: progress 0.5; say end 7; exit 7",
    "limit": DAEMON + "sleep 300; say end 0",
    "cancel": DAEMON + "sleep 300; say end 0",
    "queued": "say end 7; exit 7",
    "prune": DAEMON + "say end 7; exit 7",
    "index": "say end 7; exit 7",
}


@dataclass(frozen=True)
class Case:
    point: str
    action: str  #: `kill`, `stop` or the name of an error
    scenario: str  #: a key of BODIES

    def __str__(self) -> str:
        return f"{self.point}-{self.action}-{self.scenario}"

    @property
    def by_server(self) -> bool:
        return self.point.startswith("server.")

    @property
    def refused(self) -> bool:
        """Whether the caller is told that it did not work: all else is carried out, or goes on."""
        points = ("server.directory_made", "server.index_filled", "server.index_published")
        return self.action not in ("kill", "stop") and self.point in points


@dataclass(frozen=True)
class Seen:
    """What came of the job, by the index and by the witness that its command itself wrote."""

    state: str
    exit_code: int | None
    starts: int
    ends: int


#: What comes of a job that nothing disturbs.
UNDISTURBED = {
    "run": Seen("failed", 7, 1, 1),
    "watch": Seen("failed", 7, 1, 1),
    "limit": Seen("timed_out", None, 1, 0),
    "cancel": Seen("cancelled", None, 1, 0),
    "queued": Seen("cancelled", None, 0, 0),
    "prune": Seen("pruned", None, 1, 1),
    "index": Seen("failed", 7, 1, 1),
}
#: Where the shim dies between the start and the record of the end, nobody can know the exit code.
LOST = {
    "shim.started_recorded": Seen("lost", None, 0, 0),
    "shim.gate_opened": Seen("lost", None, 1, 1),
    "shim.stop_sent": Seen("lost", None, 1, 0),
    "shim.command_ended": Seen("lost", None, 1, 1),
    "shim.tree_ended": Seen("lost", None, 1, 1),
}
#: Where an error that does not go away leaves no way to start.
CANNOT_START = ("shim.begun", "shim.prepared", "shim.forked")
#: And where it is waited out.
WAITS = "keeper.lock_taken"


def expected(case: Case) -> Seen:
    """What must come of the job, whatever is killed, frozen or failed."""
    if case.action == "stop":
        return UNDISTURBED[case.scenario]
    if case.action != "kill" and case.point in CANNOT_START:
        return Seen("failed", None, 0, 0)
    return LOST.get(case.point, UNDISTURBED[case.scenario])


@dataclass(frozen=True)
class World:
    """A state directory with its own armed steps and its own witness."""

    root: Path
    home: Path = field(init=False)
    points: Path = field(init=False)
    witness: Path = field(init=False)

    def __post_init__(self) -> None:
        for name in ("home", "points", "witness"):
            object.__setattr__(self, name, self.root / name)
        self.points.mkdir(parents=True)
        (self.root / "config.toml").touch()
        self.witness.touch()

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Its environment is this process's; whatever runs for it is ended afterwards."""
        settings = {
            "OUTLAST_HOME": str(self.home),
            "OUTLAST_CONFIG": str(self.root / "config.toml"),
            "OUTLAST_FAILPOINTS": str(self.points),
            "OUTLAST_CORES": "1",
            "OUTLAST_KEEPER_IDLE_S": "0.3",
            "OUTLAST_GRACE_S": "0.2",
            "OUTLAST_LOG_LIMIT_MB": "1",
        }
        with mock.patch.dict(os.environ, settings):
            try:
                yield
            finally:
                end_all_of(self.home)

    def arm(self, case: Case) -> None:
        (self.points / case.point).write_text(case.action, encoding="ascii")

    def disarm(self, case: Case) -> None:
        (self.points / case.point).unlink(missing_ok=True)

    async def fired(self, case: Case) -> int:
        """The pid of the process that came to the step."""
        mark = self.points / f"{case.point}.fired"
        return int(
            await until(lambda: mark.exists() and mark.read_text(), what=f"{case} fires") or 0
        )

    def request(self, scenario: str) -> LaunchRequest:
        story = STORY.format(witness=self.witness) + BODIES[scenario]
        return LaunchRequest(
            command=["bash", "-c", story],
            env={"API_TOKEN": "not to be read again"},
            idempotency_key="the only one",
            time_limit_s=0.3 if scenario == "limit" else None,
        )

    def said(self, what: str, job_id: str) -> int:
        lines = [line.split() for line in self.witness.read_text(encoding="utf-8").splitlines()]
        return sum(words[:2] == [what, job_id] for words in lines)


async def run_case(world: World, case: Case) -> Seen:
    """Go through one case from an empty state directory to one in which nothing runs any more."""
    async with open_service(load_settings()) as service:
        job = await _prepare(world, case, service)
        world.arm(case)
        act = asyncio.get_running_loop().create_task(_act(world, case, service, job))
        try:
            pid = await world.fired(case)
            if case.action == "kill":
                await until(lambda: not is_running(pid), what="it was killed")
                job = await _again(world, case, service, job)
            elif case.action == "stop":
                job = await _while_frozen(world, case, service, job, pid)
                os.kill(pid, signal.SIGCONT)
            else:
                job = await _past_the_error(world, case, service, job, act)
            answer = await asyncio.wait_for(act, 30)
        finally:
            act.cancel()
            await asyncio.wait([act])
        assert answer.get("job_id", job.id) == job.id, answer
        seen = await _seen(world, case, service, job)
        await _all_is_clean(world, case, service, job)
    return seen


async def _prepare(world: World, case: Case, service: Service) -> Job | None:
    """What has to be there before the step is armed."""
    if case.scenario in ("run", "watch", "limit"):
        return None
    if case.scenario == "queued":  # something else holds the only core
        blocker = LaunchRequest(command=["sleep", "300"])
        held = (await service.launch(blocker, client=None)).job
        await in_state(service, held.id, State.RUNNING)
    job = (await service.launch(world.request(case.scenario), client=None)).job
    if case.scenario == "cancel":
        await until(lambda: world.said("start", job.id))
        await in_state(service, job.id, State.RUNNING)
    elif case.scenario in ("prune", "index"):
        job = await ended(service, job.id)
        await until(lambda: not all_of(world.home), what="the keeper leaves")
    if case.scenario == "index":
        for path in world.home.glob("outlast.db*"):
            path.unlink()
    return job


async def _act(world: World, case: Case, service: Service, job: Job | None) -> dict[str, Any]:
    """Do what leads to the step, in a process of its own where it is a server's step."""
    request = world.request(case.scenario)
    if not case.by_server:
        if job is None:
            job = (await service.launch(request, client=None)).job
        else:
            await service.cancel(job.id, wait_s=0)
        return {"job_id": job.id}
    verb = {"cancel": "cancel", "queued": "cancel", "prune": "prune", "index": "look"}.get(
        case.scenario, "launch"
    )
    given = request.model_dump() if job is None else {"job_id": job.id}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.drive", verb, json.dumps(given),
        cwd=ROOT, stdout=subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate()
    if case.action == "kill":
        assert (process.returncode, out) == (-signal.SIGKILL, b"")
        return {}
    answer: dict[str, Any] = json.loads(out)
    return answer


async def _again(world: World, case: Case, service: Service, job: Job | None) -> Job:
    """What a user does who got no answer: ask the same of another server."""
    if job is None:
        known = (await service.list_jobs()).jobs
        assert bool(known) == (case.point != "server.directory_made")
        again = await service.launch(world.request(case.scenario), client=None)
        assert again.reused == bool(known)
        job = again.job
    elif case.point == "server.wish_written":
        job = await service.job(job.id)
        assert not job.is_final or case.action == "ENOSPC"
        await service.cancel(job.id, wait_s=0)
    return job


async def _while_frozen(
    world: World, case: Case, service: Service, job: Job | None, pid: int
) -> Job:
    """A frozen server holds up nobody; what waits for a keeper or a shim is told as it is."""
    await until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    if case.scenario == "index":  # who makes the index has it alone: others wait for it
        assert job is not None
        return job
    if case.by_server:
        job = await _again(world, case, service, job)
        return job if case.scenario == "prune" else await ended(service, job.id)
    if job is None:
        (job,) = (await service.list_jobs()).jobs
    told = await service.job(job.id, wait_s=0.2)
    assert not told.is_final or told.state == expected(case).state
    return job


async def _past_the_error(
    world: World, case: Case, service: Service, job: Job | None, act: asyncio.Task[dict[str, Any]]
) -> Job:
    """See what an error that stays does, then let it go away."""
    if case.by_server:
        answer = await asyncio.wait_for(asyncio.shield(act), 30)
        assert ("refused" in answer) == case.refused, answer
        if job is None and "refused" in answer:
            assert not list(world.home.glob("jobs/*/.*")), "a refused launch left a trace"
        world.disarm(case)
        return await _again(world, case, service, job)
    if case.point in (*CANNOT_START, *LOST, "keeper.shim_spawned", "shim.end_recorded"):
        (job,) = (await service.list_jobs()).jobs
        await ended(service, job.id)
    if case.point == WAITS:
        (job,) = (await service.list_jobs()).jobs
        job_id, why = job.id, os.strerror(getattr(errno, case.action))

        async def told() -> bool:
            return why in ((await service.job(job_id)).wait_reason or "")

        await until(told)
    world.disarm(case)
    return await _again(world, case, service, job)


async def _seen(world: World, case: Case, service: Service, job: Job) -> Seen:
    if case.scenario == "prune":
        state, exit_code = "pruned", None  # that it is, is looked at once a keeper was there
    else:
        job = await ended(service, job.id)
        state, exit_code = job.state.value, job.outcome.exit_code
        record = read_record(service.directory(job).run_record, RunRecord)
        assert record is not None
        assert (record.state, record.outcome) == (job.state, job.outcome)
    return Seen(state, exit_code, world.said("start", job.id), world.said("end", job.id))


async def _all_is_clean(world: World, case: Case, service: Service, job: Job) -> None:
    """The slots are free, nothing runs, and nothing half-made is left."""
    for other in (await service.list_jobs()).jobs:
        if not other.is_final:  # what held the core of a queued job
            await service.cancel(other.id)
            await ended(service, other.id)
    if case.scenario == "prune" or case.point == "server.directory_made":
        await until(lambda: not all_of(world.home), what="the keeper leaves")
        for unborn in world.home.glob("jobs/*/.new-*"):
            os.utime(unborn, (0, now() - 7200))  # older than any launch takes
    further = await service.launch(LaunchRequest(command=["true"]), client=None, wait_s=20)
    assert further.job.state is State.COMPLETED
    await until(lambda: not all_of(world.home), what="nothing runs any more")
    if case.scenario == "prune":
        try:
            raise AssertionError(f"still known: {await service.job(job.id)}")
        except JobNotFoundError:
            assert not service.directory(job).root.exists()
    left = [
        path.name
        for path in world.home.rglob("*")
        if path.name.startswith((".new-", ".gone-"))
        or path.name.endswith(".tmp")
        or path.name in ("secrets.json", ".outlast.db.link", ".outlast.db.was")
    ]
    indexes = [path for path in world.home.glob("outlast.db.*") if "-" not in path.name]
    left += [path.name for path in indexes[1:]]
    assert left == []
