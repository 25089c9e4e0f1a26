"""What is in an artifact, in a form that a chat can take: bounded, and never raw bytes."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jobs import formats, pictures, tables
from jobs.artifacts import kind_of, rule_of
from jobs.bounded import Format
from jobs.errors import FileNotFoundInJobError, InvalidArgumentError, PathRefusedError
from jobs.files import open_inside
from jobs.model import LaunchManifest
from jobs.paths import JobDir
from jobs.plots import chosen
from jobs.rules import Kind, OutputRule
from jobs.text import (
    clean,
    first_lines_within,
    last_lines_within,
    prefix_within,
    shown,
    token_estimate,
    without_cut_character,
)

#: Text in one reply: what is usual and the most; numbers cost a token for every two bytes.
DEFAULT_TEXT_BYTES, MAX_TEXT_BYTES = 2400, 12_000
#: Rows of a table are counted within this much of it.
_COUNT_BYTES = 64 << 20
_HEAD_ROWS, _END_ROWS = 10, 5
_ROW_BYTES = 64 * 1024  #: within which the first row ends
_JSON_BYTES = 1 << 20  #: up to which JSON is shown in short instead of from its beginning


@dataclass(frozen=True)
class Content:
    """What was read of an artifact: text, what is known of it, or the bytes of a picture."""

    path: str
    kind: Kind
    size: int
    text: str = ""
    about: tuple[str, ...] = ()  #: a line for each column, array, table or file within
    image: bytes | None = None
    mime_type: str = "text/plain"
    next_offset: int | None = None  #: where the text goes on
    summary: str = ""  #: what the file is, and what the text is a part of


@dataclass(frozen=True)
class Part:
    """What is wished of an artifact."""

    offset: int = 0
    max_bytes: int = DEFAULT_TEXT_BYTES
    plot: str | None = None  #: columns of a table to be drawn, as `jobs.plots.chosen` takes them

    def check(self) -> None:
        if self.offset < 0 or self.offset >= 1 << 62:
            raise InvalidArgumentError("offset must be 0 or more.")
        if not 1 <= self.max_bytes <= MAX_TEXT_BYTES:
            raise InvalidArgumentError(f"max_bytes must be from 1 to {MAX_TEXT_BYTES}.")

    @property
    def budget(self) -> float:
        """Tokens."""
        return min(6500.0, max(1250.0, 0.55 * self.max_bytes))

    def is_plot(self, kind: Kind) -> bool:
        """Some clients fill in an empty text for what they do not mean."""
        return self.plot is not None and self.plot != "false" and bool(self.plot or kind == "table")


BEGINNING = Part()


def read(
    launched: LaunchManifest,
    job_dir: JobDir,
    path: str,
    part: Part = BEGINNING,
    started_at: float | None = None,
) -> Content:
    """Read a part of a file below the working directory, or of the job's samples; or draw it.

    Blocks. Raises FileNotFoundInJobError, PathRefusedError for links, FIFOs, devices and ways out,
    and InvalidArgumentError.
    """
    part.check()
    root = Path(launched.cwd)
    if path == job_dir.progress.name and not (root / path).exists():
        return _samples(job_dir, part, started_at)
    rule = rule_of(path, launched.outputs)
    with open_inside(root, path) as fd:
        content = Content(path, kind_of(path, rule), os.fstat(fd).st_size)
        if part.is_plot(content.kind):
            return _plot(content, tables.read(fd, content.size), part, rule)
        return _shown(content, fd, part)


def read_csv(path: str, text: str, part: Part = BEGINNING) -> Content:
    """The same of a table that stands in no file. Blocks. Raises InvalidArgumentError."""
    part.check()
    with tempfile.TemporaryFile() as file:
        file.write(text.encode())
        file.flush()
        content = Content(path, "table", file.tell())
        if part.is_plot(content.kind):
            return _plot(content, tables.read(file.fileno(), content.size), part, None)
        return _shown(content, file.fileno(), part)


def _samples(job_dir: JobDir, part: Part, started_at: float | None) -> Content:
    """What was sampled while the job ran: a file of ours, read as if it were the job's."""
    path = job_dir.progress.name
    try:
        with open_inside(job_dir.root, path) as fd:
            content = Content(path, "table", os.fstat(fd).st_size)
            found = tables.samples(fd, content.size, started_at)
    except FileNotFoundInJobError:
        cause = "The job has told no progress, so there are no samples."
        raise FileNotFoundInJobError(cause) from None
    if part.is_plot("table"):
        return _plot(content, found, part, None)
    if found is None:
        return replace(content, summary="no sample yet")
    whence = f", from {found.part}" if found.part else ""
    about = _within([str(column) for column in found.columns], part.budget)
    return replace(content, about=about, summary=f"{found.rows} samples of its progress{whence}")


