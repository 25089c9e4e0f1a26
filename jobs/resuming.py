"""Going on from where an earlier job has stopped: as a new job, from its checkpoint."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.artifacts import Walk
from jobs.directory import Placement, read_launch_manifest
from jobs.errors import InvalidArgumentError, NotResumableError
from jobs.files import open_own
from jobs.manifest_faults import PLACEHOLDER
from jobs.manifests import Manifest
from jobs.model import Job, LaunchManifest, LaunchRequest, ResourceWishes
from jobs.paths import JobDir
from jobs.rules import Resume


@dataclass(frozen=True)
class Parent:
    """The job that another one goes on from."""

    job_id: str
    launched: LaunchManifest
    job_dir: JobDir

    @property
    def is_at_home(self) -> bool:
        """Whether it ran in a folder of its own, so that the next one gets one, too."""
        return Path(self.launched.cwd) == self.job_dir.work


def parent_of(job: Job, job_dir: JobDir) -> Parent:
    """Raises NotResumableError for a job that has not ended or that no launch can go on from."""
    if not job.is_final:
        raise NotResumableError(
            f"{job.id} has not ended: it is {job.state}.",
            "Wait for its end, or end it with cancel_job, which keeps a checkpoint where the "
            "program can write one.",
        )
    try:
        launched = read_launch_manifest(job_dir)
    except (OSError, ValueError):
        raise NotResumableError(f"The job directory of {job.id} cannot be read.") from None
    if launched.manifest is None:
        raise NotResumableError(
            f"{job.id} was launched as a command, and only its author knows how it goes on.",
            "Launch a command that continues, with cwd set to the folder that holds its files: "
            f"{launched.cwd}.",
        )
    return Parent(job.id, launched, job_dir)


def as_before(request: LaunchRequest, parent: Parent) -> LaunchRequest:
    """The request, with what it leaves out as it was in the parent, but for the parameters and the
    resources, which only the kind of job knows to fill in."""
    was = parent.launched
    if request.manifest not in (None, was.manifest):
        raise InvalidArgumentError(
            f"resume_from goes on with the parent's manifest, {was.manifest}; leave manifest out."
        )
    if request.command is not None or request.cwd is not None or request.sweep is not None:
        raise InvalidArgumentError("command, cwd and sweep do not go with resume_from.")
    secret = [name for name in was.given_env if name in was.secret_env and name not in request.env]
    if secret:
        raise InvalidArgumentError(
            f"The parent was given the secret {', '.join(secret)}, which is not kept.",
            "Give it again in env; nothing was changed.",
        )
    env = {name: was.env[name] for name in was.given_env if name not in was.secret_env}
    # A project's own kind of job may have the name of another one; a shipped file may have moved.
    file = was.manifest_file
    manifest = file if file is not None and Path(file).is_file() else was.manifest
    return request.model_copy(
        update={
            "manifest": manifest,
            "name": request.name or was.name,
            "project": request.project or was.project,
            "cwd": None if parent.is_at_home else was.cwd,
            "env": env | request.env,
            "environment": request.environment or was.environment,
            "engine": _engine_as_before(request, was),
            "outputs": request.outputs or was.given_outputs,
        }
    )


def resources_as_before(request: LaunchRequest, parent: Parent, kind: Manifest) -> LaunchRequest:
    """The request of `as_before`, with the parent's resources and time limit where it names none.

    What the manifest takes from a parameter that is given now comes from there again.
    """
    was = parent.launched
    wishes: dict[str, Any] = {**was.resources.model_dump(), "time_limit_s": was.time_limit_s}
    for unit, text in kind.file.resources:
        if request.params.keys() & PLACEHOLDER.findall(str(text)):
            del wishes[unit]
    if was.batch is not None and (request.engine or "").partition(":")[0] == was.engine:
        wishes |= was.batch.model_dump(include={"nodes", "tasks"})
    limit = wishes.pop("time_limit_s", None)
    wishes |= request.resources.model_dump(exclude_none=True)
    return request.model_copy(
        update={
            "resources": ResourceWishes(**wishes),
            "time_limit_s": limit if request.time_limit_s is None else request.time_limit_s,
        }
    )


def _engine_as_before(request: LaunchRequest, was: LaunchManifest) -> str:
    """The engine with its profile, unless it is to go on somewhere else."""
    profile = f":{was.batch.profile}" if was.batch and was.batch.profile else ""
    return request.engine or f"{was.engine}{profile}"


def params_as_before(kind: Manifest, parent: Parent, given: Collection[str]) -> dict[str, Any]:
    """The parent's parameters as they would be given: texts that were saved are texts again.

    What the manifest does not know any more, and files that are gone, are left to its defaults;
    what is `given` now, or another of its group in one_of, is left out.
    """
    params: dict[str, Any] = {}
    replaced = {*given}.union(*(group for group in kind.file.one_of if {*group} & {*given}))
    for name, value in parent.launched.params.items():
        table = kind.file.params.get(name)
        if table is None or name in replaced:
            continue
        if table.get("save_as"):
            try:
                with open_own(Path(value)) as file:
                    value = file.read().decode("utf-8")
            except (OSError, ValueError):
                raise NotResumableError(
                    f"The {name} of {parent.job_id} is gone from its job directory."
                ) from None
        elif (
            table.get("format") == "file-path" and "default" in table and not Path(value).is_file()
        ):
            continue
        params[name] = value
    return params


def carried(
    kind: Manifest, parent: Parent, resume: Resume | None, given: list[Placement]
) -> list[Placement]:
    """The parent's files that the new job begins with. Blocks.

    Raises NotResumableError when the kind of job cannot go on, or left no checkpoint;
    InvalidArgumentError when a file given now would lie in the place of one of them.
    """
    if resume is None:
        raise NotResumableError(
            f"A job of the kind {kind.name} cannot go on from where it stopped.",
            "Launch it anew.",
        )
    root = Path(parent.launched.cwd)
    files = [found.path for found in Walk(root).files()]
    if not any(_matches(path, [resume.checkpoint]) for path in files):
        raise NotResumableError(
            f"{parent.job_id} left no checkpoint: nothing matches {resume.checkpoint!r}.",
            "Launch it anew.",
        )
    if not parent.is_at_home:
        return []  # it goes on in the same folder
    seen = {Path(item.target).name for item in given if item.seen_in_work}
    placements = []
    for path in files:
        linked = _matches(path, resume.link)
        if not linked and not _matches(path, [resume.checkpoint, *resume.carry]):
            continue
        if path in seen:
            raise InvalidArgumentError(
                f"inputs holds a {path!r}, and the job goes on with the one that {parent.job_id} "
                "left.",
                "Leave it out, or give it another name; nothing was changed.",
            )
        placements.append(
            Placement(root / path, f"work/{path}", way="link" if linked else "copy", root=root)
        )
    return placements


def inputs_as_before(parent: Parent, placed: list[Placement]) -> list[Placement]:
    """The files that the parent's launch was given, as it was given them, but for those whose
    place is taken by what is `placed` now. Raises NotResumableError when one is gone.
    """
    root, taken = parent.job_dir.root, {item.target for item in placed}
    placements = []
    for kept in parent.launched.given_inputs:
        if kept in taken:
            continue
        name = Path(kept).name
        if not (root / kept).is_file():
            raise NotResumableError(
                f"The input {name} of {parent.job_id} is gone from its job directory.",
                "Give a file of this name in inputs again; nothing was changed.",
            )
        # Where the parent has put a file of its own in the place of the link, that is carried.
        seen = f"work/{name}" not in taken
        placements.append(Placement(root / kept, kept, seen_in_work=seen, root=root))
    return placements


def is_resumable(launched: LaunchManifest) -> bool | None:
    """Whether a later job can go on from a checkpoint; none when this kind never can. Blocks."""
    if launched.resume is None:
        return None
    files = Walk(Path(launched.cwd)).files()
    return any(_matches(file.path, [launched.resume.checkpoint]) for file in files)


def _matches(path: str, globs: list[str]) -> bool:
    return any(fnmatch.fnmatchcase(path, glob) for glob in globs)
