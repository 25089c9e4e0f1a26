"""Looking after an installation from the command line: settings, manifests, doctor, prune."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from jobs.service import Service
from jobs.states import State
from server.doctor import file_system
from tests.support.cli import add_kind, data, read_until, run, terminal
from tests.support.launching import launch
from tests.support.wait import ended, until


async def test_settings_that_are_wrong_are_named(home: Path, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("coers = 3\n", encoding="utf-8")
    _, err = await run("ps", code=78)
    assert "'coers'" in err
    out, _ = await run("doctor", code=1)
    assert "'coers'" in out
    (tmp_path / "config.toml").write_text("", encoding="utf-8")
    home.write_text("a file in the way", encoding="utf-8")
    assert (await data("ps", code=74))["error"]["code"] == "state_directory_unusable"
    home.unlink()


async def test_manifests(home: Path, tmp_path: Path) -> None:
    names = {kind["name"] for kind in (await data("manifests"))["manifests"]}
    assert {"md-openmm", "fit-optuna"} <= names
    assert "md-openmm" in (await run("manifests"))[0]
    kind = (await data("manifests", "md-openmm"))["manifests"][0]
    assert "steps" in kind["params"]["properties"]
    assert "temperature_k" in (await run("manifests", "md-openmm"))[0]
    assert (await data("manifests", "--check"))["ok"]


async def test_every_broken_manifest_is_named(home: Path, tmp_path: Path) -> None:
    folder = add_kind(tmp_path, "echo")
    (folder / "one.toml").write_text("schema = 1\nname = 'two'", encoding="utf-8")
    (folder / "three.toml").write_text("not TOML", encoding="utf-8")
    out, _ = await run("manifests", "--check", code=1)
    assert "one.toml" in out
    assert "three.toml" in out
    checks = (await data("manifests", "--check", code=1))["checks"]
    assert {check["name"] for check in checks if check["state"] == "fail"} == {
        "manifest one",
        "manifest three",
    }
    assert "2 of them are broken" in (await run("manifests"))[1]


async def test_doctor_finds_a_sound_machine(home: Path) -> None:
    reply = await data("doctor")
    assert reply["ok"]
    states = {check["name"]: check["state"] for check in reply["checks"]}
    for name in ("Outlast", "system", "state directory", "keeper", "trial job"):
        assert states[name] == "ok", reply
    assert set(states.values()) <= {"ok", "warn"}
    assert all(check["mend"] for check in reply["checks"] if check["state"] != "ok")
    assert "✓" in (await run("doctor"))[0]


async def test_doctor_names_what_does_not_work(home: Path) -> None:
    home.write_text("a file in the way", encoding="utf-8")
    reply = await data("doctor", code=1)
    faults = {check["name"] for check in reply["checks"] if check["state"] == "fail"}
    assert faults == {"state directory", "keeper"}
    home.unlink()


def test_the_kind_of_file_system_is_that_of_the_nearest_mount() -> None:
    assert file_system(Path("/proc/self")) == "proc"
    assert file_system(Path("/")) not in {"", "proc"}


async def test_interrupting_the_question_removes_nothing(service: Service) -> None:
    old = await ended(service, (await launch(service, "true")).id)
    with terminal("prune", "--older-than", "0d", columns=80) as (process, fd):
        await asyncio.to_thread(read_until, fd, b"[y/N]")
        process.send_signal(signal.SIGINT)
        await until(lambda: process.poll() is not None)
    assert process.returncode == 130
    assert service.directory(old).root.is_dir()


async def test_prune_asks_and_spares_what_runs(service: Service) -> None:
    running = await launch(service, "sleep", "60")
    old = await ended(service, (await launch(service, "true")).id)
    assert (await run("prune"))[1] == "Nothing to prune.\n"
    everything = ["prune", "--older-than", "0d"]
    out, err = await run(*everything, "--dry-run")
    assert old.id in out
    assert running.id not in out
    assert "would be removed" in err
    for answer in ("n\n", "\n", ""):
        _, err = await run(*everything, stdin=answer, code=1)
        assert "[y/N]" in err
        assert "Nothing was removed" in err
    assert service.directory(old).root.is_dir()
    assert (await data(*everything, code=2))["error"]["code"] == "invalid_argument"
    await run(*everything, stdin="y\n")
    assert not service.directory(old).root.exists()
    assert (await data("status", old.id, code=3))["error"]["code"] == "job_not_found"
    again = await ended(service, (await launch(service, "true")).id)
    reply = await data("prune", "--keep-gb", "0", "--yes")
    assert (reply["removed"], reply["jobs"][0]["job_id"]) == (1, again.id)
    assert reply["total_size"] == reply["jobs"][0]["size"] > 0
    assert (await service.job(running.id)).state is State.RUNNING
