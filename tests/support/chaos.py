"""Servers, keepers and shims are killed at random while clients launch and cancel jobs.

`python -m tests.support.chaos --servers 3 --jobs 300 --kills 300 [--seed N]`; the exit code is 0
only when an independent witness agrees with what is told of every job.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
from mcp import Client

from tests.support.chaos_judge import FINAL, Plan, Told, all_leave, judge, processes_of
from tests.support.processes import end_all_of, is_running, keeper_pid, kill, shim_pids
from tests.support.server import stdio_server

#: Each job tells its own story to a file that is none of Outlast's, with the time of each line.
SCRIPT = """
say() {{ echo "$1 $OUTLAST_JOB_ID {key} $EPOCHREALTIME $2" >> '{witness}'; }}
say start
{body}
say end {code}
exit {code}
"""
CALL_S = 60.0  #: a call that a living server has not answered by then is an anomaly


@dataclass
class Chaos:
    root: Path
    servers: int
    jobs: int
    kills: int
    seed: int
    cores: int = 4
    counts: Counter[str] = field(default_factory=Counter)
    anomalies: list[str] = field(default_factory=list)
    told: dict[str, Told] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.home = self.root / "home"
        self.witness = self.root / "witness"
        self.witness.touch()
        (self.root / "config.toml").touch()
        self.waiting = [self.plan(n) for n in range(self.jobs)]
        self.pids: dict[int, int] = {}  #: of the servers that may be killed
        self.shim_killed: Counter[str] = Counter()
        self.connecting = asyncio.Lock()

    def plan(self, n: int) -> Plan:
        r = self.random
        key, code = f"key-{n}", r.choice([0, 0, 1, 7, 255])
        kind = r.choices(["plain", "daemon", "limit", "cancel", "deaf"], [50, 15, 12, 15, 8])[0]
        body = f"sleep {r.choice([0, 0, 0.1, 0.5, 1, 2, 3])}"
        if kind in ("plain", "daemon"):
            return Plan(key, body + ("\nsetsid sleep 300 &" if kind == "daemon" else ""), code)
        if kind == "deaf":
            return Plan(key, "trap '' TERM; sleep 300", code, cancel_after=r.uniform(0, 2))
        if kind == "limit":
            return Plan(key, "setsid sleep 300 & sleep 300", code, limit=r.uniform(0.2, 1))
        return Plan(key, "(sleep 300 &); sleep 300", code, cancel_after=r.uniform(0, 1.5))

    @contextmanager
    def entered(self) -> Iterator[None]:
        settings = {
            "OUTLAST_HOME": str(self.home),
            "OUTLAST_CONFIG": str(self.root / "config.toml"),
            "OUTLAST_CORES": str(self.cores),
            "OUTLAST_KEEPER_IDLE_S": "1",
            "OUTLAST_GRACE_S": "0.5",
        }
        with mock.patch.dict(os.environ, settings):
            try:
                yield
            finally:
                end_all_of(self.home)

    async def run(self) -> None:
        """All of it; the anomalies stand in `anomalies` then."""
        clients = [asyncio.create_task(self.client(number)) for number in range(self.servers)]
        killer = asyncio.create_task(self.killer(clients))
        await asyncio.gather(*clients)
        await killer
        async with AsyncExitStack() as stack:
            ask, _ = await stack.enter_async_context(stdio_server())
            await judge(self, ask)
        await all_leave(self)

    async def client(self, number: int) -> None:
        """Uses one server after the other, as each is killed, until there is nothing to do."""
        work: list[Plan] = []
        while work or self.waiting:
            pid = 0
            try:
                async with AsyncExitStack() as stack:
                    async with self.connecting:
                        client, pid = await stack.enter_async_context(stdio_server())
                    self.pids[number] = pid
                    await self.use(client, work)
            except (Exception, BaseExceptionGroup) as error:
                self.counts["servers replaced"] += 1
                if pid and is_running(pid):
                    self.anomalies.append(f"a living server failed a client: {error!r}")
                    kill(pid)
            finally:
                self.pids.pop(number, None)

    async def use(self, client: Client, work: list[Plan]) -> None:
        """Launch what waits, at the pace of the kills, and cancel what is to be cancelled.

        What a killed server has not answered stays in `work`, for the next server.
        """
        while work or self.waiting:
            if not work:
                begun = self.jobs - len(self.waiting)
                if self.counts["kills"] < (begun + 1) * self.kills // self.jobs:
                    await asyncio.sleep(0.05)
                    await self.call(client, "job_status")
                    continue
                work.append(self.waiting.pop())
            plan = work[0]
            known = self.told.get(plan.key)
            reply = await self.call(
                client,
                "launch_job",
                command=[
                    "bash", "-c",
                    SCRIPT.format(
                        key=plan.key, witness=self.witness, body=plan.body, code=plan.code
                    ),
                ],
                idempotency_key=plan.key,
                **({"time_limit_s": plan.limit} if plan.limit else {}),
            )  # fmt: skip
            known = self.told.setdefault(plan.key, Told(plan, reply["job_id"]))
            if known.job_id != reply["job_id"]:
                self.anomalies.append(f"{plan.key}: both {known.job_id} and {reply['job_id']}")
            if plan.cancel_after is not None:
                await asyncio.sleep(plan.cancel_after)
                known.cancel_asked = True
                reply = await self.call(client, "cancel_job", job_id=known.job_id)
                if reply["state"] in FINAL and (left := processes_of({known.job_id})):
                    self.anomalies.append(f"{known.job_id} is {reply['state']}, but runs: {left}")
            work.clear()

    async def call(self, client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
        self.counts["calls"] += 1
        try:
            reply = await asyncio.wait_for(client.call_tool(tool, arguments), CALL_S)
        except BaseException:
            self.counts[f"{tool} cut off"] += 1
            raise
        if reply.is_error:
            self.anomalies.append(f"{tool} {arguments.get('job_id', '')}: {reply.content}")
            raise RuntimeError(f"{tool} was refused")
        return dict(reply.structured_content or {})

    async def killer(self, clients: list[asyncio.Task[None]]) -> None:
        while not all(client.done() for client in clients):
            await asyncio.sleep(self.random.expovariate(2.0))
            if self.counts["kills"] >= self.kills:
                continue
            kind = self.random.choices(["server", "keeper", "shim"], [30, 40, 30])[0]
            pid = await asyncio.to_thread(self.victim, kind)
            if pid is None:
                continue
            if kind == "shim":
                with suppress(psutil.Error, IndexError):  # it may just have ended
                    self.shim_killed[Path(psutil.Process(pid).cmdline()[4]).name] += 1
            kill(pid)
            self.counts["kills"] += 1
            self.counts[f"{kind}s killed"] += 1

    def victim(self, kind: str) -> int | None:
        if kind == "server":
            return self.random.choice(list(self.pids.values()) or [None])
        if kind == "keeper":
            return keeper_pid(self.home)
        return self.random.choice(shim_pids(self.home) or [None])

    def summary(self) -> str:
        states = Counter(told.state for told in self.told.values())
        return (
            f"chaos: seed {self.seed}, {len(self.told)} jobs ("
            + ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
            + f"), {self.counts['kills']} kills ("
            + ", ".join(f"{self.counts[kind]} {kind}" for kind in KILLED)
            + f"), {self.counts['calls']} calls, "
            + ", ".join(f"{n} {what}" for what, n in sorted(self.counts.items()) if "cut" in what)
            + f"; anomalies: {len(self.anomalies)}"
        )


KILLED = ("servers killed", "keepers killed", "shims killed")


def play(servers: int, jobs: int, kills: int, seed: int, root: Path) -> Chaos:
    chaos = Chaos(root, servers, jobs, kills, seed)
    with chaos.entered():
        asyncio.run(chaos.run())
    return chaos


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--servers", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=300)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=None)
    given = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(10**6) if given.seed is None else given.seed
    root = Path(tempfile.mkdtemp(prefix="outlast-chaos-"))
    began = time.monotonic()
    chaos = play(given.servers, given.jobs, given.kills, seed, root)
    for anomaly in chaos.anomalies:
        print(anomaly)
    print(f"{chaos.summary()} ({time.monotonic() - began:.0f} s)")
    if chaos.anomalies:
        print(f"all of it is left in {root}")
        return 1
    shutil.rmtree(root)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
