"""From a wish to the exact thing to run: everything that can be refused is refused here."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import secrets
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs import __version__, clock
from jobs.directory import describe_input
from jobs.disk import check_room
from jobs.environment import check_size, find_executable, job_env, named_environment
from jobs.errors import (
    DirectoryUnusableError,
    InputUnusableError,
    InvalidArgumentError,
    ResourcesUnavailableError,
)
from jobs.files import check_relative
from jobs.limits import Bounds
from jobs.manifests import Manifest, Manifests, Stop, check_software
from jobs.model import (
    DEFAULT_PROJECT,
    InputFile,
    LaunchManifest,
    LaunchRequest,
    Resources,
)
from jobs.paths import PROJECT
from jobs.patterns import check_glob
from jobs.rules import OutputRule
from jobs.secrets import MASK, is_secret
from jobs.settings import Settings

log = logging.getLogger(__name__)

_BASE32 = "abcdefghijklmnopqrstuvwxyz234567"


@dataclass(frozen=True)
class Launch:
    """A launch that can be carried out; nothing has been written yet."""

    manifest: LaunchManifest
    secrets: dict[str, str]
    copies: list[Path]  #: files to copy into inputs/


def resolve(
    request: LaunchRequest, settings: Settings, manifests: Manifests, *, client: str | None
) -> Launch:
    """Check everything and work out what exactly is to run. Blocks to hash input files.

    Raises a JobError that says what is wrong and what to do.
    """
    asked = request.model_dump()
    check_text("the request", asked)
    check_room(settings)
    if (request.manifest is None) == (request.command is None):
        raise InvalidArgumentError("Exactly one of manifest and command must be given.")
    kind = manifests.get(request.manifest) if request.manifest is not None else None
    if kind is None and request.params:
        raise InvalidArgumentError("params go with a manifest, not with a command.")
    project = request.project or DEFAULT_PROJECT
    if not PROJECT.fullmatch(project):
        raise InvalidArgumentError(
            f"The project {project[:80]!r} is no name of up to 64 letters, digits, '.', '_', '-'."
        )
    name = request.name or (kind.name if kind else Path((request.command or [""])[0]).name) or "job"
    created_at = clock.now()
    job_id = new_job_id(name, created_at)
    job_root = settings.state.job(project, job_id).root
    cwd = _check_cwd(request.cwd) if request.cwd is not None else str(job_root / "work")
    resources = _resources(request, kind, settings)
    environment_name, environment = named_environment(request, kind, settings)

    python = sys.executable
    if environment is not None:
        python = environment.python or ("python" if environment.activate else python)
    params: dict[str, Any] = {}
    referenced: list[InputFile] = []
    if kind is not None:
        if python == sys.executable:
            check_software(kind)
        params = kind.resolve_params(request.params)
        for param, path in kind.file_params(params).items():
            found = _check_input(path, f"The parameter {param!r} of {kind.name}")
            params[param] = str(found)
            referenced.append(describe_input(found))
        command = kind.command(
            params, python=python, job_dir=str(job_root), cores=str(resources.cores)
        )
    else:
        command = list(request.command or [])
    if not command or not command[0]:
        raise InvalidArgumentError("command is empty; it needs at least the program to run.")

    env = job_env(request, kind, environment, settings, resources)
    env |= {"OUTLAST_JOB_ID": job_id, "OUTLAST_JOB_DIR": str(job_root)}
    if environment is not None and environment.activate:
        command = ["bash", "-c", environment.activate + '\nexec "$@"', "outlast", *command]
    executable = find_executable(command[0], env["PATH"], cwd if request.cwd else None)
    check_size(command, env)

    hidden = sorted(name for name in env if is_secret(name))
    default_limit = float(kind.file.resources.time_limit_s) if kind else 0.0
    stop = kind.file.stop if kind else Stop()
    manifest = LaunchManifest(
        schema=1,
        job_id=job_id,
        name=name,
        project=project,
        created_at=created_at,
        manifest=kind.name if kind else None,
        manifest_sha256=kind.sha256 if kind else None,
        params=params,
        command=command,
        executable=executable,
        cwd=cwd,
        env={name: MASK if name in hidden else value for name, value in env.items()},
        secret_env=hidden,
        environment=environment_name,
        inputs=referenced,
        outputs=[*(kind.file.output if kind else []), *_outputs(request.outputs)],
        rules=kind.rules_for(params) if kind else {},
        resources=resources,
        bounds=Bounds(
            processes=settings.max_processes,
            memory_mb=resources.memory_mb or settings.memory_mb,
            process_memory_mb=request.resources.memory_mb or 0,
        ),
        time_limit_s=default_limit if request.time_limit_s is None else request.time_limit_s,
        grace_s=settings.grace_s if stop.grace_s is None else stop.grace_s,
        stop_signal=stop.signal,
        stop_file=stop.file,
        resume=kind.file.resume if kind else None,
        software=kind.file.software if kind else None,
        idempotency_key=request.idempotency_key,
        request_sha256=digest(asked),
        client=client,
        host=socket.gethostname(),
        outlast_version=__version__,
    )
    return Launch(manifest, {name: env[name] for name in hidden}, _copies(request, settings))


def new_job_id(name: str, at: float) -> str:
    """`job-20261122-143022-villin-fold-k3f9x`: when, what, and 25 random bits."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].strip("-") or "job"
    when = time.strftime("%Y%m%d-%H%M%S", time.gmtime(at))
    bits = secrets.randbits(25)
    random = "".join(_BASE32[bits >> 5 * place & 31] for place in range(5))
    return f"job-{when}-{slug}-{random}"


