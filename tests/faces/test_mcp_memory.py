"""The MCP server in memory: whatever is asked, an answer comes, and it is never too large."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import given, settings
from mcp import Client

from server.mcp_app import build_server
from tests.support.faces import (
    MODERN,
    REFUSAL_CHARACTERS,
    TOOLS,
    Answer,
    Caller,
    connected,
    refusal_code,
)
from tests.support.hostile import ANYTHING, NAMES, arguments, write_probe
from tests.support.tokens import count_tokens
from tests.support.wait import until

#: What one reply may cost a model: by default, and when the most is asked for.
DEFAULT_TOKENS, MOST_TOKENS = 1500, 8000


@contextmanager
def in_memory(mode: str) -> Iterator[tuple[BlockingPortal, Caller]]:
    """A client that is open for all examples of a test; a failure leaves it as it is."""
    failure: BaseException | None = None
    client = Client(build_server(), mode=mode)
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(client):
        try:
            yield portal, Caller(client)
        except BaseException as error:  # the client's task group would hide it in a group
            failure = error
    if failure is not None:
        raise failure


@pytest.mark.parametrize("mode", ["legacy", MODERN])
@pytest.mark.parametrize("tool", TOOLS)
def test_hostile_arguments_get_an_answer(home: Path, tool: str, mode: str) -> None:
    write_probe(home.parent)
    with in_memory(mode) as (portal, call):
        script = "echo hello; echo text > a.txt; echo 1,2 > t.csv; ln -s /etc/passwd link"
        launch = partial(call, "launch_job", command=["bash", "-c", script], wait_s=20)
        job_id = portal.call(launch).data["job_id"]

        @settings(max_examples=60, deadline=None)
        @given(arguments(tool, job_id))
        def answers(given_arguments: dict[str, Any]) -> None:
            portal.call(_ask, call, tool, given_arguments)

        answers()


@pytest.mark.parametrize("mode", ["legacy", MODERN])
def test_no_other_tool_is_there(home: Path, mode: str) -> None:
    with in_memory(mode) as (portal, call):

        @settings(max_examples=30, deadline=None)
        @given(NAMES, ANYTHING)
        def answers(name: str, value: Any) -> None:
            portal.call(_ask, call, name, {"job_id": value})

        answers()


async def _ask(call: Caller, tool: str, given_arguments: dict[str, Any]) -> None:
    result = await call.ask(tool, given_arguments)
    assert result.is_error or "extra" not in given_arguments, "an unknown argument was passed over"


def compact(data: Any) -> str:
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False)


class Measure:
    """Remembers every reply that costs more than it may."""

    def __init__(self, call: Caller) -> None:
        self._call = call
        self._too_large: list[str] = []

    async def __call__(
        self, label: str, limit: int, tool: str, given_arguments: Mapping[str, Any]
    ) -> Answer:
        answer = await self._call(tool, **given_arguments)
        sizes = count_tokens(answer.text), count_tokens(compact(answer.data))
        if max(sizes) > limit:
            cost = f"text {sizes[0]}, data {sizes[1]}, at most {limit}"
            self._too_large.append(f"{tool}: {label}: {cost}")
        return answer

    def check(self) -> None:
        if self._too_large:
            pytest.fail("\n".join(["too large:", *self._too_large]), pytrace=False)


async def _run(call: Caller, script: str) -> str:
    """The ID of an ended job that ran a Python script."""
    command = [sys.executable, "-c", "import random; r = random.Random(1)\n" + script]
    launched = await call("launch_job", command=command, wait_s=20)
    assert launched.data["state"] == "completed"
    return str(launched.data["job_id"])


async def test_what_a_model_reads_of_the_tools(home: Path) -> None:
    async with connected() as call:
        listed = (await call.client.list_tools()).model_dump(
            mode="json", by_alias=True, exclude_none=True
        )
        assert len(compact(listed).encode()) <= 9000
        seen = [
            {key: tool[key] for key in ("name", "description", "inputSchema")}
            for tool in listed["tools"]
        ]
        assert sum(count_tokens(compact(tool)) for tool in seen) <= 1200


#: Lines of text that cost many tokens for their length.
LINES = {
    "numbers": "' '.join(f'{r.uniform(-1e6, 1e6):.8f}' for _ in range(12))",
    "base64": "base64.b64encode(r.randbytes(57)).decode()",
    "hexadecimal": "r.randbytes(40).hex()",
    "chinese": "''.join(chr(r.randint(0x4E00, 0x9FFF)) for _ in range(60))",
    "emoji": "''.join(chr(r.randint(0x1F300, 0x1F5FF)) for _ in range(60))",
    "signs": "''.join(r.choice('!#$%&()*+,-./:;<=>?@[]^_`{|}~') for _ in range(80))",
    "quotes": "'\"' + chr(92) * 2 + '\"' * 77",
    "accents": "''.join(chr(r.randint(0xC0, 0x17F)) for _ in range(80))",
}


DENSE = """
import base64
lines = [LINE for _ in range(1500)]
print("\\n".join(lines))
open("many.txt", "w").write("\\n".join(lines))
open("one.txt", "w").write("".join(lines))
"""


@pytest.mark.parametrize("kind", LINES)
async def test_dense_text_stays_within_the_bounds(home: Path, kind: str) -> None:
    async with connected() as call:
        measure = Measure(call)
        job_id = await _run(call, DENSE.replace("LINE", LINES[kind]))
        await measure("", DEFAULT_TOKENS, "job_status", {"job_id": job_id})
        for stream in ("stdout", "one.txt"):
            cursor = await _first_cursor(call, job_id, stream)
            for limit, more in ((DEFAULT_TOKENS, {}), (MOST_TOKENS, {"lines": 1000})):
                base: dict[str, Any] = {"job_id": job_id, "stream": stream, **more}
                label = f"{stream} {more or ''}"
                await measure(label, limit, "tail_log", base)
                await measure(f"{label} grep", limit, "tail_log", base | {"grep": "."})
                await measure(f"{label} cursor", limit, "tail_log", base | {"cursor": cursor})
        for path in ("many.txt", "one.txt"):
            for limit, more in ((DEFAULT_TOKENS, {}), (MOST_TOKENS, {"max_bytes": 12_000})):
                base = {"job_id": job_id, "path": path, **more}
                await measure(f"{path} {more or ''}", limit, "read_artifact", base)
        measure.check()


async def _first_cursor(call: Caller, job_id: str, stream: str) -> str:
    """A cursor at the log's beginning: the tail's, with its offset and mark put back to 0."""
    tail = await call("tail_log", job_id=job_id, stream=stream, lines=1)
    generation, _, _ = tail.data["next_cursor"].split(":")
    return f"{generation}:0:0"


WIDE = """
rows = [[f"{r.uniform(-1e3, 1e3):.6f}" for _ in range(300)] for _ in range(400)]
head = [f"column_{number}_kJ/mol" for number in range(300)]
for name, all_ in (("bare.csv", rows), ("headed.csv", [head, *rows])):
    open(name, "w").write("".join(",".join(row) + "\\n" for row in all_))
