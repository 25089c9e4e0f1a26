"""Verdicts: no state is ever told that the facts do not bear."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.engines.base import Phase, Sighting
from jobs.model import ExitRecord, StartedRecord
from jobs.outcome import Evidence, judge
from jobs.states import Event


def ended(why: str = "exit", **more: Any) -> Sighting:
    values = {"exit_code": 0, "signal": None, "ended_at": 2.0, "wall_s": 1.0, "user_s": 0.0}
    record = ExitRecord(**{"why": why, **values, "system_s": 0.0, "max_rss_kb": 1, **more})
    return Sighting(Phase.ENDED, exit=record)


def held(why: str = "exit", **more: Any) -> Sighting:
    limits = {"processes": 7, "processes_by": "cgroup", "memory_mb": 9, "memory_mb_by": "cgroup"}
    identity = {"pid": 1, "start_ticks": "1", "boot_id": "x", "started_at": 1.0}
    started = StartedRecord.model_validate({**identity, "limits": limits})
    return replace(ended(why, **more), started=started)


PLACE = {"job": "7", "node": "n1"}
FULL = "Its memory limit of 9 MB was reached."


@pytest.mark.parametrize(
    ("sighting", "more", "event", "says"),
    [
        (ended(), {}, Event.SUCCEED, None),
        (ended(exit_code=3), {"error": "boom"}, Event.FAIL, "Exit code 3."),
        (ended(), {"failure": "NaN"}, Event.FAIL, "Exit code 0, but NaN."),
        (ended(), {"no_success": "it is not done"}, Event.FAIL, "Exit code 0, but it is not done."),
        (ended(exit_code=None, signal=11), {"failure": "it blew up"}, Event.FAIL, "it blew up"),
        (ended(), {"missing": ["a.csv"]}, Event.FAIL, "required output is missing: a.csv"),
        (ended(exit_code=None, signal=9), {}, Event.FAIL, "out of memory"),
        (held(limit_hit="memory_mb", exit_code=None, signal=9), {}, Event.FAIL, f"{FULL} Killed"),
        (held(limit_hit="memory_mb", exit_code=1), {}, Event.FAIL, f"{FULL} Exit code 1."),
        (held(limit_hit="memory_mb"), {}, Event.FAIL, f"{FULL} Exit code 0 all the same."),
        (held(limit_hit="processes"), {}, Event.FAIL, "limit of 7 processes was reached"),
        (held("timeout", limit_hit="processes"), {}, Event.END_TIMED_OUT, "of 7 processes"),
        (ended(limit_hit="memory_mb"), {}, Event.FAIL, "Its memory limit was reached. Exit code 0"),
        (ended(limit_hit="processes"), {}, Event.FAIL, "Its limit of processes was reached."),
        (ended("cancelled"), {"cancel_reason": "why"}, Event.END_CANCELLED, "Cancelled: why"),
        (ended("timeout", wall_s=61.2), {}, Event.END_TIMED_OUT, "limit had passed, after 61 s"),
        (ended("terminated"), {}, Event.FAIL, "told to end"),
        (ended("terminated", batch=PLACE), {}, Event.FAIL, "scheduler has ended it"),
        (ended("start_error", error="x: gone"), {}, Event.FAIL, "could not be started: x: gone"),
        (ended(survivors=[7, 8]), {}, Event.SUCCEED, "7, 8"),
        (Sighting(Phase.VANISHED, detail="it rebooted"), {}, Event.VANISH, "it rebooted"),
    ],
)
def test_verdicts(sighting: Sighting, more: dict[str, Any], event: Event, says: str | None) -> None:
    cancel_reason = more.pop("cancel_reason", None)
    verdict = judge(None, sighting, Evidence(**more), cancel_reason=cancel_reason)
    assert verdict.event is event
    assert verdict.outcome.reason == says or (says or "?") in (verdict.outcome.reason or "")


@given(
    why=st.sampled_from(["exit", "cancelled", "timeout", "terminated", "start_error"]),
    code=st.none() | st.integers(0, 255),
    signal=st.none() | st.integers(1, 64),
    failure=st.none() | st.just("bad"),
    missing=st.lists(st.just("x"), max_size=2),
)
def test_success_is_only_told_of_success(
    why: str, code: int | None, signal: int | None, failure: str | None, missing: list[str]
) -> None:
    sighting = ended(why, exit_code=code, signal=signal)
    verdict = judge(None, sighting, Evidence(failure=failure, missing=missing))
    clean = why == "exit" and code == 0 and signal is None and not failure and not missing
    assert (verdict.event is Event.SUCCEED) == clean
    assert verdict.outcome.exit_code == code
