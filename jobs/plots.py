"""Which columns of a table are drawn: as asked for, as declared, or as makes sense."""

from __future__ import annotations

from jobs.errors import InvalidArgumentError, nearest
from jobs.rules import Plot
from jobs.tables import Column, Table
from jobs.text import shown

MAX_PANELS = 6


def chosen(wish: str, table: Table, declared: Plot | None) -> tuple[Column | None, list[Column]]:
    """The column across, if any, and those upwards, from a text such as `x: y1, y2`.

    `true`, or nothing, gives the declared columns, else all numbers against the first of them, but
    for those that say the same as the first.
    Raises InvalidArgumentError that names the nearest column and all there are.
    """
    wish = wish.strip()
    if wish.lower() in ("", "true"):
        if declared is not None and _has(table, declared):
            return _columns(table, declared.x, declared.y)
        return _columns(table, _first(table), [])
    names = {column.name for column in table.columns}
    if wish in names:
        return _columns(table, _first(table), [wish])
    for place in (place for place, char in enumerate(wish) if char == ":"):
        x, rest = wish[:place].strip(), wish[place + 1 :].strip()
        if not x or _find(table, x) is not None:
            return _columns(table, x or None, _split(table, rest))
    if ":" in wish:
        _known(table, wish.partition(":")[0].strip())
    return _columns(table, _first(table), _split(table, wish))


def _split(table: Table, text: str) -> list[str]:
    """The names in a list; one that is itself a name with commas is one."""
    if _find(table, text) is not None:
        return [text]
    return [name.strip() for name in text.split(",") if name.strip()]


def _columns(table: Table, x: str | None, y: list[str]) -> tuple[Column | None, list[Column]]:
    across = _known(table, x) if x is not None else None
    if y:
        upwards = [_known(table, name) for name in y]
    else:
        numeric = [column for column in table.columns if column.is_numeric]
        others = [column for column in numeric if column is not across]
        different = [column for column in others if not (across and column.is_like(across))]
        upwards = (different or others)[:MAX_PANELS]
        if not upwards and across is not None:
            upwards, across = [across], None
    if not upwards:
        raise InvalidArgumentError("The table has no column of numbers, so nothing can be drawn.")
    if len(upwards) > MAX_PANELS:
        raise InvalidArgumentError(f"At most {MAX_PANELS} columns are drawn at once.")
    for column in (*upwards, *([across] if across else [])):
        if not column.is_numeric:
            raise InvalidArgumentError(f"The column {column.name!r} holds no numbers.{_all(table)}")
    return across, upwards


def _first(table: Table) -> str | None:
    """The name of the first column of numbers: mostly a step or a time."""
    return next((column.name for column in table.columns if column.is_numeric), None)


def _has(table: Table, declared: Plot) -> bool:
    wanted = [*declared.y, *([declared.x] if declared.x else [])]
    return all((column := _find(table, name)) and column.is_numeric for name in wanted)


def _find(table: Table, name: str) -> Column | None:
    """By its name; else by its name in other letters, if only one has it."""
    for column in table.columns:
        if column.name == name:
            return column
    alike = [column for column in table.columns if column.name.casefold() == name.casefold()]
    return alike[0] if len(alike) == 1 else None


def _known(table: Table, name: str) -> Column:
    column = _find(table, name)
    if column is None:
        hint = nearest(name[:200], [column.name for column in table.columns])
        raise InvalidArgumentError(f"There is no column {shown(name, 80)!r}.{hint}{_all(table)}")
    return column


def _all(table: Table) -> str:
    names = ", ".join(column.name for column in table.columns if column.is_numeric)
    return f" Columns of numbers: {shown(names, 300)}."
