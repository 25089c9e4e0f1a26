"""`outlast manifests`: what it lists, shows, checks and prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.cli import CLI, ROOT, add_kind, data, run
from tests.support.faces import connected
from tests.support.wait import until

MISTAKEN = """schema = 1
name = "mistaken"
titel = "Say"
[run]
command = ["echo", "{n}"]
[[output]]
path = "a.csv"
kind = "tabel"
"""


@pytest.fixture
def kinds(home: Path, tmp_path: Path) -> Path:
    folder = add_kind(tmp_path, "echo")
    (folder / "mistaken.toml").write_text(MISTAKEN, encoding="utf-8")
    return folder


async def test_each_verb_and_a_bare_name(kinds: Path) -> None:
    assert (await run("manifests"))[0] == (await run("manifests", "list"))[0]
    for words in (["echo"], ["show", "echo"], ["show", str(kinds / "echo.toml")]):
        assert "Say what was given" in (await run("manifests", *words))[0]
    whole = await data("manifests", "echo")
    assert json.loads((await run("manifests", "show", "echo", "--json"))[0]) == whole
    assert json.loads((await run("manifests", "echo", "--json"))[0]) == whole
    assert [kind["name"] for kind in whole["manifests"]] == ["echo"]


async def test_what_to_cite_is_told_and_kept_with_the_job(kinds: Path, home: Path) -> None:
    file = kinds / "echo.toml"
    plain = file.read_text(encoding="utf-8")
    file.write_text(
        plain.replace("schema = 1\n", 'schema = 1\ncite = ["10.1/a", "10.1/b"]\nlicence = "MIT"\n')
        + '\n[software]\nname = "Echo"\nlicence = "GPL-3.0"\nurl = "https://echo.example"\n',
        encoding="utf-8",
    )
    line = "Cite: 10.1/a, 10.1/b; software Echo (GPL-3.0), https://echo.example; manifest MIT"
    assert line in (await run("manifests", "show", "echo"))[0].splitlines()
    async with connected() as call:
        told = await call("describe_manifests", name="echo")
        job_id = (await call("launch_job", manifest="echo", wait_s=0)).data["job_id"]
    assert line in told.text.splitlines()
    (about,) = told.data["manifests"]
    assert (about["cite"], about["licence"]) == (["10.1/a", "10.1/b"], "MIT")
    assert about["software"] == {
        "name": "Echo",
        "licence": "GPL-3.0",
        "url": "https://echo.example",
    }
    kept = json.loads((home / "jobs/default" / job_id / "job.json").read_text(encoding="utf-8"))
    assert kept["cite"] == ["10.1/a", "10.1/b"]
    assert kept["software"]["licence"] == "GPL-3.0"
    readme = home / "jobs/default" / job_id / "README.md"
    await until(lambda: readme.exists() and readme.read_text(encoding="utf-8"))
    assert "to cite 10.1/a, 10.1/b." in readme.read_text(encoding="utf-8")
    file.write_text(plain, encoding="utf-8")
    async with connected() as call:
        told = await call("describe_manifests", name="echo")
    assert told.data["manifests"][0].keys().isdisjoint({"cite", "licence", "software"})


async def test_every_mistake_is_told_with_its_line(kinds: Path) -> None:
    file = kinds / "mistaken.toml"
    for words in (["check", str(file)], ["check", "mistaken"], ["--check", "mistaken"]):
        out, err = await run("manifests", *words, code=1)
        assert [line.removeprefix(f"{file}:") for line in out.splitlines()] == [
            "1: The manifest lacks the key `title`: What it does, in one line.",
            "3: The manifest has no key `titel`. Did you mean 'title'?",
            "5: `command[1]` of [run]: unknown placeholder {n}.",
            "8: `kind` of [[output]] must be one of table, image, text, json, trajectory, "
            "structure, checkpoint, log, data, not \"tabel\". Did you mean 'table'?",
        ]
        assert err == "4 mistakes in 1 of 1\n"
    (check,) = (await data("manifests", "check", "mistaken", code=1))["checks"]
    assert [fault["line"] for fault in check["faults"]] == [1, 3, 5, 8]
    assert (check["state"], check["file"]) == ("fail", str(file))


async def test_a_launch_of_it_names_the_first_and_the_command_that_names_all(kinds: Path) -> None:
    _, err = await run("launch", "--manifest", "mistaken", code=2)
    assert "mistaken.toml, line 1: The manifest lacks the key `title`" in err
    assert "There are 3 more mistakes." in err
    assert "next: Correct the manifest file; `outlast manifests check` names every mistake." in err


async def test_what_is_sound_is_said_to_be(kinds: Path) -> None:
    out, err = await run("manifests", "check", "echo", str(kinds / "echo.toml"))
    assert out == "✓ manifest echo is valid: Say what was given\n" * 2
    assert err == ""


async def test_missing_software_is_no_mistake(kinds: Path) -> None:
    with (kinds / "echo.toml").open("a", encoding="utf-8") as file:
        file.write('[software]\nname = "Nix"\nprograms = ["nix-nix"]\ninstall = "get nix"\n')
    out, _ = await run("manifests", "check", "echo")
    assert out.startswith("! manifest echo: echo needs Nix, and there is no nix-nix on the PATH")
    assert "→ Run: get nix" in out


@pytest.mark.parametrize(
    ("words", "code", "name"),
    [
        (["check", "nix"], 3, "unknown_manifest"),
        (["check", "nix.toml"], 3, "unknown_manifest"),
        (["show", "nix"], 3, "unknown_manifest"),
        (["show", "mistaken"], 2, "broken_manifest"),
        (["show"], 2, "usage"),
        (["--frobnicate"], 2, "usage"),
    ],
)
async def test_refusals(kinds: Path, words: list[str], code: int, name: str) -> None:
    assert (await data("manifests", *words, code=code))["error"]["code"] == name


async def test_a_folder_has_its_own(kinds: Path, tmp_path: Path) -> None:
    import subprocess

    own = tmp_path / "project/.outlast/manifests"
    own.mkdir(parents=True)
    text = (kinds / "echo.toml").read_text(encoding="utf-8")
    (own / "echo.toml").write_text(text.replace("Say what", "Shout what"), encoding="utf-8")
    process = subprocess.run(
        [*CLI[:1], "-c", f"import sys; sys.path[0] = {str(ROOT)!r}; "
         "from server.cli import main; sys.argv[1:] = ['manifests']; main()"],
        cwd=tmp_path / "project", capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "Shout what was given" in process.stdout


async def test_the_schema_is_printed_as_it_is_committed(home: Path) -> None:
    committed = (ROOT / "manifests/manifest.schema.json").read_text(encoding="utf-8")
    assert (await run("manifests", "schema"))[0] == committed
