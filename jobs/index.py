"""The file of the index: made from the job directories, migrated, replaced when it is damaged.

An index that is missing or damaged is no loss, because the job directories are the truth: whoever
opens it first makes it anew, whole under a temporary name, and the others wait.
"""

from __future__ import annotations

import fcntl
import functools
import logging
import os
import re
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jobs.errors import DiskFullError, IndexBusyError, StateDirectoryError
from jobs.failpoints import reach
from jobs.files import sync_directory
from jobs.model import JobEvent
from jobs.paths import Home

log = logging.getLogger(__name__)

SQL = files("jobs") / "sql"
BUSY_S = 5.0  #: how long a statement waits for another process; clients give up soon after
MANY = 50  #: times that the index may be replaced during one call
PRAGMAS = ("PRAGMA synchronous=NORMAL", "PRAGMA foreign_keys=ON")

FileId = tuple[int, int]  #: device and inode
NO_FILE: FileId = (0, 0)
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR_SHORT_READ}


@dataclass(frozen=True)
class Entry:
    """A job as its directory tells it: a row without its `seq`, and what has happened to it."""

    row: dict[str, Any]
    events: list[JobEvent]


Fill = Callable[[], Iterable[Entry]]


def named_statements(text: str) -> dict[str, str]:
    """The statements of a file, each after a line `-- name: x`. ValueError on a name used twice."""
    _, *parts = re.split(r"^-- name: (\w+)\n", text, flags=re.MULTILINE)
    names, bodies = parts[::2], parts[1::2]
    if len(set(names)) != len(names):
        raise ValueError("a statement's name is used twice")
    return dict(zip(names, bodies, strict=True))


@functools.cache
def queries() -> dict[str, str]:
    """Every statement by its name."""
    return named_statements((SQL / "queries.sql").read_text(encoding="utf-8"))


def how_to_connect(file: Path) -> dict[str, Any]:
    """The arguments of a connection to a file that `prepare` gave; PRAGMAS are to follow."""
    return {
        "database": f"{file.as_uri()}?mode=rw",
        "uri": True,
        "timeout": BUSY_S,
        "isolation_level": None,
    }


def identity(file: Path) -> FileId:
    """Raises OSError."""
    status = file.stat()
    return status.st_dev, status.st_ino


def is_current(path: Path, file: FileId) -> bool:
    """Whether the file that is open is still the index: SQLite would go on with a deleted one,
    lose what is written and tell old facts."""
    try:
        return identity(path) == file
    except OSError:
        return False


def prepare(path: Path, fill: Fill, *, anew: bool = False) -> tuple[Path, int]:
    """See to it that the index is there, whole, and of the newest schema. Blocks.

    `anew` says that it was open before, so that a state directory that is missing has gone.

    Gives its file, and a descriptor: until that is closed nobody replaces the file. Safe for many
    processes at once. Raises StateDirectoryError with the cause when the index is not usable,
    IndexBusyError while another process makes it.
    """
    try:
        if anew and not path.parent.is_dir():
            raise StateDirectoryError.gone(path.parent)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        while True:
            lock = _lock(path, fcntl.LOCK_SH)
            try:
                if _is_there(path):
                    _migrate(path)
                    return path.resolve(), lock
                inode = 0
            except sqlite3.Error as error:
                if not is_damage(error):
                    os.close(lock)
                    raise
                inode = path.stat().st_ino
            except BaseException:
                os.close(lock)
                raise
            os.close(lock)
            replace(path, inode, fill)
    except (OSError, sqlite3.Error) as error:
        raise refusal(path, error, "opened") from None


def hold(path: Path) -> int:
    """A descriptor: until it is closed nobody makes the index anew. Raises StateDirectoryError."""
    try:
        return _lock(path, fcntl.LOCK_SH)
    except OSError as error:
        raise refusal(path, error, "opened") from None


def replace(path: Path, inode: int, fill: Fill) -> None:
    """Make the index anew if there is none, or if its file is still the one with `inode`. Blocks.

    Killed in between, whoever opens the index next makes it; failing, the old one is there again.
    """
    was = path.with_name(f".{path.name}.was")  # nobody shall go on with it meanwhile
    lock = -1
    try:
        lock = _lock(path, fcntl.LOCK_EX)
        if _is_there(path):
            if path.stat().st_ino != inode:
                return
            log.warning("making %s anew; the old one is %s", path, path.resolve().name)
            path.replace(was)
        try:
            _make(path, fill, keep=was.resolve())
        except Exception:
            with suppress(FileNotFoundError):
                was.replace(path)
            raise
        was.unlink(missing_ok=True)
    except (OSError, sqlite3.Error) as error:
        raise refusal(path, error, "made anew") from None
    finally:
        if lock >= 0:
            os.close(lock)


def mend(path: Path, error: sqlite3.Error, file: FileId, fill: Fill) -> None:
    """Replace the file if the error says that it is damaged; raise a StateDirectoryError if not."""
    if not is_damage(error):
        raise refusal(path, error, "used") from None
    replace(path, file[1], fill)


