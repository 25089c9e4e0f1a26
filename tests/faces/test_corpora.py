"""Hostile texts at every place where a tool takes a text: a clear refusal or a right result, and
nothing outside the job's directory read or written."""

from __future__ import annotations

import base64
import fnmatch
import itertools
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from mcp_types import CallToolResult, ImageContent

from jobs.states import State
from server.mcp_app import build_server
from tests.support.arguments import put, text_places
from tests.support.faces import TOOLS, connected, judge
from tests.support.hostile import ODD, write_probe
from tests.support.surroundings import CANARY
from tests.support.traversals import traversals
from tests.support.world import LISTED, LOG, World, carried, check_launched, is_relative

Fits = Callable[[World, str], bool | None]  #: accepted, refused, or either as long as it is clear
Check = Callable[[World, dict[str, Any], CallToolResult], None]


def never(_: World, __: str) -> bool:
    return False


def always(_: World, text: str) -> bool:
    return carried(text)


def one_argument(_: World, text: str) -> bool:
    return carried(text) and len(text) < 128 * 1024


def either(_: World, __: str) -> None:
    return None


def is_number(_: World, text: str) -> bool:
    return re.fullmatch("[0-9]{1,18}", text) is not None


def is_state(_: World, text: str) -> bool | None:
    """The SDK reads 'null' as no state at all."""
    return None if text.strip() == "null" else text in list(State)


def is_file(world: World, text: str) -> bool:
    return text in world.files


def is_log(world: World, text: str) -> bool:
    return text in world.files or text in ("stdout", "stderr")


def is_program(_: World, text: str) -> bool:
    """On the PATH of jobs, or an absolute path."""
    if "/" not in text:
        folders = [os.path.dirname(sys.executable), os.environ["PATH"], "/usr/bin", "/bin"]
        return carried(text) and shutil.which(text, path=":".join(folders)) is not None
    path = os.path.expanduser(text)
    return os.path.isabs(path) and carried(text) and shutil.which(path) is not None


def is_folder(_: World, text: str) -> bool:
    path = os.path.expanduser(text)
    return os.path.isabs(path) and carried(text) and os.path.isdir(path)


def is_input(_: World, text: str) -> bool:
    """A file of which a copy can be made: it can be read, and its size is known beforehand."""
    path = os.path.expanduser(text)
    if not (os.path.isabs(path) and carried(text) and os.path.isfile(path)):
        return False
    if not os.access(path, os.R_OK):
        return False
    return not os.path.realpath(path).startswith(("/proc/", "/sys/", "/dev/"))


def is_output(_: World, text: str) -> bool:
    return is_relative(text) and len(text) <= 1000


def is_project(_: World, text: str) -> bool:
    if text == CANARY:  # a file that the test itself has put in the project's place
        return False
    return text == "" or re.fullmatch("[A-Za-z0-9][A-Za-z0-9._-]{0,63}", text) is not None


def is_name(_: World, text: str) -> bool:
    return carried(text) and len(text) <= 100


def is_key(_: World, text: str) -> bool:
    return carried(text) and 1 <= len(text) <= 200


def is_no_plot(_: World, text: str) -> bool:
    """What is filled in where nothing is meant; the file is no table that any other would fit."""
    return text in ("", "false")


def is_variable(_: World, text: str) -> bool:
    return re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", text) is not None


def launched(_: World, arguments: dict[str, Any], result: CallToolResult) -> None:
    check_launched(arguments, result)


def swept(_: World, arguments: dict[str, Any], result: CallToolResult) -> None:
    sweep = arguments["sweep"]
    size = len(sweep) if isinstance(sweep, list) else len(sweep["word"])
    assert sum(_data(result)["counts"].values()) == size


def listed_jobs(world: World, arguments: dict[str, Any], result: CallToolResult) -> None:
    projects = {job.get("project", "default") for job in _data(result)["jobs"]}
    wanted = arguments.get("project")
    assert wanted is None or projects == {wanted} & world.projects


def read(world: World, arguments: dict[str, Any], result: CallToolResult) -> None:
    content = world.files[arguments["path"]]
    pictures = [block for block in result.content if isinstance(block, ImageContent)]
    if pictures:
        assert base64.b64decode(pictures[0].data) == content.encode()
    else:
        told = _data(result)["text"]  # of a table also what is in its columns
        assert told.startswith(content) if arguments["path"].endswith(".csv") else told == content


