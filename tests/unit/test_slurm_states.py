"""Each state of Slurm's, with and without the job's own record, and what may be known from it."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from jobs import clock
from jobs.engines.base import Phase
from jobs.engines.slurm_rows import AccountRow, QueueRow
from jobs.engines.slurm_script import NOT_ON_NODE, RAN_BEFORE
from jobs.engines.slurm_states import (
    FINAL,
    LIVE,
    REASONS,
    WAITING,
    Seen,
    facts_of,
    reason_words,
    sight,
)
from jobs.model import BatchPlace, ExitRecord, StartedRecord

PLACE = BatchPlace(job="25", node="n1")
STARTED = StartedRecord(pid=7, start_ticks="1", boot_id="b", started_at=90.0, batch=PLACE)


def queue(state: str, **more: Any) -> QueueRow:
    row = QueueRow(
        id="25",
        state=state,
        exit_code=0,
        signal=0,
        restarts=0,
        start_time=None,
        end_time=100.0,
        elapsed_s=10.0,
        time_limit_s=60.0,
        cpus=1,
        nodes="n1",
        reason="None",
        name="token",
    )
    return replace(row, **more)


def account(state: str, **more: Any) -> AccountRow:
    row = AccountRow(
        id="25",
        state=state,
        exit_code=0,
        signal=0,
        nodes="n1",
        elapsed_s=10.0,
        time_limit_s=60.0,
        user_s=4.0,
        system_s=1.0,
        max_rss_kb=5000,
        cpus=1,
        start_time=90.0,
        end_time=100.0,
        name="token",
    )
    return replace(row, **more)


def record(why: str = "exit", exit_code: int | None = 0, **more: Any) -> ExitRecord:
    values = {"signal": None, "ended_at": 99.0, "wall_s": 9.0, "user_s": 1.0, "system_s": 0.0}
    values = {**values, "max_rss_kb": None, "batch": PLACE, **more}
    return ExitRecord(why=why, exit_code=exit_code, **values)  # type: ignore[arg-type]


def end(seen: Seen) -> tuple[str, int | None, int | None, str | None]:
    sighting = sight(seen)
    assert sighting.phase is Phase.ENDED, sighting
    assert sighting.exit is not None
    return (
        sighting.exit.why,
        sighting.exit.exit_code,
        sighting.exit.signal,
        sighting.exit.limit_hit,
    )


#: What Slurm told of each end that was provoked on a real cluster, and what it is without a record.
PROVOKED = [
    (queue("COMPLETED"), ("exit", 0, None, None)),
    (queue("FAILED", reason="NonZeroExitCode", exit_code=3), ("exit", 3, None, None)),
    (queue("FAILED", reason="JobLaunchFailure", signal=9), ("exit", None, 9, None)),
    (queue("FAILED", reason="JobLaunchFailure", signal=15), ("exit", None, 15, None)),
    (queue("TIMEOUT", reason="TimeLimit"), ("timeout", None, None, None)),
    (queue("OUT_OF_MEMORY", reason="OutOfMemory", signal=125), ("exit", None, 9, "memory_mb")),
    (queue("CANCELLED", signal=15), ("cancelled", None, None, None)),
    (queue("PREEMPTED"), ("terminated", None, None, None)),
    (queue("DEADLINE"), ("timeout", None, None, None)),
]


@pytest.mark.parametrize(("row", "told"), PROVOKED, ids=lambda value: getattr(value, "state", ""))
def test_an_end_without_a_record_is_what_slurm_says_once_none_can_come(
    row: QueueRow, told: tuple[str, int | None, int | None, str | None]
) -> None:
    early = sight(Seen(started=STARTED, queue=row))
    assert early.phase is Phase.UNKNOWN
    assert early.detail == f"Slurm says {row.state}; the job's own record is not there yet"
    assert end(Seen(started=STARTED, queue=row, settled=True)) == told
    # The same when the controller has forgotten it and the accounting has not.
    same = account(row.state, exit_code=row.exit_code, signal=row.signal)
    assert end(Seen(started=STARTED, account=same, settled=True)) == told


def test_times_and_use_come_from_slurm_where_there_is_no_record() -> None:
    seen = Seen(started=STARTED, queue=queue("FAILED", exit_code=1), settled=True)
    told = sight(replace(seen, account=account("FAILED", exit_code=1))).exit
    assert told is not None
    assert (told.ended_at, told.wall_s, told.user_s, told.system_s) == (100.0, 10.0, 4.0, 1.0)
    assert (told.max_rss_kb, told.batch) == (5000, PLACE)


@pytest.mark.parametrize("state", ["NODE_FAIL", "BOOT_FAIL", "REVOKED"])
def test_what_went_with_its_node_is_lost(state: str) -> None:
    sighting = sight(Seen(started=STARTED, queue=queue(state), settled=True))
    assert sighting.phase is Phase.VANISHED
    assert sighting.detail is not None
    assert sighting.exit is None
    if state == "NODE_FAIL":
        assert sighting.detail == "a node that it ran on has failed (n1)"


@pytest.mark.parametrize(
    ("row", "error"),
    [
        (
            queue("FAILED", exit_code=NOT_ON_NODE, reason="NonZeroExitCode"),
            "the job directory cannot be entered on the node n1",
        ),
        (
            queue("FAILED", signal=53, reason="JobLaunchFailure"),
            "its script did not come to begin on the node n1 (signal 53, JobLaunchFailure)",
        ),
        (
            queue("FAILED", exit_code=2, reason="NonZeroExitCode"),
            "its script did not come to begin on the node n1 (exit code 2, NonZeroExitCode)",
        ),
        (
            queue("LAUNCH_FAILED", exit_code=1, reason="x"),
            "its script did not come to begin on the node n1 (exit code 1, x)",
        ),
    ],
)
def test_a_failure_without_a_start_is_one_of_the_start(row: QueueRow, error: str) -> None:
    sighting = sight(Seen(queue=row, settled=True))
    assert sighting.exit is not None
    assert (sighting.exit.why, sighting.exit.error) == ("start_error", error)


def test_our_order_may_come_before_the_script_can_heed_it() -> None:
    seen = Seen(queue=queue("FAILED", signal=15, reason="JobLaunchFailure"), settled=True)
    assert end(seen)[0] == "start_error"
    assert end(replace(seen, wished=True))[0] == "cancelled"
    assert end(replace(seen, queue=queue("FAILED", exit_code=1), wished=True))[0] == "start_error"


def test_cancelled_while_it_waited_it_has_ended_at_once() -> None:
    assert end(Seen(queue=queue("CANCELLED", nodes="")))[0] == "cancelled"
    assert end(Seen(account=account("CANCELLED", nodes="None assigned")))[0] == "cancelled"


def test_completed_without_a_trace_is_not_believed() -> None:
    sighting = sight(Seen(queue=queue("COMPLETED"), settled=True))
    assert sighting.phase is Phase.VANISHED
    assert sighting.detail is not None
    assert "n1 has left nothing in the job directory" in sighting.detail


def test_a_second_run_that_was_refused_does_not_tell_how_the_first_ended() -> None:
    row = queue("FAILED", exit_code=RAN_BEFORE, restarts=1)
    for started in (STARTED, None):  # the latter of another submission that came first
        assert sight(Seen(started=started, queue=row, settled=True)).phase is Phase.VANISHED


@pytest.mark.parametrize("state", WAITING)
def test_what_waits_is_starting_even_if_it_has_run_before(state: str) -> None:
    sighting = sight(Seen(started=STARTED, queue=queue(state, restarts=1)))
    assert (sighting.phase, sighting.started) == (Phase.STARTING, None)
    assert sighting.detail is not None
    assert "begun anew" in sighting.detail


@pytest.mark.parametrize("state", LIVE)
def test_what_has_its_nodes_runs_once_its_own_record_proves_it(state: str) -> None:
    assert sight(Seen(queue=queue(state))).phase is Phase.STARTING
    sighting = sight(Seen(started=STARTED, queue=queue(state)))
    assert (sighting.phase, sighting.started) == (Phase.RUNNING, STARTED)
    assert sighting.detail is not None
    assert sighting.detail.startswith("on n1")


def test_a_state_of_a_later_release_is_not_guessed() -> None:
    sighting = sight(Seen(started=STARTED, queue=queue("EXPEDITING"), settled=True))
    assert (sighting.phase, sighting.detail) == (Phase.UNKNOWN, "Slurm says EXPEDITING")


def test_the_record_is_the_first_witness() -> None:
    for row in (None, queue("RUNNING"), queue("COMPLETING"), queue("FAILED", exit_code=11)):
        assert end(Seen(started=STARTED, exit=record(exit_code=139), queue=row))[1:3] == (139, None)
    seen = Seen(started=STARTED, exit=record(exit_code=None, signal=9), queue_answered=False)
    assert end(seen) == ("exit", None, 9, None)


@pytest.mark.parametrize(
    ("state", "why", "now"),
    [
        ("TIMEOUT", "exit", "timeout"),
        ("TIMEOUT", "terminated", "timeout"),
        ("TIMEOUT", "cancelled", "cancelled"),
        ("CANCELLED", "terminated", "cancelled"),
        ("CANCELLED", "exit", "cancelled"),
        ("CANCELLED", "timeout", "timeout"),
        ("PREEMPTED", "terminated", "terminated"),
        ("NODE_FAIL", "exit", "exit"),
        ("CANCELLED", "start_error", "start_error"),
    ],
)
def test_who_ended_it_slurm_knows_better(state: str, why: str, now: str) -> None:
    for seen in (Seen(queue=queue(state)), Seen(account=account(state))):
        assert end(replace(seen, started=STARTED, exit=record(why, exit_code=5)))[:2] == (now, 5)


def test_out_of_memory_is_one_even_with_exit_code_0() -> None:
    seen = Seen(started=STARTED, exit=record(), queue=queue("OUT_OF_MEMORY", signal=125))
    assert end(seen) == ("exit", 0, None, "memory_mb")


def test_a_termination_waits_for_the_one_who_knows_why() -> None:
    seen = Seen(started=STARTED, exit=record("terminated"), queue=queue("COMPLETING"))
    assert sight(seen).phase is Phase.RUNNING
    assert sight(replace(seen, queue=None, queue_answered=False)).phase is Phase.RUNNING
    assert end(replace(seen, queue=queue("CANCELLED")))[0] == "cancelled"
    assert end(replace(seen, settled=True))[0] == "terminated"
    again = sight(replace(seen, queue=queue("PENDING", restarts=1, reason="BeginTime")))
    assert again.phase is Phase.STARTING
    assert "begun anew 1 times" in (again.detail or "")
    silent = replace(seen, queue=queue("PENDING"), queue_answered=False)  # of before it ran
    assert sight(silent).phase is Phase.RUNNING
    lost = sight(replace(seen, queue=queue("NODE_FAIL", nodes="n2")))
    assert (lost.phase, lost.detail) == (Phase.VANISHED, "a node that it ran on has failed (n2)")


def test_the_accounting_is_believed_only_where_the_controller_agrees() -> None:
    """It lags: PENDING for a running job, and FAILED 0:0 after an outage of its own."""
    running = Seen(started=STARTED, queue=queue("RUNNING"), account=account("FAILED"))
    assert sight(running).phase is Phase.RUNNING
    seen = Seen(started=STARTED, queue=queue("FAILED", exit_code=6), settled=True)
    assert end(replace(seen, account=account("FAILED", exit_code=0)))[1] == 6
    other = sight(replace(seen, account=account("RUNNING"))).exit
    assert other is not None
    assert (other.exit_code, other.max_rss_kb) == (6, None)
    peak = sight(Seen(exit=record(), queue=queue("COMPLETED"), account=account("COMPLETED"))).exit
    assert peak is not None
    assert peak.max_rss_kb == 5000


def test_who_could_not_be_asked_has_said_nothing() -> None:
    for settled, row in product([False, True], [None, account("COMPLETED"), account("RUNNING")]):
        seen = Seen(started=STARTED, account=row, queue_answered=False, settled=settled)
        assert sight(seen).phase is Phase.UNKNOWN


@pytest.mark.parametrize("row", [None, account("RUNNING"), account("PENDING")])
def test_what_slurm_has_forgotten_was_there_all_the_same(row: AccountRow | None) -> None:
    assert sight(Seen(account=row)).phase is Phase.UNKNOWN
    assert sight(Seen(account=row, settled=True)).phase is Phase.VANISHED
    assert sight(Seen(started=STARTED, account=row, settled=True)).phase is Phase.VANISHED


@pytest.mark.parametrize(
    "seen",
    [
        Seen(array_is_known=True),
        Seen(wished=True),
        Seen(wished=True, array_is_known=True, account=account("PENDING")),
    ],
)
def test_what_is_in_no_answer_was_cancelled_before_it_began(seen: Seen) -> None:
    """A task of an array that has other rows, or a job that was to end."""
    assert sight(seen).phase is Phase.UNKNOWN
    assert end(replace(seen, settled=True))[0] == "cancelled"
    assert sight(replace(seen, settled=True, started=STARTED)).phase is Phase.VANISHED


def test_an_accounting_that_does_not_answer_makes_nothing_lost() -> None:
    """Of what was forgotten it alone would know the end."""
    for started in (None, STARTED):
        seen = Seen(started=started, array_is_known=True, settled=True, no_account="refused")
        sighting = sight(seen)
        assert sighting.phase is Phase.UNKNOWN
        assert (sighting.detail or "").endswith("no record of its end; refused")
    assert end(Seen(wished=True, settled=True, no_account="refused"))[0] == "cancelled"
    assert end(Seen(queue=queue("CANCELLED", nodes=""), no_account="refused"))[0] == "cancelled"


def test_failed_without_a_code_is_no_end_yet() -> None:
    """The accounting says so for a while after an outage of its own."""
    seen = Seen(started=STARTED, account=account("FAILED"))
    assert sight(seen).phase is Phase.UNKNOWN
    assert end(replace(seen, exit=record(exit_code=6)))[1] == 6


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (account("COMPLETED", cpus=2), (0.25, 5000)),
        (account("RUNNING", user_s=0.0, system_s=0.0, max_rss_kb=None), (None, None)),
        (account("CANCELLED"), (None, None)),
        (None, (None, None)),
    ],
)
def test_what_was_used_is_told_by_an_account_of_the_end_only(
    row: AccountRow | None, told: tuple[float | None, int | None]
) -> None:
    seen = Seen(started=STARTED, exit=record(), queue=queue("COMPLETED"), account=row)
    facts = facts_of(seen, sight(seen))
    assert (facts.get("cpu_efficiency"), facts.get("max_rss_kb")) == told


def test_nothing_that_was_submitted_is_ever_said_never_to_have_started() -> None:
    """It would be submitted a second time."""
    states = [None, *WAITING, *LIVE, *FINAL, "", "NEW"]
    for q, a in product(states, states):
        for started, ended, answered, settled in product(
            [None, STARTED], [None, record("terminated")], [True, False], [True, False]
        ):
            seen = Seen(
                started=started,
                exit=ended,
                queue=queue(q) if q is not None and answered else None,
                account=account(a) if a is not None else None,
                queue_answered=answered,
                settled=settled,
            )
            assert sight(seen).phase is not Phase.NEVER_STARTED


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("Resources", "waiting for resources"),
        (
            "ReqNodeNotAvail, UnavailableNodes:n2",
            "a node it needs is down, drained or reserved: n2",
        ),
        ("ReqNodeNotAvail, UnavailableNodes:", "a node it needs is down, drained or reserved"),
        (
            "QOSMaxCpuPerUserLimit",
            "waiting, because a limit of its account or QOS is reached (QOSMaxCpuPerUserLimit)",
        ),
        ("SomethingNew", "waiting (SomethingNew)"),
    ],
)
def test_reasons_in_words(reason: str, words: str) -> None:
    assert reason_words(reason) == words


def test_every_reason_has_its_words() -> None:
    assert all(reason_words(reason) == words for reason, words in REASONS.items())


def test_the_expected_start_is_told_with_the_reason() -> None:
    row = queue("PENDING", reason="Priority", start_time=1795649011.0, nodes="")
    start = clock.iso(1795649011.0)
    assert sight(Seen(queue=row)).detail == (
        f"waiting for jobs of higher priority, expected start {start}"
    )


def test_a_started_record_without_a_batch_place_is_still_read() -> None:
    old = '{"pid": 1, "start_ticks": "1", "boot_id": "b", "started_at": 1.0}'
    assert StartedRecord.model_validate_json(old).batch is None
