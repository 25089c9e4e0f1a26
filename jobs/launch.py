"""From a wish to the exact thing to run: everything that can be refused is refused here."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from jobs import __version__, clock
from jobs.arguments import check_cwd, check_input, check_outputs, check_text
from jobs.batching import LOCAL, batch_wishes, chosen_engine
from jobs.directory import Placement, describe_input
from jobs.disk import check_copies, check_room
from jobs.environment import (
    check_size,
    check_software,
    find_executable,
    job_env,
    named_environment,
)
from jobs.errors import (
    InputUnusableError,
    InvalidArgumentError,
    InvalidParameterError,
    ResourcesUnavailableError,
)
from jobs.identity import digest, new_id
from jobs.limits import Bounds
from jobs.manifests import Manifest, Manifests
from jobs.model import (
    DEFAULT_PROJECT,
    InputFile,
    LaunchManifest,
    LaunchRequest,
    Resources,
    SweepPlace,
)
from jobs.paths import PROJECT
from jobs.resuming import (
    Parent,
    as_before,
    carried,
    inputs_as_before,
    params_as_before,
    resources_as_before,
)
from jobs.rules import Rules, Stop
from jobs.secrets import MASK, is_secret
from jobs.settings import Settings
from jobs.sweeps import points

_NO_RULES = Rules()


@dataclass(frozen=True)
class Launch:
    """A launch that can be carried out; nothing has been written yet."""

    manifest: LaunchManifest
    secrets: dict[str, str]
    placements: list[Placement]


FindParent = Callable[[str], Parent]  #: by the job's ID; raises a JobError


def resolve(
    request: LaunchRequest,
    settings: Settings,
    manifests: Manifests,
    *,
    client: str | None,
    find_parent: FindParent,
) -> list[Launch]:
    """Check everything and work out what exactly is to run: one launch, or those of a sweep.

    Blocks to hash input files. Raises a JobError that says what is wrong and what to do.
    """
    asked = request.model_dump(exclude_defaults=True)
    check_text("the request", asked)
    check_room(settings)
    parent = None
    if request.resume_from is not None:
        parent = find_parent(request.resume_from)
        request = as_before(request, parent)
    if (request.manifest is None) == (request.command is None):
        raise InvalidArgumentError("Exactly one of manifest and command must be given.")
    near = Path(os.path.expanduser(request.cwd)) if request.cwd is not None else None
    kind = manifests.get(request.manifest, near) if request.manifest is not None else None
    if parent is not None and kind is not None:
        request = resources_as_before(request, parent, kind)
    if kind is None and request.params:
        raise InvalidArgumentError("params go with a manifest, not with a command.")
    resolver = _Resolver(settings, kind, parent, client, digest(asked))
    if request.sweep is None:
        return [resolver.launch(request, None)]
    if kind is None:
        raise InvalidArgumentError("sweep goes with a manifest, whose parameters it changes.")
    rows = points(request.sweep)
    name = request.name or kind.name
    sweep_id = new_id("sweep", name, clock.now())
    launches = []
    for index, values in enumerate(rows):
        place = SweepPlace(id=sweep_id, index=index, size=len(rows), values=values)
        one: dict[str, Any] = {
            "name": f"{name[:90]} {index + 1}",
            "params": {**request.params, **values},
        }
        if index:
            one["idempotency_key"] = None  # the first job holds it for all
        launches.append(resolver.launch(request.model_copy(update=one), place))
    resolver.check_copies(launches)
    return launches


class _Resolver:
    """What all jobs of one launch have in common."""

    def __init__(
        self,
        settings: Settings,
        kind: Manifest | None,
        parent: Parent | None,
        client: str | None,
        request_sha256: str,
    ) -> None:
        self._settings = settings
        self._kind = kind
        self._parent = parent
        self._client = client
        self._request_sha256 = request_sha256
        self._described: dict[str, InputFile] = {}

    def launch(self, request: LaunchRequest, place: SweepPlace | None) -> Launch:
        settings, kind, parent = self._settings, self._kind, self._parent
        project = request.project or DEFAULT_PROJECT
        if not PROJECT.fullmatch(project):
            raise InvalidArgumentError(
                f"The project {project[:80]!r} is no name of up to 64 letters, digits, "
                "'.', '_', '-'."
            )
        program = Path((request.command or [""])[0]).name
        name = request.name or (kind.name if kind else program) or "job"
        created_at = clock.now()
        suffix = str(place.index + 1).zfill(len(str(place.size))) if place else None
        job_id = new_id("job", name.rsplit(" ", 1)[0] if place else name, created_at, suffix)
        job_root = settings.state.job(project, job_id).root
        engine, profile_name, profile = chosen_engine(request, settings)
        cwd = check_cwd(request.cwd) if request.cwd is not None else str(job_root / "work")
        environment_name, environment = named_environment(request, kind, settings)
        python = sys.executable
        if environment is not None:
            python = environment.python or ("python" if environment.activate else python)
        built_in = {"python": python, "job_dir": str(job_root)}

        params: dict[str, Any] = {}
        referenced: list[InputFile] = []
        placements: list[Placement] = []
        given = _inputs(request)
        if kind is not None:
            earlier = params_as_before(kind, parent, request.params) if parent else {}
            params = kind.resolve_params({**earlier, **request.params})
            referenced, placements = self._files(kind, params, job_root)
        if parent is not None and kind is not None:
            placements += carried(kind, parent, kind.resume_for(params), given)
            given += inputs_as_before(parent, [*given, *placements])
        defaults = kind.resources(params) if kind else {}
        resources = _resources(request, defaults, settings if engine == LOCAL else None)
        built_in["cores"] = str(resources.cores)
        if kind is not None:
            command = kind.command(params, resumes=parent is not None, **built_in)
        else:
            command = list(request.command or [])
        if not command or not command[0]:
            raise InvalidArgumentError("command is empty; it needs at least the program to run.")

        kind_env = kind.env(params, **built_in) if kind else {}
        env = job_env(request, kind_env, environment, settings, resources)
        env |= {"OUTLAST_JOB_ID": job_id, "OUTLAST_JOB_DIR": str(job_root)}
        activates = environment is not None and environment.activate is not None
        if kind is not None:
            known = engine == LOCAL and not activates
            check_software(kind, path=env["PATH"] if known else None, python=python)
        software = kind.software(**built_in) if kind else None
        before: list[str] = []  #: what has to happen before the command is run
        if environment is not None and environment.activate:
            before = ["bash", "-c", environment.activate + '\nexec "$@"', "outlast"]
            if software and software.version_command:
                asks = {"version_command": [*before, *software.version_command]}
                software = software.model_copy(update=asks)
        command = [*before, *command]
        executable = command[0]  # elsewhere there may be other programs than here
        if engine == LOCAL:
            executable = find_executable(command[0], env["PATH"], cwd if request.cwd else None)
        check_size(command, env)
        batch = None
        if profile is not None:
            batch = batch_wishes(request, settings, profile_name, profile)
            if kind is not None and kind.file.resume is not None:
                again = [*before, *kind.command(params, resumes=True, **built_in)]
                batch = batch.model_copy(update={"restart_command": again})

        hidden = sorted(name for name in env if is_secret(name))
        limit = float(defaults.get("time_limit_s", 0))
        if not limit and profile is not None and profile.time_limit_s:
            limit = profile.time_limit_s
        stop = kind.file.stop if kind else Stop()
        manifest = LaunchManifest(
            schema=1,
            job_id=job_id,
            name=name,
            project=project,
            engine=engine,
            created_at=created_at,
            manifest=kind.name if kind else None,
            manifest_file=str(kind.path) if kind else None,
            manifest_sha256=kind.sha256 if kind else None,
            params=params,
            command=command,
            executable=executable,
            cwd=cwd,
            env={name: MASK if name in hidden else value for name, value in env.items()},
            secret_env=hidden,
            given_env=sorted(request.env),
            environment=environment_name,
            inputs=referenced,
            given_inputs=[item.target for item in given],
            outputs=[*(kind.outputs_for(params) if kind else []), *check_outputs(request.outputs)],
            given_outputs=request.outputs,
            rules=kind.rules_for(params) if kind else _NO_RULES,
            resources=resources,
            bounds=Bounds(
                processes=settings.max_processes,
                memory_mb=resources.memory_mb or settings.memory_mb,
                process_memory_mb=request.resources.memory_mb or 0,
            ),
            time_limit_s=limit if request.time_limit_s is None else request.time_limit_s,
            grace_s=settings.grace_s if stop.grace_s is None else stop.grace_s,
            stop_signal=stop.signal,
            stop_file=kind.stop_file(params) if kind else None,
            resume=kind.resume_for(params) if kind else None,
            parent=parent.job_id if parent else None,
            sweep=place,
            batch=batch,
            software=software,
            cite=kind.file.cite if kind else [],
            idempotency_key=request.idempotency_key,
            request_sha256=self._request_sha256,
            client=self._client,
            host=socket.gethostname(),
            outlast_version=__version__,
        )
        launch = Launch(manifest, {name: env[name] for name in hidden}, [*given, *placements])
        if place is None:
            self.check_copies([launch])
        return launch

    def _files(
        self, kind: Manifest, params: dict[str, Any], job_root: Path
    ) -> tuple[list[InputFile], list[Placement]]:
        """What parameters name: files used where they lie, and what is kept in the job directory.

        Puts the paths that the command gets into `params`.
        """
        referenced: list[InputFile] = []
        placements: list[Placement] = []
        files = kind.file_params(params)
        for param, value in list(params.items()):
            table = kind.file.params[param]
            saved = table.get("save_as")
            way = table.get("input")
            if saved is not None:
                placement = Placement(str(value).encode(), f"inputs/{saved}")
            elif param not in files:
                continue
            else:
                found = check_input(files[param], f"The parameter {param!r} of {kind.name}")
                if way is None:
                    params[param] = str(found)
                    if str(found) not in self._described:
                        self._described[str(found)] = describe_input(found)
                    referenced.append(self._described[str(found)])
                    continue
                placement = Placement(found, f"inputs/{found.name}", way=way)
            if any(other.target == placement.target for other in placements):
                name = placement.target.removeprefix("inputs/")
                placement = replace(placement, target=f"inputs/{param}-{name}")
            params[param] = str(job_root / placement.target)
            placements.append(placement)
        return referenced, placements

    def check_copies(self, launches: list[Launch]) -> None:
        """Raises a JobError when the launch would copy too much, or two files to one place."""
        check_copies(self._settings, (item for launch in launches for item in launch.placements))
        for launch in launches:
            names = [item.target for item in launch.placements]
            for name in names:
                if names.count(name) > 1:
                    raise InputUnusableError(
                        f"Two inputs are named {Path(name).name!r}.",
                        "Rename one: inputs share one folder.",
                    )


def _resources(
    request: LaunchRequest, defaults: dict[str, float], settings: Settings | None
) -> Resources:
    """What the job holds; with the settings of this machine, refused if it can never be had."""
    wishes = request.resources.model_dump(exclude_none=True, exclude={"nodes", "tasks"})
    usual = {unit: value for unit, value in defaults.items() if unit != "time_limit_s"}
    try:
        resources = Resources(**{**usual, **wishes})
    except ValidationError as error:
        fault = error.errors()[0]
        raise InvalidParameterError(
            f"The parameters ask for {fault['loc'][0]}={fault['input']}: {fault['msg']}."
        ) from None
    for unit in ("cores", "memory_mb", "gpus") if settings else ():
        asked, there = getattr(resources, unit), getattr(settings, unit)
        if asked > there:
            raise ResourcesUnavailableError(
                f"The job asks for {unit}={asked}, but there are {there}."
            )
    return resources


def _inputs(request: LaunchRequest) -> list[Placement]:
    paths = [check_input(path, "An input") for path in request.inputs]
    return [Placement(path, f"inputs/{path.name}", seen_in_work=True) for path in paths]