def tailed(world: World, arguments: dict[str, Any], result: CallToolResult) -> None:
    log = "".join(f"{line}\n" for line in LOG)
    streams = {**world.files, "stdout": log, "stderr": ""}
    assert _data(result)["text"] == streams[arguments["stream"]]


def searched(_: World, arguments: dict[str, Any], result: CallToolResult) -> None:
    found = [line.split(": ", 1)[1] for line in _data(result)["text"].splitlines()]
    assert set(found) <= set(LOG)
    word = arguments["grep"]
    if word.isascii() and word.isalnum():
        assert found == [line for line in LOG if word.lower() in line.lower()]


def listed_files(_: World, arguments: dict[str, Any], result: CallToolResult) -> None:
    paths = {file["path"] for file in _data(result)["artifacts"]}
    assert paths <= LISTED
    pattern = arguments.get("pattern")
    if pattern is not None and not set(pattern) & set("*?[\n"):
        names = {name.replace("\\n", "\n") for name in LISTED}
        assert {path.replace("\\n", "\n") for path in paths} == names & {pattern}
    elif pattern is not None:
        assert all(fnmatch.fnmatch(path.replace("\\n", "\n"), pattern) for path in paths)


def had_ended(_: World, __: dict[str, Any], result: CallToolResult) -> None:
    assert _data(result)["state"] == "completed"


def described(_: World, arguments: dict[str, Any], result: CallToolResult) -> None:
    assert [kind["name"] for kind in _data(result)["manifests"]] == [arguments["name"]]


def _data(result: CallToolResult) -> dict[str, Any]:
    return result.structured_content or {}


@dataclass(frozen=True)
class Row:
    """What is right at some places of a tool; those of one row are filled with the same text in
    one call, but for those at which it does not fit."""

    tool: str
    fits: dict[str, Fits]
    check: Check
    base: dict[str, Any] = field(default_factory=dict)
    texts_per_call: int = 1  #: of those that fit
    paths: bool = False  #: whether every traversal is tried here, or some


#: {job_id} stands for the world's ended job.
OF_JOB = {"job_id": "{job_id}"}
COMMAND = {"command": ["true"], "wait_s": 0}
PROBE = {"manifest": "probe", "params": {"count": 3, "word": None}, "wait_s": 0}
PROBE_3 = {"manifest": "probe", "params": {"count": 3}, "wait_s": 0}
ROW = {"sweep": [{"word": None}]}
NAMES = {"name": is_name, "idempotency_key": is_key, "params{}": one_argument}
ROWS = [
    Row("launch_job", {"manifest": never}, launched),
    Row("launch_job", NAMES, launched, PROBE),
    Row("launch_job", {"params{key}": never}, launched, PROBE | {"params": {"count": 3}}),
    Row("launch_job", {"command[]": one_argument}, launched, COMMAND, 100, paths=True),
    Row("launch_job", {"command[]": is_program}, launched, {"wait_s": 0}, paths=True),
    Row("launch_job", {"project": is_project}, launched, COMMAND, paths=True),
    Row("launch_job", {"cwd": is_folder}, launched, COMMAND, paths=True),
    Row("launch_job", {"env{}": one_argument}, launched, COMMAND, 100),
    Row("launch_job", {"env{key}": is_variable}, launched, COMMAND, 100),
    Row("launch_job", {"environment": lambda _, text: text == ""}, launched, COMMAND),
    Row("launch_job", {"inputs[]": is_input}, launched, COMMAND, paths=True),
    Row("launch_job", {"outputs[]": is_output}, launched, COMMAND, 100, True),
    Row("launch_job", {"resources{key}": never}, launched, COMMAND),
    Row("launch_job", {"resume_from": never}, launched),
    Row("launch_job", {"engine": lambda _, text: text in ("", "local")}, launched, COMMAND),
    Row("launch_job", {"sweep{key}": never}, swept, PROBE_3),
    Row("launch_job", {"sweep{}[]": one_argument}, swept, PROBE_3 | {"sweep": {"word": None}}, 50),
    Row("launch_job", {"sweep[]{key}": never}, swept, PROBE_3 | {"sweep": [{}]}),
    Row(
        "launch_job", {"sweep[]{}": one_argument}, swept, PROBE_3 | {"sweep": [{"word": None}]}, 50
    ),
    Row("job_status", {"job_id": never}, listed_jobs, paths=True),
    Row("job_status", {"project": always}, listed_jobs),
    Row("job_status", {"state": is_state}, listed_jobs),
    Row("job_status", {"cursor": is_number}, listed_jobs),
    Row("tail_log", {"job_id": never}, tailed),
    Row("tail_log", {"stream": is_log}, tailed, OF_JOB, paths=True),
    Row("tail_log", {"cursor": never}, tailed, OF_JOB),
    Row("tail_log", {"grep": either}, searched, OF_JOB),
    Row("cancel_job", {"job_id": never}, had_ended),
    Row("cancel_job", {"reason": always}, had_ended, OF_JOB),
    Row("list_artifacts", {"job_id": never}, listed_files),
    Row("list_artifacts", {"pattern": either}, listed_files, OF_JOB, paths=True),
    Row("list_artifacts", {"cursor": is_number}, listed_files, OF_JOB),
    Row("read_artifact", {"job_id": never}, read, {"path": "hard.txt"}),
    Row("read_artifact", {"path": is_file}, read, OF_JOB, paths=True),
    Row("read_artifact", {"plot": is_no_plot}, read, OF_JOB | {"path": "hard.txt"}),
    Row("describe_manifests", {"name": never}, described, paths=True),
    *(Row(tool, {"{key}": never}, had_ended) for tool in TOOLS),
]


