"""Environment over file over defaults; what is misspelt is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.errors import SettingsError
from jobs.settings import load_settings


@pytest.fixture
def config(home: Path) -> Path:
    return home.parent / "config.toml"


def test_environment_over_file_over_defaults(
    config: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OUTLAST_CORES")
    config.write_text('cores = 3\nmemory_mb = 77\npath = ["/opt/x"]\n', encoding="utf-8")
    monkeypatch.setenv("OUTLAST_MEMORY_MB", "88")
    settings = load_settings()
    assert (settings.cores, settings.memory_mb, settings.grace_s) == (3, 88, 10)
    assert settings.state.root == home


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("coers = 3", "unknown key 'coers'. Did you mean 'cores'?"),
        ("[environments.md]\nactivat = 'x'", "Did you mean 'activate'?"),
        ("cores = 0", "'cores' is not usable"),
        ("cores = 'many'", "'cores' is not usable"),
        ("cores = [", "not valid TOML"),
        ("\x00", "not valid TOML"),
    ],
)
def test_a_wrong_configuration_is_told_in_one_sentence(
    config: Path, monkeypatch: pytest.MonkeyPatch, text: str, says: str
) -> None:
    monkeypatch.delenv("OUTLAST_CORES")
    config.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError) as refused:
        load_settings()
    assert says in refused.value.cause


def test_a_misspelt_variable_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTLAST_CORE", "3")
    with pytest.raises(SettingsError, match="Did you mean 'OUTLAST_CORES'"):
        load_settings()


def test_a_server_may_run_inside_a_job(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTLAST_JOB_ID", "job-x")
    monkeypatch.setenv("OUTLAST_JOB_DIR", "/x")
    assert load_settings()
