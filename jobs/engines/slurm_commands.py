"""Slurm through its commands: each question is one call with explicit formats, answered in text.

Never by `--json`, whose shape and truth change between releases. No variable of the user's bends
a call, and each call has a time limit. That Slurm could not be asked is always an exception
(`Unreachable`), never an empty answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from signal import SIGKILL

from jobs.engines.slurm_rows import (
    ACCOUNT_FIELDS,
    PARTITION_FORMAT,
    QUEUE_FIELDS,
    AccountRow,
    Partition,
    QueueRow,
    parse_account,
    parse_partitions,
    parse_queue,
)
from jobs.text import shown

CALL_S = 60.0  #: a busy controller answers late; squeue tries for 18 s, sbatch for two minutes
PING_S = 15.0
KILL_S = 5.0  #: for what was killed to be gone
MOST_BYTES = 64 << 20  #: of one answer; a row has some 200

_BENDING = re.compile(r"(SBATCH|SQUEUE|SACCT|SCANCEL|SINFO|SCONTROL|SALLOC|SRUN|SLURM)_")
#: What of Slurm's own variables says which cluster is meant, rather than how to ask it.
_KEPT = ("SLURM_CONF", "SLURM_CLUSTERS")
_access: ContextVar[Mapping[str, str] | None] = ContextVar("access", default=None)
#: What the batch shell may have of ours; the job's own environment comes with its script.
_SUBMIT_ENV = ("HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "SHELL", "USER", *_KEPT)
#: Says that the request did not get through, or might have: not that it is a bad one.
_PASSING = re.compile(
    r"(?i)unable to contact|timed out|temporarily|zero bytes|connection|communication"
    r"|send/recv|receive failure|send failure|transport|standby mode|authentication|munge"
    r"|try again|no route|unspecified error|shutting down|configuration (file|source)|cannot stat"
)
#: What scancel says of jobs that have ended, or were never there.
_NOTHING_TO_DO = re.compile(r"(?i)invalid job id|already (completing|completed)")
_ALREADY_DONE = 2021 & 0xFF  #: and its exit code where it says nothing of it


class Unreachable(Exception):  # noqa: N818 - a fact, of which no error need come
    """Slurm could not be asked, or its answer not understood. Says nothing about any job."""


class NoAccounting(Unreachable):
    """Only the accounting could not be asked, although the cluster keeps one."""


class Refused(Exception):  # noqa: N818
    """Slurm has understood the request and does not accept it: asking again changes nothing."""


@contextmanager
def reaching(access: Mapping[str, str] | None) -> Iterator[None]:
    """Whatever is called meanwhile, and each task that begins meanwhile, reaches the cluster as
    `BatchWishes.access` says; none: as this process does."""
    token = _access.set(access)
    try:
        yield
    finally:
        _access.reset(token)


async def ping() -> str:
    """Returns when a controller answers: what is said of each. Raises Unreachable."""
    code, out, error = await _run("scontrol", "ping", limit_s=PING_S)
    if code or not re.search(r"\bUP\b", out):
        raise Unreachable(_cause(error or out) or "no controller is up")
    return shown("; ".join(out.split("\n")).strip("; "), 300)


async def submit(script: str, token: str, options: Sequence[str] = ()) -> str:
    """Hand over a batch script; the job ID, of an array that of the whole.

    The token is the job's name, by which `find` finds it when the answer was lost. Raises Refused;
    or Unreachable, and then the job may have been accepted: look for the token before a new try.
    """
    code, out, error = await _run(
        *("sbatch", "--parsable", f"--job-name={token}", f"--comment={token}", "--export=ALL"),
        *options,
        stdin=script,
        env=_submit_env(),
    )
    job_id = out.strip().split(";")[0]
    if code == 0 and job_id.isdecimal():
        return job_id
    reason = _cause(error) or f"sbatch ended with {code}"
    if code <= 0 or _PASSING.search(error):
        raise Unreachable(reason)
    raise Refused(reason)


async def try_out(script: str, options: Sequence[str]) -> None:
    """Returns when a job like this would be accepted; nothing is submitted. Raises Refused."""
    code, _, error = await _run(
        "sbatch", "--test-only", "--export=ALL", *options, stdin=script, env=_submit_env()
    )
    if code == 0:
        return
    reason = _cause(error) or f"sbatch ended with {code}"
    raise (Unreachable if code < 0 or _PASSING.search(error) else Refused)(reason)


async def find(token: str, *, since: float) -> list[str]:
    """The IDs of our jobs with this token that were submitted after `since` (seconds since the
    epoch), those of array tasks as `25_3`; from the queue and from the accounting.

    The accounting is asked only where the queue knows none. Without one a job is not found that
    ended more than MinJobAge ago.
    """
    user = str(os.geteuid())
    queued = await _squeue("-u", user, "-n", token)
    found = {id for id, row in parse_queue(queued).items() if row.name == token}
    if not found:
        begin = datetime.fromtimestamp(since).strftime("%Y-%m-%dT%H:%M:%S")
        accounts = await _sacct("-u", user, "--name", token, "-S", begin) or ""
        found = {id for id, row in parse_account(accounts).items() if row.name == token}
    return sorted(found, key=lambda id: [int(part) for part in id.split("_")])


async def queue(ids: Collection[str]) -> dict[str, QueueRow]:
    """What the controller knows of the jobs, and of other tasks of their arrays, in one call. Of
    those that are not in the answer it knows nothing any more: it forgets a job MinJobAge after its
    end."""
    if not ids:
        return {}
    bases = _bases(ids)
    # A single unknown ID is an error to squeue; from a list it is only left out.
    return parse_queue(await _squeue("-j", ",".join([*bases, bases[0]])))


async def accounting(ids: Collection[str]) -> dict[str, AccountRow] | None:
    """What the accounting knows of the jobs, and of other tasks of their arrays, in one call; None
    where the cluster keeps none, or nobody here can ask it. Raises NoAccounting.

    It lags behind the controller, and is wrong for a while after an outage of its own.
    """
    if not ids:
        return {}
    text = await _sacct("-j", ",".join(_bases(ids)))
    return None if text is None else parse_account(text, ids)


async def cancel(ids: Iterable[str], *, signal: str | None = None) -> None:
    """End the jobs, or with a signal (`TERM`) only send that to their batch scripts, which does
    nothing to those that wait. Harmless for jobs that have ended or were never there.

    A task that is cancelled before it began is in no later answer, not in the accounting's either.
    """
    # Of a job that waits scancel would only say after a minute that it cannot be signalled.
    how = ["--state=RUNNING", "--batch", f"--signal={signal}"] if signal else []
    code, _, error = await _run("scancel", *how, *ids)
    if code not in (0, _ALREADY_DONE) and not _NOTHING_TO_DO.search(error):
        raise Unreachable(_cause(error) or f"scancel ended with {code}")


async def partitions() -> list[Partition]:
    """What there is to run on, for people."""
    code, out, error = await _run("sinfo", "-h", "-o", PARTITION_FORMAT)
    if code:
        raise Unreachable(_cause(error) or f"sinfo ended with {code}")
    return parse_partitions(out)


async def configuration() -> dict[str, str]:
    """The controller's own, by name: `MaxArraySize`, `SLURM_VERSION`."""
    code, out, error = await _run("scontrol", "show", "config")
    if code:
        raise Unreachable(_cause(error) or f"scontrol ended with {code}")
    pairs = (line.partition("=") for line in out.split("\n"))
    return {name.strip(): value.strip() for name, equals, value in pairs if equals}


