"""A configuration with profiles, and what a launch makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jobs.launch import resolve
from jobs.manifests import Manifests
from jobs.model import LaunchManifest, LaunchRequest
from jobs.resuming import Parent
from jobs.settings import Settings, load_settings

CONFIGURATION = """
[engines]
default = "{default}"
[engines.slurm]
allow_options = {allow}
{more}
[engines.slurm.profiles.gpu]
partition = "gpu"
account = "chem"
qos = "long"
constraint = "a100"
reservation = "course"
nodes = 2
tasks = 8
modules = ["openmm/8.2", "cuda"]
options = ["--exclusive"]
time_limit_s = 3600
[engines.slurm.profiles.short]
partition = "short"
"""


@pytest.fixture
def configured(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A machine on which Slurm's commands seem to be."""
    sbatch = tmp_path / "slurm commands" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.touch(0o755)
    monkeypatch.setenv("PATH", str(sbatch.parent), prepend=":")

    def write(*, default: str = "local", allow: str = "false", more: str = "") -> Settings:
        text = CONFIGURATION.format(default=default, allow=allow, more=more)
        (tmp_path / "config.toml").write_text(text, encoding="utf-8")
        return load_settings()

    return write


def resolved(settings: Settings, *, parent: Parent | None = None, **request: Any) -> LaunchManifest:
    def find_parent(job_id: str) -> Parent:
        assert parent is not None
        return parent

    asked = LaunchRequest(**{"command": ["true"], **request})
    manifests = Manifests(settings.all_manifest_dirs)
    (launch,) = resolve(asked, settings, manifests, client=None, find_parent=find_parent)
    return launch.manifest
