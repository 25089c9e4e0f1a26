"""What Slurm is given of a job: a script in its directory, and options; and whether it has it."""

from __future__ import annotations

import contextlib
import json
import math
import shlex
from pathlib import Path

from jobs import clock
from jobs.batch import BatchRecord
from jobs.engines import slurm_commands
from jobs.engines.base import Submission
from jobs.engines.slurm_script import job_script, secrets_file, slurm_limit_s, warning_s
from jobs.files import write_durable, write_file
from jobs.model import LaunchManifest

#: `module`, of Environment Modules or of Lmod, is a function of login shells, which a script lacks.
#: Nothing else of theirs is read, which would change the job's PATH. Where there is none, `module
#: load` itself fails and says so.
_HAVE_MODULES = (
    "type module >/dev/null 2>&1 || for profile in /etc/profile.d/*mod*.sh; do "
    '[ ! -r "$profile" ] || . "$profile"; done; :'
)


def furnish(one: Submission, record: BatchRecord) -> None:
    """Write what the node will run, then that it is about to be submitted. Blocks."""
    launched, job_dir = one.launched, one.job_dir
    wishes = launched.batch
    modules = [f"module load {shlex.quote(module)}" for module in wishes.modules] if wishes else []
    if modules:
        modules.insert(0, _HAVE_MODULES)
    script = job_script(
        launched,
        job_dir,
        attempt=one.attempt,
        setup=modules,
        again=wishes.restart_command if wishes else None,
    )
    # Never into the files themselves: a submission before this one may run at this moment.
    new = job_dir.batch_script.with_name(f".{job_dir.batch_script.name}")
    write_file(new, script.encode("utf-8", "surrogateescape"), mode=0o700)
    new.replace(job_dir.batch_script)
    with contextlib.suppress(FileNotFoundError):
        secrets = secrets_file(json.loads(job_dir.secrets.read_bytes()))
        if not _holds(job_dir.batch_secrets, secrets):
            write_file(job_dir.batch_secrets, secrets)
    write_durable(job_dir.batch, (record.model_dump_json(exclude_defaults=True) + "\n").encode())


def _holds(path: Path, content: bytes) -> bool:
    try:
        return path.read_bytes() == content
    except FileNotFoundError:
        return False


def options_of(launched: LaunchManifest) -> list[str]:
    """Of sbatch, for one job."""
    wishes, held = launched.batch, launched.resources
    options = [
        f"--nodes={wishes.nodes if wishes else 1}",
        f"--ntasks={wishes.tasks if wishes else 1}",
        f"--cpus-per-task={held.cores}",
        f"--signal=B:USR1@{warning_s(launched)}",
        "--no-requeue" if wishes is None or wishes.restart_command is None else "--requeue",
    ]
    if held.memory_mb:
        options.append(f"--mem={held.memory_mb}M")
    if held.gpus:
        options.append(f"--gres=gpu:{held.gpus}")
    limit_s = slurm_limit_s(launched)
    if limit_s is not None:
        options.append(f"--time={limit_s // 60}")
    if wishes is None:
        return options
    for name in ("partition", "account", "qos", "constraint", "reservation"):
        value = getattr(wishes, name)
        if value is not None:
            options.append(f"--{name}={value}")
    return [*options, *wishes.options]


class Searches:
    """Looks for tokens. One serves all jobs of a sweep, and is not repeated at once."""

    def __init__(self, again_s: float) -> None:
        self._again_s = again_s
        self._found: dict[str, str] = {}
        self._missed_at: dict[str, float] = {}  #: by the wall clock
        self._no_account: dict[str, tuple[float, str]] = {}  #: when and why not all could be asked

    async def find(self, token: str, *, since: float) -> tuple[float, str | None]:
        """When it was looked for the token, and the ID of the job, or array, that has it, if one
        has. Raises slurm_commands.Unreachable."""
        missed_at = self._missed_at.get(token, -math.inf)
        failed_at, why = self._no_account.get(token, (-math.inf, ""))
        if token not in self._found and clock.now() - failed_at < self._again_s:
            raise slurm_commands.NoAccounting(why)
        if token not in self._found and clock.now() - missed_at >= self._again_s:
            missed_at = clock.now()
            await slurm_commands.ping()  # it fails at once, whereas the queue is tried for 18 s
            try:
                ids = await slurm_commands.find(token, since=since)
            except slurm_commands.NoAccounting as error:
                self._no_account[token] = missed_at, str(error)
                raise
            if ids:
                self._found[token] = ids[-1].partition("_")[0]
            else:
                self._missed_at[token] = missed_at
        return missed_at, self._found.get(token)
