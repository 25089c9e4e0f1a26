"""Names that nobody else has: IDs of jobs and sweeps, digests of requests."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import time
from typing import Any

_BASE32 = "abcdefghijklmnopqrstuvwxyz234567"


def new_id(prefix: str, name: str, at: float, suffix: str | None = None) -> str:
    """`job-20261122-143022-villin-fold-k3f9x`: when, what, and 25 random bits."""
    room = 40 - len(f"-{suffix}") if suffix else 40
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:room].strip("-") or "job"
    when = time.strftime("%Y%m%d-%H%M%S", time.gmtime(at))
    bits = secrets.randbits(25)
    random = "".join(_BASE32[bits >> 5 * place & 31] for place in range(5))
    return "-".join([prefix, when, slug, *([suffix] if suffix else []), random])


def digest(asked: dict[str, Any]) -> str:
    """The same for a repeated request, whatever its idempotency key."""
    content = {name: value for name, value in asked.items() if name != "idempotency_key"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
