"""What can be wrong, in words that a caller can act on.

Each error has a stable `code`, one sentence of cause (its message) and one of what to do next.
The faces turn them into tool errors, exit codes and HTTP answers in `server/refusals.py`.
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable, Sequence
from typing import Any


class JobError(Exception):
    """Base of everything that a face may show."""

    code = "job_error"
    next_step = "Call job_status for the current facts, then decide."

    def __init__(self, cause: str, next_step: str | None = None) -> None:
        super().__init__(cause)
        self.cause = cause
        self.next_step = next_step or self.next_step

    def __str__(self) -> str:
        return f"{self.cause} {self.next_step}"


class InvalidArgumentError(JobError):
    code = "invalid_argument"
    next_step = "Correct the argument and call again; nothing was changed."


class ExecutableNotFoundError(JobError):
    code = "executable_not_found"
    next_step = (
        "Give an absolute path, or add its folder to `path` or an environment in the "
        "configuration; `outlast doctor` shows the PATH that jobs get."
    )


class DirectoryUnusableError(JobError):
    code = "directory_unusable"
    next_step = "Give the absolute path of a folder that exists, or leave cwd out for a fresh one."


class InputUnusableError(JobError):
    code = "input_unusable"
    next_step = "Give absolute paths of files that exist and can be read."


class UnknownManifestError(JobError):
    code = "unknown_manifest"
    next_step = "Call describe_manifests for the kinds of job that there are."


class BrokenManifestError(JobError):
    """`faults` are all of its mistakes, each with its line."""

    code = "broken_manifest"
    next_step = "Correct the manifest file; `outlast manifests check` names every mistake."

    def __init__(self, cause: str, faults: Sequence[Any]) -> None:
        super().__init__(cause)
        self.faults = faults


class UnknownParameterError(JobError):
    code = "unknown_parameter"
    next_step = "Call describe_manifests with the manifest's name for its parameters."


class InvalidParameterError(JobError):
    code = "invalid_parameter"
    next_step = "Call describe_manifests with the manifest's name for types and ranges."


class SoftwareMissingError(JobError):
    code = "software_missing"


class ResourcesUnavailableError(JobError):
    code = "resources_unavailable"
    next_step = "Ask for less, or raise cores, memory_mb or gpus in the configuration."


class NotResumableError(JobError):
    code = "not_resumable"
    next_step = "Launch a new job instead; nothing was changed."


class IdempotencyConflictError(JobError):
    code = "idempotency_conflict"
    next_step = "Use a new idempotency_key for a new job, or repeat the first request unchanged."


class JobNotFoundError(JobError):
    code = "job_not_found"
    next_step = "Call job_status without job_id to list the newest jobs; do not guess IDs."


class FileNotFoundInJobError(JobError):
    code = "file_not_found"
    next_step = "Call list_artifacts for the files that there are."


class PathRefusedError(JobError):
    code = "path_refused"
    next_step = "Use a path as list_artifacts gives it, relative to the job's working directory."


class InvalidCursorError(JobError):
    code = "invalid_cursor"
    next_step = "Leave the cursor out to start anew."


class IllegalMoveError(JobError):
    code = "illegal_move"


class StateDirectoryError(JobError):
    code = "state_directory_unusable"
    next_step = "Run `outlast doctor`; it names what is wrong with the state directory."

    @classmethod
    def gone(cls, root: object) -> StateDirectoryError:
        return cls(
            f"The state directory {root} is gone.",
            "Ask the user to bring it back (a disk that is not mounted?), or to restart this "
            "server for an empty one.",
        )


class DiskFullError(StateDirectoryError):
    code = "disk_full"
    next_step = (
        "Ask the user to free space, or to run `outlast prune`; running jobs are not touched."
    )

    @staticmethod
    def is_cause(number: int | None) -> bool:
        return number in (errno.ENOSPC, errno.EDQUOT)


class IndexBusyError(StateDirectoryError):
    code = "index_busy"
    next_step = "Call again in a moment; nothing was changed."


class KeeperUnreachableError(JobError):
    code = "keeper_unreachable"
    next_step = (
        "The job is stored and starts once a keeper runs; `outlast doctor` shows why none does."
    )


class SettingsError(JobError):
    code = "settings_invalid"
    next_step = "Correct the configuration; `outlast doctor` shows where it is and what it says."


def nearest(word: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the known word that is most like `word`, else an empty text."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""
