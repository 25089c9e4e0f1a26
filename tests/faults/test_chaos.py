"""The short form of `make chaos`, and that its judge sees what would be wrong."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.model import ArtifactScan, Outcome, RunRecord
from jobs.states import State
from tests.support.chaos import Chaos
from tests.support.chaos_judge import Plan, Told, Witnessed, faults, most_at_once, read_witness

PLAIN = Plan("k", "sleep 1", 7)


@pytest.mark.slow
def test_no_job_is_lost_run_twice_or_told_falsely(tmp_path: Path) -> None:
    chaos = Chaos(tmp_path, servers=2, jobs=24, kills=24, seed=1)
    with chaos.entered():
        asyncio.run(chaos.run())
    assert chaos.anomalies == []
    assert len(chaos.told) == 24
    assert chaos.counts["kills"] >= 24, chaos.summary()


def record(state: State, exit_code: int | None) -> RunRecord:
    return RunRecord(
        schema=1, job_id="j", state=state, outcome=Outcome(exit_code=exit_code), created_at=1,
        started_at=2, ended_at=3, attempt=1, artifacts=ArtifactScan(artifacts=[], total_size=0),
        events=[],
    )  # fmt: skip


RIGHT = (
    Told(PLAIN, "j", state="failed", exit_code=7),
    Witnessed([2.0], [(3.0, 7)], {"k"}),
    record(State.FAILED, 7),
    0,
)


def test_the_judge_lets_the_truth_pass() -> None:
    assert faults(*RIGHT) == []
    told, seen, _, _ = RIGHT
    lost = replace(told, state="lost", exit_code=None)
    assert faults(lost, seen, record(State.LOST, None), 1) == []
    asked = replace(told, state="cancelled", exit_code=None, cancel_asked=True)
    assert faults(asked, Witnessed(), record(State.CANCELLED, None), 0) == []


@pytest.mark.parametrize(
    ("told", "seen"),
    [
        ({}, {"starts": [2.0, 2.5]}),
        ({}, {"ends": [(3.0, 0)]}),
        ({}, {"ends": []}),
        ({}, {"keys": {"k", "l"}}),
        ({"exit_code": 0}, {}),
        ({"state": "completed"}, {}),
        ({"state": "completed", "exit_code": 0}, {"starts": [], "ends": []}),
        ({"state": "cancelled"}, {}),
        ({"state": "timed_out"}, {}),
        ({"state": "lost", "exit_code": None}, {}),
    ],
)
def test_the_judge_sees_what_is_wrong(told: dict[str, object], seen: dict[str, object]) -> None:
    right_told, right_seen, _, _ = RIGHT
    wrong = replace(right_told, **told)  # type: ignore[arg-type]
    same = record(State(wrong.state), wrong.exit_code)  # the record alone gives nothing away
    assert faults(wrong, replace(right_seen, **seen), same, 0)  # type: ignore[arg-type]


def test_the_judge_compares_the_record() -> None:
    told, seen, _, kills = RIGHT
    assert faults(told, seen, record(State.FAILED, 8), kills)
    assert faults(told, seen, None, kills)


def test_overlaps_are_counted() -> None:
    assert most_at_once([(0, 2), (1, 3), (2, 4), (2.5, 2.7)]) == 3
    assert most_at_once([]) == 0


def test_the_witness_is_read_as_jobs_write_it(tmp_path: Path) -> None:
    file = tmp_path / "witness"
    file.write_text("start j k 1.5 \nstart i l 1.6 \nend j k 2.5 7\n", encoding="utf-8")
    assert read_witness(file) == {
        "j": Witnessed([1.5], [(2.5, 7)], {"k"}),
        "i": Witnessed([1.6], [], {"l"}),
    }
