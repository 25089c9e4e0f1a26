"""What a launch refuses, and what exactly it resolves to."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from jobs import errors
from jobs.identity import new_id
from jobs.launch import resolve
from jobs.manifests import Manifests, load
from jobs.model import LaunchRequest
from jobs.paths import JOB_ID
from jobs.resuming import Parent
from jobs.settings import Settings, load_settings


@pytest.fixture
def settings(home: Path) -> Settings:
    return load_settings()


def resolved(settings: Settings, **request: Any) -> Any:
    manifests = Manifests(settings.all_manifest_dirs)
    (launch,) = resolve(
        LaunchRequest(**request), settings, manifests, client=None, find_parent=no_parent
    )
    return launch


def no_parent(job_id: str) -> Parent:
    raise errors.JobNotFoundError(job_id)


@pytest.mark.parametrize(
    ("request_", "error", "says"),
    [
        ({}, errors.InvalidArgumentError, "Exactly one of manifest and command"),
        ({"command": ["true"], "manifest": "md-openmm"}, errors.InvalidArgumentError, "Exactly"),
        ({"command": []}, errors.InvalidArgumentError, "empty"),
        ({"command": [""]}, errors.InvalidArgumentError, "empty"),
        ({"command": ["no-such-thing"]}, errors.ExecutableNotFoundError, "no program"),
        ({"command": ["./x"]}, errors.ExecutableNotFoundError, "relative"),
        ({"command": ["/etc/passwd"]}, errors.ExecutableNotFoundError, "not executable"),
        ({"command": ["/"]}, errors.ExecutableNotFoundError, "no file"),
        ({"command": ["true", "a\0b"]}, errors.InvalidArgumentError, "NUL"),
        ({"command": ["true", "a\ud800b"]}, errors.InvalidArgumentError, "surrogate"),
        ({"command": ["true"], "env": {"A\0": "x"}}, errors.InvalidArgumentError, "NUL"),
        ({"command": ["true", "x" * 300_000]}, errors.InvalidArgumentError, "300000 bytes"),
        ({"command": ["true", *["x" * 1000] * 1200]}, errors.InvalidArgumentError, "at most"),
        ({"command": ["true"], "env": {"A": "x" * 4_000_000}}, errors.InvalidArgumentError, "most"),
        ({"command": ["true"], "env": {"A=B": "x"}}, errors.InvalidArgumentError, "'A=B'"),
        ({"command": ["true"], "env": {"": "x"}}, errors.InvalidArgumentError, "name of an env"),
        ({"command": ["true"], "cwd": "/no/such"}, errors.DirectoryUnusableError, "No such file"),
        ({"command": ["true"], "cwd": "here"}, errors.DirectoryUnusableError, "absolute"),
        ({"command": ["true"], "cwd": "/etc/passwd"}, errors.DirectoryUnusableError, "directory"),
        ({"command": ["true"], "project": "../up"}, errors.InvalidArgumentError, "project"),
        ({"command": ["true"], "project": "x" * 65}, errors.InvalidArgumentError, "project"),
        ({"command": ["true"], "outputs": ["../x"]}, errors.PathRefusedError, "'..' part"),
        ({"command": ["true"], "inputs": ["x"]}, errors.InputUnusableError, "absolute"),
        ({"command": ["true"], "inputs": ["/dev/null"]}, errors.InputUnusableError, "regular"),
        ({"command": ["true"], "environment": "x"}, errors.InvalidArgumentError, "environment"),
        ({"command": ["true"], "params": {"a": 1}}, errors.InvalidArgumentError, "params"),
        (
            {"command": ["true"], "resources": {"cores": 4096}},
            errors.ResourcesUnavailableError,
            "cores=4096",
        ),
        ({"manifest": "md-openm"}, errors.UnknownManifestError, "Did you mean 'md-openmm'"),
        (
            {"manifest": "md-openmm", "params": {"temprature_k": 1}},
            errors.UnknownParameterError,
            "Did you mean 'temperature_k'",
        ),
        (
            {"manifest": "md-openmm", "params": {"steps": "many"}},
            errors.InvalidParameterError,
            "'steps' of md-openmm is not valid: 'many' is not of type 'integer'",
        ),
        (
            {"manifest": "md-openmm", "params": {"steps": -1}},
            errors.InvalidParameterError,
            "minimum",
        ),
        (
            {"manifest": "md-openmm", "params": {"pdb": "/no/such.pdb"}},
            errors.InputUnusableError,
            "'pdb'",
        ),
    ],
)
def test_refusals(
    settings: Settings, request_: dict[str, Any], error: type[errors.JobError], says: str
) -> None:
    with pytest.raises(error, match=None) as refused:
        resolved(settings, **request_)
    assert says in refused.value.cause
    assert refused.value.next_step
    assert len(str(refused.value)) < 700


@pytest.mark.parametrize(
    "request_",
    [
        {"command": "ls -l"},
        {"command": ["true"], "time_limit_s": -1},
        {"command": ["true"], "resources": {"cores": 0}},
        {"command": ["true"], "resources": {"coers": 1}},
        {"command": ["true"], "unknown": 1},
        {"command": ["true"], "name": "\udfff"},
        {"command": ["true"], "idempotency_key": ""},
    ],
)
def test_wrong_types_and_ranges(request_: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        LaunchRequest(**request_)


def test_a_manifest_becomes_an_argument_list(settings: Settings) -> None:
    launch = resolved(settings, manifest="md-openmm", params={"steps": 1000, "seed": 7})
    command = launch.manifest.command
    assert command[0] == sys.executable
    assert command[1].endswith("/md_openmm.py")
    assert command[command.index("--steps") + 1] == "1000"
    assert not [part for part in command if "{" in part]
    assert launch.manifest.params["temperature_k"] == 300
    (pdb,) = launch.manifest.inputs
    assert pdb.path.endswith("alanine-dipeptide.pdb")
    assert pdb.sha256
    assert launch.manifest.rules.progress is not None


def test_the_digest_is_of_the_request_alone(settings: Settings) -> None:
    one = resolved(settings, command=["true", "x"], idempotency_key="a").manifest
    two = resolved(settings, command=["true", "x"], idempotency_key="b").manifest
    other = resolved(settings, command=["true", "y"]).manifest
    spelled_out = LaunchRequest(command=["true", "x"], params={}, cwd=None, outputs=[])
    same = resolved(settings, **spelled_out.model_dump()).manifest
    assert one.request_sha256 == two.request_sha256 == same.request_sha256
    assert one.request_sha256 != other.request_sha256
    assert one.job_id != two.job_id


def test_the_path_of_jobs_has_what_a_chat_client_lacks(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/odd")
    path = resolved(settings, command=["true"]).manifest.env["PATH"].split(":")
    assert path[0] == str(Path(sys.executable).parent)
    assert {"/odd", "/usr/bin", "/bin"} <= set(path)


def test_secrets_are_held_apart(settings: Settings) -> None:
    launch = resolved(settings, command=["true"], env={"API_KEY": "abc123", "PLAIN": "x"})
    assert launch.secrets == {"API_KEY": "abc123"}
    assert launch.manifest.env["API_KEY"] == "***"
    assert "abc123" not in launch.manifest.model_dump_json()


def install(folder: Path, name: str, version: str, *requires: str) -> None:
    """A distribution as it is found on the path of modules."""
    about = folder / f"{name}-{version}.dist-info"
    about.mkdir()
    needs = "".join(f"Requires-Dist: {text}\n" for text in requires)
    text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}"
    (about / "METADATA").write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("requirement", "there"),
    [
        ("not-there-at-all", ""),
        ("engine>=99", " (which has engine 3.0rc1)"),
        ("engine<3,>=2", " (which has engine 3.0rc1)"),
        ("engine[mpi]", " (which has engine 3.0rc1 without not-there-mpi>=4)"),
        ("engine[plots]>=2", " (which has engine 3.0rc1 without plotting>=5)"),
        ("engine[mpi,plots]", " (which has engine 3.0rc1 without not-there-mpi>=4, plotting>=5)"),
    ],
)
def test_distributions_that_do_not_satisfy_are_told(
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    requirement: str,
    there: str,
) -> None:
    install(
        tmp_path,
        "engine",
        "3.0rc1",
        "not-there-base",  # what it needs in any case is not ours to check
        "not-there-mpi>=4; extra == 'mpi'",
        "not-there-win; sys_platform == 'win32' and extra == 'mpi'",
        "plotting>=5; extra == 'plots'",
        "plotting>=4; extra == 'old-plots'",
    )
    install(tmp_path, "plotting", "4.5", "not-there-either")
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "x.toml"

    def launch(*requires: str) -> Any:
        path.write_text(
            'schema = 1\nname = "x"\ntitle = "t"\n[run]\ncommand = ["{python}"]\n'
            f'[software]\nname = "Engine"\nrequires = {list(requires)}\n',
            encoding="utf-8",
        )
        return resolved(settings, manifest=str(path))

    good = ["engine", "Engine >= 3.0rc1", "engine[old_plots]>2", "not-there; python_version<'3'"]
    launch(*good)
    with pytest.raises(errors.SoftwareMissingError) as refused:
        launch(*good, requirement)
    assert refused.value.cause == (
        f"x needs Engine, and there is no {requirement} in {sys.executable}{there}."
    )
    assert f"-m pip install '{requirement}'" in refused.value.next_step


@given(st.text(max_size=120), st.floats(0, 4e9))
def test_job_ids_have_their_form_whatever_the_name(name: str, at: float) -> None:
    assert JOB_ID.fullmatch(new_id("job", name, at))


def test_every_bundled_manifest_is_valid() -> None:
    folder = Path(__file__).resolve().parent.parent.parent / "manifests"
    files = sorted(folder.glob("*.toml"))
    assert {"md-openmm.toml", "fit-optuna.toml"} <= {path.name for path in files}
    for path in files:
        manifest = load(path)
        manifest.resolve_params({group[0]: "x" for group in manifest.file.one_of})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nonsense", "Expected"),
        ("schema = 2", "schema"),
        (
            'schema = 1\nname = "other"\ntitle = "t"\n[run]\ncommand = ["x"]',
            "must be that of the file",
        ),
        ('schema = 1\nname = "x"\ntitle = "t"\nextra = 1\n[run]\ncommand = ["x"]', "extra"),
        ('schema = 1\nname = "x"\ntitle = "t"\n[run]\ncommand = ["{nope}"]', "{nope}"),
        (
            'schema = 1\nname = "x"\ntitle = "t"\nparams.a.type = "strin"\n[run]\ncommand = ["x"]',
            "strin",
        ),
        (
            'schema = 1\nname = "x"\ntitle = "t"\n[run]\ncommand = ["x"]\n'
            '[[progress]]\nregex = "("',
            "unterminated",
        ),
    ],
)
def test_a_broken_manifest_says_what_is_wrong(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "x.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(errors.BrokenManifestError, match=str(path)) as refused:
        load(path)
    assert says in refused.value.cause


def test_optional_parameters_leave_their_flag_out(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text(
        'schema = 1\nname = "x"\ntitle = "t"\n[params.a]\ntype = "string"\noptional = true\n'
        '[params.b]\ntype = "boolean"\ndefault = false\n'
        '[run]\ncommand = ["prog", ["--a", "{a}"], "--b={b}", "literal {brace}"]\n',
        encoding="utf-8",
    )
    with pytest.raises(errors.BrokenManifestError, match="brace"):
        load(path)
    path.write_text(path.read_text(encoding="utf-8").replace("{brace}", "{ }"), encoding="utf-8")
    kind = load(path)
    assert kind.command(kind.resolve_params({})) == ["prog", "--b=false", "literal { }"]
    assert kind.command(kind.resolve_params({"a": "1"}))[1:3] == ["--a", "1"]
    with pytest.raises(errors.InvalidParameterError):
        kind.resolve_params({"b": "yes"})
