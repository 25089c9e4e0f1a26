"""Every step of a job's life x what can happen there, run and written down.

`python -m tests.support.crash_matrix [--write] [PART ...]` runs all cases, or those whose names
hold a PART, and prints the table, or writes it into docs/crash-matrix.md.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from jobs.failpoints import POINTS
from tests.support.cli import ROOT
from tests.support.crash_case import Case, Seen, World, expected, run_case

#: Those of a cluster's engine need a cluster: tests/faults/test_slurm_submission.py.
STEPS = [point for point in POINTS if not point.startswith("slurm.")]
PAGE = ROOT / "docs" / "crash-matrix.md"
BEGIN, END = "<!-- the table: `make matrix` writes it -->", "<!-- the end of the table -->"

_END = ["keeper.record_written", "keeper.secrets_removed", "keeper.final_stored"]
#: The steps that each scenario is to be disturbed at.
REACHES = {
    "run": [
        "server.directory_made",
        "server.accepted",
        "server.named",
        "server.keeper_called",
        "keeper.begun",
        "keeper.claimed",
        "keeper.lock_taken",
        "keeper.cgroups_made",
        "keeper.shim_spawned",
        "shim.begun",
        "shim.prepared",
        "shim.forked",
        "shim.confined",
        "shim.started_recorded",
        "shim.gate_opened",
        "keeper.alive_stored",
        "shim.command_ended",
        "shim.tree_ended",
        "shim.end_recorded",
        "shim.cgroups_removed",
        "shim.keeper_told",
        "keeper.end_seen",
        *_END,
    ],
    "watch": ["keeper.log_trimmed", "keeper.sample_written"],
    "cancel": [
        "server.wish_written",
        "server.wish_stored",
        "keeper.cancelling_stored",
        "keeper.stop_ordered",
        "shim.stop_sent",
    ],
    "limit": ["shim.stop_sent"],
    "queued": ["server.wish_written", "server.wish_stored", *_END],
    "prune": [
        "server.job_set_aside",
        "server.job_emptied",
        "server.row_deleted",
        "server.job_removed",
    ],
    "index": ["server.index_filled", "server.index_published"],
}
#: Errors that the system can answer with at a step; at the others it is asked for nothing that can
#: fail, or what was asked for has its own answer (an index that cannot be written).
ERRORS = {
    "server.directory_made": "ENOSPC",
    "server.accepted": "EIO",
    "server.named": "EIO",
    "keeper.begun": "EMFILE",
    "keeper.lock_taken": "EMFILE",
    "keeper.shim_spawned": "EMFILE",
    "shim.begun": "ENOSPC",
    "shim.prepared": "ENOSPC",
    "shim.forked": "EMFILE",
    "shim.started_recorded": "EIO",
    "keeper.alive_stored": "EIO",
    "keeper.log_trimmed": "EIO",
    "keeper.sample_written": "ENOSPC",
    "server.wish_written": "ENOSPC",
    "server.index_filled": "ENOSPC",
    "server.index_published": "EIO",
    "keeper.cancelling_stored": "EIO",
    "keeper.stop_ordered": "EMFILE",
    "shim.end_recorded": "ENOSPC",
    "keeper.end_seen": "EIO",
    "keeper.record_written": "ENOSPC",
    "keeper.secrets_removed": "EIO",
}


def cases() -> list[Case]:
    """In the order of the table; an error in the first scenario that comes to its step."""
    found = []
    for point in STEPS:
        scenarios = [scenario for scenario, points in REACHES.items() if point in points]
        for action in ("kill", "stop"):
            found += [Case(point, action, scenario) for scenario in scenarios]
        if point in ERRORS and scenarios:
            found.append(Case(point, ERRORS[point], scenarios[0]))
    return found


def told(case: Case, seen: Seen) -> str:
    """A cell of the table."""
    what = seen.state.replace("_", " ")
    if seen.state == "failed":
        what = "exit code 7" if seen.exit_code == 7 else "failed"
    if seen.state in ("failed", "lost"):
        what += {0: ", never ran", 1: ", ran once"}[seen.starts]
    if case.refused:
        what = f"refused; the retry: {what}"
    elif case.point == "server.directory_made":
        what = f"no job; the retry: {what}"
    return what if case.action in ("kill", "stop") else f"{case.action}: {what}"


def table(results: Iterable[tuple[Case, Seen]]) -> str:
    cells: dict[tuple[str, str], list[str]] = {}
    for case, seen in results:
        column = case.action if case.action in ("kill", "stop") else "error"
        texts = cells.setdefault((case.point, column), [])
        if (text := told(case, seen)) not in texts:
            texts.append(text)
    lines = [
        "| step | what has just been done | killed there | frozen there, then continued | error |",
        "|---|---|---|---|---|",
    ]
    for point, done in ((point, POINTS[point]) for point in STEPS):
        row = [" / ".join(cells.get((point, kind), ["–"])) for kind in ("kill", "stop", "error")]
        lines.append(f"| `{point}` | {done} | {' | '.join(row)} |")
    return "\n".join(lines)


def written(page: str, text: str) -> str:
    """The page with the table exchanged."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"


def main(arguments: list[str]) -> int:
    results, broken = [], 0
    parts = [word for word in arguments if word != "--write"]
    every = [case for case in cases() if not parts or any(part in str(case) for part in parts)]
    for number, case in enumerate(every, 1):
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="outlast-matrix-") as folder:
            world = World(Path(folder))
            with world.entered():
                try:
                    seen = asyncio.run(run_case(world, case))
                    assert seen == expected(case), f"{seen}, not {expected(case)}"
                    verdict = told(case, seen)
                    results.append((case, seen))
                except Exception as error:
                    broken += 1
                    verdict = f"BROKEN: {error!r}"
        took = time.monotonic() - began
        print(f"{number:3}/{len(every)} {took:5.1f} s  {case}: {verdict}", file=sys.stderr)
    if "--write" in arguments and not parts and not broken:
        PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), table(results)), encoding="utf-8")
    else:
        print(table(results))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
