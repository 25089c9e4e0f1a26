"""What the model tests share: how long they explore, and a death at a chosen step."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, Phase, settings

from jobs import failpoints


class Crash(BaseException):
    """The process is dead: nothing that catches errors may catch this."""


class Death:
    """Every failpoint of the process is told to `reached`; a chosen one ends it."""

    def __init__(self) -> None:
        self.at: str | None = None
        #: Told of every step; may end the process, too.
        self.of_all: Callable[[str], None] = lambda _: None

    def reached(self, point: str) -> None:
        assert point in failpoints.POINTS
        self.of_all(point)
        if point == self.at:
            self.at = None
            raise Crash(point)


@contextmanager
def folder_in_memory(otherwise: Path) -> Iterator[Path]:
    """A folder where syncing costs nothing: what dies here are processes, never the machine."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else otherwise) as folder:
        yield Path(folder)


def arm(monkeypatch: pytest.MonkeyPatch, death: Death) -> None:
    """Tell `death` of each step that the code under test takes."""
    monkeypatch.setattr(logging.root.manager, "disable", logging.CRITICAL)  # of thousands of deaths
    monkeypatch.setattr(failpoints, "_FOLDER", "")
    monkeypatch.setattr(failpoints, "_fire", lambda _, point: death.reached(point))


def effort(examples: int, steps: int) -> settings:
    """The same examples in every run, so that a failure is the last change's.

    `MODEL_EXAMPLES=2000` looks for as many others, and for the smallest that fails.
    """
    explore = int(os.environ.get("MODEL_EXAMPLES", "0"))
    print("MODEL_EXAMPLES=2000 pytest --timeout 0 THIS_FILE tries other examples than these")
    return settings(
        max_examples=explore or examples,
        stateful_step_count=steps,
        derandomize=not explore,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
