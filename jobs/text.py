"""Text from outside, made fit to be shown: to a terminal, to a model, in JSON."""

from __future__ import annotations

import re
from itertools import islice

_ESCAPES = re.compile(
    rb"\x1b(?:\[[0-?]*[ -/]*[@-~]"  # colours, cursor movements
    rb"|\][^\x07\x1b]*(?:\x07|\x1b\\)"  # titles, links
    rb"|[PX^_][^\x1b]*\x1b\\"  # device strings
    rb"|[@-Z\\-_])"
)
#: Control characters but tab and newline, C1 controls, zero-width, bidi, tag characters.
_UNFIT = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x80-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def clean(raw: bytes) -> str:
    """A log's bytes as a terminal would leave them: no escapes, a progress bar's last state only.

    Bytes that are not UTF-8 and characters that could deceive a reader become U+FFFD.
    """
    text = _ESCAPES.sub(b"", raw).decode("utf-8", "replace").replace("\r\n", "\n")
    if "\r" in text:
        text = "\n".join(_last_state(line) for line in text.split("\n"))
    return _UNFIT.sub("\ufffd", text)


def _last_state(line: str) -> str:
    return next((part for part in reversed(line.split("\r")) if part), "")


def shown(text: str, limit: int = 200) -> str:
    """One line of bounded length without deceiving characters, for names and messages."""
    text = _UNFIT.sub("\ufffd", text).replace("\n", "\\n").replace("\t", " ").replace("\r", "")
    return text if len(text) <= limit else text[: limit - 1] + "…"


_LINE = re.compile(rb"[^\n]*\n|[^\n]+")  # a carriage return ends none: a bar is one line
_PIECE = re.compile(r"\S{24,}|\d{1,3}|[A-Za-z]{1,4}|\s+|.", re.DOTALL)


def token_estimate(text: str) -> float:
    """About how many tokens a model pays for `text`, as it is or as JSON; rather too many."""
    return sum(_cost(piece) for piece in _PIECE.findall(text))


def _cost(piece: str) -> float:
    # A long piece is an encoding, a hash or a path: no words that a tokeniser knows.
    tokens = 0.75 * len(piece) if len(piece) >= 24 else 1.0
    if not piece.isascii():
        tokens += sum(
            2.3 if char > "\uffff" else 1.8 if char > "\u07ff" else 1.3
            for char in piece
            if char > "\x7f"
        )
    return tokens + 0.5 * sum(char in '"\\\n\t' for char in piece)  # JSON escapes these


def prefix_within(text: str, budget: float) -> str:
    """The longest beginning of `text` that costs no more tokens, to within one word."""
    for match in _PIECE.finditer(text):
        cost = _cost(match[0])
        if cost > budget:
            part = int(len(match[0]) * max(budget, 0) / cost)
            return text[: match.start() + part]
        budget -= cost
    return text


def first_lines_within(raw: bytes, budget: float, lines: int) -> bytes:
    """The first lines whose cleaned text costs no more; of one that is too long its beginning.

    At least a character, if there is any.
    """
    taken: list[bytes] = []
    for match in islice(_LINE.finditer(raw), lines):
        line = match[0]
        cost = token_estimate(clean(line))
        if cost > budget:
            if not taken:
                decoded = line.decode("utf-8", "surrogateescape")
                begin = prefix_within(decoded, budget) or decoded[:1]
                taken.append(begin.encode("utf-8", "surrogateescape"))
            break
        budget -= cost
        taken.append(line)
    return b"".join(taken)


def last_lines_within(text: str, budget: float) -> str:
    """The last lines that cost no more; of one that is too long its end."""
    lines = text.split("\n")
    first = len(lines)
    while first > 0:
        cost = token_estimate(lines[first - 1]) + 1
        if cost > budget:
            break
        budget -= cost
        first -= 1
    if first > 0 and not any(lines[first:]):
        return "\n".join([prefix_within(lines[first - 1][::-1], budget)[::-1], *lines[first:]])
    return "\n".join(lines[first:])


def size(count: float) -> str:
    """`812 B`, `1.2 kB`, `3.4 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def shown_name(name: str) -> str:
    """A file name as it came from the file system; bytes that are not UTF-8 become `\\xNN`."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def without_partial_character(raw: bytes) -> bytes:
    """`raw` without the continuation bytes of a character that was cut at its beginning."""
    start = 0
    while start < min(3, len(raw)) and raw[start] & 0xC0 == 0x80:
        start += 1
    return raw[start:]


def without_cut_character(raw: bytes) -> bytes:
    """`raw` without an incomplete character at its end."""
    for back in range(1, min(4, len(raw)) + 1):
        byte = raw[-back]
        if byte & 0xC0 == 0x80:
            continue
        length = {0b110: 2, 0b111: 3}.get(byte >> 5, 1) + (byte >> 4 == 0b1111)
        return raw[:-back] if length > back else raw
    return raw
