"""The batch script is asked to end at any moment of its life, as Slurm does: all its processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path

import pytest

from jobs.paths import JobDir
from tests.support.processes import all_of
from tests.support.slurm_script import Node, exit_of, job_dir, node, started, write

__all__ = ["job_dir", "node"]


@pytest.mark.parametrize("pause_s", [0.0, 0.002, 0.004, 0.008, 0.015, 0.05, 0.3])
async def test_what_was_seen_to_have_started_leaves_a_record(
    node: Node, job_dir: JobDir, home: Path, pause_s: float
) -> None:
    write(job_dir, "exec sleep 60")
    script = await node.begin(job_dir)
    await started(job_dir)
    await asyncio.sleep(pause_s)
    for pid in [script.pid, *all_of(home)]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    await asyncio.wait_for(script.communicate(), 60)
    assert exit_of(job_dir).why == "terminated"
