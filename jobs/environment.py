"""What a job's processes are given: PATH, variables, the executable; nothing leaks in."""

from __future__ import annotations

import os
import re
import shutil
import sys
from importlib import metadata

from jobs.errors import (
    ExecutableNotFoundError,
    InvalidArgumentError,
    SoftwareMissingError,
    nearest,
)
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
    own = [os.path.dirname(sys.executable)]
    inherited = _inherited("PATH").get("PATH", "").split(os.pathsep)
    folders = [*(environment.path if environment else []), *settings.path]
    folders = [os.path.expanduser(folder) for folder in folders]
    return os.pathsep.join(
        dict.fromkeys(filter(None, [*folders, *own, *inherited, *_STANDARD_PATH]))
    )


def _inherited(*names: str) -> dict[str, str]:
    """Variables of the server's own; one that is no UTF-8 cannot stand in a job's record."""
    values = {name: os.environ.get(name) for name in names}
    return {
        name: value.encode("utf-8", "surrogateescape").decode("utf-8", "ignore")
        for name, value in values.items()
        if value is not None
    }


def job_env(
    request: LaunchRequest,
    kind_env: dict[str, str],
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
        **kind_env,
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


def check_software(kind: Manifest, *, path: str | None, python: str) -> None:
    """Whether what a kind of job needs is there: its programs on the PATH that jobs get (None: it
    cannot be known), its Python distributions in our own environment, if that is what runs it."""
    about = kind.file.software
    if about is None:
        return
    missing = [
        name for name in about.programs if path is not None and not shutil.which(name, path=path)
    ]
    modules: dict[str, str] = {}
    for requirement in about.requires if python == sys.executable else []:
        there = _instead_of(requirement)
        if there is not None:
            modules[requirement] = there
    if not missing and not modules:
        return
    where = [f"{', '.join(missing)} on the PATH that jobs get"] if missing else []
    others = ", ".join(filter(None, modules.values()))
    has = f" (which has {others})" if others else ""
    where += [f"{', '.join(modules)} in {sys.executable}{has}"] if modules else []
    wanted = " ".join(f"'{requirement}'" for requirement in modules)
    how = [about.install] if missing and about.install else []
    how += [f"{sys.executable} -m pip install {wanted}"] if modules else []
    run = f"run: {'; '.join(how)}; or to " if how else ""
    raise SoftwareMissingError(
        f"{kind.name} needs {about.name}, and there is no {' and no '.join(where)}.",
        f"Ask the user to {run}name an environment that has it, with "
        f'manifests = ["{kind.name}"], in the configuration.',
    )


def _instead_of(requirement: str) -> str | None:
    """What our own Python has instead of a distribution that is required, perhaps nothing at all
    (an empty text); none when the requirement is met."""
    from packaging.requirements import Requirement  # takes time, which a server's start has not

    wanted = Requirement(requirement)
    if wanted.marker is not None and not wanted.marker.evaluate():
        return None
    there = _version(wanted.name)
    if there is None:
        return ""
    has = f"{wanted.name} {there}"
    if not wanted.specifier.contains(there, prereleases=True):
        return has
    lacks = []
    needs = metadata.requires(wanted.name) if wanted.extras else None
    for needed in map(Requirement, needs or []):
        marker = needed.marker
        if marker is None or marker.evaluate({"extra": ""}):
            continue  # it came with the distribution, whatever its extras are
        if not any(marker.evaluate({"extra": extra}) for extra in wanted.extras):
            continue
        version = _version(needed.name)
        if version is None or not needed.specifier.contains(version, prereleases=True):
            lacks.append(f"{needed.name}{needed.specifier}")
    return f"{has} without {', '.join(lacks)}" if lacks else None


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
