"""Making a job directory, whole before anyone sees it, and reading back what was launched.

A directory is made as `.new-<job id>`, the job is accepted by the index, and only then does it
take its name. So a directory with a job's name always belongs to an accepted job, and a launch
that dies earlier leaves nothing that could be taken for one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, TypeVar

from pydantic import BaseModel

from jobs import clock
from jobs.errors import InputUnusableError, JobError
from jobs.files import is_passing, open_inside, open_own, sync_directory, write_file, write_synced
from jobs.limits import Limits
from jobs.model import InputFile, Job, LaunchManifest, StartedRecord
from jobs.paths import Home, JobDir

Record = TypeVar("Record", bound=BaseModel)

#: A larger file that is used where it lies is recorded without a digest: hashing takes 1 s a GB.
HASH_IN_PLACE_BYTES = 256 << 20
#: Of run.json with 200,000 files, whose paths are long, it is less than half.
MOST_RECORD_BYTES = 128 << 20


@dataclass(frozen=True)
class Placement:
    """What is to lie in a job directory before its job starts."""

    source: Path | bytes  #: a file, or the content itself
    target: str  #: relative to the job directory
    way: Literal["copy", "link"] = "copy"  #: a link is hard, and a copy where that cannot be
    seen_in_work: bool = False  #: a symbolic link in the working directory leads to it
    root: Path | None = None  #: no link below it is followed to the source


def make_unborn(
    home: Home, launched: LaunchManifest, secrets: dict[str, str], placements: list[Placement]
) -> LaunchManifest:
    """Write everything about a launch under the directory's unborn name, durably. Blocks.

    Gives the manifest as written, with the digests of what was placed. Raises FileExistsError when
    the job ID is taken, InputUnusableError when a file cannot be copied; then nothing is left.
    """
    unborn = home.unborn(launched.project, launched.job_id)
    if home.job(launched.project, launched.job_id).root.exists():
        raise FileExistsError(launched.job_id)
    try:
        unborn.root.mkdir(mode=0o700)
    except FileNotFoundError:  # the first job of its project
        home.jobs.mkdir(mode=0o700, exist_ok=True)  # not the state directory: it may have gone
        unborn.root.parent.mkdir(mode=0o700, exist_ok=True)
        unborn.root.mkdir(mode=0o700)
    try:
        if placements:
            placed = [_place(item, unborn) for item in placements]
            launched = launched.model_copy(update={"inputs": [*launched.inputs, *placed]})
        if secrets:
            write_synced(unborn.secrets, json.dumps(secrets).encode())
        # Last, so that the directory has not changed since and is on the disk with it already
        # where the file system writes its journal as a whole.
        text = launched.model_dump_json(by_alias=True, indent=1) + "\n"
        write_synced(unborn.launch_manifest, text.encode())
        sync_directory(unborn.root)
    except BaseException:
        shutil.rmtree(unborn.root, ignore_errors=True)
        raise
    return launched


def remove_unborn(home: Home, launched: LaunchManifest) -> None:
    """Undo `make_unborn`."""
    shutil.rmtree(home.unborn(launched.project, launched.job_id).root, ignore_errors=True)


def give_birth(home: Home, job: Job) -> JobDir:
    """The directory of an accepted job, under its final name.

    A server that dies between accepting a job and renaming its directory leaves that to the
    keeper. Raises FileNotFoundError when there is neither.
    """
    give_births(home, [job])
    return home.job(job.project, job.id)


def give_births(home: Home, jobs: list[Job]) -> None:
    """The same for several jobs, whose names reach the disk together."""
    changed = set()
    for job in jobs:
        job_dir = home.job(job.project, job.id)
        if not job_dir.root.is_dir():
            try:
                home.unborn(job.project, job.id).root.rename(job_dir.root)
            except FileNotFoundError:
                if not job_dir.root.is_dir():  # someone else was a moment quicker
                    raise
            changed.add(job_dir.root.parent)
    for folder in changed:
        sync_directory(folder)


def read_launch_manifest(job_dir: JobDir) -> LaunchManifest:
    """Raises OSError or ValueError when there is none that can be read."""
    launched = LaunchManifest.model_validate_json(_content(job_dir.launch_manifest))
    if launched.cwd.endswith(f"/{launched.project}/{launched.job_id}/{job_dir.work.name}"):
        # Its own folder, wherever the state directory is by now.
        return launched.model_copy(update={"cwd": str(job_dir.work)})
    return launched


def furnish(job_dir: JobDir, launched: LaunchManifest) -> None:
    """What a directory needs before its job starts and no sooner. Raises OSError."""
    job_dir.work.mkdir(mode=0o700, exist_ok=True)
    if not job_dir.readme.exists():
        write_file(job_dir.readme, _readme(launched).encode())


def read_record(path: Path, kind: type[Record]) -> Record | None:
    """A record in a job directory; none when it is not there or is not whole. Raises OSError when
    it cannot be read just now, from which nothing follows."""
    try:
        return kind.model_validate_json(_content(path))
    except (OSError, ValueError) as error:
        if is_passing(error):
            raise
        return None


def glimpse(path: Path, kind: type[Record]) -> Record | None:
    """The same where it is only shown to somebody: none, too, when it cannot be read just now."""
    try:
        return read_record(path, kind)
    except OSError:
        return None


def _content(path: Path) -> bytes:
    """Of a record; what is longer than any is cut, and so is none."""
    with open_own(path) as file:
        return file.read(MOST_RECORD_BYTES)


def read_limits(job_dir: JobDir) -> Limits | None:
    """What the job is held to; none when that is nothing, or it has not started."""
    started = glimpse(job_dir.started, StartedRecord)
    return started.limits if started else None


def describe_input(path: Path) -> InputFile:
    """A file that is used where it lies. Blocks. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        whole = size <= HASH_IN_PLACE_BYTES and _read_to_end(file, size, digest.update)
    return InputFile(path=str(path), size=size, sha256=digest.hexdigest() if whole else None)


