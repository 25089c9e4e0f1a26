"""The batch script, as text: it does on a node what the shim does here, with bash and coreutils.

What Slurm gets (`batch_script`) only enters the job directory and becomes `slurm.sh` there
(`job_script`), so that one text serves all tasks of an array. The body is `slurm_job.sh`.

- `started` is on the disk before the command runs, `exit` after all that it left has ended.
- USR1: the time limit is near, if it is; else as TERM, since some sites send it for other reasons.
- TERM: it is to end; `cancel.json` tells whether that was our wish.
- Of what ended it, the record is the first witness, since a signal and the exit code that shells
  make of it are told apart here only.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from jobs.model import LaunchManifest
from jobs.paths import JobDir

NOT_ON_NODE = 97  #: exit code: the job directory cannot be entered on the node
RAN_BEFORE = 98  #: exit code: it ran already, or another submission of it runs

SHORT_S = 600.0  #: of a shorter time limit the minutes in which Slurm counts are too coarse
EARLY_S = 60.0  #: so much earlier than asked for Slurm may send its signal
LONGEST_WARNING_S = 300.0  #: where the limit is not known, and may be as short as the grace period
NEAR_S = 30.0  #: by so much the clocks, and the beginnings, of Slurm and of the script may differ

_BODY = Path(__file__).with_name("slurm_job.sh")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: Bash lets nobody set them.
_BASHES_OWN = {"BASHOPTS", "BASHPID", "EUID", "PPID", "SHELLOPTS", "UID"}
#: The nodes' own is right there, unless the launch itself has named another.
_PLACES = {"TMPDIR"}


def batch_script(job_dirs: Sequence[JobDir]) -> str:
    """For sbatch: of one job, or with as many tasks as there are directories, counted from 0."""
    folders = "\n".join(f"  {shlex.quote(str(job_dir.root))}" for job_dir in job_dirs)
    return f"""#!/bin/bash
folders=(
{folders}
)
folder=${{folders[${{SLURM_ARRAY_TASK_ID:-0}}]}}
cd -- "$folder" || {{
  echo "the job directory cannot be entered on the node $SLURMD_NODENAME" >&2
  exit {NOT_ON_NODE}
}}
exec "$BASH" slurm.sh # the same process, which Slurm signals
"""


def job_script(
    launched: LaunchManifest,
    job_dir: JobDir,
    *,
    attempt: int,
    setup: Sequence[str] = (),
    again: Sequence[str] | None = None,
) -> str:
    """For the job directory. `setup` is shell code that makes the environment (`module load x`).

    `again` is the command for when Slurm begins the job anew, as after the failure of a node, and
    its checkpoint is there; with none it refuses to run a second time.
    """
    env = {
        name: value
        for name, value in launched.env.items()
        if name not in launched.secret_env and _can_export(name, launched)
    }
    runs_again = again is not None
    setting = {
        "cwd": launched.cwd,
        "executable": launched.executable,
        "stop_signal": launched.stop_signal,
        "stop_file": launched.stop_file or "",
        "checkpoint": _pattern(launched.resume.checkpoint) if launched.resume else "",
        "mark": f"OUTLAST_JOB_DIR={job_dir.root}",
    }
    lines = [f"{name}={shlex.quote(value)}" for name, value in setting.items()]
    lines += [
        f"grace={_hundredths(launched.grace_s)} # hundredths of a second, as all times here",
        f"time_limit={_hundredths(launched.time_limit_s)} # 0: none",
        f"slurm_limit={_hundredths(slurm_limit_s(launched) or 0)} # 0: what Slurm gives by default",
        f"near_end={_hundredths(warning_s(launched) + EARLY_S + NEAR_S)}",
        f"attempt={attempt}",
        f"runs_again={'yes' if runs_again else 'no'}",
        f"ran_before={RAN_BEFORE}",
        f"command=({shlex.join(launched.command)})",
        f"command_again=({shlex.join(again or [])})",
        "environment() {",
        "  {",
        f"    unset -v {' '.join(['LC_ALL', *env])}",  # one may be a list of the script's
        *(f"    export {name}={shlex.quote(value)}" for name, value in env.items()),
        "  } 2>/dev/null # a locale that is not on the node",
        *(f"  eval {shlex.quote(line)} || cannot {shlex.quote(line)}" for line in setup),
        "}",
    ]
    body = _BODY.read_text(encoding="utf-8").partition("\n# ---\n")[2]
    return "\n".join(["#!/bin/bash", f"# {launched.job_id}", *lines, body])


def warning_s(launched: LaunchManifest) -> int:
    """How long before its limit Slurm is to tell a job that its end is near."""
    wanted_s = launched.grace_s + 30
    return math.ceil(wanted_s if launched.time_limit_s else min(wanted_s, LONGEST_WARNING_S))


def slurm_limit_s(launched: LaunchManifest) -> int | None:
    """The time that Slurm is asked for, in whole minutes; none: what it gives by default.

    The script itself ends a job of a short limit to the second, and needs the time to do so; that
    is also short of which the warning would take more than a quarter.
    """
    limit_s = launched.time_limit_s
    if not limit_s:
        return None
    spare_s = warning_s(launched) + EARLY_S
    if limit_s >= max(SHORT_S, 4 * spare_s):
        spare_s = 0
    return math.ceil((limit_s + spare_s) / 60) * 60


def secrets_file(secrets: dict[str, str]) -> bytes:
    """What `slurm.secrets` holds: variables whose values stand in no script."""
    return b"".join(
        f"{name}={value}".encode("utf-8", "surrogateescape") + b"\0"
        for name, value in secrets.items()
        if _NAME.fullmatch(name)
    )


def _pattern(glob: str) -> str:
    """The same for `[[ path == $pattern ]]`, to which these characters mean more."""
    return re.sub(r"[\\()|]", r"\\\g<0>", glob)


def _can_export(name: str, launched: LaunchManifest) -> bool:
    if name in _PLACES and name not in launched.given_env:
        return False
    return _NAME.fullmatch(name) is not None and name not in _BASHES_OWN


def _hundredths(seconds: float) -> int:
    return round(seconds * 100)