def command_env() -> dict[str, str]:
    """Our environment without what would bend a call: the user's defaults, and the variables of
    a job that we may be running in."""
    kept = {k: v for k, v in os.environ.items() if not _BENDING.match(k) or (v and k in _KEPT)}
    told = _access.get()
    if told is not None:
        path = os.pathsep.join(filter(None, [told.get("PATH"), kept.get("PATH")]))
        kept = {k: v for k, v in kept.items() if k not in _KEPT} | dict(told) | {"PATH": path}
    return {**kept, "LC_ALL": "C", "SLURM_TIME_FORMAT": "standard"}


def _submit_env() -> dict[str, str]:
    return {key: value for key, value in command_env().items() if key in _SUBMIT_ENV}


async def _squeue(*which: str) -> str:
    fields = ",".join(f"{field}:|" for field in QUEUE_FIELDS)
    code, out, error = await _run("squeue", "-h", "-r", "-t", "all", "-O", fields, *which)
    if code and not re.search(r"(?i)invalid job id", error):
        raise Unreachable(_cause(error) or f"squeue ended with {code}")
    return out


async def _sacct(*which: str) -> str | None:
    if shutil.which("sacct", path=command_env().get("PATH")) is None:
        return None
    fields = f"--format={','.join(ACCOUNT_FIELDS)}"
    try:
        code, out, error = await _run("sacct", "-n", "-P", "--noconvert", fields, *which)
    except Unreachable as unreachable:
        raise NoAccounting(str(unreachable)) from None
    if code and re.search(r"(?i)accounting storage is disabled", out + error):
        return None
    if code or re.search(r"(?i)\berror:", error):  # some releases say so and end with 0
        raise NoAccounting(_cause(error) or f"sacct ended with {code}")
    return out


