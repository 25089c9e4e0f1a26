"""A state directory full of things to stumble over, and what calls there may and may not do."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mcp_types import CallToolResult

from tests.support.faces import Caller
from tests.support.surroundings import CANARY, SECRET, picture, plant_canaries, strangers

#: Run in a job's working directory: ways out of it, and files that are hard to read or to name.
PLANTS = r"""
printf '%s\n' hello 'second line' 'a (b) [c] *d*' 'rm -rf ..'
ln -s OUTSIDE/canary.txt link; ln -s OUTSIDE folder; ln -s .. up
mkdir inner; echo deep > inner/deep.txt; ln -s /etc/passwd inner/link
mkfifo fifo; echo latin > $'bad\xff'; echo two > $'new\nline.txt'
ln OUTSIDE/foreign.txt hard.txt; truncate -s 1T sparse.bin
"""
LOG = ["hello", "second line", "a (b) [c] *d*", "rm -rf .."]  #: what the script prints
LISTED = {"inner/deep.txt", "bad\\xff", "new\\nline.txt", "hard.txt", "sparse.bin"}
_READABLE = {"inner/deep.txt": "deep\n", "new\nline.txt": "two\n", "hard.txt": "foreign\n"}


def carried(text: str) -> bool:
    """Whether a process and JSON can carry it."""
    return "\0" not in text and not re.search("[\ud800-\udfff]", text)


def is_relative(text: str) -> bool:
    """Whether it is the path of something below the folder that it starts in."""
    parts = text.split("/")
    return carried(text) and not any(part in ("", ".", "..") for part in parts)


@dataclass
class World:
    call: Caller
    home: Path
    job_id: str = ""  #: ended; of its working directory is read
    files: dict[str, str] = field(default_factory=dict)  #: what can be read there
    job_ids: list[str] = field(default_factory=list)  #: of all that were accepted
    projects: set[str] = field(default_factory=lambda: {"default"})
    _before: dict[str, Any] = field(default_factory=dict)

    async def build(self, names: Iterable[str]) -> None:
        """An ended job with plants and with a file of each of `names` that can be one; a job that
        holds the only core, so that what is launched from here on waits and costs no process."""
        outside = self.home.parent
        (outside / "foreign.txt").write_text("foreign\n", encoding="utf-8")
        script = PLANTS.replace("OUTSIDE", shlex.quote(str(outside)))
        ended = await self.call("launch_job", command=["bash", "-c", script], wait_s=20)
        assert ended.data["state"] == "completed", ended.text
        root = Path(ended.data["job_dir"])
        self.job_id = str(ended.data["job_id"])
        self.files = {**_READABLE, **dict(_write_literally(root / "work", names))}
        plant_canaries(outside, root)
        blocker = await self.call("launch_job", command=["sleep", "600"])
        self.job_ids = [self.job_id, str(blocker.data["job_id"])]
        self._before = picture(outside, without=self.home)

    async def ask(self, tool: str, arguments: dict[str, Any]) -> CallToolResult:
        """As the caller's; besides, nothing that lies outside may stand in the reply."""
        result = await self.call.ask(tool, arguments)
        reply = result.model_dump_json()
        assert SECRET not in reply
        assert "root:x:0" not in reply
        if tool == "launch_job" and not result.is_error:
            job_id = (result.structured_content or {})["job_id"]
            if job_id not in self.job_ids:
                self.job_ids.append(job_id)
            self.projects.add(arguments.get("project") or "default")
        return result

    async def check_afterwards(self) -> None:
        """Nothing was written outside, nothing odd inside, and no accepted job is missing."""
        now = picture(self.home.parent, without=self.home)
        assert now == self._before, set(now.items()) ^ set(self._before.items())
        odd = strangers(self.home, [*self.job_ids, *self._of_sweeps()], self.projects)
        assert not odd, odd[:20]
        seen: list[str] = []
        cursor: dict[str, Any] = {}
        while True:
            page = (await self.call("job_status", limit=100, **cursor)).data
            seen += [job["job_id"] for job in page["jobs"]]
            if "next_cursor" not in page:
                break
            cursor = {"cursor": page["next_cursor"]}
        assert seen == self.job_ids[::-1]

    def _of_sweeps(self) -> Iterator[str]:
        """The jobs of the sweeps that were accepted."""
        for path in self.home.glob("jobs/*/*/job.json"):
            place = json.loads(path.read_text(encoding="utf-8")).get("sweep")
            if place and place["id"] in self.job_ids:
                yield path.parent.name


def _write_literally(work: Path, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """A file of each name that can be one there, as (name, content)."""
    taken = set(os.listdir(work)) | {CANARY}
    for number, name in enumerate(names):
        if not is_relative(name) or name.split("/")[0] in taken:
            continue
        path = work / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"file {number}\n", encoding="utf-8")
        except OSError:  # too long, or a folder where a file is
            continue
        yield name, f"file {number}\n"


def check_launched(arguments: dict[str, Any], result: CallToolResult) -> None:
    """What was written down to be run is what was asked for, to the letter."""
    root = Path((result.structured_content or {})["job_dir"])
    launched = json.loads((root / "job.json").read_text(encoding="utf-8"))
    if "command" in arguments:
        assert launched["command"] == arguments["command"]
        assert launched["name"] == arguments.get("name") or Path(arguments["command"][0]).name
    else:
        word = arguments["params"]["word"]
        assert launched["params"] == arguments["params"]
        assert launched["command"] == ["true", "3", word]
        assert launched["name"] == (arguments.get("name") or "probe")
    assert launched["project"] == (arguments.get("project") or "default") == root.parent.name
    assert launched["idempotency_key"] == arguments.get("idempotency_key")
    assert [rule["path"] for rule in launched["outputs"]] == arguments.get("outputs", [])
    for name, value in arguments.get("env", {}).items():
        assert launched["env"][name] == ("***" if name in launched["secret_env"] else value)
    cwd = arguments.get("cwd")
    wanted = os.path.realpath(os.path.expanduser(cwd)) if cwd else str(root / "work")
    assert launched["cwd"] == wanted
    for source in arguments.get("inputs", []):
        found = Path(os.path.expanduser(source))
        copy = root / "inputs" / found.name
        assert copy.read_bytes() == found.read_bytes()
        assert (root / "work" / found.name).resolve() == copy.resolve()
