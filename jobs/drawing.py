"""Decodes and draws pictures: `python -P jobs/drawing.py scale|plot [LIMIT ...] < FILE`.

A process of its own, which holds nothing and is gone after one picture, because decoders meet
whatever a job has made, and matplotlib is large. Writes a picture to standard output, or one line
of JSON that says what is wrong. It imports nothing of ours: it is run by its path.
"""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL.Image import Image

MEMORY_BYTES = 1 << 30
CPU_SECONDS = 20
MAX_PIXELS = 64 << 20  #: of a picture that is scaled: what a colour image of it costs fits twice
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM")


def confine() -> None:
    """From here on a hostile input costs no more than this, and this process leaves no trace."""
    for what, limit in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 16 << 20),  # matplotlib keeps a list of fonts
    ):
        resource.setrlimit(what, (limit, limit))
    signal.alarm(2 * CPU_SECONDS)  # also when whoever asked is gone


def scale(longest: int, most_bytes: int) -> bytes:
    """The picture on standard input, at most so long and so large. Its first frame, if it moves."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = MAX_PIXELS
    file = Image.open(sys.stdin.buffer, formats=FORMATS)
    if file.width * file.height > MAX_PIXELS:
        raise Image.DecompressionBombError
    file.draft("RGB", (longest, longest))  # JPEG only: decoded small
    picture = _usual(file)
    while True:
        picture.thumbnail((longest, longest), Image.Resampling.LANCZOS, reducing_gap=3.0)
        for encoded in _encodings(picture):
            if len(encoded) <= most_bytes:
                return encoded
        longest = 2 * max(picture.size) // 3


def _usual(picture: Image) -> Image:
    """In eight bits and colours, or shades, that every viewer knows."""
    if picture.mode.startswith(("I", "F")):  # heights, densities: from the least to the greatest
        picture = picture.convert("F")
        low, high = picture.getextrema()
        span = float(high) - float(low) or 1.0  # type: ignore[arg-type]
        return picture.point(lambda value: (value - low) * (255 / span)).convert("L")
    if picture.mode in ("L", "RGB", "RGBA"):
        return picture
    clear = "transparency" in picture.info or picture.mode in ("LA", "PA", "La", "RGBa")
    return picture.convert("RGBA" if clear else "L" if picture.mode == "1" else "RGB")


def _encodings(picture: Image) -> Iterator[bytes]:
    """Ways to write it down, the most faithful first."""
    from PIL import Image

    def encoded(image: Image.Image, kind: str, **how: Any) -> bytes:
        file = io.BytesIO()
        image.save(file, kind, **how)
        return file.getvalue()

    yield encoded(picture, "PNG")
    if picture.mode == "RGBA":
        flat = Image.new("RGB", picture.size, "white")
        flat.paste(picture, mask=picture.getchannel("A"))
        picture = flat
    if picture.mode == "RGB" and picture.getcolors(4096) is not None:  # a diagram, not a photograph
        yield encoded(picture.quantize(256), "PNG")
    for quality in (90, 75):
        yield encoded(picture, "JPEG", quality=quality)


def plot() -> bytes:
    """The series that standard input holds as JSON, one panel above the other, as PNG."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    wish = json.load(sys.stdin)
    matplotlib.rcdefaults()
    series = wish["series"]
    height = 1.2 + max(3.2, 1.9 * len(series))
    figure = Figure(figsize=(8.0, height), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(series), sharex=True, squeeze=False)[:, 0]
    for number, (panel, one) in enumerate(zip(panels, series, strict=True)):
        x, y = ([float("nan") if v is None else v for v in one[axis]] for axis in ("x", "y"))
        line = "-" if wish["is_line"] and len(x) > 1 else ""
        mark = "." if not line or len(x) <= 40 else ""
        colour = f"C{number % 10}"
        panel.plot(x, y, linestyle=line, marker=mark, linewidth=1.2, color=colour)
        panel.set_ylabel(one["name"], parse_math=False)
        panel.grid(alpha=0.3)
    panels[0].set_title(wish["title"], fontsize=10, parse_math=False)
    panels[-1].set_xlabel(wish["x_name"], parse_math=False)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def main() -> None:
    confine()
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stderr.fileno())  # what libraries complain of is nobody's to read
    try:
        limits = [int(word) for word in sys.argv[2:]]
        answer = scale(*limits) if sys.argv[1] == "scale" else plot()
    except ModuleNotFoundError as error:
        answer = json.dumps({"missing": error.name}).encode()
    except Exception as error:
        bomb = isinstance(error, MemoryError) or "Bomb" in type(error).__name__
        answer = json.dumps({"error": "too large" if bomb else "unreadable"}).encode()
    sys.stdout.buffer.write(answer)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