def _read_to_end(file: BinaryIO, size: int, use: Callable[[bytes], object]) -> bool:
    """Hand the content to `use`; False when the end is not where `size` says.

    Some of the kernel's files say that they are empty and are endless, others grow.
    """
    left = size
    while left > 0 and (block := file.read(min(left, 1 << 20))):
        use(block)
        left -= len(block)
    return left == 0 and not file.read(1)


def _place(item: Placement, job_dir: JobDir) -> InputFile:
    target = job_dir.root / item.target
    for folder in reversed(target.relative_to(job_dir.root).parents[:-1]):
        (job_dir.root / folder).mkdir(mode=0o700, exist_ok=True)
    if isinstance(item.source, bytes):
        write_synced(target, item.source)
        digest = hashlib.sha256(item.source).hexdigest()
        return InputFile(path=item.target, size=len(item.source), sha256=digest, kept=item.target)
    try:
        placed = _link(item.source, target) if item.way == "link" else None
        size, sha256 = (placed, None) if placed is not None else _copy(item, target)
        if item.seen_in_work:
            job_dir.work.mkdir(mode=0o700, exist_ok=True)
            (job_dir.work / target.name).symlink_to(Path("..") / item.target)
    except InputUnusableError:
        raise
    except JobError as error:
        raise InputUnusableError(error.cause) from None
    except OSError as error:
        raise InputUnusableError(
            f"The input {str(item.source)!r} cannot be copied: {error.strerror}."
        ) from None
    return InputFile(path=str(item.source), size=size, sha256=sha256, kept=item.target)


def _link(source: Path, target: Path) -> int | None:
    """Its size; none when it cannot be linked there, as on another file system."""
    try:
        os.link(source, target, follow_symlinks=False)
        status = target.lstat()
    except OSError:
        return None
    if stat.S_ISREG(status.st_mode):
        return status.st_size
    target.unlink()
    return None


@contextmanager
def _open_source(item: Placement, source: Path) -> Iterator[int]:
    if item.root is not None:
        with open_inside(item.root, str(source.relative_to(item.root))) as fd:
            yield fd
        return
    fd = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _copy(item: Placement, target: Path) -> tuple[int, str]:
    """Size and digest of what was copied."""
    assert isinstance(item.source, Path)
    digest = hashlib.sha256()
    with (
        _open_source(item, item.source) as fd,
        os.fdopen(fd, "rb", closefd=False) as file,
        target.open("xb") as copy,
    ):
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise InputUnusableError(f"The input {str(item.source)!r} is not a regular file.")

        def use(block: bytes) -> None:
            digest.update(block)
            copy.write(block)

        if not _read_to_end(file, status.st_size, use):
            raise InputUnusableError(
                f"The input {str(item.source)!r} does not end where its size says: it is being "
                "written, or is no file on a disk.",
                "Give a file that nobody writes, or read it in the command by its path.",
            )
        os.fchmod(copy.fileno(), stat.S_IMODE(status.st_mode) & 0o777)
    return status.st_size, digest.hexdigest()


def _readme(launched: LaunchManifest) -> str:
    """For a person who opens the folder."""
    command = " ".join(json.dumps(part) if " " in part else part for part in launched.command)
    kind = f"a job of the kind `{launched.manifest}`" if launched.manifest else "a command"
    elsewhere = f"; this job used `{launched.cwd}`" if not launched.cwd.endswith("/work") else ""
    origin = f"\nIt goes on from `{launched.parent}`." if launched.parent else ""
    cite = f"\nIts results are to cite {', '.join(launched.cite)}.\n" if launched.cite else ""
    supervision = (
        "While the job runs there are also `lock` and `ctl`, which belong to its supervisor."
    )
    if launched.batch is not None:
        names = JobDir(Path())
        supervision = (
            f"`{names.batch_script}` is what the node has run, `{names.batch}` what its scheduler "
            f"has told of\nthe job, and `{names.batch_log}` what either of them had to say."
        )
    return f"""# {launched.name}

`{launched.job_id}` is {kind} in the project `{launched.project}`, asked for at
{clock.iso(launched.created_at)} on `{launched.host}` by Outlast {launched.outlast_version}.{origin}

    {command[:2000]}

| file | what it is |
|---|---|
| `job.json` | exactly what was launched |
| `work/` | the working directory{elsewhere} |
| `inputs/` | copies of the input files, if any were given |
| `stdout.log`, `stderr.log` | what the program printed |
| `progress.jsonl` | progress and measured values over time, if the program told any |
| `started`, `exit` | when the command started, and how it ended |
| `run.json` | the whole story: outcome, times, resources used, files left |

{supervision}
{cite}"""
