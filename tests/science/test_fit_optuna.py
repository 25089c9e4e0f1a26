"""fit-optuna as a job: the real program under a real keeper."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from jobs.model import Job
from jobs.service import Service
from jobs.states import State
from tests.support.launching import kill_command
from tests.support.science import Ran, check_whole, needs_module, run, start, watched
from tests.support.wait import until

pytestmark = needs_module("optuna", "matplotlib")

NARROW = {
    "epsilon_min_k": 100,
    "epsilon_max_k": 140,
    "sigma_min_angstrom": 3.2,
    "sigma_max_angstrom": 3.8,
}
ENDLESS = {"trials": 100_000, "sampler": "random"}


async def until_trial(service: Service, job: Job, number: int) -> None:
    log = service.directory(job).stdout
    await until(lambda: log.exists() and f"[trial] {number}/" in log.read_text("utf-8"), 60)


def stored(parent: Ran) -> int:
    """How many trials are complete in the study."""
    with sqlite3.connect(parent.work / "study.db") as database:
        row = database.execute("SELECT count(*) FROM trials WHERE state = 'COMPLETE'").fetchone()
    database.close()
    return int(row[0])


async def check_gone_on(service: Service, parent: Ran, done: int) -> None:
    """Gone on with, it makes exactly the trials that are missing, and each number is there once."""
    ran = await run(
        service, None, resume_from=parent.job.id, params={"trials": done + 40}, time_limit_s=0
    )
    assert ran.job.state is State.COMPLETED, ran.job.outcome
    assert all(fraction > done / (done + 40) for fraction in ran.fractions)
    assert ran.job.parent == parent.job.id
    table = ran.table("trials.csv")
    complete = [row for row in table if row["state"] == "complete"]
    assert len(complete) == done + 40
    assert {row["state"] for row in table} <= {"complete", "fail"}
    assert [int(row["trial"]) for row in table] == list(range(1, len(table) + 1))
    assert len({(row["epsilon_k"], row["sigma_angstrom"]) for row in complete}) == done + 40
    assert ran.job.outcome.summary["trials.complete"] == done + 40


async def test_a_run_comes_to_its_end(service: Service) -> None:
    ran = await run(service, "fit-optuna", params={"trials": 100, **NARROW})
    check_whole(service, ran)
    assert {"rms_cm3_mol", "best_rms_cm3_mol"} <= ran.metrics
    best, shown = ran.json()["best"], ran.job.outcome.summary
    assert shown["best.epsilon_k"] == best["epsilon_k"]
    assert shown["finished"] is True
    assert ran.record.software_version == ran.json()["version"]
    # Argon: 119.8 K and 3.405 angstrom are the usual parameters of the liquid; a fit to the gas
    # gives about 117 to 120 K and 3.4 to 3.5 angstrom.
    assert best["epsilon_k"] == pytest.approx(119, abs=8)
    assert best["sigma_angstrom"] == pytest.approx(3.45, abs=0.2)
    so_far = [float(row["best_rms_cm3_mol"]) for row in ran.table("trials.csv")]
    assert so_far == sorted(so_far, reverse=True)
    assert so_far[-1] == pytest.approx(best["rms_cm3_mol"], abs=1e-3)
    assert not ran.job.outcome.warnings


async def test_a_finished_study_goes_on_with_more_trials(service: Service) -> None:
    parent = await run(service, "fit-optuna", params={"trials": 5})
    assert parent.job.state is State.COMPLETED
    await check_gone_on(service, parent, 5)


async def test_a_cancelled_study_goes_on(service: Service) -> None:
    job = await start(service, "fit-optuna", params=ENDLESS)
    await until_trial(service, job, 10)
    await service.cancel(job.id)
    parent = await watched(service, job)
    assert parent.job.state is State.CANCELLED
    assert parent.job.outcome.exit_code == 75
    assert parent.job.outcome.resumable
    done = len(parent.table("trials.csv"))
    assert done >= 10
    await check_gone_on(service, parent, done)


async def test_a_killed_study_goes_on_without_its_open_trial(service: Service) -> None:
    job = await start(service, "fit-optuna", params=ENDLESS)
    await until_trial(service, job, 10)
    kill_command(service, job)
    parent = await watched(service, job)
    assert parent.job.state is State.FAILED
    assert parent.job.outcome.signal == "SIGKILL"
    assert parent.job.outcome.resumable
    await check_gone_on(service, parent, stored(parent))


async def test_a_study_at_its_time_limit_can_go_on(service: Service) -> None:
    parent = await run(service, "fit-optuna", params=ENDLESS, time_limit_s=10)
    assert parent.job.state is State.TIMED_OUT
    assert parent.job.outcome.resumable
    await check_gone_on(service, parent, len(parent.table("trials.csv")))


async def test_a_best_at_the_edge_of_its_range_is_a_warning(service: Service) -> None:
    params = {"trials": 60, **NARROW, "sigma_min_angstrom": 2.5, "sigma_max_angstrom": 3.0}
    ran = await run(service, "fit-optuna", params=params)
    assert ran.job.state is State.COMPLETED
    assert any("sigma lies at the edge" in warning for warning in ran.job.outcome.warnings)


async def test_a_table_that_cannot_be_used_fails_in_one_sentence(
    service: Service, tmp_path: Path
) -> None:
    table = tmp_path / "table.csv"
    table.write_text("temperature_k,b2_cm3_mol\n100,1e200\n200,2\n300,3\n", encoding="utf-8")
    ran = await run(service, "fit-optuna", params={"data": str(table)})
    assert ran.job.state is State.FAILED
    assert ran.job.outcome.exit_code == 66
    assert "nothing beyond 1e+06" in (ran.job.outcome.error or "")
