"""Artifacts as a chat and as a terminal are given them: pictures, plots, tables, binaries."""

from __future__ import annotations

import base64
import json
import struct
import sys
from pathlib import Path

import pytest
from mcp_types import ImageContent

from jobs.service import Service
from tests.support.cli import data, run
from tests.support.faces import Answer, connected
from tests.support.launching import launch
from tests.support.tokens import count_tokens
from tests.support.wait import ended, until

#: Leaves a picture that is too large for a chat, a table, a trajectory, half a picture, and JSON.
LEAVES = """
import json, struct
from PIL import Image
Image.linear_gradient("L").resize((3000, 2000)).save("wide.png")
open("half.png", "wb").write(open("wide.png", "rb").read()[:400])
rows = "".join(f"{n},{n * 0.002:.3f},{-70 + n % 7},x\\n" for n in range(3000))
open("energies.csv", "w").write("step,time_ps,potential_kj_mol,note\\n" + rows)
record = lambda raw: struct.pack("<i", len(raw)) + raw + struct.pack("<i", len(raw))
head = record(b"CORD" + struct.pack("<20i", *[0] * 19, 24)) + record(bytes(84))
frames = 5 * 3 * record(bytes(4 * 22))
open("run.dcd", "wb").write(head + record(struct.pack("<i", 22)) + frames)
json.dump({"energies": list(range(9000)), "converged": True}, open("summary.json", "w"))
"""


def size_of(image: ImageContent) -> tuple[int, int]:
    raw = base64.b64decode(image.data)
    assert image.mime_type == "image/png"
    assert raw.startswith(b"\x89PNG")
    assert len(raw) <= 750_000
    width, height = struct.unpack(">II", raw[16:24])
    return width, height


async def test_what_a_chat_is_given(home: Path) -> None:
    async with connected() as call:
        launched = await call("launch_job", command=[sys.executable, "-c", LEAVES], wait_s=20)
        job_id = launched.data["job_id"]
        assert launched.data["state"] == "completed", launched.text

        async def read(path: str, **more: str) -> Answer:
            answer = await call("read_artifact", job_id=job_id, path=path, **more)
            assert max(map(count_tokens, (answer.text, json.dumps(answer.data)))) <= 1500
            return answer

        wide = await read("wide.png")
        assert size_of(wide.pictures[0]) == (1568, 1045)
        assert "picture of 3000 x 2000 pixels, given as png of 1568 x 1045" in wide.text

        table = await read("energies.csv")
        assert "table of 3000 rows and 4 columns" in table.data["summary"]
        assert table.data["text"].splitlines()[-2] == (
            "potential_kj_mol: integer, -70 to -64, mean -67.002, last -67"
        )
        assert "plot=" in table.text
        assert table.pictures == []

        trajectory = await read("run.dcd")
        assert "DCD trajectory: 5 frames of 22 atoms" in trajectory.text
        assert "text" not in trajectory.data

        assert json.loads((await read("summary.json")).data["text"])["converged"] is True
        assert await call.refused("read_artifact", job_id=job_id, path="half.png") == "path_refused"

        pytest.importorskip("matplotlib")
        plot = await read("energies.csv", plot="time_ps: potential_kj_mol")
        assert size_of(plot.pictures[0])[0] == 800
        assert plot.data["text"].startswith("potential_kj_mol against time_ps\n")
        wrong = {"job_id": job_id, "path": "energies.csv", "plot": "time_ps: potential"}
        refusal = await call.client.call_tool("read_artifact", wrong)
        assert refusal.is_error
        assert "Did you mean 'potential_kj_mol'?" in str(refusal.content)


KIND = """
schema = 1
name = "heating"
title = "Says how hot it is"
[run]
command = ["bash", "-c", "for n in 1 2 3; do echo step $n/3 T=30$n; done; sleep 300"]
[[progress]]
regex = '^step (?P<step>[0-9]+)/(?P<total>[0-9]+) T=(?P<temperature_k>[0-9]+)'
"""


async def test_what_was_sampled_is_read_and_drawn(home: Path, tmp_path: Path) -> None:
    (tmp_path / "heating.toml").write_text(KIND, encoding="utf-8")
    (tmp_path / "config.toml").write_text(f"manifest_dirs = ['{tmp_path}']\n", encoding="utf-8")
    async with connected() as call:
        other = (await call("launch_job", command=["true"], wait_s=20)).data["job_id"]
        asked = {"path": "progress.jsonl"}
        assert await call.refused("read_artifact", job_id=other, **asked) == "file_not_found"

        job_id = (await call("launch_job", manifest="heating")).data["job_id"]

        async def is_sampled() -> bool:
            return "progress" in (await call("job_status", job_id=job_id)).data

        await until(is_sampled)
        told = await call("read_artifact", job_id=job_id, **asked)
        assert "samples of its progress" in told.data["summary"]
        assert any(
            line.startswith("temperature_k: integer, 30") for line in told.data["text"].splitlines()
        )
        pytest.importorskip("matplotlib")
        drawn = await call("read_artifact", job_id=job_id, **asked, plot="temperature_k")
        assert drawn.data["text"].startswith("temperature_k against elapsed_s\n")
        assert size_of(drawn.pictures[0])
        await call("cancel_job", job_id=job_id, grace_s=0)


async def test_what_a_terminal_is_given(service: Service, tmp_path: Path) -> None:
    job = await launch(service, sys.executable, "-c", LEAVES)
    await ended(service, job.id)
    out, err = await run("read", job.id[-5:], "energies.csv")
    assert out.startswith("step,time_ps,potential_kj_mol,note\n0,0.000,-70,x\n")
    assert "time_ps: number, 0 to 5.998, mean 2.999, last 5.998" in out
    assert "table of 3000 rows" in err
    out, err = await run("read", job.id, "run.dcd")
    assert out == ""
    assert "DCD trajectory: 5 frames of 22 atoms" in err
    assert (await data("read", job.id, "energies.csv"))["kind"] == "table"

    small = tmp_path / "small.png"
    out, err = await run("read", job.id, "wide.png", "-o", str(small))
    assert struct.unpack(">II", small.read_bytes()[16:24]) == (1568, 1045)
    assert str(small) in err
    _, err = await run("read", job.id, "run.dcd", "-o", str(small), code=2)
    assert "gives no picture" in err
    _, err = await run("read", job.id, "wide.png", "-o", "/no/such/x.png", code=2)
    assert "cannot be written" in err
    assert "error file_not_found" in (await run("read", job.id, "no.csv", code=3))[1]

    pytest.importorskip("matplotlib")
    plot = tmp_path / "plot.png"
    for more in ([], ["--plot", "time_ps: potential_kj_mol"]):
        plot.unlink(missing_ok=True)
        await run("read", job.id, "energies.csv", *more, "-o", str(plot))
        assert plot.read_bytes().startswith(b"\x89PNG")
