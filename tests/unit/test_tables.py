"""Tables as programs write them: what their columns are called, and what is in them."""

from __future__ import annotations

import math
import tempfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs import tables
from jobs.errors import InvalidArgumentError
from jobs.plots import chosen
from jobs.rules import Plot
from jobs.tables import Table


def table(content: str | bytes) -> Table:
    found = maybe(content.encode() if isinstance(content, str) else content)
    assert found is not None
    return found


def maybe(raw: bytes) -> Table | None:
    with tempfile.TemporaryFile() as file:
        file.write(raw)
        file.flush()
        return tables.read(file.fileno(), len(raw))


#: The same two columns, as different programs write them.
DIALECTS = {
    "csv": "time,temperature\n0,300\n1,310\n",
    "excel": "\ufefftime;temperature\r\n0;300,0\r\n1;310,0\r\n",
    "tsv": "time\ttemperature\n0\t300\n1\t310\n",
    "openmm": '#"time","temperature"\n0,300\n1,310\n',
    "plumed": "#! FIELDS time temperature\n 0 300\n 1 310\n",
    "lammps": "# averages\n# time temperature\n0 300\n1 310",
    "gromacs": '# made by gmx\n@    xaxis  label "time"\n@ s0 legend "temperature"\n0 300\n1 310\n',
    "quoted": '"time","temperature"\n"0","300"\n"1","310"\n',
    "continued": "time,temperature\n0,300\ntime,temperature\n1,310\n",
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_dialects(dialect: str) -> None:
    found = table(DIALECTS[dialect])
    assert [column.name for column in found.columns] == ["time", "temperature"]
    assert [list(column.values) for column in found.columns] == [[0, 1], [300, 310]]
    assert found.rows == 2


def test_without_a_header_columns_have_numbers() -> None:
    found = table("1,2\n3,4\n")
    assert [column.name for column in found.columns] == ["column 1", "column 2"]
    assert found.rows == 2


def test_what_is_no_number_is_counted() -> None:
    found = table("a,b,c,a\n1,x,,1\n,y,,2\nnan,z,,3\n4.5,,,4\n")
    assert [str(column) for column in found.columns] == [
        "a: number, 1 to 4.5, mean 2.75, last 4.5, 2 missing",
        "b: text, 1 missing",
        "c: empty, 4 missing",
        "a (4): integer, 1 to 4, mean 2.5, last 4",
    ]


def test_rows_of_another_length_do_not_move_columns() -> None:
    found = table("a,b,c\n1,2,3\n4\n5,6,7,8\n")
    assert [list(map(str, column.values)) for column in found.columns] == [
        ["1.0", "4.0", "5.0"],
        ["2.0", "nan", "6.0"],
        ["3.0", "nan", "7.0"],
    ]


def test_a_table_too_large_to_be_read_whole_is_read_from_end_to_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tables, "WHOLE_BYTES", 4096)
    monkeypatch.setattr(tables, "PART_BYTES", 512)
    found = table("n,square\n" + "".join(f"{n},{n * n}\n" for n in range(100_000)))
    first, second = (column.values for column in found.columns)
    assert (first[0], first[-1]) == (0, 99_999)
    assert all(b == a * a for a, b in zip(first, second, strict=True)), "no line is cut"
    assert "64 evenly spaced parts, 32.8 kB of" in found.part


def test_time_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_SECONDS", 0.0)
    found = table("n\n" + "".join(f"{n}\n" for n in range(200_000)))
    assert 0 < found.rows < 200_000
    assert found.part.startswith("its first ")


@pytest.mark.parametrize(
    "raw",
    [
        b"," * 500_000,
        b"a" * 6_000_000,
        b'"' + b"x," * 400_000,
        b"a,b\n" + b'"' * 300_001 + b"\n1,2\n",
        b"a,b\n1e999,-inf\n1_0,0x10\n",
        b"\0,\0\n1,2\n",
        b"#" * 2_000_000,
        b"a;b\n" + b"1,;," * 60_000,
    ],
    ids=range(8),
)
def test_hostile_tables_cost_little(raw: bytes) -> None:
    found = maybe(raw)
    for column in found.columns if found else []:
        str(column).encode()


@given(st.binary(max_size=3000) | st.text('01.,;\t\n"#@-e x', max_size=300).map(str.encode))
def test_any_bytes_are_a_table_or_none(raw: bytes) -> None:
    found = maybe(raw)
    if found is not None:
        assert found.columns
        assert len({column.name for column in found.columns}) == len(found.columns)
        assert {len(column.values) for column in found.columns} == {found.rows}
        for column in found.columns:
            str(column).encode()


@given(st.lists(st.tuples(st.floats(allow_nan=False), st.integers(-(2**53), 2**53)), min_size=1))
def test_numbers_come_back_as_they_were(rows: list[tuple[float, int]]) -> None:
    found = table("x,y\n" + "".join(f"{x!r},{y}\n" for x, y in rows))
    assert list(found.columns[0].values) == [x for x, _ in rows]
    assert list(found.columns[1].values) == [float(y) for _, y in rows]
    assert math.fsum(found.columns[1].values) == math.fsum(y for _, y in rows)


TABLE = "step,time_ps,energy,T, (K),note\n".replace("T, (K)", '"T, (K)"') + "".join(
    f"{n},{n * 0.002},{n % 3},{300 + n % 5},x\n" for n in range(10)
)


@pytest.mark.parametrize(
    ("wish", "x", "y"),
    [
        ("true", "step", ["energy", "T, (K)"]),
        ("", "step", ["energy", "T, (K)"]),
        ("time_ps: energy", "time_ps", ["energy"]),
        ("time_ps: energy, step", "time_ps", ["energy", "step"]),
        ("time_ps: T, (K)", "time_ps", ["T, (K)"]),
        ("TIME_PS:Energy", "time_ps", ["energy"]),
        ("energy", "step", ["energy"]),
        ("energy, time_ps", "step", ["energy", "time_ps"]),
        (": energy", None, ["energy"]),
        ("energy:", "energy", ["step", "time_ps", "T, (K)"]),
    ],
)
def test_columns_are_chosen_by_their_names(wish: str, x: str | None, y: list[str]) -> None:
    across, upwards = chosen(wish, table(TABLE), None)
    assert (across.name if across else None, [column.name for column in upwards]) == (x, y)


def test_what_is_declared_is_drawn_unless_it_is_not_there() -> None:
    found = table(TABLE)
    declared = Plot(x="time_ps", y=["energy"])
    across, upwards = chosen("true", found, declared)
    assert across is not None
    assert (across.name, [column.name for column in upwards]) == ("time_ps", ["energy"])
    assert len(chosen("true", found, Plot(x="time_ps", y=["gone"]))[1]) == 2


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ("tim_ps: energy", "no column 'tim_ps'. Did you mean 'time_ps'?"),
        ("step: enrgy", "no column 'enrgy'. Did you mean 'energy'?"),
        ("note", "'note' holds no numbers"),
        ("x" * 5000, "no column 'xxxx"),
        ("step: " + "energy, " * 7, "At most 6 columns"),
    ],
)
def test_other_wishes_are_refused_with_what_there_is(wish: str, words: str) -> None:
    with pytest.raises(InvalidArgumentError) as refusal:
        chosen(wish, table(TABLE), None)
    assert words in refusal.value.cause
    assert len(refusal.value.cause) < 600
