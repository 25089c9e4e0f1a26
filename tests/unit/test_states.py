"""The table is the whole machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.errors import IllegalMoveError
from jobs.states import ACTIVE, FINAL, HOLDS_SLOTS, MOVES, Event, State, after, mermaid

ROOT = Path(__file__).resolve().parent.parent.parent


def test_final_states_are_those_that_nothing_follows() -> None:
    names = {"completed", "failed", "cancelled", "timed_out", "lost"}
    assert {str(state) for state in FINAL} == names
    assert set(State) == ACTIVE | FINAL
    assert State.QUEUED not in HOLDS_SLOTS


def test_every_state_but_the_first_can_be_reached_and_left_or_is_final() -> None:
    assert set(MOVES.values()) == set(State)
    for state in ACTIVE:
        ends, todo = set(), [state]
        seen = set()
        while todo:
            here = todo.pop()
            if here in seen:
                continue
            seen.add(here)
            if here in FINAL:
                ends.add(here)
            todo += [new for (old, _), new in MOVES.items() if old is here]
        assert ends == FINAL, state


@pytest.mark.parametrize("state", sorted(FINAL))
@pytest.mark.parametrize("event", Event)
def test_a_final_state_takes_nothing(state: State, event: Event) -> None:
    with pytest.raises(IllegalMoveError):
        after(state, event)


def test_nothing_that_may_have_run_goes_back_to_the_queue() -> None:
    assert [old for (old, _), new in MOVES.items() if new is State.QUEUED] == [State.STARTING]


def test_the_architecture_shows_the_table() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    assert mermaid() in text