def is_damage(error: Exception) -> bool:
    """Whether SQLite says that the file is no database, or not a whole one."""
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code in _DAMAGED or code & 0xFF in _DAMAGED


def refusal(path: Path, error: Exception, what: str) -> StateDirectoryError:
    """Why the index cannot be used, in words."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    number = getattr(error, "errno", None)
    if code == sqlite3.SQLITE_FULL or DiskFullError.is_cause(number):
        return DiskFullError(f"The disk that holds {path.parent} is full.")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return IndexBusyError(f"{path} is locked by another process.")
    return StateDirectoryError(f"{path} cannot be {what}: {error}.")


def _is_there(path: Path) -> bool:
    """An empty file is one that a crash has left; ours take their name when they are whole."""
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False


def _lock(path: Path, how: int) -> int:
    """Held shared by who opens the index, alone by who makes it."""
    fd = os.open(Home(path.parent).index_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    give_up_at = time.monotonic() + BUSY_S
    while True:
        try:
            fcntl.flock(fd, how | fcntl.LOCK_NB)
            return fd
        except BlockingIOError:
            if time.monotonic() > give_up_at:
                os.close(fd)
                raise IndexBusyError(
                    f"{path} is being made anew from the job directories."
                ) from None
            time.sleep(0.01)


def _make(path: Path, fill: Fill, keep: Path) -> None:
    """A new file, to which `path` is a link once it is whole; others but `keep` are removed.

    The name of each file is new, because a process that closes an old one removes its
    write-ahead log by name.
    """
    file = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        _write(file, fill)
    except Exception:
        for end in ("", "-wal", "-shm"):  # a full disk has no room for half of one
            file.with_name(file.name + end).unlink(missing_ok=True)
        raise
    link = path.with_name(f".{path.name}.link")
    link.unlink(missing_ok=True)
    link.symlink_to(file.name)
    link.replace(path)
    sync_directory(path.parent)
    reach("server.index_published")
    for other in path.parent.glob(f"{path.name}.*"):
        if other.name.partition("-")[0] not in (file.name, keep.name):
            other.unlink(missing_ok=True)


def _write(file: Path, fill: Fill) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as db:
        file.chmod(0o600)
        db.execute("PRAGMA journal_mode=WAL")
        for version in range(len(_scripts())):
            _step(db, version)
        db.execute("BEGIN")
        for entry in fill():
            _insert(db, entry)
        db.execute("COMMIT")
    reach("server.index_filled")
    with file.open("rb") as whole:
        os.fsync(whole.fileno())


def _insert(db: sqlite3.Connection, entry: Entry) -> None:
    names = ", ".join(entry.row)
    values = ", ".join(f":{name}" for name in entry.row)
    # A key that two directories have, one being a copy, belongs to the first.
    sql = f"INSERT INTO job ({names}) VALUES ({values}) ON CONFLICT DO NOTHING"
    cursor = db.execute(sql, entry.row)
    if cursor.rowcount == 1:
        seq = cursor.lastrowid
        db.execute("DELETE FROM event WHERE job_seq = ?", (seq,))  # the trigger's
        db.executemany(
            "INSERT INTO event (job_seq, at, event, state, detail) VALUES (?, ?, ?, ?, ?)",
            [(seq, event.at, event.event, event.state, event.detail) for event in entry.events],
        )


def _scripts() -> list[str]:
    found = [item for item in SQL.iterdir() if re.match(r"\d{4}_", item.name)]
    found.sort(key=lambda item: item.name)
    return [item.read_text(encoding="utf-8") for item in found]


def _migrate(path: Path) -> None:
    """Bring the schema to the newest version; refuse one from the future."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, isolation_level=None)) as db:
        # The time-out comes first: switching to WAL takes a lock that others may hold.
        db.execute(f"PRAGMA busy_timeout={int(BUSY_S * 1000)}")
        # A damaged schema is to be found here, where it is mended.
        db.execute("SELECT 1 FROM sqlite_schema").fetchone()
        newest = len(_scripts())
        while (version := _version(db)) != newest:
            if version > newest:
                raise StateDirectoryError(
                    f"{path} was written by a newer Outlast (schema {version}, known {newest}).",
                    "Upgrade this Outlast, or set OUTLAST_HOME to another folder.",
                )
            _step(db, version)


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _step(db: sqlite3.Connection, version: int) -> None:
    """From one version of the schema to the next, in one transaction."""
    db.execute("BEGIN IMMEDIATE")
    try:
        # Another process may have migrated while we waited for the lock.
        if _version(db) == version:
            for statement in _split(_scripts()[version]):
                db.execute(statement)
            db.execute(f"PRAGMA user_version={version + 1}")
        db.execute("COMMIT")
    except BaseException:
        db.execute("ROLLBACK")
        raise


def _split(script: str) -> list[str]:
    """The statements of a script. `executescript` would commit our transaction first."""
    statements, current = [], ""
    for line in script.splitlines(keepends=True):
        current += line
        if sqlite3.complete_statement(current):
            statements.append(current)
            current = ""
    return statements
