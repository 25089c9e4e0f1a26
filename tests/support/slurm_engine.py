"""A Slurm engine, and jobs of Outlast's on a real cluster."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jobs.batch import BatchRecord
from jobs.directory import read_record
from jobs.engines import slurm_answers, slurm_cluster
from jobs.engines.base import Engine
from jobs.engines.slurm import SlurmEngine
from jobs.paths import JobDir
from tests.support.slurm import Cluster

POLL_S = 0.3  #: so that tests need not be patient; the setting allows nothing below ten seconds


def batch_of(job_dir: JobDir) -> BatchRecord:
    record = read_record(job_dir.batch, BatchRecord)
    assert record is not None
    return record


def batches_of(home: Path) -> list[BatchRecord]:
    """What is known of every job of the state directory that was handed to Slurm."""
    found = [read_record(path, BatchRecord) for path in home.glob("jobs/*/*/batch.json")]
    return [record for record in found if record is not None]


def end_jobs_of(home: Path) -> None:
    """Whatever Slurm has of the jobs of a state directory."""
    tokens = {record.token for record in batches_of(home)}
    if tokens:
        subprocess.run(["scancel", f"--name={','.join(tokens)}"], timeout=60, capture_output=True)


def quick_engine(monkeypatch: pytest.MonkeyPatch) -> SlurmEngine:
    """One whose looks come soon, and which does not wait long for what comes late: here nothing
    but the accounting does."""
    for module in (slurm_answers, slurm_cluster):
        monkeypatch.setattr(module, "SETTLE_S", 2.0)
    return SlurmEngine(POLL_S)


async def errands_done(engine: Engine) -> None:
    """Till no command that it has called runs any more: they have the mark of the test, at whose
    end all that has it is ended. And an event loop waits in vain for a subprocess that it cancels
    in the making (CPython 3.11, `_connect_pipes`)."""
    if isinstance(engine, SlurmEngine):
        async with asyncio.timeout(120):
            for cluster in engine._clusters.values():
                while cluster._errands:
                    await asyncio.wait(cluster._errands.values())


class Calls:
    """Every call of Slurm's commands, written down on its way to the real one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def all(self) -> list[tuple[float, str, list[str]]]:
        """When, which, and with what words."""
        lines = []
        with contextlib.suppress(FileNotFoundError):
            lines = (self._folder / "calls").read_text(encoding="utf-8").splitlines()
        split = [line.split("\t") for line in lines]
        return [(float(at), name, words) for at, name, *words in split]

    def of(self, name: str) -> list[list[str]]:
        return [words for _, called, words in self.all() if called == name]

    def instead(self, name: str, script: str) -> None:
        """From now on the command is this shell code, in which `$real` is the real one."""
        real = next(path for path in (Path("/usr/bin") / name, Path("/usr/local/bin") / name))
        text = f"""#!/bin/bash
real={real}
words=$(printf '\\t%s' "${{@//$'\\n'/ }}")
printf '%s\\t%s%s\\n' "$EPOCHREALTIME" {name} "$words" >>{self._folder}/calls
{script}
"""
        new = self._folder / f".{name}"
        new.write_text(text, encoding="utf-8")
        new.chmod(0o755)
        new.replace(self._folder / name)


@contextmanager
def counted_calls(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Calls]:
    """Calls from this process, and from a keeper that is started meanwhile, are written down."""
    folder.mkdir()
    calls = Calls(folder)
    for name in ("sbatch", "squeue", "sacct", "scontrol", "scancel"):
        calls.instead(name, 'exec "$real" "$@"')
    before = os.environ["PATH"]
    # By the test's own monkeypatch: from a context of ours the PATH that the test sets meanwhile
    # would be undone to ours, after ours has gone.
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    yield calls
    monkeypatch.setenv("PATH", before)


@pytest.fixture
def on_slurm(slurm: Cluster, home: Path) -> Iterator[Cluster]:
    """A cluster that others use too, and a state directory whose jobs it has none of at the end."""
    yield slurm
    end_jobs_of(home)


@pytest.fixture
def alone_on_slurm(slurm_alone: Cluster, home: Path) -> Iterator[Cluster]:
    yield slurm_alone
    end_jobs_of(home)