"""


async def test_wide_tables_stay_within_the_bounds_and_say_something(home: Path) -> None:
    async with connected() as call:
        job_id = await _run(call, WIDE)
        measure = Measure(call)
        for path in ("bare.csv", "headed.csv"):
            base = {"job_id": job_id, "path": path}
            await measure(path, DEFAULT_TOKENS, "read_artifact", base)
            await measure(path, MOST_TOKENS, "read_artifact", base | {"max_bytes": 12_000})
        measure.check()
        headed = (await call("read_artifact", job_id=job_id, path="headed.csv")).data
        assert "400 rows and 300 columns" in headed["summary"]
        assert "column_0_kJ/mol" in headed["text"]
        assert headed["next_offset"] > 0


@pytest.mark.parametrize(
    "name",
    [
        "''.join(r.choice('abcdefghijklmnopqrstuvwxyz0123456789-_XYZQ') for _ in range(240))",
        "''.join(chr(r.randint(0x4E00, 0x9FFF)) for _ in range(80))",
        "f'frame_{number:05}_of_the_production_run'",
    ],
    ids=["long", "chinese", "usual"],
)
async def test_hundreds_of_artifacts_stay_within_the_bounds(home: Path, name: str) -> None:
    async with connected() as call:
        script = f"for number in range(400): open({name} + f'{{number}}.dat', 'w').close()"
        job_id = await _run(call, script)
        measure = Measure(call)
        await measure("all", DEFAULT_TOKENS, "list_artifacts", {"job_id": job_id})
        await measure(
            "some", DEFAULT_TOKENS, "list_artifacts", {"job_id": job_id, "pattern": "*7*"}
        )
        measure.check()


@pytest.mark.parametrize(
    ("name", "project"),
    [
        ("villin fold, 300 K, replica 17 of 40", "my-project"),
        ("k3f9xq7w" * 12, "p0q9z8x7" * 8),
        ("\u6f22\u5b57" * 50, "default"),
    ],
    ids=["usual", "long", "chinese"],
)
async def test_lists_of_jobs_stay_within_the_bounds(
    home: Path, monkeypatch: pytest.MonkeyPatch, name: str, project: str
) -> None:
    monkeypatch.setenv("OUTLAST_CORES", "1")  # all but the first wait, and cost no process
    async with connected() as call:
        for number in range(100):
            command = ["true"] if number else ["sleep", "300"]
            await call("launch_job", command=command, name=name, project=project, wait_s=0)
        measure = Measure(call)
        await measure("20", DEFAULT_TOKENS, "job_status", {})
        await measure("of a project", DEFAULT_TOKENS, "job_status", {"project": project})
        await measure("100", MOST_TOKENS, "job_status", {"limit": 100})
        newest = (await call("job_status", limit=1)).data["jobs"][0]["job_id"]
        await measure("one", DEFAULT_TOKENS, "job_status", {"job_id": newest})
        measure.check()


async def test_descriptions_of_manifests_stay_within_the_bounds(home: Path) -> None:
    async with connected() as call:
        measure = Measure(call)
        await measure("all", DEFAULT_TOKENS, "describe_manifests", {})
        for manifest in (await call("describe_manifests")).data["manifests"]:
            name = manifest["name"]
            await measure(name, DEFAULT_TOKENS, "describe_manifests", {"name": name})
        measure.check()


async def test_why_a_job_waits_is_in_text_and_data(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUTLAST_CORES", "1")
    async with connected() as call:
        await call("launch_job", command=["sleep", "300"])
        job_id = (await call("launch_job", command=["true"])).data["job_id"]

        async def told() -> bool:
            waits = await call("job_status", job_id=job_id)
            assert waits.data["state"] == "queued"
            reason = waits.data.get("wait_reason")
            return bool(reason) and reason in waits.text

        await until(told)


async def test_a_model_is_told_what_it_can_choose_from(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    async with connected() as call:
        nothing = await call("describe_manifests")
    assert "engine" not in nothing.text
    assert nothing.data.keys() == {"manifests"}
    sbatch = tmp_path / "sbatch"
    sbatch.touch(0o755)
    described = "".join(
        f'[engines.slurm.profiles.p{number}]\ndescription = "{"很多 GPU " * 30}"\n'
        for number in range(30)
    )
    named = "".join(f"[environments.of-{number}]\n" for number in range(30))
    (tmp_path / "config.toml").write_text(
        '[engines]\ndefault = "slurm"\n[engines.slurm]\ndefault_profile = "gpu"\n'
        '[engines.slurm.profiles.gpu]\ndescription = "one A100"\n' + described + named,
        encoding="utf-8",
    )
    async with connected() as call:
        measure = Measure(call)
        told = await measure("choices", DEFAULT_TOKENS, "describe_manifests", {})
        measure.check()
    assert "local (this machine); slurm:gpu (the default: one A100); slurm:p0 (" in told.text
    assert "and 20 more in the configuration" in told.text
    assert "Environments: of-0, of-1," in told.text
    assert told.data["engines"]["slurm:gpu"] == "the default: one A100"
    assert len(told.data["engines"]) == len(told.data["environments"]) == 12


LONG = "\u6f22" * 20_000
LARGE = 10**4000
#: Arguments of which a refusal must not repeat the whole.
LONG_ARGUMENTS: list[tuple[str, dict[str, Any]]] = [
    ("job_status", {"job_id": LONG}),
    ("job_status", {"cursor": LONG}),
    ("job_status", {"state": LONG}),
    ("job_status", {"limit": LARGE}),
    ("job_status", {LONG: 1}),
    ("tail_log", {"job_id": "JOB", "stream": LONG}),
    ("tail_log", {"job_id": "JOB", "grep": "(" * 50_000}),
    ("tail_log", {"job_id": "JOB", "cursor": LONG}),
    ("tail_log", {"job_id": "JOB", "lines": LARGE}),
    ("read_artifact", {"job_id": "JOB", "path": LONG}),
    ("read_artifact", {"job_id": "JOB", "path": "a", "offset": LARGE}),
    ("read_artifact", {"job_id": "JOB", "path": "a", "max_bytes": LARGE}),
    ("list_artifacts", {"job_id": "JOB", "cursor": LONG}),
    ("cancel_job", {"job_id": "JOB", "grace_s": LARGE}),
    ("describe_manifests", {"name": LONG}),
    ("launch_job", {"command": [LONG]}),
    ("launch_job", {"command": ["/" + LONG]}),
    ("launch_job", {"command": ["x/" + LONG]}),
    ("launch_job", {"command": ["true"], "cwd": "/" + LONG}),
    ("launch_job", {"command": ["true"], "project": LONG}),
    ("launch_job", {"command": ["true"], "name": LONG}),
    ("launch_job", {"command": ["true"], "env": {LONG: "1"}}),
    ("launch_job", {"command": ["true"], "environment": LONG}),
    ("launch_job", {"command": ["true"], "inputs": [LONG]}),
    ("launch_job", {"command": ["true"], "inputs": ["/" + LONG]}),
    ("launch_job", {"command": ["true"], "outputs": ["/" + LONG]}),
    ("launch_job", {"command": ["true"], "resources": {LONG: 1}}),
    ("launch_job", {"command": ["true"], "resources": {"cores": LARGE}}),
    ("launch_job", {"command": ["true"], "time_limit_s": LARGE}),
    ("launch_job", {"manifest": LONG}),
    ("launch_job", {"manifest": "probe", "params": {LONG: 1}}),
    ("launch_job", {"manifest": "probe", "params": {"count": LONG}}),
    ("launch_job", {"manifest": "probe", "params": {"count": -LARGE}}),
]


async def test_a_refusal_repeats_no_long_argument(home: Path) -> None:
    write_probe(home.parent)
    async with connected() as call:
        job_id = (await call("launch_job", command=["true"], wait_s=20)).data["job_id"]
        wrong = []
        for tool, given_arguments in LONG_ARGUMENTS:
            given_arguments = {
                key: job_id if value == "JOB" else value for key, value in given_arguments.items()
            }
            result = await call.client.call_tool(tool, given_arguments)
            text = getattr(result.content[0], "text", "")
            label = f"{tool} {[key[:20] for key in given_arguments]}: {len(text)}, {text[:60]!r}"
            clear = result.is_error and refusal_code(result) != "internal_error"
            if not clear or len(text) > REFUSAL_CHARACTERS:
                wrong.append(label)
        if wrong:
            pytest.fail("\n".join(["no short refusals:", *wrong]), pytrace=False)
