"""Every step of a job's life: killed, frozen or failed there, the job is still told truly."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.failpoints import POINTS
from tests.support.crash_case import Case, World, expected, run_case
from tests.support.crash_matrix import BEGIN, END, PAGE, cases

#: Steps that no scenario of the matrix comes to yet: making the index anew.
NOT_YET = {"server.index_filled", "server.index_published"}


@pytest.mark.parametrize("case", cases(), ids=str)
async def test_the_promises_hold(case: Case, tmp_path: Path) -> None:
    world = World(tmp_path)
    with world.entered():
        assert await run_case(world, case) == expected(case)


def test_every_step_is_killed_and_frozen() -> None:
    for action in ("kill", "stop"):
        assert {case.point for case in cases() if case.action == action} == set(POINTS) - NOT_YET


def test_the_page_shows_every_step() -> None:
    page = PAGE.read_text(encoding="utf-8")
    table = page[page.index(BEGIN) : page.index(END)]
    rows = [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")]
    assert rows == list(POINTS)
