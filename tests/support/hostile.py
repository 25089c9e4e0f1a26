"""Arguments that no friend would send, as hypothesis strategies: one for each tool."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

#: A kind of job with a parameter of each type; it does nothing.
PROBE = """
schema = 1
name = "probe"
title = "Does nothing"
[params.count]
type = "integer"
minimum = 1
[params.level]
type = "number"
optional = true
[params.word]
type = "string"
optional = true
[params.loud]
type = "boolean"
optional = true
[run]
command = ["true", "{count}", ["{word}"]]
"""

#: Each of them has harmed some server, or nearly.
ODD = [
    "",
    "\0",
    "\ud800",
    "\u202e\u2066",
    "a" * 5000,
    "/" + "x" * 5000,
    "/no/such/" + "\u6f22" * 300,
    "../../../etc/passwd",
    "/etc/passwd",
    "//",
    ".",
    "..",
    "~nobody-of-this-name/x",
    "*" * 60,
    "[!",
    "(a+)+$",
    "(((((",
    "%s{0}{python}$HOME",
    "'; DROP TABLE jobs; --",
    "1:1:1",
    "0-0:9223372036854775808:0",
    "9" * 30,
    "-1",
    "null",
    " null ",
    "true",
    "[]",
    "{}",
    "[1]",
    '["bash"]',
    '{"a": 1}',
    "1e999",
    "NaN",
    '"null"',
    "[" * 2000,
    "[a-" * 300_000,
    "*a" * 20_000,
    "(?R)",
    "(?R)*",
    "(?<x>(?&x))",
    "a{1000000000}",
    "(?:(?:(?:a{99}){99}){99}){99}",
    "(?:(?:(?:a{0,999}){0,999}){0,999}){0,999}b",
]
WORDS = st.text(st.characters(), max_size=30) | st.sampled_from(ODD)
#: Half a surrogate pair passes a client in memory as a value, but not as a name.
NAMES = WORDS.filter(lambda word: not any("\ud800" <= char <= "\udfff" for char in word))
NUMBERS = (
    st.integers()
    | st.floats()
    | st.sampled_from([-1, 0, 1, 2**31, 2**63, 2**64, 10**400, -(10**400), 1e308])
)
ANYTHING: SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=8,
)


def write_probe(folder: Path) -> None:
    """A manifest `probe` in `folder`, and the configuration that names it."""
    manifests = folder / "manifests"
    manifests.mkdir()
    (manifests / "probe.toml").write_text(PROBE, encoding="utf-8")
    (folder / "config.toml").write_text(f'manifest_dirs = ["{manifests}"]\n', encoding="utf-8")


def arguments(tool: str, job_id: str) -> SearchStrategy[dict[str, Any]]:
    """Good arguments for one tool of which up to two are exchanged for bad ones, one may be
    unknown, or any may be missing; `job_id` is an ended job's."""
    goods, values = _launch() if tool == "launch_job" else _others(job_id)[tool]
    if "job_id" in goods[0]:
        values["job_id"] = ANYTHING
    values["extra"] = ANYTHING

    def bad(names: list[str]) -> SearchStrategy[dict[str, Any]]:
        return st.fixed_dictionaries({name: values[name] for name in names})

    exchanged = st.lists(st.sampled_from(sorted(values)), max_size=2, unique=True).flatmap(bad)
    mixed = st.builds(lambda base, more: {**base, **more}, st.sampled_from(goods), exchanged)
    return mixed | mixed | exchanged | st.dictionaries(NAMES, ANYTHING, max_size=3)


Plan = tuple[list[dict[str, Any]], dict[str, SearchStrategy[Any]]]  #: good calls, bad values


def _others(job_id: str) -> dict[str, Plan]:
    job = {"job_id": job_id}
    texts = WORDS | ANYTHING
    numbers = st.integers(-1, 13_000) | ANYTHING
    states = st.sampled_from(["running", "COMPLETED"]) | ANYTHING
    streams = st.sampled_from(["stderr", "a.txt", "link"]) | texts
    paths = st.sampled_from(["t.csv", "./a.txt", "a.txt/", "link", "no.png", ".", "../job.json"])
    filters = {"project": texts, "state": states, "limit": numbers, "cursor": texts}
    return {
        "job_status": ([{}, job], {"job_id": ANYTHING, **filters, "wait_s": ANYTHING}),
        "tail_log": (
            [job],
            {"stream": streams, "lines": numbers, "cursor": texts, "grep": texts},
        ),
        "cancel_job": ([job], {"reason": texts, "grace_s": NUMBERS | ANYTHING}),
        "list_artifacts": ([job], {"pattern": texts, "cursor": texts}),
        "read_artifact": (
            [{**job, "path": "a.txt"}],
            {"path": paths | texts, "offset": numbers, "max_bytes": numbers, "plot": texts},
        ),
        "describe_manifests": ([{}], {"name": st.just("probe") | texts}),
    }


def _launch() -> Plan:
    """What is accepted runs `true`, and in no folder that takes long to look through."""
    names = ("level", "word", "loud", "nope")
    counts = st.just(3) | ANYTHING
    params = st.fixed_dictionaries({"count": counts}, optional=dict.fromkeys(names, ANYTHING))
    units = st.sampled_from(["cores", "memory_mb", "gpus", "tpus"])
    words = st.lists(WORDS, max_size=3)
    return [{"command": ["true"]}, {"manifest": "probe", "params": {"count": 3}}], {
        "command": words.map(lambda rest: ["true", *rest]) | ANYTHING.map(_harmless),
        "manifest": st.just("probe") | WORDS | ANYTHING,
        "params": params | ANYTHING,
        "name": WORDS | ANYTHING,
        "project": WORDS | ANYTHING,
        "cwd": (WORDS | ANYTHING).map(_no_real_folder),
        "env": st.dictionaries(NAMES, WORDS, max_size=3) | ANYTHING,
        "environment": WORDS | ANYTHING,
        "inputs": words | ANYTHING,
        "outputs": words | ANYTHING,
        "resources": st.dictionaries(units, NUMBERS | ANYTHING, max_size=3) | ANYTHING,
        "time_limit_s": NUMBERS | ANYTHING,
        "idempotency_key": WORDS | ANYTHING,
        "wait_s": NUMBERS | ANYTHING,
    }


def _harmless(command: Any) -> Any:
    if isinstance(command, list) and command and isinstance(command[0], str):
        return ["true", *command[1:]]
    return command


def _no_real_folder(cwd: Any) -> Any:
    if isinstance(cwd, str) and cwd.startswith(("/", "~")):
        return "/no/such" + cwd
    return cwd