async def _run(
    *command: str,
    stdin: str = "",
    env: Mapping[str, str] | None = None,
    limit_s: float | None = None,
) -> tuple[int, str, str]:
    """Exit code, stdout and stderr. Raises Unreachable when there is no such program, or it has
    not ended in time: then it was killed."""
    limit_s = CALL_S if limit_s is None else limit_s
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=PIPE if stdin else DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            env=env or command_env(),
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise Unreachable(f"{command[0]} cannot be run: {error.strerror}") from None
    try:
        async with asyncio.timeout(limit_s):
            out, error_text, _, code = await asyncio.gather(
                _read(process, process.stdout),
                _read(process, process.stderr),
                _write(process.stdin, stdin),
                process.wait(),
            )
    except TimeoutError:
        raise Unreachable(f"{command[0]} did not answer within {limit_s:g} s") from None
    finally:
        if process.returncode is None:
            # Whatever it has started, too: that would hold the pipes, and so us, for its lifetime.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, SIGKILL)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.communicate(), KILL_S)
    if len(out) > MOST_BYTES:
        raise Unreachable(f"the answer of {command[0]} is too long to be one")
    return code, out.decode("utf-8", "replace"), error_text.decode("utf-8", "replace")


async def _read(process: asyncio.subprocess.Process, stream: asyncio.StreamReader | None) -> bytes:
    """All of it; one that goes on and on is cut off, and its writer ended."""
    assert stream is not None
    blocks: list[bytes] = []
    size = 0
    while block := await stream.read(1 << 16):
        size += len(block)
        if size <= MOST_BYTES:
            blocks.append(block)
        elif process.returncode is None:
            blocks.append(block)  # so that it is seen to be too long
            process.kill()
    return b"".join(blocks)


async def _write(stream: asyncio.StreamWriter | None, text: str) -> None:
    if stream is None:
        return
    try:
        stream.write(os.fsencode(text))
        await stream.drain()
    except (BrokenPipeError, ConnectionResetError):
        pass  # it has refused before it had read all
    finally:
        stream.close()


def _bases(ids: Iterable[str]) -> list[str]:
    """The jobs and whole arrays that the IDs belong to."""
    return list(dict.fromkeys(id.partition("_")[0] for id in ids))


def _cause(text: str) -> str:
    """What a command says to have gone wrong, in one line."""
    lines = [re.sub(r"^\w+: ((error|fatal): )?", "", line.strip()) for line in text.splitlines()]
    told = [line for line in dict.fromkeys(lines) if line and not line.startswith(("Try ", "*"))]
    return shown("; ".join(told), 300)
