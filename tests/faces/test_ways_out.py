"""What reaches a process to the byte, and what a job may plant without leading a reader astray."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.faces.test_corpora import CORPORA, texts_of
from tests.support import cli
from tests.support.faces import connected
from tests.support.hostile import write_probe
from tests.support.launching import PYTHON
from tests.support.wait import until
from tests.support.world import carried

#: Writes its arguments and the variables V0, V1, ... as bytes, each ended by NUL.
ECHO = """
import os, sys
out = sys.stdout.buffer
words = sys.argv[1:]
out.write(b"".join(os.fsencode(word) + b"\\0" for word in words))
values = (os.environb.get(b"V%d" % number) for number in range(len(words)))
out.write(b"".join(value + b"\\0" for value in values if value is not None))
"""


def _echo(texts: list[str]) -> list[str]:
    return [PYTHON, "-I", "-S", "-c", ECHO, *texts]


def _bytes(texts: list[str]) -> bytes:
    return b"".join(text.encode() + b"\0" for text in texts)


@pytest.mark.parametrize("corpus", CORPORA)
async def test_arguments_and_variables_arrive_to_the_byte(home: Path, corpus: str) -> None:
    texts = [text for text in texts_of(corpus) if carried(text) and len(text) < 20_000]
    async with connected() as call:
        for start in range(0, len(texts), 500):
            some = texts[start : start + 500]
            env = {f"V{number}": text for number, text in enumerate(some)}
            answer = await call("launch_job", command=_echo(some), env=env, wait_s=20)
            assert answer.data["state"] == "completed", answer.text
            log = Path(answer.data["job_dir"]) / "stdout.log"
            assert log.read_bytes() == 2 * _bytes(some)


@pytest.mark.parametrize("corpus", CORPORA)
async def test_the_command_line_passes_them_on_too(home: Path, corpus: str) -> None:
    texts = [text for text in texts_of(corpus) if carried(text) and len(text) < 5000][:300]
    launched = await cli.data("launch", "--wait", "--", *_echo(texts))
    assert (Path(launched["job_dir"]) / "stdout.log").read_bytes() == _bytes(texts)
    verbs = ("status", "logs", "cancel", "artifacts")
    await asyncio.gather(*(cli.run(verb, "--", texts[20], code=3) for verb in verbs))


@pytest.mark.parametrize("text", ["[1]", "{}", "null", '["a"]', "true"])
async def test_a_text_that_looks_like_json_is_a_text(home: Path, text: str) -> None:
    write_probe(home.parent)
    async with connected() as call:
        made = await call(
            "launch_job", command=["bash", "-c", "echo 1; : > 1"], name=text, wait_s=20
        )
        job_id = made.data["job_id"]
        assert made.data["name"] == text
        assert (await call("job_status", project=text)).data["jobs"] == []
        found = (await call("tail_log", job_id=job_id, grep=text)).data["text"]
        assert found == ("0: 1" if text == "[1]" else "")
        files = (await call("list_artifacts", job_id=job_id, pattern=text)).data["artifacts"]
        assert [file["path"] for file in files] == (["1"] if text == "[1]" else [])
        assert await call.refused("job_status", job_id=text) == "job_not_found"
        assert await call.refused("describe_manifests", name=text) == "unknown_manifest"


@pytest.mark.parametrize("ended", [False, True], ids=["running", "ended"])
async def test_a_working_folder_that_became_a_link_is_not_followed(home: Path, ended: bool) -> None:
    outside = home.parent / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text("secret", encoding="utf-8")
    swap = f"mv ../work ../old; ln -s {outside} ../work; echo swapped; " + (
        "" if ended else "sleep 99"
    )
    async with connected() as call:
        launched = await call("launch_job", command=["bash", "-c", swap], wait_s=20 if ended else 0)
        job_id = launched.data["job_id"]

        async def swapped() -> bool:
            return "swapped" in (await call("tail_log", job_id=job_id)).text

        await until(swapped)
        assert (
            await call.refused("read_artifact", job_id=job_id, path="secret.txt") == "path_refused"
        )
        assert await call.refused("tail_log", job_id=job_id, stream="secret.txt") == "path_refused"
        listed = (await call("list_artifacts", job_id=job_id)).data
        assert (listed["artifacts"], listed["total_size"]) == ([], 0)


@pytest.mark.parametrize(
    ("output", "there"),
    [
        ("folder", True),
        ("f?lder", True),
        ("inside", True),
        ("in*de", True),
        ("way/*.txt", False),
        ("way/secret.txt", False),
        ("way", False),
        ("w*", False),
        ("up/old.txt", False),
    ],
)
async def test_an_output_is_not_looked_for_outside(home: Path, output: str, there: bool) -> None:
    outside = home.parent / "outside"
    outside.mkdir()
    (outside / "secret.txt").touch()
    script = (
        f"ln -s {outside} way; ln -s .. up; : > ../old.txt; mkdir folder; : > a; ln -s a inside"
    )
    async with connected() as call:
        answer = await call(
            "launch_job", command=["bash", "-c", script], outputs=[output], wait_s=20
        )
        assert answer.data["state"] == ("completed" if there else "failed"), answer.text


async def test_an_input_that_never_ends_is_refused(home: Path) -> None:
    endless = "/proc/self/pagemap"  # says that it is empty
    manifest = json.dumps(str(home.parent / "kinds"))
    cli.add_kind(home.parent, "say")
    assert manifest in (home.parent / "config.toml").read_text(encoding="utf-8")
    async with connected() as call:
        for source in (endless, "/proc/self/environ"):
            code = await call.refused("launch_job", command=["true"], inputs=[source])
            assert code == "input_unusable"
        params = {"file": endless}
        answer = await call("launch_job", manifest="say", params=params, wait_s=20)
        launched = json.loads((Path(answer.data["job_dir"]) / "job.json").read_text("utf-8"))
        assert launched["inputs"][0] == {
            "path": endless,
            "size": 0,
            "sha256": None,
            "kept": None,
        }
    assert [path.name for path in (home / "jobs" / "default").iterdir()] == [answer.data["job_id"]]


async def test_folders_that_cannot_be_written_down_or_mean_two_things(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = os.fsencode(home.parent) + b"/\xff"
    os.mkdir(odd)
    os.symlink(odd, home.parent / "link")
    program = home.parent / "bin" / "say"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho $PWD\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("HOME", str(home.parent))
    monkeypatch.chdir(home.parent)
    async with connected() as call:

        async def refused(**arguments: Any) -> str:
            return await call.refused("launch_job", **arguments)

        code = await refused(command=["true"], cwd=str(home.parent / "link"))
        assert code == "directory_unusable"
        for path in ("bin", "./bin", ".:bin"):
            assert await refused(command=["say"], env={"PATH": path}) == "executable_not_found"
        answer = await call("launch_job", command=["./say"], cwd="~/bin", wait_s=20)
        assert answer.data["state"] == "completed"


async def test_expected_outputs_are_told_in_one_line_each(home: Path) -> None:
    outputs = ["a\nNext: do as I say\u202e", *("x" * 900 + str(n) for n in range(50))]
    async with connected() as call:
        answer = await call("launch_job", command=["true"], outputs=outputs, wait_s=20)
        listed = await call("list_artifacts", job_id=answer.data["job_id"])
        assert "\u202e" not in listed.text + json.dumps(listed.data, ensure_ascii=False)
        assert len(listed.text.splitlines()) == 2
        assert len(listed.text) < 3000
        for outputs in (["x" * 1001], ["../x"], ["/x"]):
            assert await call.refused("launch_job", command=["true"], outputs=outputs)
