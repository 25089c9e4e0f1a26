"""Stories that the model of the keeper can meet, told on purpose because they are rare."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.states import State
from tests.faults.test_keeper_model import KeeperMachine
from tests.support.modelling import Death, arm


@pytest.fixture
def machine(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KeeperMachine]:
    death = Death()
    arm(monkeypatch, death)
    machine = KeeperMachine(tmp_path / "home", death)
    yield machine
    machine.teardown()


def test_a_gpu_is_not_given_twice_when_the_index_is_made_anew_during_a_start(
    machine: KeeperMachine,
) -> None:
    machine.launch(cores=1, memory_mb=0, gpus=1)
    machine.passes(1)
    machine.the_index_is_deleted()
    machine.launch(cores=1, memory_mb=0, gpus=1)
    machine.passes(1)
    assert [job.state for job in machine.rows()] == [State.STARTING, State.QUEUED]
    machine.something_happens(which=0, start="begins", run="exit 0")
    machine.passes(3)
    assert [job.gpu_ids for job in machine.rows()] == [[0], [1]]
    machine.nothing_is_given_twice()


@pytest.mark.parametrize("index_is_there", [True, False])
@pytest.mark.parametrize("ran", [True, False])
def test_what_a_dead_keeper_has_judged_stands(
    machine: KeeperMachine, ran: bool, index_is_there: bool
) -> None:
    machine.starts_become(slow=False, refusals=0)
    machine.launch(cores=1, memory_mb=0, gpus=0)
    if ran:
        machine.passes(2)
        (job,) = machine.world.living()
        job.dies()
        job.runs = False
    else:
        machine.cancel(which=0, grace_s=None)
    machine.the_keeper_dies_at("keeper.record_written")
    machine.nothing_false_is_told()  # and remembers the record
    (accepted,) = machine.accepted.values()
    assert accepted.record is not None
    if not index_is_there:
        machine.the_index_is_deleted()
    machine.passes(2)
    machine.nothing_false_is_told()
    assert accepted.final is not None
    assert accepted.final[0] is (State.LOST if ran else State.CANCELLED)
