"""The verdicts of `make bench`, and how its table comes into the documentation."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.table import BEGIN, END, Row, best, paired, write


@pytest.mark.parametrize(
    ("row", "met"),
    [
        (Row("x", 3.0, "s", limit=1.0, ratio=3.0, at_most_ratio=3), True),
        (Row("x", 3.1, "s", limit=1.0, ratio=3.1, at_most_ratio=3), False),
        (Row("x", 11.9, "ms", limit=2.0, ratio=5.95, at_most_above=10), True),
        (Row("x", 12.1, "ms", limit=2.0, ratio=6.05, at_most_above=10), False),
        (Row("x", 0.0, "processes", at_most=0), True),
        (Row("x", 1.0, "processes", at_most=0), False),
        (Row("x", 1.0, "s", limit=1.0, ratio=1.0), None),
    ],
)
def test_a_verdict_is_the_comparison_with_the_target(row: Row, met: bool | None) -> None:
    assert row.met is met
    assert row.cells()[-1] == {True: "met", False: "missed", None: ""}[met]


def test_a_disturbance_of_a_whole_pair_moves_neither_statistic() -> None:
    ours, limits = [2.0, 2.0, 20.0, 2.0], [1.0, 1.0, 10.0, 1.0]
    assert paired("x", ours, limits, unit="s").ratio == 2
    assert best("x", ours, limits, unit="s").ratio == 2


def test_the_table_replaces_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    for value in (1.0, 2.0):
        write([Row("a row", value, "s")], tmp_path, page)
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "| a row | 2 s |" in text
    assert "old" not in text
    assert "1 s" not in text


def test_a_page_without_markers_is_left_as_it_is(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("text\n", encoding="utf-8")
    with pytest.raises(ValueError, match="markers"):
        write([], tmp_path, page)
    assert page.read_text(encoding="utf-8") == "text\n"
