"""`python -m benchmarks`: the table of what Outlast costs. Exit code 1 when a target is missed."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from benchmarks import launching, reading, running, starting, table
from benchmarks.ground import ROOT, end_on_sigterm, say

PAGE = ROOT / "docs" / "performance.md"
MEASUREMENTS: dict[str, Callable[[Path], Awaitable[list[table.Row]]]] = {
    "launch": launching.launch_reply,
    "sweep": launching.sweep_reply,
    "thousand": launching.thousand_jobs,
    "idle": running.idle_jobs,
    "log": running.large_log,
    "tail": reading.tail_of_a_large_log,
    "list": reading.newest_of_very_many,
    "start": starting.server_start,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--only", action="append", choices=MEASUREMENTS, help="one of them; may be repeated"
    )
    parser.add_argument(
        "--dir",
        type=Path,
        default=ROOT / "build",
        help="a folder on the disk to measure (default: %(default)s); 5 GB are written there",
    )
    parser.add_argument("--json", action="store_true", help="data in place of the table")
    parser.add_argument(
        "--write", action="store_true", help=f"put the table into {PAGE.relative_to(ROOT)} too"
    )
    arguments = parser.parse_args()
    if arguments.write and arguments.only:
        parser.error("--write takes the whole table, without --only")
    for name in [name for name in os.environ if name.startswith("OUTLAST_")]:
        del os.environ[name]  # the defaults are measured, whatever is set here
    load = os.getloadavg()[0]
    if load > 0.5:
        say(f"The load of this machine is {load:.1f}: others' work will be in the figures.")
    end_on_sigterm()
    arguments.dir.mkdir(exist_ok=True)
    rows: list[table.Row] = []
    with tempfile.TemporaryDirectory(prefix="outlast-bench-", dir=arguments.dir) as name:
        folder = Path(name).resolve()
        for name in arguments.only or MEASUREMENTS:
            rows += asyncio.run(_measure(name, folder))
        if arguments.json:
            print(table.as_json(rows, folder))
        else:
            table.show(rows, folder)
        if arguments.write:
            table.write(rows, folder, PAGE)
    return int(any(row.met is False for row in rows))


async def _measure(name: str, folder: Path) -> list[table.Row]:
    rows = await MEASUREMENTS[name](folder)
    for row in rows:
        say(": ".join([name, *filter(None, row.cells())]))
    return rows


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        say("interrupted; everything was ended and removed")
        sys.exit(130)
