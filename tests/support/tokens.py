"""What a text costs a model, counted by a real tokeniser (cl100k)."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # its way of reading its own data
    import bpe_openai

    _ENCODING = bpe_openai.get_encoding("cl100k_base")


def count_tokens(text: str) -> int:
    return len(_ENCODING.encode(text))
