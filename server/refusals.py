"""Errors in the words of each face: the one table."""

from __future__ import annotations

from pydantic import ValidationError

from jobs.errors import InvalidArgumentError, JobError
from jobs.text import shown

#: Exit codes of the command line, after sysexits.h where it has one.
EXIT_CODES = {
    "job_not_found": 3,
    "file_not_found": 3,
    "unknown_manifest": 3,
    "state_directory_unusable": 74,
    "disk_full": 74,
    "index_busy": 75,
    "keeper_unreachable": 75,
    "settings_invalid": 78,
}
OTHER_EXIT_CODE = 2


def as_job_error(error: BaseException) -> JobError:
    """Any error as one that can be shown; what was not foreseen tells its kind, not its text."""
    if isinstance(error, JobError):
        return error
    if isinstance(error, ValidationError):
        fault = error.errors(include_url=False, include_input=False)[0]
        where = shown(".".join(str(part) for part in fault["loc"]), 80) or "the arguments"
        hint = ""
        if fault["loc"][:1] == ("command",) and fault["type"] == "list_type":
            hint = ' A command is a list of arguments; for a shell write ["bash", "-c", "..."].'
        return InvalidArgumentError(f"{where}: {shown(fault['msg'])}.{hint}")
    unexpected = JobError(
        f"Outlast met something unexpected ({type(error).__name__}); no job is touched by it.",
        "Try once more, then tell the user; the server's log has the details.",
    )
    unexpected.code = "internal_error"
    return unexpected


def exit_code(error: JobError) -> int:
    return EXIT_CODES.get(error.code, OTHER_EXIT_CODE)


def as_text(error: JobError) -> str:
    """For a model: code, cause, next step, without characters that cannot be sent."""
    return f"error {error.code}: {shown(error.cause, 600)}\nNext: {shown(error.next_step, 600)}"
