"""Progress is what the program wrote, however it came to the disk."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.model import LaunchManifest, Progress, Resources
from jobs.paths import JobDir
from jobs.progress import WINDOW_BYTES, ProgressReader, from_match
from jobs.rules import ProgressRule


def reader(root: Path, *rules: ProgressRule, **more: Any) -> ProgressReader:
    launched = LaunchManifest(
        schema=1,
        job_id="job",
        name="x",
        project="p",
        created_at=1.0,
        command=["x"],
        executable="/x",
        cwd=str(root),
        env={},
        rules={"progress": list(rules)},
        resources=Resources(),
        request_sha256="0",
        host="h",
        outlast_version="0",
        **more,
    )
    return ProgressReader(launched, JobDir(root))


@pytest.mark.parametrize(
    ("line", "fraction"),
    [
        ("step 25/100 T=1.5", 0.25),
        ("step 0/100", 0.0),
        ("step 500/100", 1.0),
        ("step 5/0", None),
        ("step nan/100", None),
    ],
)
def test_a_fraction_from_a_line(line: str, fraction: float | None) -> None:
    rule = ProgressRule(regex=r"step (?P<step>\S+)/(?P<total>\S+)(?: T=(?P<T>\S+))?")
    match = re.search(rule.regex or "", line)
    assert match is not None
    assert from_match(rule, match).fraction == fraction


STEP = ProgressRule(
    regex=r"^step (?P<step>\d+) E=(?P<E>\S+)", total="100", message="{step}/{total}"
)
STARS = ProgressRule(count="**", total="40")


@given(
    steps=st.lists(st.integers(0, 100), min_size=1, max_size=12),
    end=st.sampled_from(["\n", "\r", "\r\n", " \x1b[0m\n"]),
    cuts=st.lists(st.integers(0, 400), max_size=8),
)
def test_the_last_line_wins_however_it_was_cut(
    steps: list[int], end: str, cuts: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("job")
    raw = "".join(f"step {step} E={step}.5{end}noise {step}{end}" for step in steps).encode()
    looks = reader(root, STEP)
    told: Progress | None = None
    positions = [0, *sorted(cut for cut in cuts if cut < len(raw)), len(raw)]
    with (root / "stdout.log").open("ab", buffering=0) as log:
        for begin, finish in itertools.pairwise(positions):
            log.write(raw[begin:finish])
            told = looks.read(10.0) or told
    told = looks.read(10.0, ended=True) or told
    assert told is not None
    assert told.fraction == steps[-1] / 100
    assert told.message == f"{steps[-1]}/100"
    assert told.metrics == {"E": steps[-1] + 0.5}
    assert looks.read(11.0) is None  # nothing has changed


@given(pieces=st.lists(st.sampled_from(["*", "**", "***", "x", "\n"]), min_size=1, max_size=30))
def test_a_count_on_a_line_without_end(
    pieces: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("job")
    looks = reader(root, STARS)
    told = None
    with (root / "stdout.log").open("ab", buffering=0) as log:
        for piece in pieces:
            log.write(piece.encode())
            told = looks.read(1.0) or told
    times = "".join(pieces).count("**")
    assert (told.fraction if told else None) == (min(times / 40, 1.0) if times else None)


def test_only_what_is_new_is_read(tmp_path: Path) -> None:
    log = tmp_path / "stdout.log"
    log.write_text("step 10 E=1\n" + "x" * 3 * WINDOW_BYTES + "\n", encoding="utf-8")
    looks = reader(tmp_path, STEP)
    assert looks.read(1.0) is None  # too far back: a later line will tell
    with log.open("a", encoding="utf-8") as file:
        file.write("step 20 E=2\nstep 3")
    told = looks.read(1.0)
    assert told is not None
    assert told.fraction == 0.2
    with log.open("a", encoding="utf-8") as file:
        file.write("0 E=3\n")
    told = looks.read(1.0)
    assert told is not None
    assert told.fraction == 0.3
    log.write_text("step 5 E=4\n", encoding="utf-8")  # begun anew
    told = looks.read(1.0)
    assert told is not None
    assert told.fraction == 0.05


def test_any_program_may_report_by_itself(tmp_path: Path) -> None:
    looks = reader(tmp_path)
    log = tmp_path / "stdout.log"
    log.write_text("outlast: progress 0.25 epoch 3 loss=0.125 lr=1e-3, done=no\n", encoding="utf-8")
    told = looks.read(5.0)
    assert told == Progress(
        fraction=0.25,
        message="epoch 3 loss=0.125 lr=1e-3, done=no",
        eta_s=15.0,
        metrics={"loss": 0.125, "lr": 0.001},
    )
    log.write_text(log.read_text(encoding="utf-8") + "outlast: progress 0.5\n", encoding="utf-8")
    told = looks.read(5.0)
    assert told is not None
    assert (told.fraction, told.eta_s) == (0.5, 5.0)


def test_several_sources_and_a_total_of_the_line(tmp_path: Path) -> None:
    percent = ProgressRule(source="stderr", regex=r"(?P<percent>\d+)% ETA (?P<eta_s>\d+)")
    metric = ProgressRule(source="run.log", regex=r"^T=(?P<temperature_k>\S+)")
    looks = reader(tmp_path, percent, metric)
    (tmp_path / "stderr.log").write_bytes(b"\r10% ETA 90\r20% ETA 80\r")
    (tmp_path / "run.log").write_bytes(b"T=300.5\nT=301\n")
    told = looks.read(7.0)
    assert told == Progress(
        fraction=0.2, message="20% ETA 80", eta_s=80.0, metrics={"temperature_k": 301.0}
    )


def test_a_job_that_goes_on_reckons_from_where_it_began(tmp_path: Path) -> None:
    looks = reader(tmp_path, STEP, parent="job-before")
    log = tmp_path / "stdout.log"
    log.write_text("step 50 E=1\n", encoding="utf-8")
    first = looks.read(10.0)
    assert first is not None
    assert first.eta_s is None
    log.write_text("step 50 E=1\nstep 60 E=1\n", encoding="utf-8")
    second = looks.read(20.0)
    assert second is not None
    assert second.eta_s == 40.0
