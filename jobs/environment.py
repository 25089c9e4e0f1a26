"""What a job's processes are given: PATH, variables, the executable; nothing leaks in."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

from jobs.errors import ExecutableNotFoundError, InvalidArgumentError, nearest
from jobs.manifests import Manifest
from jobs.model import MAX_ARGUMENT_BYTES, MAX_EXEC_BYTES, LaunchRequest, Resources
from jobs.settings import NamedEnvironment, Settings
from jobs.text import shown

#: What a job gets of the server's own environment; nothing else leaks in.
_BASE_ENV = ("HOME", "LANG", "LC_ALL", "LOGNAME", "SHELL", "TMPDIR", "TZ", "USER")
_STANDARD_PATH = ("/usr/local/bin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/sbin", "/sbin")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def find_executable(program: str, path: str, cwd: str | None) -> str:
    """The file that `program` names. Raises ExecutableNotFoundError."""
    if "/" not in program:
        # A relative folder would be the server's here, and the job's when the command starts.
        folders = [folder for folder in path.split(os.pathsep) if os.path.isabs(folder)]
        found = shutil.which(program, path=os.pathsep.join(folders))
        if found is None:
            raise ExecutableNotFoundError(
                f"There is no program {shown(program)!r} on the PATH that jobs get."
            )
        return found
    full = os.path.expanduser(program)
    if not os.path.isabs(full):
        if cwd is None:
            raise ExecutableNotFoundError(
                f"{shown(program)!r} is a relative path, but the job starts in an empty folder.",
                "Give an absolute path, or the cwd that it is relative to.",
            )
        full = os.path.join(cwd, full)
    if not os.path.isfile(full):
        raise ExecutableNotFoundError(f"There is no file {shown(full)!r} to execute.")
    if not os.access(full, os.X_OK):
        raise ExecutableNotFoundError(
            f"{shown(full)!r} is not executable.",
            "Run `chmod +x` on it, or put its interpreter first, as in ['python3', 'script.py'].",
        )
    return full


def job_path(settings: Settings, environment: NamedEnvironment | None = None) -> str:
    """The PATH of jobs: the configuration's folders, ours, the server's, the system's."""
    own = [str(Path(sys.executable).parent)]
    inherited = _inherited("PATH").get("PATH", "").split(os.pathsep)
    folders = [*(environment.path if environment else []), *settings.path]
    folders = [os.path.expanduser(folder) for folder in folders]
    return os.pathsep.join(
        dict.fromkeys(filter(None, [*folders, *own, *inherited, *_STANDARD_PATH]))
    )


def _inherited(*names: str) -> dict[str, str]:
    """Variables of the server's own; one that is no UTF-8 cannot stand in a job's record."""
    values = {name: os.environ[name] for name in names if name in os.environ}
    return {
        name: value.encode("utf-8", "surrogateescape").decode("utf-8", "ignore")
        for name, value in values.items()
    }


def job_env(
    request: LaunchRequest,
    kind: Manifest | None,
    environment: NamedEnvironment | None,
    settings: Settings,
    resources: Resources,
) -> dict[str, str]:
    """A small base, then what the environment, the manifest and the launch add, in this order."""
    for name in request.env:
        if not _ENV_NAME.fullmatch(name):
            raise InvalidArgumentError(
                f"{name[:80]!r} cannot be the name of an environment variable: "
                "letters, digits and '_', not beginning with a digit."
            )
    base = _inherited(*_BASE_ENV, *settings.pass_env)
    cores = str(resources.cores)
    return {
        "LANG": "C.UTF-8",
        **base,
        "PATH": job_path(settings, environment),
        "PYTHONUNBUFFERED": "1",  # else progress stays in a buffer
        "OMP_NUM_THREADS": cores,
        **(environment.env if environment else {}),
        **(kind.file.run.env if kind else {}),
        **request.env,
    }


def named_environment(
    request: LaunchRequest, kind: Manifest | None, settings: Settings
) -> tuple[str | None, NamedEnvironment | None]:
    """The named environment: the launch's, else the manifest's, else one that claims the kind."""
    name = request.environment or (kind.file.run.environment if kind else None)
    if name is None and kind is not None:
        claims = [key for key, env in settings.environments.items() if kind.name in env.manifests]
        name = claims[0] if claims else None
    if name is None:
        return None, None
    if name not in settings.environments:
        raise InvalidArgumentError(
            f"There is no environment {shown(name, 80)!r}.{nearest(name, settings.environments)}",
            "Use one from the configuration's [environments], or leave it out.",
        )
    return name, settings.environments[name]


def check_size(command: list[str], env: dict[str, str]) -> None:
    """What execve would refuse, refused in words."""
    lengths = [len(os.fsencode(part)) for part in command]
    if max(lengths) > MAX_ARGUMENT_BYTES:
        raise InvalidArgumentError(
            f"One argument has {max(lengths)} bytes; the system allows {MAX_ARGUMENT_BYTES}.",
            "Write the long text into a file and pass the file's path.",
        )
    variables = [len(os.fsencode(name + value)) + 2 for name, value in env.items()]
    if max(variables) > MAX_ARGUMENT_BYTES or sum(lengths) + sum(variables) > MAX_EXEC_BYTES:
        raise InvalidArgumentError(
            f"Arguments and environment have {sum(lengths) + sum(variables)} bytes; at most "
            f"{MAX_EXEC_BYTES} in all and {MAX_ARGUMENT_BYTES} in one are allowed.",
            "Write the long text into a file and pass the file's path.",
        )