def _shown(content: Content, fd: int, part: Part) -> Content:
    """The file as its kind and its bytes call for."""
    size, offset, budget = content.size, part.offset, part.budget
    picture = pictures.look(fd, size) if offset == 0 else None
    if picture is not None:
        return _picture(content, fd, picture)
    raw = os.pread(fd, part.max_bytes, offset)
    if b"\0" in raw or (raw and _unprintable(raw) > 0.3):
        return _binary(content, formats.recognise(fd, size, content.path), budget)
    if content.kind == "table" and offset == 0 and raw:
        return _table(content, fd, budget)
    if content.kind == "json" and offset == 0 and len(raw) < size <= _JSON_BYTES:
        short = _short_json(os.pread(fd, size, 0), budget)
        if short:
            summary = "JSON in short: offset=1 shows the text itself"
            return replace(content, text=short, summary=summary)
    known = formats.recognise(fd, size, content.path) if offset == 0 else None
    about = _within(known.details, 0.3 * budget) if known else ()
    if offset + len(raw) < size:  # go on at a line's, or at least a character's, beginning
        raw = raw[: raw.rfind(b"\n") + 1] or without_cut_character(raw) or raw
    raw = first_lines_within(raw, budget - sum(map(token_estimate, about)), len(raw))
    end = offset + len(raw)
    place = f"bytes {offset} to {end} of {size}"
    return replace(
        content,
        text=clean(raw),
        about=about,
        next_offset=end if end < size else None,
        summary=f"{known.words}; {place}" if known else place,
    )


def _picture(content: Content, fd: int, picture: pictures.Picture) -> Content:
    image, shape = pictures.given(fd, content.size, picture)
    summary = f"picture of {picture}" if picture.width else "picture"
    if shape != picture:
        summary += f", given as {shape.mime_type.removeprefix('image/')} of {shape}"
    return replace(content, kind="image", image=image, mime_type=shape.mime_type, summary=summary)


def _binary(content: Content, known: Format | None, budget: float) -> Content:
    words = known.words if known else "binary of an unknown format"
    return replace(
        content,
        about=_within(known.details if known else (), budget),
        mime_type="application/octet-stream",
        summary=f"{words}; not shown as text",
    )


