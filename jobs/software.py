"""Which version of a program a job ran, as the program itself tells it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import tempfile
from functools import lru_cache

from jobs.directory import glimpse
from jobs.model import LaunchManifest
from jobs.paths import JobDir
from jobs.secrets import MASK
from jobs.text import clean, shown

VERSION_S = 20.0  #: a program that takes longer to tell its version is not waited for
_OUTPUT_BYTES = 64 * 1024


def software_version(job_dir: JobDir) -> str | None:
    """Asked once for each state of an executable; none when it cannot be told. Blocks.

    It is asked when the job has ended: where the program was replaced while the job ran, that is
    the version of the new one.
    """
    launched = glimpse(job_dir.launch_manifest, LaunchManifest)
    about = launched.software if launched else None
    if launched is None or about is None or not about.version_command:
        return None
    env = {
        name: value
        for name, value in launched.env.items()
        if value != MASK and not name.startswith("OUTLAST_JOB_")
    }
    try:
        changed = os.stat(launched.executable).st_mtime_ns
    except OSError:
        changed = 0
    return _ask(tuple(about.version_command), about.version_regex, tuple(env.items()), changed)


@lru_cache(maxsize=64)
def _ask(
    command: tuple[str, ...], regex: str | None, env: tuple[tuple[str, str], ...], _changed: int
) -> str | None:
    with tempfile.TemporaryFile() as output:  # no pipe, which something left behind could hold open
        try:
            child = subprocess.Popen(
                command,
                env=dict(env),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except (OSError, ValueError):
            return None
        try:
            child.wait(VERSION_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(OSError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            return None
        output.seek(0)
        text = clean(output.read(_OUTPUT_BYTES))
    found = re.search(regex or r"\S.*", text, re.MULTILINE)
    if found is None:
        return None
    return shown((found[1] if found.re.groups else found[0]).strip(), 80) or None