async def test_no_place_is_left_out() -> None:
    listed = await build_server().list_tools()
    places = {(tool.name, place) for tool in listed for place in text_places(tool.input_schema)}
    assert places == {(row.tool, place) for row in ROWS for place in row.fits}


#: The naughty strings are fetched; the others are ours.
CORPORA = ["odd", "traversals", pytest.param("naughty strings", marks=pytest.mark.corpora)]


def texts_of(corpus: str) -> list[str]:
    if corpus == "odd":
        return ODD
    if corpus == "traversals":
        return traversals()
    path = judge("corpora/blns.json", "get_corpora.sh")
    texts: list[str] = json.loads(path.read_text(encoding="utf-8"))
    assert len(texts) > 400
    return list(dict.fromkeys(texts))


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("corpus", CORPORA)
async def test_at_every_place(home: Path, monkeypatch: pytest.MonkeyPatch, corpus: str) -> None:
    texts = texts_of(corpus)
    write_probe(home.parent)
    monkeypatch.setenv("OUTLAST_CORES", "1")
    async with connected() as call:
        world = World(call, home)
        await world.build(texts)
        assert len(world.files) > 15
        wrong = []
        for row in ROWS:
            some = texts if row.paths or corpus != "traversals" else texts[::20]
            wrong += [error async for error in _faults(world, row, some)]
        if wrong:
            pytest.fail("\n".join([f"{len(wrong)} answers are wrong:", *wrong[:20]]), pytrace=False)
        await world.check_afterwards()


async def _faults(world: World, row: Row, texts: list[str]) -> Any:
    """What is wrong with the answers of one row."""
    base = {key: value if value != "{job_id}" else world.job_id for key, value in row.base.items()}
    fitting = []
    for text in texts:
        fits = [place for place in row.fits if row.fits[place](world, text) is not False]
        for place in row.fits.keys() - set(fits):
            if "{key}" in place and not carried(text.replace("\0", "")):
                continue  # half a surrogate pair passes no client as a name
            fault = await _fault(world, row, put(base, place, [text]), refused=True)
            if fault:
                yield f"{row.tool} {place} {text[:200]!r}: {fault}"
        if fits:
            fitting.append((fits, text))
    for places, group in itertools.groupby(fitting, key=lambda item: item[0]):
        left = [text for _, text in group]
        while left:
            batch, left = left[: row.texts_per_call], left[row.texts_per_call :]
            arguments = base
            for place in places:
                arguments = put(arguments, place, batch)
            unsure = any(row.fits[place](world, batch[0]) is None for place in places)
            fault = await _fault(world, row, arguments, refused=None if unsure else False)
            if fault:
                yield f"{row.tool} {places} {str(batch)[:200]}: {fault}"


async def _fault(
    world: World, row: Row, arguments: dict[str, Any], *, refused: bool | None
) -> str | None:
    try:
        result = await world.ask(row.tool, arguments)
        if refused is not None and result.is_error != refused:
            return f"{'accepted' if refused else 'refused'}: {result.content}"
        if not result.is_error:
            row.check(world, arguments, result)
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:400]}"
    return None
