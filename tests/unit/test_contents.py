"""What a chat is given of an artifact: whole lines, shapes and formats, and never raw bytes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from jobs.contents import Content, Part, read
from jobs.errors import FileNotFoundInJobError, InvalidArgumentError, PathRefusedError
from jobs.paths import JobDir
from jobs.rules import OutputRule
from jobs.text import token_estimate
from tests.unit.test_artifacts import launched


class Work:
    """A job's working directory, and how its files are read."""

    def __init__(self, root: Path) -> None:
        self.job_dir = JobDir(root)
        self.job_dir.work.mkdir()
        self.outputs: list[OutputRule] = []

    def write(self, path: str, content: str | bytes) -> None:
        raw = content if isinstance(content, bytes) else content.encode()
        (self.job_dir.work / path).write_bytes(raw)

    def read(self, path: str, *, started_at: float | None = None, **part: Any) -> Content:
        job = launched(self.job_dir.work, outputs=self.outputs)
        return read(job, self.job_dir, path, Part(**part), started_at)


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(tmp_path)


def test_text_goes_on_from_its_offset(work: Work) -> None:
    content = "".join(f"züge {n}\n" for n in range(500))
    work.write("long.txt", content)
    seen, offset = "", 0
    while offset is not None:
        part = work.read("long.txt", offset=offset, max_bytes=333)
        seen, offset = seen + part.text, part.next_offset  # type: ignore[assignment]
    assert seen == content


def test_an_empty_file_is_empty_text(work: Work) -> None:
    for name in ("empty.txt", "empty.csv", "empty.png", "empty.dcd", "empty.json"):
        work.write(name, "")
        assert (work.read(name).text, work.read(name).next_offset) == ("", None)
        assert work.read(name, offset=99).text == ""


@pytest.mark.parametrize("part", [{"offset": -1}, {"max_bytes": 0}, {"max_bytes": 12_001}])
def test_what_cannot_be_asked_for_is_refused(work: Work, part: dict[str, int]) -> None:
    work.write("a.txt", "a")
    with pytest.raises(InvalidArgumentError):
        work.read("a.txt", **part)


def test_a_table_shows_its_shape_its_columns_and_both_ends(work: Work) -> None:
    rows = "".join(f"{n},{n * n},{n / 7:.3f}\n" for n in range(5000))
    work.write("t.csv", "n,square,part\n" + rows)
    content = work.read("t.csv")
    assert "table of 5000 rows and 3 columns" in content.summary
    lines = content.text.split("\n")
    assert lines[0] == "n,square,part"
    assert lines[1].startswith("0,0,")
    assert lines[-1].startswith("4999,")
    assert content.about[0] == "n: integer, 0 to 4999, mean 2499.5, last 4999"
    assert content.next_offset is not None
    rest = work.read("t.csv", offset=content.next_offset)
    assert rest.text.startswith("10,100,")


def test_a_short_table_is_shown_whole(work: Work) -> None:
    for rows in range(1, 20):
        text = "a,b\n" + "".join(f"{n},{n}\n" for n in range(rows))
        work.write("t.csv", text)
        content = work.read("t.csv")
        shown = [line for line in content.text.splitlines() if line != "..."]
        assert f"of {rows} rows" in content.summary
        assert len(shown) == len(set(shown)), "no row twice"
        assert ("..." in content.text) == (shown != text.splitlines())


def test_the_rows_of_a_large_table_are_counted(work: Work) -> None:
    work.write("t.csv", "n,half\n" + "".join(f"{n},{n / 2}\n" for n in range(400_000)))
    content = work.read("t.csv")
    assert "400000 rows" in content.summary
    assert "evenly spaced parts" in content.summary
    assert content.about[0].endswith("last 399999")
    assert content.about[0].startswith("n: integer, 0 to 399999")


def test_what_is_declared_a_table_is_one(work: Work) -> None:
    work.outputs = [OutputRule(path="*.dat", kind="table")]
    work.write("colvar.dat", "#! FIELDS time phi\n 0.0 1.5\n 0.2 -2.5\n")
    work.write("notes.txt", " 0.0 1.5\n")
    assert work.read("colvar.dat").about[1] == "phi: number, -2.5 to 1.5, mean -0.5, last -2.5"
    assert work.read("colvar.dat").kind == "table"
    assert work.read("notes.txt").about == ()


