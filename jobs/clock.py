"""Time, host and process identity: the facts by which a process is recognised after a restart."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path


def now() -> float:
    """Seconds since the epoch, UTC. For display and ordering only; durations are monotonic."""
    return time.time()


def iso(epoch_s: float) -> str:
    """`2026-11-22T14:30:22Z`, for people and models."""
    return datetime.fromtimestamp(epoch_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def boot_id() -> str:
    """The kernel's random name for this boot, empty where there is none (macOS)."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def start_ticks(pid: int) -> str:
    """When `pid` started, in clock ticks since boot: with the boot id it tells a reused pid.

    Empty when there is no such process, or it is a zombie, or there is no /proc. Ticks and not
    psutil's create_time, because the latter moves when the wall clock is stepped.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return ""
    fields = stat[stat.rindex(b")") + 2 :].split()
    return "" if fields[0] in (b"Z", b"X") else fields[19].decode()
