"""Where a job is to run, and what its scheduler is told: from a launch and the configuration."""

from __future__ import annotations

import os
import re
import shutil
from typing import NamedTuple

from jobs.batch import BatchWishes
from jobs.errors import ExecutableNotFoundError, InvalidArgumentError, nearest
from jobs.model import LaunchRequest
from jobs.settings import Settings, SlurmProfile
from jobs.text import shown

LOCAL = "local"  #: the engine whose jobs hold cores, memory and GPUs of this machine
SLURM = "slurm"


def chosen_engine(
    request: LaunchRequest, settings: Settings
) -> tuple[str, str | None, SlurmProfile | None]:
    """The engine's name, and of one with profiles the name of the profile and what it says.

    Raises InvalidArgumentError.
    """
    asked = request.engine or settings.engines.default
    engine, colon, name = asked.partition(":")
    if engine not in (LOCAL, SLURM) or (engine == LOCAL and colon):
        raise InvalidArgumentError(
            f"There is no engine {shown(asked, 80)!r}.{nearest(engine, (LOCAL, SLURM))}",
            "Leave engine out, or use local, slurm, or slurm:PROFILE; nothing was changed.",
        )
    if engine == LOCAL:
        if request.resources.nodes or request.resources.tasks or request.engine_options:
            raise InvalidArgumentError(
                "nodes, tasks and engine_options go with a scheduler, not with this machine."
            )
        return LOCAL, None, None
    slurm = settings.engines.slurm
    profile = name or slurm.default_profile
    if profile is None:
        return SLURM, None, SlurmProfile()
    if profile not in slurm.profiles:
        raise InvalidArgumentError(
            f"There is no Slurm profile {shown(profile, 80)!r}.{nearest(profile, slurm.profiles)}",
            f"Use one of the configuration: {', '.join(slurm.profiles) or 'there is none yet'}.",
        )
    return SLURM, profile, slurm.profiles[profile]


#: Options of sbatch by which Outlast finds, runs or ends a job: no profile or launch may give them.
_OURS = (
    *("array", "chdir", "error", "help", "job-name", "no-requeue", "output", "parsable", "requeue"),
    *("signal", "test-only", "usage", "version", "wait", "wrap"),
)
#: The short ones, also behind others that have no value: `-HJx`.
_OURS_SHORT = re.compile(r"-[HIOQkmsv]*[aDehJoVWu]")


def _check_options(options: list[str]) -> None:
    """Raises InvalidArgumentError for one of ours, which sbatch takes shortened, too."""
    for option in options:
        name = option.removeprefix("--").partition("=")[0]
        long = option.startswith("--") and name and any(one.startswith(name) for one in _OURS)
        if long or _OURS_SHORT.match(option):
            raise InvalidArgumentError(
                f"The option {shown(option, 80)!r} of sbatch is Outlast's own to give.",
                "Leave it out of engine_options, and of `options` in the profile; name, time "
                "limit and stop of a job are arguments of the launch or of its manifest.",
            )


class Place(NamedTuple):
    """Where jobs can run, for whoever is to choose."""

    engine: str  #: as a launch names it
    about: str
    is_default: bool  #: where a launch that names none has its job run


def places(settings: Settings) -> list[Place]:
    """This machine and, if sbatch is here, the cluster with each profile of the configuration."""
    slurm = settings.engines.slurm
    found = [(LOCAL, "this machine")]
    if "PATH" in cluster_access(settings):
        if slurm.default_profile is None:
            found.append((SLURM, "the cluster as it comes"))
        for name, profile in slurm.profiles.items():
            about = f"partition {profile.partition}" if profile.partition else "the cluster"
            found.append((f"{SLURM}:{name}", profile.description or about))
    default: str = settings.engines.default
    if default == SLURM and slurm.default_profile is not None:
        default = f"{SLURM}:{slurm.default_profile}"
    return [Place(engine, shown(about, 150), engine == default) for engine, about in found]


def batch_wishes(
    request: LaunchRequest, settings: Settings, name: str | None, profile: SlurmProfile
) -> BatchWishes:
    """Raises InvalidArgumentError for options that the configuration does not allow, and
    ExecutableNotFoundError where no scheduler can be reached."""
    if request.engine_options and not settings.engines.slurm.allow_options:
        raise InvalidArgumentError(
            "The configuration does not allow options of sbatch.",
            "Use a profile, or ask the user to set allow_options = true in [engines.slurm].",
        )
    access = cluster_access(settings)
    if "PATH" not in access:
        raise ExecutableNotFoundError(
            "Slurm's commands are not on this machine: there is no sbatch in the PATH of this "
            "server, nor in the folders of `path` in the configuration.",
            "Leave engine out to run it on this machine; where there is a cluster, see `outlast "
            "doctor --engine slurm`.",
        )
    options = [*profile.options, *request.engine_options]
    _check_options(options)
    told = profile.model_dump(include={"partition", "account", "qos", "constraint", "reservation"})
    return BatchWishes(
        access=access,
        profile=name,
        nodes=request.resources.nodes or profile.nodes,
        tasks=request.resources.tasks or profile.tasks,
        modules=profile.modules,
        options=options,
        **told,
    )


def cluster_access(settings: Settings) -> dict[str, str]:
    """How this process reaches the cluster, as BatchWishes.access. Without PATH, it does not."""
    told = {name: os.environ.get(name, "") for name in ("SLURM_CONF", "SLURM_CLUSTERS")}
    folders = [*map(os.path.expanduser, settings.path), os.environ.get("PATH", os.defpath)]
    sbatch = shutil.which("sbatch", path=os.pathsep.join(folders))
    told["PATH"] = os.path.dirname(sbatch) if sbatch else ""
    return {name: value for name, value in told.items() if value}
