"""Pictures and plots, made by a process of their own: small, whole, and whatever is in the file."""

from __future__ import annotations

import contextlib
import io
import json
import os
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from jobs import pictures
from jobs.errors import PathRefusedError, SoftwareMissingError
from jobs.pictures import LONGEST_PX, MAX_BYTES
from jobs.rules import OutputRule, Plot
from jobs.tables import Column
from tests.support.faces import PNG_BASE64
from tests.unit.test_contents import Work

#: Each example starts a process, so that none is looked for that is smaller and fails too.
QUICK = settings(deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(tmp_path)


def encoded(image: Image.Image, kind: str = "PNG", **how: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def decoded(work: Work, path: str) -> Image.Image:
    """The picture that a chat is given, which every client can decode."""
    content = work.read(path)
    assert content.image is not None
    assert len(content.image) <= MAX_BYTES
    image = Image.open(io.BytesIO(content.image), formats=["PNG", "JPEG", "GIF", "WEBP"])
    image.load()
    assert max(image.size) <= LONGEST_PX
    assert content.mime_type == f"image/{(image.format or '').lower()}"
    return image


def diagram(width: int, height: int, mode: str = "RGB") -> Image.Image:
    image = Image.new(mode, (width, height), "white")
    ImageDraw.Draw(image).line((0, 0, width, height), fill="red", width=9)
    return image


def noise(width: int, height: int) -> Image.Image:
    return Image.frombytes("RGB", (width, height), os.urandom(3 * width * height))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP"])
def test_a_small_picture_passes_untouched_and_starts_no_process(
    work: Work, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "_PROGRAM", Path("/no/such/program"))
    raw = encoded(diagram(640, 480), kind)
    work.write("p", raw)
    content = work.read("p")
    assert (content.image, content.kind) == (raw, "image")
    assert content.summary == "picture of 640 x 480 pixels"


def test_a_large_picture_is_scaled(work: Work) -> None:
    work.write("p.png", encoded(diagram(4000, 3000)))
    assert decoded(work, "p.png").size == (1568, 1176)
    summary = work.read("p.png").summary
    assert summary == "picture of 4000 x 3000 pixels, given as png of 1568 x 1176 pixels"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"])
def test_pictures_of_every_mode_are_scaled(work: Work, mode: str) -> None:
    kind = "PNG" if mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16") else "TIFF"
    if mode in ("I;16", "I", "F"):
        image = Image.linear_gradient("L").resize((2000, 500)).convert("F")
        image = image.point(lambda value: value * 200).convert("I" if mode == "I;16" else mode)
        image = image.convert("I;16") if mode == "I;16" else image
    else:
        image = diagram(2000, 500).convert(mode)
    work.write("p", encoded(image, kind))
    seen = decoded(work, "p")
    assert seen.size == (1568, 392)
    low, high = seen.convert("L").getextrema()
    assert (low, high) != (0, 0)
    assert high - low > 100, "what is on it can be seen"  # type: ignore[operator]


@pytest.mark.parametrize("kind", ["BMP", "TIFF", "PPM"])
def test_kinds_that_chats_do_not_know_become_png(work: Work, kind: str) -> None:
    work.write("p", encoded(diagram(300, 200), kind))
    assert decoded(work, "p").format == "PNG"


def test_what_is_large_in_bytes_is_made_smaller(work: Work) -> None:
    work.write("noise.png", encoded(noise(1200, 1200)))
    assert decoded(work, "noise.png").format == "JPEG"
    clear = noise(1200, 1200)
    clear.putalpha(128)
    work.write("clear.png", encoded(clear))
    assert decoded(work, "clear.png").size[0] > 500


def test_a_moving_picture_gives_its_first_frame(work: Work) -> None:
    frames = [diagram(2000, 400), diagram(2000, 400).rotate(9)]
    work.write("p.gif", encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert decoded(work, "p.gif").size == (1568, 314)


def bomb(side: int) -> bytes:
    """A PNG of a few kilobytes that says, and holds, so many black pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        whole = kind + content
        return struct.pack(">I", len(content)) + whole + struct.pack(">I", zlib.crc32(whole))

    packer = zlib.compressobj(1)
    row = bytes(1 + 3 * side)
    lines = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", lines) + chunk(b"IEND", b"")


def test_a_bomb_is_refused(work: Work) -> None:
    work.write("p.png", bomb(9000))
    with pytest.raises(PathRefusedError, match=r"9000 x 9000 pixels.* too large"):
        work.read("p.png")
    work.write("p.png", bomb(8000))  # the most that is scaled, within the memory it may have
    assert decoded(work, "p.png").size == (1568, 1568)


@pytest.mark.parametrize("cut", [30, 200, -200])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_half_a_picture_is_not_passed_on(work: Work, cut: int, kind: str) -> None:
    """A client that cannot decode a picture may end the chat."""
    work.write("p", encoded(noise(64, 64), kind)[:cut])
    with contextlib.suppress(PathRefusedError):
        assert work.read("p").image is None, "its header is not whole"


def test_a_damaged_picture_is_not_passed_on(work: Work) -> None:
    raw = bytearray(encoded(noise(64, 64)))
    raw[len(raw) // 2] ^= 0xFF
    work.write("p.png", bytes(raw))
    with pytest.raises(PathRefusedError, match="cannot be decoded"):
        work.read("p.png")


KINDS = ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM"]


@settings(QUICK, max_examples=12)
@given(st.sampled_from(KINDS), st.binary(max_size=64), st.integers(0, 400))
def test_hostile_pictures_give_a_picture_or_words(kind: str, junk: bytes, place: int) -> None:
    import tempfile

    raw = encoded(diagram(1600, 20), kind)
    raw = raw[:place] + junk + raw[place + len(junk) :]
    with tempfile.TemporaryDirectory() as folder:
        work = Work(Path(folder))
        work.write("p", raw)
        try:
            if work.read("p").image is not None:
                decoded(work, "p")
        except PathRefusedError:
            pass


def test_a_drawing_that_takes_too_long_is_ended(
    work: Work, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    slow = tmp_path / "slow.py"
    slow.write_text("import time; time.sleep(300)", encoding="utf-8")
    monkeypatch.setattr(pictures, "_PROGRAM", slow)
    monkeypatch.setattr(pictures, "LIMIT_S", 0.3)
    work.write("p.png", encoded(diagram(2000, 20)))
    with pytest.raises(PathRefusedError, match="too large to be scaled"):
        work.read("p.png")


@pytest.mark.parametrize("said", ["\\x89PNG" + "x" * 2_000_000, "{}", "[1]", "junk", ""])
def test_a_subverted_drawing_process_is_not_believed(
    work: Work, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: str
) -> None:
    liar = tmp_path / "liar.py"
    liar.write_text(f"import sys; sys.stdout.buffer.write(b'{said}')", encoding="utf-8")
    monkeypatch.setattr(pictures, "_PROGRAM", liar)
    work.write("p.png", encoded(diagram(2000, 20)))
    with pytest.raises(PathRefusedError):
        work.read("p.png")


@pytest.mark.parametrize(("module", "package"), [("PIL", "pillow"), ("matplotlib", "matplotlib")])
def test_what_is_missing_is_named_with_how_to_install_it(
    work: Work, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: str, package: str
) -> None:
    shadow = tmp_path / "shadow"
    shadow.mkdir()
    text = f"raise ModuleNotFoundError(name={module!r})\n"
    (shadow / f"{module}.py").write_text(text, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(shadow))
    work.write("p.png", encoded(diagram(2000, 20)))
    work.write("t.csv", "a,b\n1,2\n2,3\n")
    with pytest.raises(SoftwareMissingError) as refusal:
        work.read("p.png") if module == "PIL" else work.read("t.csv", plot="true")
    assert refusal.value.cause.startswith(f"{package} is not installed")
    assert f"{sys.executable} -m pip install {package}" in refusal.value.next_step


def png_size(raw: bytes | None) -> tuple[int, int]:
    assert raw is not None
    image = Image.open(io.BytesIO(raw), formats=["PNG"])
    image.load()
    return image.size


def test_a_plot_of_declared_and_of_chosen_columns(work: Work) -> None:
    pytest.importorskip("matplotlib")
    rows = "".join(f"{n},{n * 0.002:.3f},{-70 + n % 7},{300 + n % 5}\n" for n in range(20_000))
    work.write("energies.csv", "step,time_ps,potential_kj_mol,temperature_k\n" + rows)
    work.outputs = [OutputRule(path="*.csv", plot=Plot(x="time_ps", y=["temperature_k"]))]
    one = work.read("energies.csv", plot="true")
    assert one.text == "temperature_k against time_ps"
    assert one.about == ("temperature_k: integer, 300 to 304, mean 302, last 304",)
    assert (one.mime_type, one.summary) == ("image/png", "plot of 20000 rows")
    two = work.read("energies.csv", plot="time_ps: potential_kj_mol, temperature_k")
    assert two.text == "potential_kj_mol, temperature_k against time_ps"
    assert png_size(two.image)[1] > png_size(one.image)[1] >= 300


def test_a_plot_shows_what_is_in_the_table(work: Work) -> None:
    """The curve of a parabola is above its chord nowhere, and goes through its ends."""
    pytest.importorskip("matplotlib")
    work.write("t.csv", "x,y\n" + "".join(f"{n},{n * n}\n" for n in range(100)))
    image = Image.open(io.BytesIO(work.read("t.csv", plot="x: y").image or b"")).convert("RGB")
    raw, wide = image.tobytes(), image.width
    blue = [
        (place // 3 % wide, place // 3 // wide)
        for place in range(0, len(raw), 3)
        if raw[place + 2] > 150 > raw[place] + 60
    ]
    assert len(blue) > 300
    (left, bottom), (right, top) = min(blue), max(blue)
    assert bottom > top
    for x, y in blue:
        chord = bottom + (top - bottom) * (x - left) / (right - left)
        assert y >= chord - 6


def test_samples_of_a_job_are_plotted_against_time(work: Work) -> None:
    pytest.importorskip("matplotlib")
    samples = [
        json.dumps({"at": 100.0 + n, "fraction": n / 9, "metrics": {"T": 300 + n % 2}})
        for n in range(9)
    ]
    work.job_dir.progress.write_text("\n".join(samples), encoding="utf-8")
    content = work.read("progress.jsonl", started_at=99.0, plot="T")
    assert content.text == "T against elapsed_s"
    assert png_size(content.image)


NAMES = st.text(max_size=90)
NUMBERS = st.lists(st.floats() | st.sampled_from([0.0, 1e308, -1e308, 5e-324]), max_size=30)


@settings(QUICK, max_examples=6)
@given(NAMES, st.lists(st.tuples(NAMES, NUMBERS), min_size=1, max_size=3), st.booleans())
def test_whatever_the_numbers_and_names_a_plot_is_drawn(
    title: str, data: list[tuple[str, list[float]]], has_x: bool
) -> None:
    pytest.importorskip("matplotlib")
    length = max(len(values) for _, values in data)
    columns = []
    for name, values in data:
        column = Column(name)
        column.values.extend([*values, *[float("nan")] * (length - len(values))])
        columns.append(column)
    assert png_size(pictures.plotted(title, columns[0] if has_x else None, columns))


def test_a_picture_of_one_pixel_is_whole(work: Work) -> None:
    import base64

    work.write("dot.png", base64.b64decode(PNG_BASE64))
    assert work.read("dot.png").summary == "picture of 1 x 1 pixels"