def digest(asked: dict[str, Any]) -> str:
    """The same for a repeated request, whatever its idempotency key."""
    content = {name: value for name, value in asked.items() if name != "idempotency_key"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def check_text(what: str, value: Any) -> None:
    """Refuse text that neither a process nor JSON can carry, anywhere within `value`."""
    if isinstance(value, str):
        if "\0" in value or any("\ud800" <= char <= "\udfff" for char in value):
            raise InvalidArgumentError(
                f"A text in {what} holds a NUL character or half of a surrogate pair."
            )
    elif isinstance(value, dict):
        for key, item in value.items():
            check_text(what, key)
            check_text(str(key), item)
    elif isinstance(value, list):
        for item in value:
            check_text(what, item)


def _resources(request: LaunchRequest, kind: Manifest | None, settings: Settings) -> Resources:
    defaults = kind.file.resources.model_dump(exclude={"time_limit_s"}) if kind else {}
    wishes = request.resources.model_dump(exclude_none=True)
    resources = Resources(**{**defaults, **wishes})
    for unit in ("cores", "memory_mb", "gpus"):
        asked, there = getattr(resources, unit), getattr(settings, unit)
        if asked > there:
            raise ResourcesUnavailableError(
                f"The job asks for {unit}={asked}, but there are {there}."
            )
    return resources


def _check_cwd(cwd: str) -> str:
    path = Path(os.path.expanduser(cwd))
    if not path.is_absolute():
        raise DirectoryUnusableError(f"cwd {cwd[:200]!r} is not an absolute path.")
    try:
        path = path.resolve(strict=True)
        os.scandir(path).close()
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DirectoryUnusableError(f"cwd {cwd[:200]!r} cannot be used: {reason}.") from None
    if not os.access(path, os.X_OK | os.R_OK):
        raise DirectoryUnusableError(f"cwd {cwd[:200]!r} cannot be entered.")
    if any("\ud800" <= char <= "\udfff" for char in str(path)):
        raise DirectoryUnusableError(f"cwd {cwd[:200]!r} leads to a name that is not UTF-8.")
    return str(path)


def _check_input(path: str, what: str) -> Path:
    """The file, absolute. A name that is no text for the file system cannot exist either."""
    full = Path(os.path.expanduser(path))
    if not full.is_absolute():
        raise InputUnusableError(f"{what} must be an absolute path, not {path[:200]!r}.")
    if not os.path.isfile(full):  # unlike Path.is_file it takes a name of any length
        raise InputUnusableError(f"{what} names no regular file: {path[:200]!r}.")
    if not os.access(full, os.R_OK):
        raise InputUnusableError(f"{what} cannot be read: {path[:200]!r}.")
    return full


def _copies(request: LaunchRequest, settings: Settings) -> list[Path]:
    copies = [_check_input(path, "An input") for path in request.inputs]
    names = [path.name for path in copies]
    for name in names:
        if names.count(name) > 1:
            raise InputUnusableError(
                f"Two inputs are named {name!r}.", "Rename one: inputs share one folder."
            )
    total = sum(path.stat().st_size for path in copies)
    if total > settings.copy_limit_mb << 20:
        raise InputUnusableError(
            f"The inputs hold {total >> 20} MB; at most {settings.copy_limit_mb} MB are copied.",
            "Name large files by absolute path in the command instead; they are read in place.",
        )
    return copies


def _outputs(patterns: list[str]) -> list[OutputRule]:
    for pattern in patterns:
        check_relative(pattern)
        check_glob("An output", pattern)
    return [OutputRule(path=pattern, required=True) for pattern in patterns]
