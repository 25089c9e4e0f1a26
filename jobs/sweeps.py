"""Sweeps: one launch of many jobs that differ in some parameters, looked at as one."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jobs.errors import InvalidArgumentError
from jobs.model import Job
from jobs.states import State

MOST_JOBS = 1000
SWEEP_TABLE = "sweep.csv"  #: what can be read of a sweep as a whole


def points(sweep: dict[str, list[Any]] | list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The parameters of each job: all combinations, the last name's values changing fastest, or
    the rows of a table. Raises InvalidArgumentError."""
    if isinstance(sweep, dict):
        size = math.prod(len(values) for values in sweep.values()) if sweep else 0
        chosen = itertools.product(*sweep.values())
        rows: Iterator[dict[str, Any]] = (
            dict(zip(sweep, values, strict=True)) for values in chosen
        )
    else:
        size = len(sweep)
        rows = iter(sweep)
    if not 1 <= size <= MOST_JOBS or not all(sweep):
        raise InvalidArgumentError(
            f"sweep gives {size} jobs; it must give from 1 to {MOST_JOBS}, as in "
            '{"temperature_k": [280, 300]} or [{"temperature_k": 280, "seed": 2}].'
        )
    return list(rows)


@dataclass(frozen=True)
class Sweep:
    """All jobs of one sweep that are there, in the order of their launch."""

    id: str
    jobs: list[Job]

    @property
    def counts(self) -> dict[State, int]:
        return dict(Counter(job.state for job in self.jobs))

    @property
    def is_final(self) -> bool:
        return all(job.is_final for job in self.jobs)

    @property
    def fraction(self) -> float:
        """How much of it is done, each job counting the same."""
        done = sum(
            1.0 if job.is_final else (job.progress and job.progress.fraction) or 0.0
            for job in self.jobs
        )
        return done / max(len(self.jobs), 1)

    def columns(self) -> tuple[list[str], list[str]]:
        """The names of the parameters that differ, and of the results that there are."""
        parameters = dict.fromkeys(name for job in self.jobs for name in job.sweep_values or {})
        results = dict.fromkeys(name for job in self.jobs for name in job.outcome.summary)
        return list(parameters), list(results)

    def table(self) -> list[list[str]]:
        """One row for each job under a row of names: the parameters, the state, the results that
        its summary holds, the job ID. A result is told under `result.NAME` where a parameter has
        its name already."""
        parameters, results = self.columns()
        taken = {*parameters, "state", "job_id"}
        names = [f"result.{name}" if name in taken else name for name in results]
        rows = [[*parameters, "state", *names, "job_id"]]
        for job in self.jobs:
            values = job.sweep_values or {}
            rows.append(
                [
                    *(cell(values.get(name)) for name in parameters),
                    job.state,
                    *(cell(job.outcome.summary.get(name)) for name in results),
                    job.id,
                ]
            )
        return rows

    def csv(self) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(self.table())
        return text.getvalue()

    def job(self, number: int) -> Job | None:
        """The job of that number, from 1; none when it is not there or was pruned."""
        return next((job for job in self.jobs if job.sweep_index == number - 1), None)


def place_in_sweep(job_id: str) -> tuple[str, int] | None:
    """What `SWEEP#17` means: the sweep, and the number of the job in it, from 1."""
    match = re.fullmatch(r"(sweep-[a-z0-9-]{1,90})#(\d{1,6})", job_id)
    return (match[1], int(match[2])) if match else None


def is_sweep(job_id: str) -> bool:
    """Whether an ID is that of a sweep and not of a job, be there one or not."""
    return job_id.startswith("sweep-") and "#" not in job_id


def cell(value: Any) -> str:
    """A value in a table: texts and numbers as they are, the rest as JSON, nothing for none."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)
