"""Cgroups for jobs: where they can be made on this machine, and what they hold a job to.

A job has at most one cgroup in each hierarchy that serves: cgroup v2 for all that it can do there,
v1 for what is left. Where cgroups cannot be made, rlimits hold the single processes of a job.
"""

from __future__ import annotations

import hashlib
import os
import re
import resource
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from jobs.engines.shim_system import count, put, remove_cgroups
from jobs.limits import Bounds
from jobs.paths import Home, JobDir

PREFIX = "outlast-"
V1_CONTROLLERS = {"processes": "pids", "memory_mb": "memory"}
V1_FILES = {"processes": "pids.max", "memory_mb": "memory.limit_in_bytes"}
V2_FILES = {"processes": "pids.max", "memory_mb": "memory.max"}
#: Written beside a memory limit where they are: swap is no way out, and all of the job ends.
BESIDE = {
    "memory.max": {"memory.swap.max": "0", "memory.oom.group": "1"},
    "memory.limit_in_bytes": {"memory.memsw.limit_in_bytes": ""},  # the same number
}


@dataclass(frozen=True)
class Place:
    """A folder in which cgroups for jobs can be made, and the file of each limit that one has."""

    folder: Path
    files: dict[str, str]
    #: Limits of our own cgroup, which one beside it would escape: none there may be larger.
    ceilings: dict[str, int] = field(default_factory=dict)


class Confinement:
    """The cgroups of the jobs of one state directory. Where they can be made is found out once."""

    def __init__(self, home: Home) -> None:
        self._home = home
        mark = hashlib.sha256(os.fsencode(home.root)).hexdigest()[:8]
        self._prefix = f"{PREFIX}{mark}-"
        self._places: list[Place] | None = None

    def name(self, job_dir: JobDir) -> str:
        """What the job's cgroups are called, in every hierarchy."""
        return self._prefix + re.sub(r"[^A-Za-z0-9-]", "_", job_dir.root.name)[:100]

    def folders(self, job_dir: JobDir, recorded: list[str]) -> list[bytes]:
        """Those of the folders in a job's record that can be its cgroups: it could have written
        any other there."""
        name = self.name(job_dir)
        return [os.fsencode(folder) for folder in recorded if Path(folder).name == name]

    def prepare(self, job_dir: JobDir, bounds: Bounds) -> tuple[list[str], list[str]]:
        """Make the job's cgroups, empty and with their limits.

        Gives their folders, and what the shim is to do (`shim_system.Bound`): to put the command
        there, or else to set rlimits.
        """
        made, orders = [], []
        missing = set(V2_FILES)
        for place in self.places():
            folder = place.folder / self.name(job_dir)
            remove_cgroups([bytes(folder)], tries=1)  # of an attempt that did not come to run
            try:
                folder.mkdir(exist_ok=True)
            except OSError:
                continue
            made.append(str(folder))
            orders.append(f"member 0 0 {folder}")
            for kind in sorted(missing & place.files.keys()):
                most = _set_limit(folder, place, kind, getattr(bounds, kind))
                if most is not None:
                    missing.discard(kind)
                    orders.append(f"{kind} {most} 0 {folder}")
        return made, orders + list(_rlimits(bounds, missing))

    def places(self) -> list[Place]:
        if self._places is None:
            self._places = find_places(self._prefix + "trial")
        return self._places

    def leftovers(self) -> Iterator[tuple[Path, str]]:
        """Cgroups of this state directory that are there, with the names of their jobs."""
        for place in self.places():
            for folder in place.folder.glob(self._prefix + "*"):
                yield folder, folder.name.removeprefix(self._prefix)


