"""What works on this machine, what does not, and how to mend it."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import platform
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import psutil

from jobs import __version__, keeping
from jobs.directory import read_limits
from jobs.environment import check_software, job_path, named_environment
from jobs.errors import BrokenManifestError, JobError, SettingsError, SoftwareMissingError
from jobs.limits import Limits
from jobs.manifests import Manifests, load
from jobs.model import Job, LaunchRequest
from jobs.paths import Home
from jobs.settings import Settings, config_path, load_settings
from jobs.states import State
from jobs.text import size
from server.job_replies import headline
from server.wiring import open_service

if TYPE_CHECKING:
    from jobs.service import Service

#: The first SQLite without a rare fault when several processes checkpoint the write-ahead log.
GOOD_SQLITE = (3, 51, 3)
#: File systems whose locks and shared memory another machine does not see.
NETWORK_FILE_SYSTEMS = {
    "nfs", "nfs4", "cifs", "smb2", "smb3", "smbfs", "9p", "afs", "afpfs", "ceph", "lustre",
    "beegfs", "gpfs", "glusterfs", "fuse.glusterfs", "fuse.sshfs", "fuse.rclone", "webdav",
}  # fmt: skip
PR_GET_CHILD_SUBREAPER = 37  # linux/prctl.h


@dataclass(frozen=True)
class Check:
    name: str
    state: Literal["ok", "warn", "fail"]
    what: str
    mend: str = ""
    file: str = ""
    faults: list[dict[str, Any]] = field(default_factory=list)  #: line and text of each mistake

    def as_data(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if value}


async def all_checks() -> list[Check]:
    """Every check of this machine. Changes nothing but a temporary folder."""
    checks, settings = await ground_checks()
    if settings is None:
        return checks
    checks += [_path(settings), _slots(settings), *check_manifests(settings)]
    return [*checks, *await _trial_job()]


async def ground_checks(*, shared: bool = False) -> tuple[list[Check], Settings | None]:
    """What every engine stands on, with the settings unless they cannot be read. `shared` says
    that other machines have to see the state directory."""
    checks = [_python(), _sqlite(), *_platform()]
    try:
        settings = load_settings()
    except SettingsError as error:
        return [*checks, Check("configuration", "fail", error.cause, error.next_step)], None
    directory = _state_directory(settings, shared=shared)
    return [*checks, _config(), *directory, await _jobs_and_keeper(settings)], settings


def _python() -> Check:
    version = platform.python_version()
    return Check("Outlast", "ok", f"{__version__} on Python {version}, {sys.executable}")


def _sqlite() -> Check:
    version = sqlite3.sqlite_version
    if sqlite3.sqlite_version_info >= GOOD_SQLITE:
        return Check("SQLite", "ok", version)
    return Check(
        "SQLite",
        "warn",
        f"{version} can very rarely damage a database that several processes write; harmless "
        "here, because job directories are the truth and the index is only made from them",
        "Nothing has to be done; a Python with SQLite 3.51.3 or newer does not have the fault.",
    )


def _platform() -> Iterator[Check]:
    if not sys.platform.startswith("linux"):
        yield Check(
            "system",
            "warn",
            f"{platform.system()}: processes that leave their job's group may outlive a cancel",
            "Use Linux where this matters.",
        )
        return
    missing = []
    if not Path("/proc/self/stat").exists():
        missing.append("/proc")
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        missing.append("pidfd_open")
    answer = ctypes.c_int()
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is None or prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(answer), 0, 0, 0) != 0:
        missing.append("child subreaper")
    what = f"{platform.system()} {platform.release()}"
    if missing:
        yield Check(
            "system",
            "fail",
            f"{what} lacks {', '.join(missing)}",
            "Use Linux 5.3 or newer with /proc; in a container allow these system calls.",
        )
    else:
        yield Check("system", "ok", f"{what}: /proc, pidfd and child subreaper are there")


def _config() -> Check:
    path = config_path()
    if path.exists():
        return Check("configuration", "ok", f"{path} is valid")
    return Check("configuration", "ok", f"defaults; {path} is not there and need not be")


def _state_directory(settings: Settings, *, shared: bool) -> Iterator[Check]:
    home = settings.state
    try:
        home.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=home.root, prefix=".doctor-"):
            pass
        free = shutil.disk_usage(home.root).free
    except OSError as error:
        yield Check(
            "state directory",
            "fail",
            f"{home.root} cannot be written: {error.strerror}",
            "Free space, correct its permissions, or set OUTLAST_HOME to another folder.",
        )
        return
    kind = file_system(home.root)
    if kind in NETWORK_FILE_SYSTEMS and shared:
        yield Check(
            "state directory",
            "warn",
            f"{home.root} is on a network file system ({kind}), which nodes need, but on which "
            "the index is safe only while all servers run on one machine",
            "Always start servers on the same machine, as on the same login node.",
        )
    elif kind in NETWORK_FILE_SYSTEMS:
        yield Check(
            "state directory",
            "fail",
            f"{home.root} is on a network file system ({kind}), where SQLite's write-ahead log "
            "and file locks are not safe",
            "Set OUTLAST_HOME, or home in the configuration, to a folder on a local disk.",
        )
    elif free >> 20 < settings.disk_warn_mb:
        yield Check(
            "state directory",
            "warn",
            f"{home.root} has only {size(free)} free; below disk_refuse_mb = "
            f"{settings.disk_refuse_mb} no job is launched",
            "Free space; `outlast prune` shows what old jobs hold.",
        )
    else:
        yield Check("state directory", "ok", f"{home.root}, {size(free)} free ({kind or 'local'})")


def file_system(path: Path) -> str:
    """The type of the file system that holds `path`, empty when it cannot be told."""
    path = path.resolve()
    mounts = [
        mount for mount in psutil.disk_partitions(all=True) if path.is_relative_to(mount.mountpoint)
    ]
    # Of several mounts on one folder the last is the one that is seen.
    best = max(reversed(mounts), key=lambda mount: len(mount.mountpoint), default=None)
    return best.fstype if best else ""


async def _jobs_and_keeper(settings: Settings) -> Check:
    """Whether the index opens, what it counts, and whether the keeper that this needs is there."""
    try:
        async with open_service(settings) as service:
            active = (await service.list_jobs(limit=1)).active
    except JobError as error:
        return Check("keeper", "fail", error.cause, not_doctor(error))
    jobs = ", ".join(f"{count} {state}" for state, count in sorted(active.items()))
    info = keeping.keeper_info(settings.state)
    if info is not None:
        what = f"process {info.get('pid', '?')}, version {info.get('version', '?')}"
        return Check("keeper", "ok", f"runs: {what}; {jobs or 'no job is active'}")
    if active:
        return Check(
            "keeper",
            "warn",
            f"does not run, but there are jobs to keep: {jobs}",
            f"The next launch or cancel starts one; {settings.state.keeper_log} may say why "
            "it ended.",
        )
    return Check("keeper", "ok", "does not run and need not: no job is active")


def _path(settings: Settings) -> Check:
    folders = job_path(settings).split(os.pathsep)
    missing = [folder for folder in settings.path if not Path(folder).expanduser().is_dir()]
    if missing:
        return Check(
            "PATH of jobs",
            "warn",
            f"not there: {', '.join(missing)}; the others: {':'.join(folders)}",
            f"Correct `path` in {config_path()}.",
        )
    return Check("PATH of jobs", "ok", ":".join(folders))


def _slots(settings: Settings) -> Check:
    text = f"{settings.cores} cores, {settings.memory_mb} MB memory, {settings.gpus} GPUs"
    return Check("room for jobs", "ok", text)


def check_manifests(settings: Settings) -> list[Check]:
    """One check for each kind of job: is it valid, is its software there."""
    paths = Manifests(settings.all_manifest_dirs).paths()
    return [check_manifest(path, settings) for path in paths.values()]


def check_manifest(path: Path, settings: Settings) -> Check:
    label = f"manifest {path.stem}"
    try:
        kind = load(path)
        wish = LaunchRequest(manifest=kind.name)
        if named_environment(wish, kind, settings)[1] is None:
            check_software(kind, path=job_path(settings), python=sys.executable)
    except SoftwareMissingError as error:
        mend = error.next_step.replace("Ask the user to run", "Run")
        return Check(label, "warn", error.cause, mend, str(path))
    except BrokenManifestError as error:
        faults = [asdict(fault) for fault in error.faults]
        mend = "Correct the file; `outlast manifests check` names every mistake."
        return Check(label, "fail", error.cause, mend, str(path), faults)
    except JobError as error:
        return Check(label, "fail", error.cause, "Correct the file.", str(path))
    return Check(label, "ok", kind.file.title, file=str(path))


async def _trial_job() -> list[Check]:
    """Run `true` from launch to end, with a keeper and a state directory of its own."""
    with tempfile.TemporaryDirectory(
        prefix="outlast-doctor-", ignore_cleanup_errors=True
    ) as folder:
        home = Home(Path(folder))
        try:
            async with open_service(load_settings(home=home.root)) as service:
                job = await _run_true(service)
                held = read_limits(service.directory(job))
        except JobError as error:
            return [Check("trial job", "fail", error.cause, not_doctor(error))]
        finally:
            await end_keeper(home)
        if job.state is State.COMPLETED:
            done = Check("trial job", "ok", "`true` was launched, kept and completed")
            return [_limits(held or Limits()), done]
        said = ""
        with contextlib.suppress(OSError):
            log = home.keeper_log.read_text(encoding="utf-8", errors="replace").strip()
            said = log.rpartition("\n")[2]
        return [
            Check(
                "trial job",
                "fail",
                f"`true` is {headline(job)}: {job.outcome.reason or said or 'no reason is known'}",
                "Report this with the lines above.",
            )
        ]


def _limits(held: Limits) -> Check:
    """What a job is really held to here."""
    missing = []
    if held.processes is None and load_settings().max_processes:
        missing.append("the processes")
    if held.memory_mb is None:
        missing.append("the memory")
    if not missing:
        return Check("limits of a job", "ok", str(held))
    what = f"nothing here can limit {' and '.join(missing)} of a job; enforced: {held}"
    mend = "No cgroup can be made here; where there is systemd, start servers by "
    return Check("limits of a job", "warn", what, mend + "`systemd-run --user --scope COMMAND`.")


async def _run_true(service: Service) -> Job:
    launched = await service.launch(
        LaunchRequest(command=["true"], name="doctor"), client="outlast doctor", wait_s=20
    )
    return launched.job


async def end_keeper(home: Home) -> None:
    """Have the trial's keeper leave before its folder goes."""
    for _ in range(500):
        if keeping.keeper_info(home) is None:
            return
        keeping.send(home, keeping.LEAVE)
        await asyncio.sleep(0.02)


def not_doctor(error: JobError) -> str:
    """The next step, unless it is to call the doctor."""
    if "outlast doctor" in error.next_step:
        return "Correct what the message names, then run `outlast doctor` again."
    return error.next_step
