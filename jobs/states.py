"""The state machine of a job: one table, nothing else decides what may follow what."""

from __future__ import annotations

from enum import StrEnum

from jobs.errors import IllegalMoveError


class State(StrEnum):
    QUEUED = "queued"  #: accepted and stored; nothing runs yet
    STARTING = "starting"  #: handed to the engine; no proof of life yet
    RUNNING = "running"  #: proven alive
    CANCELLING = "cancelling"  #: a stop was asked for; not proven dead yet
    COMPLETED = "completed"  #: exit code 0 and no failure that the manifest can see
    FAILED = "failed"  #: ended badly by itself, or could not be started
    CANCELLED = "cancelled"  #: ended because it was asked to, proven dead
    TIMED_OUT = "timed_out"  #: ended because its time limit had passed, proven dead
    LOST = "lost"  #: how it ended cannot be known; never run again by itself


class Event(StrEnum):
    START = "start"  #: the keeper hands the job to its engine
    REQUEUE = "requeue"  #: the start failed before anything ran
    ALIVE = "alive"  #: the engine saw the command running
    CANCEL = "cancel"  #: someone wishes it to end
    SUCCEED = "succeed"  #: exit code 0, nothing wrong found
    FAIL = "fail"  #: any other end of its own
    END_CANCELLED = "end_cancelled"  #: the engine proved the end after a cancel
    END_TIMED_OUT = "end_timed_out"  #: the engine proved the end after the time limit
    VANISH = "vanish"  #: no process and no record of its end


#: The whole machine. A pair that is not here is refused.
MOVES: dict[tuple[State, Event], State] = {
    (State.QUEUED, Event.START): State.STARTING,
    (State.QUEUED, Event.CANCEL): State.CANCELLED,
    (State.QUEUED, Event.FAIL): State.FAILED,
    (State.STARTING, Event.REQUEUE): State.QUEUED,
    (State.STARTING, Event.ALIVE): State.RUNNING,
    (State.STARTING, Event.CANCEL): State.CANCELLING,
    (State.RUNNING, Event.CANCEL): State.CANCELLING,
    # A command can be quicker than we look, so each live state takes every kind of end.
    **{
        (live, event): end
        for live in (State.STARTING, State.RUNNING, State.CANCELLING)
        for event, end in (
            (Event.SUCCEED, State.COMPLETED),
            (Event.FAIL, State.FAILED),
            (Event.END_CANCELLED, State.CANCELLED),
            (Event.END_TIMED_OUT, State.TIMED_OUT),
            (Event.VANISH, State.LOST),
        )
    },
}

#: States that something can still follow.
ACTIVE: frozenset[State] = frozenset(state for state, _ in MOVES)
#: States that nothing follows, derived from the table.
FINAL: frozenset[State] = frozenset(State) - ACTIVE
#: States in which the job holds its cores, memory and GPUs.
HOLDS_SLOTS: frozenset[State] = ACTIVE - {State.QUEUED}


def after(state: State, event: Event) -> State:
    """The state that follows. Pure; the store applies it with `WHERE state = :old`.

    Raises IllegalMoveError for a pair that the table does not hold.
    """
    try:
        return MOVES[state, event]
    except KeyError:
        raise IllegalMoveError(f"A {state} job cannot take the event {event!r}.") from None


def event_towards(old: State, new: State) -> Event:
    """The event that leads from one state to the other. Raises IllegalMoveError when none does."""
    for (state, event), result in MOVES.items():
        if (state, result) == (old, new):
            return event
    raise IllegalMoveError(f"No event leads from {old} to {new}.")


def mermaid() -> str:
    """The table as a Mermaid state diagram; ARCHITECTURE.md holds this text and a test compares."""
    lines = ["stateDiagram-v2", "    [*] --> queued"]
    lines += [f"    {old} --> {new}: {event}" for (old, event), new in MOVES.items()]
    lines += [f"    {state} --> [*]" for state in State if state in FINAL]
    return "\n".join(lines)
