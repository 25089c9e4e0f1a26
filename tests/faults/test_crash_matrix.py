"""Every step of a job's life: killed, frozen or failed there, the job is still told truly."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.wiring import open_service
from tests.support.crash_case import Case, World, expected, run_case
from tests.support.crash_matrix import BEGIN, END, PAGE, STEPS, cases
from tests.support.wait import ended


@pytest.mark.parametrize("case", cases(), ids=str)
async def test_the_promises_hold(case: Case, tmp_path: Path) -> None:
    world = World(tmp_path)
    with world.entered():
        assert await run_case(world, case) == expected(case)


async def test_a_start_that_failed_late_is_not_taken_back(tmp_path: Path) -> None:
    """The shim lives: a job told as queued could be cancelled while its command runs."""
    world = World(tmp_path)
    case = Case("keeper.shim_spawned", "EMFILE", "run")
    with world.entered():
        async with open_service() as service:
            world.arm(case)
            launched = await service.launch(world.request("run"), client=None)
            await ended(service, launched.job.id)
            told = [event.event for event in await service._store.events(launched.job.id)]
    assert "requeue" not in told


def test_every_step_is_killed_and_frozen() -> None:
    for action in ("kill", "stop"):
        assert {case.point for case in cases() if case.action == action} == set(STEPS)


def test_the_page_shows_every_step() -> None:
    page = PAGE.read_text(encoding="utf-8")
    table = page[page.index(BEGIN) : page.index(END)]
    rows = [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")]
    assert rows == STEPS