def find_places(trial: str, proc: Path = Path("/proc/self")) -> list[Place]:
    """Where cgroups can be made, found by making one of the name `trial`. Changes nothing
    else; empty where there are none."""
    try:
        mounts = (proc / "mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
        own = (proc / "cgroup").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return []
    folders = own_cgroups(mounts, own)
    places = []
    if (ours := folders.get("")) is not None:
        # Below our own, cgroup v2 hands no controller down as long as we are in it; beside it, it
        # does. But the neighbour of a job's cgroup would escape that job's limits.
        beside = None
        if not ours.name.startswith(PREFIX):
            beside = _try(ours.parent, trial, V2_FILES)
        if beside is not None and beside.files:
            places.append(Place(beside.folder, beside.files, _ceilings(ours)))
        else:
            below = _try(ours, trial, V2_FILES)
            places += [below] if below is not None else []
    served = {kind for place in places for kind in place.files}
    for kind in sorted(V1_FILES.keys() - served):
        if (ours := folders.get(V1_CONTROLLERS[kind])) is not None:
            place = _try(ours, trial, {kind: V1_FILES[kind]})
            places += [place] if place is not None and place.files else []
    return places


def own_cgroups(mounts: str, own: str) -> dict[str, Path]:
    """The folder of our own cgroup for each controller of v1, and for v2 under the name ''.

    From the texts of /proc/self/mountinfo and /proc/self/cgroup.
    """
    inside: dict[str, str] = {}
    for line in own.splitlines():
        number, controllers, path = line.split(":", 2)
        for name in [""] if number == "0" else controllers.split(","):
            inside[name] = path
    folders: dict[str, Path] = {}
    for line in mounts.splitlines():
        words, _, rest = line.partition(" - ")
        root, mounted = (_plain(word) for word in words.split(" ")[3:5])
        kind, _, options = rest.split(" ", 2)
        names = {"cgroup2": [""], "cgroup": options.split(",")}.get(kind, [])
        for name in names:
            if name not in inside or name in folders:
                continue
            # A container may see only a part of the hierarchy, or itself as its root.
            path = inside[name] if root == "/" else inside[name].removeprefix(root)
            if root != "/" and path == inside[name]:
                continue
            folder = Path(mounted, path.lstrip("/"))
            if ".." not in folder.parts and str(folder).isprintable():  # printable: goes into JSON
                folders[name] = folder
    return folders


def _plain(word: str) -> str:
    r"""A field of mountinfo, where a blank is written as \040."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), word)


def _try(folder: Path, name: str, files: dict[str, str]) -> Place | None:
    """The place that `folder` is, with those of the files that cgroups have there."""
    # Whoever may write to the first cgroup above both may move processes between them. Not tried
    # with a process: that takes tens of milliseconds at times, and each keeper begins with this.
    if not os.access(folder / "cgroup.procs", os.W_OK):
        return None
    trial = folder / name
    try:
        trial.mkdir()
        kind = trial / "cgroup.type"  # of v2; what is below threads, for instance, takes nobody
        if kind.exists() and kind.read_text(encoding="ascii").strip() != "domain":
            return None
        return Place(
            folder, {name: file for name, file in files.items() if (trial / file).exists()}
        )
    except OSError:
        return None
    finally:
        remove_cgroups([bytes(trial)])


def _ceilings(ours: Path) -> dict[str, int]:
    """`max` means that there is none."""
    limits = {kind: count(bytes(ours / file)) for kind, file in V2_FILES.items()}
    limits["memory_mb"] >>= 20
    return {kind: limit for kind, limit in limits.items() if limit}


def _set_limit(folder: Path, place: Place, kind: str, most: int) -> int | None:
    """Set a limit of a cgroup; what it is then, 0 for none. None when it could not be set."""
    ceiling = place.ceilings.get(kind, 0)
    most = min(most or ceiling, ceiling or most)
    if most == 0:
        return 0
    number = str(most << 20 if kind == "memory_mb" else most).encode()
    file = place.files[kind]
    try:
        put(bytes(folder / file), number)
    except OSError:
        return None
    for beside, text in BESIDE.get(file, {}).items():
        with suppress(OSError):  # not every kernel has them
            put(bytes(folder / beside), text.encode() or number)
    return most


def _rlimits(bounds: Bounds, kinds: set[str]) -> Iterator[str]:
    """Orders for what no cgroup holds.

    Of processes the kernel counts all of the user's, and root's are not held. Of memory only that
    which a process may write is counted, since many programs reserve much more than they use.
    """
    if not sys.platform.startswith("linux"):
        return
    if "processes" in kinds and bounds.processes and os.geteuid() != 0:
        there = _tasks_of_user()
        value = _at_most_hard(there + bounds.processes, resource.RLIMIT_NPROC)
        yield f"processes {max(1, value - there)} {value} "
    if "memory_mb" in kinds and bounds.process_memory_mb:
        value = _at_most_hard(bounds.process_memory_mb << 20, resource.RLIMIT_DATA)
        yield f"memory_mb {max(1, value >> 20)} {value} "


def _at_most_hard(value: int, limit: int) -> int:
    hard = resource.getrlimit(limit)[1]
    return value if hard == resource.RLIM_INFINITY else min(value, hard)


def _tasks_of_user() -> int:
    """Processes and threads of ours that there are now."""
    total = 0
    for entry in os.scandir("/proc"):
        with suppress(OSError):
            if entry.name.isdigit() and entry.stat().st_uid == os.getuid():
                total += len(os.listdir(f"/proc/{entry.name}/task"))
    return total
