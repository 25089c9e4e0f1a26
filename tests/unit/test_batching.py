"""Where a launch says that it runs, and what its scheduler is told."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from jobs import directory
from jobs.batch import BatchRecord
from jobs.batching import places
from jobs.directory import read_launch_manifest
from jobs.engines.slurm_submission import options_of
from jobs.errors import (
    ExecutableNotFoundError,
    InvalidArgumentError,
    ResourcesUnavailableError,
    SettingsError,
)
from jobs.model import LaunchManifest
from jobs.paths import JobDir
from jobs.resuming import Parent
from jobs.settings import load_settings
from tests.support.batching import configured, resolved
from tests.support.cli import ROOT, data, run

__all__ = ["configured"]


def test_without_a_word_a_job_runs_where_the_configuration_says(configured: Any) -> None:
    here = resolved(configured())
    assert (here.engine, here.batch) == ("local", None)
    there = resolved(configured(default="slurm"))
    assert there.engine == "slurm"
    assert there.batch is not None
    assert (there.batch.profile, there.batch.partition) == (None, None)
    assert resolved(configured(default="slurm"), engine="local").engine == "local"


def test_without_slurm_a_job_for_it_is_refused(
    configured: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ExecutableNotFoundError, match="there is no sbatch") as refused:
        resolved(configured(), engine="slurm")
    assert "Leave engine out" in refused.value.next_step
    monkeypatch.setenv("OUTLAST_PATH", json.dumps([str(tmp_path / "slurm commands")]))
    assert resolved(load_settings(), engine="slurm").batch is not None


def test_the_default_profile_is_taken_unless_another_is_named(configured: Any) -> None:
    settings = configured(more='default_profile = "short"')
    for engine, profile in (("slurm", "short"), ("slurm:gpu", "gpu")):
        batch = resolved(settings, engine=engine).batch
        assert batch is not None
        assert batch.profile == profile
    wrong = configured(more='default_profile = "shrot"')
    with pytest.raises(InvalidArgumentError, match="Did you mean 'short'"):
        resolved(wrong, engine="slurm")


def test_whoever_is_to_choose_sees_where_jobs_can_run(
    configured: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu, short = ("slurm:gpu", "partition gpu"), ("slurm:short", "partition short")
    cluster = ("slurm", "the cluster as it comes")
    assert places(configured()) == [
        ("local", "this machine", True),
        (*cluster, False),
        (*gpu, False),
        (*short, False),
    ]
    assert [place for place in places(configured(default="slurm")) if place.is_default] == [
        (*cluster, True)
    ]
    one = configured(default="slurm", more='default_profile = "short"')
    assert places(one) == [("local", "this machine", False), (*gpu, False), (*short, True)]
    monkeypatch.setenv("PATH", "/nowhere")
    assert places(configured()) == [("local", "this machine", True)]


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ({"engine": "slrum"}, "There is no engine 'slrum'. Did you mean 'slurm'?"),
        ({"engine": "local:gpu"}, "There is no engine 'local:gpu'"),
        ({"engine": "slurm:gpus"}, "There is no Slurm profile 'gpus'. Did you mean 'gpu'?"),
        ({"engine": "slurm:gpu\n--x"}, "There is no Slurm profile"),
        ({"engine": "local", "resources": {"nodes": 2}}, "go with a scheduler"),
        ({"engine": "local", "resources": {"tasks": 2}}, "go with a scheduler"),
        ({"engine": "local", "engine_options": ["--x"]}, "go with a scheduler"),
        ({"engine": "slurm", "engine_options": ["--x"]}, "does not allow options of sbatch"),
    ],
)
def test_what_cannot_be_is_refused_in_words(
    configured: Any, request_: dict[str, Any], says: str
) -> None:
    settings = configured()
    with pytest.raises(InvalidArgumentError) as refused:
        resolved(settings, **request_)
    assert says in refused.value.cause
    assert refused.value.next_step


def test_the_next_step_names_the_profiles(configured: Any) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        resolved(configured(), engine="slurm:x")
    assert "gpu, short" in refused.value.next_step


def test_a_cluster_may_have_more_than_this_machine(configured: Any) -> None:
    wish = {"cores": 4096, "memory_mb": 1 << 24, "gpus": 64}
    with pytest.raises(ResourcesUnavailableError):
        resolved(configured(), engine="local", resources=wish)
    assert resolved(configured(), engine="slurm", resources=wish).resources.cores == 4096


def test_a_program_may_be_on_the_nodes_only(configured: Any) -> None:
    job = resolved(configured(), engine="slurm", command=["a-program-of-the-cluster"])
    assert job.executable == "a-program-of-the-cluster"


def test_a_kind_of_job_that_can_go_on_is_begun_anew_by_slurm(configured: Any) -> None:
    job = resolved(configured(), engine="slurm", command=None, manifest="md-openmm")
    assert job.batch is not None
    assert job.batch.restart_command is not None
    assert job.batch.restart_command != job.command
    assert "--requeue" in options_of(job)
    once = resolved(configured(), engine="slurm", command=None, manifest="fem-calculix")
    assert once.batch is not None
    assert once.batch.restart_command is None
    assert "--no-requeue" in options_of(once)


def parent(configured_job: LaunchManifest, tmp_path: Path) -> Parent:
    """As the job left it: with the checkpoint of its kind."""
    root = tmp_path / "parent"
    (root / "work").mkdir(parents=True)
    assert configured_job.resume is not None
    (root / "work" / configured_job.resume.checkpoint.replace("*", "x")).touch()
    job = configured_job.model_copy(update={"cwd": str(root / "work")})
    (root / "job.json").write_text(job.model_dump_json(by_alias=True), encoding="utf-8")
    job_dir = JobDir(root)
    return Parent(job.job_id, read_launch_manifest(job_dir), job_dir)


def test_what_goes_on_runs_where_it_ran_before(configured: Any, tmp_path: Path) -> None:
    settings = configured()
    first = resolved(
        settings,
        engine="slurm:gpu",
        command=None,
        manifest="md-openmm",
        resources={"tasks": 2, "memory_mb": 700},
    )
    before = parent(first, tmp_path)
    again = resolved(settings, parent=before, command=None, resume_from=first.job_id)
    assert again.engine == "slurm"
    assert again.batch is not None
    assert first.batch is not None
    for name in ("profile", "partition", "nodes", "tasks", "modules"):
        assert getattr(again.batch, name) == getattr(first.batch, name)
    assert (again.resources.memory_mb, again.time_limit_s) == (700, 3600)


def test_what_goes_on_can_go_elsewhere(configured: Any, tmp_path: Path) -> None:
    settings = configured()
    first = resolved(settings, engine="slurm:gpu", command=None, manifest="md-openmm")
    before = parent(first, tmp_path)
    more: dict[str, Any] = {"parent": before, "command": None, "resume_from": first.job_id}
    here = resolved(settings, engine="local", **more)
    assert (here.engine, here.batch) == ("local", None)
    short = resolved(settings, engine="slurm:short", **more)
    assert short.batch is not None
    assert (short.batch.profile, short.batch.partition) == ("short", "short")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("poll = 5", "Did you mean 'poll_s'"),
        ("poll_s = 1", "poll_s"),
        ("[engines.slurm.profiles.x]\npartitoin = 'a'", "Did you mean 'partition'"),
        ("[engines.slurm.profiles.x]\nnodes = 0", "nodes"),
        ("[engines.slurm.profiles.x]\ntime_limit_s = 0", "time_limit_s"),
        ("[engines.slurm.profiles.x]\noptions = '--exclusive'", "options"),
    ],
)
def test_a_configuration_that_is_wrong_is_told_with_its_place(
    configured: Any, more: str, says: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        configured(more=more)
    assert says in refused.value.cause


def test_what_a_scheduler_tells_in_words() -> None:
    record = BatchRecord(token="t", id="12_3")
    assert str(record) == "Slurm job 12_3"
    assert str(BatchRecord(token="t")) == "Slurm job not known yet"
    full = record.model_copy(
        update={
            "nodes": "n[1-2]",
            "restarts": 1,
            "elapsed_s": 61.4,
            "requested_s": 3600.0,
            "cpu_efficiency": 0.873,
            "max_rss_kb": 300 << 10,
        }
    )
    assert str(full) == (
        "Slurm job 12_3 on n[1-2], started anew 1 times, used 61 of 3600 s, 87 % of its cores, "
        "at most 300 MB"
    )


def test_the_readme_of_the_directory_names_its_files(configured: Any, tmp_path: Path) -> None:
    settings = configured()
    for engine, named in (("local", "`lock` and `ctl`"), ("slurm", "`slurm.sh`")):
        job_dir = JobDir(tmp_path / engine)
        job_dir.root.mkdir()
        directory.furnish(job_dir, resolved(settings, engine=engine))
        assert named in job_dir.readme.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", ["README.md", "docs/slurm.md"])
def test_the_configuration_that_is_shown_is_valid(home: Path, tmp_path: Path, page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    (block,) = [part for part in re.findall(r"```toml\n(.*?)```", text, re.S) if "slurm" in part]
    (tmp_path / "config.toml").write_text(block, encoding="utf-8")
    slurm = load_settings().engines.slurm
    assert slurm.default_profile in slurm.profiles
    assert slurm.profiles["cpu"].partition == "main"


async def test_the_command_line_says_where(configured: Any) -> None:
    configured()
    refused = await data("launch", "--engine", "slurm:gpus", "--", "true", code=2)
    assert refused["error"]["code"] == "invalid_argument"
    assert "Did you mean 'gpu'" in refused["error"]["cause"]
    _, err = await run(
        "launch", "--engine", "slurm", "--engine-option=--nice", "--", "true", code=2
    )
    assert "does not allow options of sbatch" in err
    _, err = await run("launch", "--nodes", "2", "--", "true", code=2)
    assert "go with a scheduler" in err
    out, _ = await run("launch", "--engine", "local", "--wait", "--quiet", "--", "true")
    assert out.startswith("job-")
