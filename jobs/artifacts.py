"""What a job left in its working directory: found within bounds, read without surprises."""

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
from jobs.text import (
    clean,
    first_lines_within,
    last_lines_within,
    shown_name,
    without_cut_character,
)

MAX_ENTRIES = 200_000
MAX_DEPTH = 32
MAX_SECONDS = 30.0
#: A file system's clock may lag behind ours: how much older than the start a new file may look.
_CLOCK_SLACK_S = 2.0

_KINDS: dict[Kind, tuple[str, ...]] = {
    "table": (".csv", ".tsv"),
    "image": (".png", ".jpg", ".jpeg", ".gif", ".webp"),
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


def kind_of(path: str) -> Kind:
    return _KIND_BY_SUFFIX.get(os.path.splitext(path)[1].lower(), "data")


@dataclass(frozen=True)
class Found:
    """A regular file below a root; `path` as the file system has it, `/` between parts."""

    path: str
    size: int
    modified_at: float


@dataclass
class Walk:
    """Finds regular files below `root`, in name order; afterwards says what it passed over."""

    root: Path
    newer_than: float | None = None  #: leave out what was changed before this time
    truncated: bool = False

    def __post_init__(self) -> None:
        self.skipped: dict[str, int] = {}
        self.others: list[str] = []  #: paths of the folders and links that were met
        self._entries = 0
        self._give_up_at = time.monotonic() + MAX_SECONDS

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
                            yield Found(prefix + name, status.st_size, status.st_mtime)
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
) -> ArtifactScan:
    """What the job has left so far, and which expected outputs are there. Blocks.

    In a working directory of the job's own every file counts; elsewhere those changed since the
    start. With `hash_limit_bytes`, files of so many bytes in all get a sha256.
    """
    own = Path(launched.cwd) == job_dir.work
    since = None if own or started_at is None else started_at - _CLOCK_SLACK_S
    if not own and started_at is None:
        return ArtifactScan(artifacts=[], expected=[], total_size=0)
    walk = Walk(Path(launched.cwd), newer_than=since)
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
    rule = next((rule for rule in outputs if _matches(file.path, rule.path)), None)
    digest = sha256_of(root, file.path) if hashes else None
    return Artifact(
        path=shown_name(file.path),
        size=file.size,
        modified_at=file.modified_at,
        kind=(rule.kind if rule else None) or kind_of(file.path),
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


#: Text in one reply: what is usual and the most; numbers cost a token for every two bytes.
DEFAULT_TEXT_BYTES, MAX_TEXT_BYTES = 2400, 12_000
#: A larger picture would cost a chat more than it tells.
MAX_IMAGE_BYTES = 1 << 20
#: Rows of a table are counted within this much of it.
_COUNT_BYTES = 64 << 20
_HEAD_ROWS, _END_ROWS = 10, 5
_ROW_BYTES = 64 * 1024  #: within which the first row ends, for its columns to be counted
_IMAGE_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
}


@dataclass(frozen=True)
class Content:
    """What was read of an artifact: text, or the bytes of a picture."""

    path: str
    kind: Kind
    size: int
    text: str = ""
    image: bytes | None = None
    mime_type: str = "text/plain"
    next_offset: int | None = None  #: where the text goes on
    summary: str = ""  #: what the text is a part of


def read(launched: LaunchManifest, path: str, *, offset: int, max_bytes: int) -> Content:
    """Read a part of a file below the working directory. Blocks.

    Raises FileNotFoundInJobError, or PathRefusedError for links, FIFOs, devices and ways out.
    """
    suffix = os.path.splitext(path)[1].lower()
    with open_inside(Path(launched.cwd), path) as fd:
        size = os.fstat(fd).st_size
        if suffix in _IMAGE_TYPES and offset == 0:
            if size > MAX_IMAGE_BYTES:
                raise PathRefusedError(
                    f"The picture has {size} bytes; at most {MAX_IMAGE_BYTES} are given.",
                    "Tell the user its path, or launch a job that makes it smaller.",
                )
            image = os.pread(fd, size, 0)
            return Content(path, "image", size, image=image, mime_type=_IMAGE_TYPES[suffix])
        raw = os.pread(fd, max_bytes, offset)
        if b"\0" in raw or (raw and _unprintable(raw) > 0.3):
            return Content(
                path,
                kind_of(path),
                size,
                mime_type="application/octet-stream",
                summary="binary: not shown as text; use a program that reads this format",
            )
        budget = min(6500.0, max(1250.0, 0.55 * max_bytes))  # tokens
        if kind_of(path) == "table" and offset == 0 and size > len(raw):
            return _table(fd, path, size, budget)
        if offset + len(raw) < size:  # go on at a line's, or at least a character's, beginning
            raw = raw[: raw.rfind(b"\n") + 1] or without_cut_character(raw) or raw
        raw = first_lines_within(raw, budget, len(raw))
        end = offset + len(raw)
    return Content(
        path,
        kind_of(path),
        size,
        text=clean(raw),
        next_offset=end if end < size else None,
        summary=f"bytes {offset} to {end} of {size}",
    )


def _table(fd: int, path: str, size: int, budget: float) -> Content:
    """The first and last rows of a long table, and its shape."""
    block = os.pread(fd, _ROW_BYTES, 0)
    whole_rows = block[: block.rfind(b"\n") + 1] or block
    head = first_lines_within(whole_rows, 0.65 * budget, _HEAD_ROWS + 1)
    end = os.pread(fd, 4096, max(0, size - 4096))
    last = b"\n".join(end.rstrip(b"\n").split(b"\n")[1:][-_END_ROWS:])
    rows, position = 0, 0
    while position < min(size, _COUNT_BYTES) and (part := os.pread(fd, 1 << 20, position)):
        rows += part.count(b"\n")
        position += len(part)
    if position >= size and not end.endswith(b"\n"):
        rows += 1
    separator = b"\t" if path.lower().endswith(".tsv") else b","
    columns = block.split(b"\n", 1)[0].count(separator) + 1
    count = f"{rows - 1}" if position >= size else f"more than {rows}"
    text = [clean(head).rstrip("\n"), "...", last_lines_within(clean(last), 0.3 * budget)]
    return Content(
        path,
        "table",
        size,
        text="\n".join(text).rstrip("\n"),
        next_offset=len(head),
        summary=f"table of {count} rows and {columns} columns: its first and last rows",
    )


def _unprintable(raw: bytes) -> float:
    """The part of the characters that is no text."""
    text = raw.decode("utf-8", "replace")
    odd = sum(char == "\ufffd" or (char < " " and char not in "\t\n\r\x1b\f") for char in text)
    return odd / len(text)