def test_binaries_are_named_and_not_shown(work: Work) -> None:
    work.write("x.dcd", os.urandom(3000))
    work.write(
        "y.npy", b"\x93NUMPY\1\0v\0{'descr': '<f8', 'fortran_order': False, 'shape': (3, 4), }"
    )
    unknown, array = work.read("x.dcd"), work.read("y.npy")
    assert (unknown.text, unknown.image, unknown.kind) == ("", None, "trajectory")
    assert "binary of an unknown format" in unknown.summary
    assert (array.text, array.about) == ("", ())
    assert "NumPy array, float64, shape (3, 4)" in array.summary


def test_trajectories_that_are_text_say_what_they_are(work: Work) -> None:
    work.write("water.xyz", "3\nframe\nO 0 0 0\nH 0 0 1\nH 0 1 0\n" * 40)
    content = work.read("water.xyz", max_bytes=200)
    assert content.summary.startswith("XYZ: 40 frames of 3 atoms; bytes 0 to ")
    assert content.text.startswith("3\nframe\n")
    assert "XYZ" not in work.read("water.xyz", offset=content.next_offset).summary


def test_long_json_is_shown_in_short(work: Work) -> None:
    value = {"energies": list(range(9000)), "note": "x" * 9000, "deep": {"converged": True}}
    work.write("s.json", json.dumps(value))
    content = work.read("s.json")
    short = json.loads(content.text)
    assert short["energies"][0] == 0
    assert short["energies"][-1] == 8999
    assert short["deep"] == {"converged": True}
    assert token_estimate(content.text) <= 1320
    assert work.read("s.json", offset=1).text.startswith('"energies": [0, 1')


@pytest.mark.parametrize(
    "text",
    [
        "[" * 200_000,
        '{"a":' * 50_000,
        "[" + "9" * 6000 + "]",
        "[" + "1," * 9000,
        '"' + "\\ud800" * 5000 + '"',
        json.dumps({"k" * n: n for n in range(600)}),
        json.dumps([[["x" * 500] * 9] * 9] * 9),
    ],
)
def test_json_of_any_kind_is_bounded(work: Work, text: str) -> None:
    work.write("s.json", text)
    content = work.read("s.json")
    assert content.text
    assert token_estimate(content.text) <= 1400
    content.text.encode()


def test_samples_are_read_from_beside_the_working_directory(work: Work) -> None:
    with pytest.raises(FileNotFoundInJobError, match="no progress"):
        work.read("progress.jsonl")
    samples = [
        {"at": 1000.0 + n, "fraction": n / 10, "metrics": {"temperature_k": 300 + n}}
        for n in range(5)
    ]
    lines = [*map(json.dumps, samples), '{"at": 1006, "metr']
    work.job_dir.progress.write_text("\n".join(lines), encoding="utf-8")
    content = work.read("progress.jsonl", started_at=998.0)
    assert content.summary == "5 samples of its progress"
    assert content.about == (
        "elapsed_s: integer, 2 to 6, mean 4, last 6",
        "fraction: number, 0 to 0.4, mean 0.2, last 0.4",
        "temperature_k: integer, 300 to 304, mean 302, last 304",
    )
    work.write("progress.jsonl", "the job's own\n")
    assert work.read("progress.jsonl").text == "the job's own\n"


@pytest.mark.parametrize("plot", ["", "false"])
def test_an_empty_wish_for_a_plot_is_none_where_there_is_no_table(work: Work, plot: str) -> None:
    work.write("a.txt", "hello\n")
    assert work.read("a.txt", plot=plot).text == "hello\n"


def test_what_cannot_be_plotted_is_refused_in_words(work: Work) -> None:
    work.write("a.csv", "time_ps,energy,note\n0,1,x\n1,2,y\n")
    with pytest.raises(InvalidArgumentError, match=r"Did you mean 'energy'\?.*: time_ps, energy\."):
        work.read("a.csv", plot="time_ps: enrgy")
    with pytest.raises(InvalidArgumentError, match="'note' holds no numbers"):
        work.read("a.csv", plot="note")
    work.write("b.csv", "\n")
    with pytest.raises(PathRefusedError, match="nothing to plot"):
        work.read("b.csv", plot="true")
