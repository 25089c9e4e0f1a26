"""Values that must not be read again: where they are kept while a job needs them."""

from __future__ import annotations

import json
import re

from jobs.model import LaunchManifest
from jobs.paths import JobDir

#: Names of environment variables whose values are taken for secrets.
_SECRET_NAME = re.compile(
    r"(?i)(token|secret|passw(or)?d|api_?key|credential|private_?key|auth|cookie|session)"
)
MASK = "***"


def is_secret(name: str) -> bool:
    return _SECRET_NAME.search(name) is not None


def with_secrets(launched: LaunchManifest, job_dir: JobDir) -> dict[str, str]:
    """The job's whole environment, secrets included."""
    env = dict(launched.env)
    if launched.secret_env:
        env |= json.loads(job_dir.secrets.read_text(encoding="utf-8"))
    return env
