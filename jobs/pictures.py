"""Pictures as a chat can take them: looked at here, decoded and drawn only in another process.

A picture that a chat's client cannot decode may end that chat. So what is given is whole, of a kind
that every client knows, and small.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import tempfile
import threading
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from jobs.bounded import Bounded, NotSoError
from jobs.errors import JobError, PathRefusedError, SoftwareMissingError
from jobs.tables import Column
from jobs.text import shown

LONGEST_PX = 1568  #: more than this is scaled down by those who serve models
MAX_BYTES = 750_000
LIMIT_S = 30.0  #: for one picture, the start of its process included
MAX_POINTS = 4000  #: of one series: more than a screen can show
_PROGRAM = Path(__file__).with_name("drawing.py")
#: What a child needs to find its libraries and its list of fonts; no more, as it may be subverted.
_PASSED = ("PATH", "HOME", "LANG", "TMPDIR", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH",
           "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR")  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """What a picture's header says."""

    mime_type: str
    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width} x {self.height} pixels"


def look(fd: int, size: int) -> Picture | None:
    """What picture the file is; none for what is none, or of an unknown kind."""
    file = Bounded(fd, size)
    try:
        head = file.some(0, 64)
        if head.startswith(b"\x89PNG\r\n\x1a\n") and head[12:16] == b"IHDR":
            return Picture("image/png", *struct.unpack(">II", head[16:24]))
        if head.startswith((b"GIF87a", b"GIF89a")):
            return Picture("image/gif", *struct.unpack("<HH", head[6:10]))
        if head.startswith(b"\xff\xd8\xff"):
            return _jpeg(file)
        if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
            return _webp(head)
        if head.startswith(b"BM") and head[6:10] == b"\0\0\0\0":
            width, height = struct.unpack("<ii", head[18:26])
            return Picture("image/bmp", width, abs(height))
        if head.startswith((b"II*\0", b"MM\0*")):
            return Picture("image/tiff", 0, 0)  # its size stands anywhere
        if head[:2] in (b"P5", b"P6") and head[2:3].isspace():
            words = head.split(maxsplit=3)
            if len(words) > 3 and all(word.isdigit() and len(word) < 7 for word in words[1:3]):
                return Picture("image/x-portable-pixmap", int(words[1]), int(words[2]))
    except (NotSoError, struct.error, ValueError):
        pass
    return None


def _jpeg(file: Bounded) -> Picture | None:
    """From segment to segment up to the one that holds the size."""
    offset = 2
    while not file.spent:
        mark, kind, length = struct.unpack(">BBH", file.at(offset, 4))
        if mark != 0xFF:
            return None
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", file.at(offset + 5, 4))
            return Picture("image/jpeg", width, height)
        offset += 1 if kind == 0xFF else 2 + length
    return None


def _webp(head: bytes) -> Picture | None:
    kind, data = head[12:16], head[20:]
    if kind == b"VP8X":
        sides = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (4, 7))
    elif kind == b"VP8L":
        bits = int.from_bytes(data[1:5], "little")
        sides = (side + 1 for side in (bits & 0x3FFF, bits >> 14 & 0x3FFF))
    elif kind == b"VP8 ":
        sides = (side & 0x3FFF for side in struct.unpack("<HH", data[6:10]))
    else:
        return None
    return Picture("image/webp", *sides)


def given(fd: int, size: int, picture: Picture) -> tuple[bytes, Picture]:
    """The picture as it is when it is small and whole, else made so.

    Raises PathRefusedError for what cannot be decoded, or is too large to be.
    """
    fits = 0 < max(picture.width, picture.height) <= LONGEST_PX and size <= MAX_BYTES
    if fits and picture.width and picture.height:
        raw = os.pread(fd, size, 0)
        if _is_whole(raw, picture.mime_type):
            return raw, picture
    os.lseek(fd, 0, os.SEEK_SET)
    made = _drawn(fd, "scale", str(LONGEST_PX), str(MAX_BYTES))
    if isinstance(made, bytes):
        return made, _made(made)
    if made == "too large":
        cause = f"The picture ({picture}, {size} bytes) is too large to be scaled."
    else:
        cause = "The picture cannot be decoded: it is damaged, or still being written."
    raise PathRefusedError(cause, "Tell the user its path, or launch a job that makes it anew.")


