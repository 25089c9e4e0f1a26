"""What a job left in its working directory, found within bounds."""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import itertools
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jobs.errors import FileNotFoundInJobError, PathRefusedError
from jobs.files import open_inside
from jobs.model import Artifact, ArtifactScan, ExpectedOutput, LaunchManifest
from jobs.paths import JobDir
from jobs.rules import Kind, OutputRule
from jobs.text import shown_name

MAX_ENTRIES = 200_000
MAX_DEPTH = 32
MAX_SECONDS = 30.0
#: A file system's clock may lag behind ours: how much older than the start a new file may look.
_CLOCK_SLACK_S = 2.0

_KINDS: dict[Kind, tuple[str, ...]] = {
    "table": (".csv", ".tsv", ".xvg"),
    "image": (".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".ppm"),
    "json": (".json", ".jsonl"),
    "text": (".txt", ".md", ".toml", ".yaml", ".yml", ".inp", ".in", ".py"),
    "log": (".log", ".out", ".err"),
    "trajectory": (".dcd", ".xtc", ".trr", ".lammpstrj", ".nc", ".h5md"),
    "structure": (".pdb", ".cif", ".gro", ".xyz", ".mol", ".mol2", ".sdf", ".pdbqt"),
    "checkpoint": (".chk", ".cpt", ".restart", ".ckpt"),
}
_KIND_BY_SUFFIX: dict[str, Kind] = {
    suffix: kind for kind, all_ in _KINDS.items() for suffix in all_
}


def rule_of(path: str, outputs: list[OutputRule]) -> OutputRule | None:
    """The first output that was declared and that the file is one of."""
    return next((rule for rule in outputs if _matches(path, rule.path)), None)


def kind_of(path: str, rule: OutputRule | None = None) -> Kind:
    """As the rule has it, else by the name."""
    by_name = _KIND_BY_SUFFIX.get(os.path.splitext(path)[1].lower(), "data")
    return (rule.kind if rule else None) or by_name


@dataclass(frozen=True)
class Found:
    """A regular file below a root; `path` as the file system has it, `/` between parts."""

    path: str
    size: int
    modified_at: float
    space: float  #: bytes of the disk that it holds; its share, if it has several names


@dataclass
class Walk:
    """Finds regular files below `root`, in name order; afterwards says what it passed over."""

    root: Path
    newer_than: float | None = None  #: leave out what was changed before this time
    seconds: float = MAX_SECONDS  #: give up after so long
    truncated: bool = False

    def __post_init__(self) -> None:
        self.skipped: dict[str, int] = {}
        self.others: list[str] = []  #: paths of the folders and links that were met
        self._entries = 0
        self._give_up_at = time.monotonic() + self.seconds

    def files(self) -> Iterator[Found]:
        """No link is followed, be it the root itself, and no other file system entered."""
        try:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(self.root, flags)
        except OSError:
            return
        yield from self._folder(fd, "", 0, os.fstat(fd).st_dev)

    def _folder(self, fd: int, prefix: str, depth: int, device: int) -> Iterator[Found]:
        """Owns `fd`."""
        try:
            for name in sorted(os.listdir(fd)):
                self._entries += 1
                if self._entries > MAX_ENTRIES or time.monotonic() > self._give_up_at:
                    self.truncated = True
                    return
                try:
                    status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                    if stat.S_ISDIR(status.st_mode) or stat.S_ISLNK(status.st_mode):
                        self.others.append(prefix + name)
                    if stat.S_ISREG(status.st_mode):
                        if is_newer(status, self.newer_than):
                            space = 512 * status.st_blocks / status.st_nlink
                            size, changed = status.st_size, status.st_mtime
                            yield Found(prefix + name, size, changed, space)
                    elif not stat.S_ISDIR(status.st_mode):
                        self._skip(_file_type(status.st_mode))
                    elif status.st_dev != device:
                        self._skip("other file system")
                    elif depth == MAX_DEPTH:
                        self.truncated = True
                    else:
                        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                        inner = os.open(name, flags, dir_fd=fd)
                        yield from self._folder(inner, f"{prefix}{name}/", depth + 1, device)
                except OSError:
                    self._skip("unreadable or vanished")
        finally:
            os.close(fd)

    def _skip(self, what: str) -> None:
        self.skipped[what] = self.skipped.get(what, 0) + 1


def is_newer(status: os.stat_result, since: float | None) -> bool:
    """Whether it was made or changed since. A copy may keep an old mtime, but not its ctime."""
    return since is None or max(status.st_mtime, status.st_ctime) >= since


def scan(
    launched: LaunchManifest,
    job_dir: JobDir,
    *,
    started_at: float | None,
    hash_limit_bytes: int | None = None,
    seconds: float = MAX_SECONDS,
) -> ArtifactScan:
    """What the job has left so far, and which expected outputs are there. Blocks, for `seconds` and
    what hashing takes.

    In a working directory of the job's own every file counts; elsewhere those changed since the
    start. With `hash_limit_bytes`, files of so many bytes in all get a sha256.
    """
    own = Path(launched.cwd) == job_dir.work
    since = None if own or started_at is None else started_at - _CLOCK_SLACK_S
    if not own and started_at is None:
        return ArtifactScan(artifacts=[], expected=[], total_size=0)
    walk = Walk(Path(launched.cwd), newer_than=since, seconds=seconds)
    found = list(walk.files())
    artifacts = []
    for file in found:
        hashes = hash_limit_bytes is not None and file.size <= hash_limit_bytes
        if hash_limit_bytes is not None and hashes:
            hash_limit_bytes -= file.size
        artifacts.append(_artifact(walk.root, file, launched.outputs, hashes))
    paths = [file.path for file in found]
    return ArtifactScan(
        artifacts=artifacts,
        expected=[
            ExpectedOutput(
                path=rule.path,
                required=rule.required,
                present=_is_there(walk, rule.path, paths),
            )
            for rule in launched.outputs
        ],
        total_size=sum(file.size for file in found),
        truncated=walk.truncated,
        skipped=walk.skipped,
    )


def _artifact(root: Path, file: Found, outputs: list[OutputRule], hashes: bool) -> Artifact:
    rule = rule_of(file.path, outputs)
    digest = sha256_of(root, file.path) if hashes else None
    return Artifact(
        path=shown_name(file.path),
        size=file.size,
        modified_at=file.modified_at,
        kind=kind_of(file.path, rule),
        sha256=digest,
        description=rule.description if rule else "",
    )


def _matches(path: str, pattern: str) -> bool:
    """As a glob, or to the letter: a name may hold brackets."""
    return path == pattern or fnmatch.fnmatchcase(path, pattern)


def _is_there(walk: Walk, pattern: str, paths: list[str]) -> bool:
    """Whether an expected output is among the files found, or is a folder or a link inside.

    Judged by what the walk has met: a glob would follow the job's links, and be led anywhere.
    """
    if any(_matches(path, pattern) for path in paths):
        return True
    if "**" in pattern or walk.root.is_symlink():
        return False
    root = walk.root.resolve()
    matching = (path for path in walk.others if _matches(path, pattern))
    for path in itertools.islice(itertools.chain([pattern], matching), 100):
        with contextlib.suppress(OSError, ValueError, RuntimeError):  # a loop of links, no path
            found = root / path
            inside = found.resolve().is_relative_to(root)
            if inside and found.exists() and is_newer(found.lstat(), walk.newer_than):
                return True
    return False


def sha256_of(root: Path, path: str) -> str | None:
    """The digest of `root/path`; none when it vanished, changed meanwhile or is no plain file."""
    digest = hashlib.sha256()
    try:
        with open_inside(root, path) as fd:
            before = os.fstat(fd)
            while block := os.read(fd, 1 << 20):
                digest.update(block)
            after = os.fstat(fd)
    except (FileNotFoundInJobError, PathRefusedError, OSError):
        return None
    unchanged = (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
    return digest.hexdigest() if unchanged else None


def _file_type(mode: int) -> str:
    for test, name in (
        (stat.S_ISLNK, "symbolic link"),
        (stat.S_ISFIFO, "FIFO"),
        (stat.S_ISSOCK, "socket"),
        (stat.S_ISCHR, "device"),
        (stat.S_ISBLK, "device"),
    ):
        if test(mode):
            return name
    return "other"