def _table(content: Content, fd: int, budget: float) -> Content:
    """The first and last rows of a table, its shape, and what is in its columns."""
    size = content.size
    found = tables.read(fd, size)
    about: tuple[str, ...] = ()
    if found is not None:
        about = _within([str(column) for column in found.columns], 0.45 * budget)
        budget -= sum(map(token_estimate, about))
    block = os.pread(fd, _ROW_BYTES, 0)
    whole_rows = block[: block.rfind(b"\n") + 1] or block
    head = first_lines_within(whole_rows, 0.6 * budget, _HEAD_ROWS + 1)
    text, next_offset, ends = clean(head), None, ""
    if len(head) < size:
        begin = max(len(head), size - 4096)
        end = os.pread(fd, 4096, begin).rstrip(b"\n").split(b"\n")
        last = b"\n".join(end[begin > len(head) :][-_END_ROWS:])
        skipped = [] if begin == len(head) and len(end) <= _END_ROWS else ["..."]
        parts = [text.rstrip("\n"), *skipped, last_lines_within(clean(last), 0.3 * budget)]
        text, next_offset, ends = (
            "\n".join(parts).rstrip("\n"),
            len(head),
            ": its first and last rows",
        )
    if found is None:
        return replace(content, text=text, next_offset=next_offset, summary="table that is empty")
    rows = str(found.rows) if not found.part else _counted(fd, size, found.has_header)
    summary = f"table of {rows} rows and {len(found.columns)} columns{ends}"
    if found.part:
        summary += f"; columns from {found.part}"
    return replace(content, text=text, about=about, next_offset=next_offset, summary=summary)


def _counted(fd: int, size: int, has_header: bool) -> str:
    """The rows of a table that is too large to be read whole."""
    lines, position = 0, 0
    while position < min(size, _COUNT_BYTES) and (part := os.pread(fd, 1 << 20, position)):
        lines += part.count(b"\n")
        position += len(part)
    lines -= has_header
    return str(lines) if position >= size else f"about {lines * size // position}"


def _plot(
    content: Content, found: tables.Table | None, part: Part, rule: OutputRule | None
) -> Content:
    if found is None:
        raise PathRefusedError(
            "There is nothing to plot: the file is no table, or has no row yet.",
            "Call read_artifact without plot.",
        )
    x, columns = chosen(part.plot or "", found, rule.plot if rule else None)
    image = pictures.plotted(shown(content.path, 80), x, columns)
    whence = f" from {found.part}" if found.part else ""
    names = ", ".join(column.name for column in columns)
    return replace(
        content,
        image=image,
        mime_type="image/png",
        about=_within([str(column) for column in columns], 600),
        summary=f"plot of {found.rows} rows{whence}",
        text=f"{shown(names, 300)} against {x.name if x else 'the number of the row'}",
    )


def _within(lines: list[str] | tuple[str, ...], budget: float) -> tuple[str, ...]:
    """As many of the lines as cost no more, and how many there are besides."""
    kept: list[str] = []
    for line in lines:
        budget -= token_estimate(line) + 2
        if budget < 0:
            return (*kept, f"... and {len(lines) - len(kept)} more")
        kept.append(line)
    return tuple(kept)


def _short_json(raw: bytes, budget: float) -> str:
    """The value with its keys, but of long lists and texts only the ends; empty if that fails."""
    try:
        value = json.loads(raw)
        for most in (50, 20, 10, 5, 3, 2):
            text = json.dumps(_shortened(value, most), indent=1, ensure_ascii=False)
            text = clean(text.encode("utf-8", "surrogatepass"))
            if token_estimate(text) <= budget:
                return text
    except (ValueError, RecursionError):
        return ""
    return prefix_within(text, budget)


def _shortened(value: Any, most: int) -> Any:
    if isinstance(value, dict):
        items = list(value.items())
        few = {shown(key, 80): _shortened(inner, most) for key, inner in items[: 4 * most]}
        return few | ({"...": f"{len(items) - len(few)} more"} if len(items) > 4 * most else {})
    if isinstance(value, list):
        few_items = [_shortened(inner, most) for inner in value[:most]]
        if len(value) > most + 1:
            last = _shortened(value[-1], most)
            return [*few_items, f"... {len(value) - most - 1} more ...", last]
        return few_items + [_shortened(inner, most) for inner in value[most:]]
    return shown(value, 20 * most) if isinstance(value, str) else value


def _unprintable(raw: bytes) -> float:
    """The part of the characters that is no text."""
    text = raw.decode("utf-8", "replace")
    odd = sum(char == "\ufffd" or (char < " " and char not in "\t\n\r\x1b\f") for char in text)
    return odd / len(text)
