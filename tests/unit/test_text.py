"""Text from outside is made fit, whatever it holds."""

from __future__ import annotations

import base64
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.text import clean, shown, shown_name, token_estimate, without_cut_character
from tests.support.tokens import count_tokens


@given(st.binary(max_size=300))
def test_clean_text_is_fit_for_json_and_terminals(raw: bytes) -> None:
    text = clean(raw)
    json.dumps(text).encode("utf-8")
    text.encode("utf-8")
    assert not {char for char in text if char < " "} - {"\n", "\t"}
    assert "\x1b" not in text
    assert "\u202e" not in text


@pytest.mark.parametrize(
    ("raw", "seen"),
    [
        (b"\x1b[31mred\x1b[0m", "red"),
        (b"\x1b]0;title\x07after", "after"),
        (b"10%\r20%\r30%\n", "30%\n"),
        (b"bar 99%\r\r\n", "bar 99%\n"),
        (b"a\r\nb", "a\nb"),
        (b"caf\xe9", "caf\ufffd"),
        ("right\u202eleft".encode(), "right\ufffdleft"),
        (b"bell\x07", "bell\ufffd"),
    ],
)
def test_what_a_terminal_would_show(raw: bytes, seen: str) -> None:
    assert clean(raw) == seen


@given(st.text(max_size=400))
def test_shown_is_one_bounded_line(text: str) -> None:
    line = shown(text, 50)
    assert len(line) <= 50
    assert "\n" not in line
    line.encode("utf-8")


def test_names_that_are_not_utf8_are_shown_by_their_bytes() -> None:
    assert shown_name("caf\udce9.txt") == "caf\\xe9.txt"


@given(st.text(min_size=1, max_size=50), st.integers(0, 200))
def test_a_cut_character_is_left_out(text: str, at: int) -> None:
    raw = text.encode("utf-8", "surrogatepass")[: at or None]
    raw.decode("utf-8", "surrogatepass") if at == 0 else None
    if not any("\ud800" <= char <= "\udfff" for char in text):
        without_cut_character(raw).decode("utf-8")


def _samples() -> list[str]:
    rng = random.Random(1)
    numbers = "\n".join(
        " ".join(f"{rng.uniform(-9e3, 9e3):.6f}" for _ in range(6)) for _ in "x" * 40
    )
    encoded = base64.b64encode(rng.randbytes(2000)).decode()
    words = "The potential energy of the system converged after several hundred iterations. " * 20
    return [numbers, encoded, rng.randbytes(900).hex(), words, "é漢字☃" * 100, "#=*- " * 200]


@pytest.mark.parametrize("text", _samples(), ids=lambda text: text[:8])
def test_the_estimate_of_tokens_is_not_too_low(text: str) -> None:
    assert token_estimate(text) >= 0.95 * count_tokens(text)
    assert token_estimate(text) >= 0.95 * count_tokens(json.dumps(text, ensure_ascii=False))
