"""Fixtures: a state directory of its own for each test, from which no process survives."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from jobs.service import Service
from jobs.settings import load_settings
from server.wiring import open_service
from tests.support import slurm as cluster
from tests.support.processes import end_all_of

slurm, slurm_alone = cluster.slurm, cluster.slurm_alone

# No test is timed: a busy machine must not fail one.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

for _name in [name for name in os.environ if name.startswith("OUTLAST_")]:
    if not _name.startswith("OUTLAST_TEST_"):
        del os.environ[_name]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of a cluster wait for each other, because some have it to themselves."""
    for item in items:
        if item.get_closest_marker("slurm") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(600))


@pytest.fixture(autouse=True)
def _no_variables_of_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are read when tests are collected; to Outlast they would be unknown settings."""
    for name in [name for name in os.environ if name.startswith("OUTLAST_TEST_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty state directory; whatever runs for it is ended afterwards."""
    home = tmp_path / "home"
    monkeypatch.setenv("OUTLAST_HOME", str(home))
    (tmp_path / "config.toml").touch()
    monkeypatch.setenv("OUTLAST_CONFIG", str(tmp_path / "config.toml"))
    monkeypatch.setenv("OUTLAST_KEEPER_IDLE_S", "1")
    monkeypatch.setenv("OUTLAST_CORES", "8")  # tests wait on processes, not on cores
    yield home
    end_all_of(home)


@pytest.fixture
async def service(home: Path) -> AsyncIterator[Service]:
    """The service over `home`, as a face has it."""
    async with open_service(load_settings()) as opened:
        yield opened