def _is_whole(raw: bytes, mime_type: str) -> bool:
    """Whether nothing is missing or damaged, as far as that shows without decoding."""
    if mime_type == "image/jpeg":
        return raw.rstrip(b"\0").endswith(b"\xff\xd9")
    if mime_type == "image/gif":
        return raw.endswith(b";")
    if mime_type == "image/webp":
        return len(raw) >= 8 + int.from_bytes(raw[4:8], "little")
    at, kind = 8, b""
    while mime_type == "image/png" and at + 12 <= len(raw) and kind != b"IEND":
        length, kind = struct.unpack(">I4s", raw[at : at + 8])
        end = at + 8 + length
        if raw[end : end + 4] != zlib.crc32(raw[at + 4 : end]).to_bytes(4, "big"):
            return False
        at = end + 4
    return kind == b"IEND"


def plotted(title: str, x: Column | None, columns: Sequence[Column]) -> bytes:
    """A PNG of the columns against `x`, or against the number of the row.

    Raises SoftwareMissingError without matplotlib.
    """
    across = x.values if x else range(1, 1 + max(len(column.values) for column in columns))
    known = [value for value in across if value == value]
    is_line = all(a <= b for a, b in pairwise(known))
    wish = {
        "title": shown(title, 80),
        "x_name": shown(x.name, 80) if x else "row",
        "is_line": is_line,
        "series": [
            {"name": shown(column.name, 40), **_thinned(across, column.values)}
            for column in columns
        ],
    }
    with tempfile.TemporaryFile() as file:
        file.write(json.dumps(wish).encode())
        file.flush()
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        made = _drawn(file.fileno(), "plot")
    if not isinstance(made, bytes):
        raise JobError(f"The plot could not be drawn: {made}.", "Ask for fewer columns.")
    return made


def _thinned(x: Sequence[float], y: Sequence[float]) -> dict[str, list[float | None]]:
    """The points, or of every so many the least and the greatest, so that no peak is lost."""
    count = len(y)
    if count <= MAX_POINTS:
        chosen: Sequence[int] = range(count)
    else:
        step = -(-count // (MAX_POINTS // 2))
        kept: list[int] = []
        for start in range(0, count, step):
            places = [n for n in range(start, min(start + step, count)) if y[n] == y[n]]
            if places:
                kept += sorted({min(places, key=y.__getitem__), max(places, key=y.__getitem__)})
        chosen = kept

    def finite(value: float) -> float | None:
        return value if abs(value) < 1e300 else None  # no axis can span more

    return {"x": [finite(x[n]) for n in chosen], "y": [finite(y[n]) for n in chosen]}


def _drawn(stdin: int, *words: str) -> bytes | str:
    """What the drawing process makes of what `stdin` holds: a picture, or what is wrong."""
    env = {name: os.environ[name] for name in _PASSED if name in os.environ}
    child = subprocess.Popen(
        [sys.executable, "-P", str(_PROGRAM), *words],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={**env, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
    )
    too_late = threading.Timer(LIMIT_S, child.kill)
    too_late.start()
    try:
        assert child.stdout is not None
        with child.stdout:
            made = child.stdout.read(MAX_BYTES + 1)
    finally:
        too_late.cancel()
        child.kill()
        child.wait()
    if made.startswith((b"\x89PNG", b"\xff\xd8\xff")) and len(made) <= MAX_BYTES:
        return made
    try:
        answer = dict(json.loads(made))
    except (ValueError, TypeError):
        return "too large"  # it was ended by one of its limits
    if "missing" in answer:
        package = {"PIL": "pillow", "matplotlib": "matplotlib"}.get(answer["missing"], "numpy")
        raise SoftwareMissingError(
            f"{package} is not installed beside Outlast; pictures need it.",
            f"Ask the user to run: {sys.executable} -m pip install {package}",
        )
    return "too large" if answer.get("error") == "too large" else "unreadable"


def _made(raw: bytes) -> Picture:
    """Of a picture that was just made."""
    with tempfile.TemporaryFile() as file:
        file.write(raw)
        file.flush()
        return look(file.fileno(), len(raw)) or Picture("image/png", 0, 0)
