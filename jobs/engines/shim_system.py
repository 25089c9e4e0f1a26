"""What the shim asks of the system: small durable files, what runs below it, signals."""

import errno
import os
import resource
import time

RLIMITS = {b"processes": "RLIMIT_NPROC", b"memory_mb": "RLIMIT_DATA"}


def write_file(name: str, content: bytes, publish_as: str = "") -> None:
    """Write in place, durably: an existing file keeps the blocks that were reserved for it.

    With `publish_as` it then takes that name, whole or not at all.
    """
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        written = 0
        while written < len(content):
            written += os.write(fd, content[written:])
        os.ftruncate(fd, written)
        os.fsync(fd)
    finally:
        os.close(fd)
    if publish_as:
        try:
            os.replace(name, publish_as)
        except IsADirectoryError:  # the job can have made it
            os.rename(publish_as, ".%s.%d.aside" % (publish_as, os.getpid()))
            os.replace(name, publish_as)
        folder = os.open(".", os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


def let_us_write(name: str) -> None:
    """Undo what the command may have done to the modes of its directory and of this file in it."""
    try:
        os.chmod(".", 0o700)
        os.unlink(name)
    except OSError:
        pass


def is_deleted() -> bool:
    """Whether the current directory, the job's, is gone."""
    try:
        return os.stat(".").st_nlink == 0
    except OSError as error:
        return error.errno in (errno.ENOENT, errno.ESTALE)


def read_all(fd: int) -> bytes:
    try:
        return os.read(fd, 4096)
    except BlockingIOError:
        return b""


def descendants(first: int = 0) -> list[int]:
    """Pids below us that are no zombies, from /proc; none where there is no /proc.

    Each is sent the signal `first` before its children are read: once stopped it forks no more.
    """
    living, todo = [], [os.getpid()]
    while todo:
        for pid in children(todo.pop()):
            if first:
                send(pid, first)
            todo.append(pid)
            if stat_field(pid, 0) not in (b"", b"Z", b"X"):
                living.append(pid)
    return living


def children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for task in os.listdir("/proc/%d/task" % pid):
            with open("/proc/%d/task/%s/children" % (pid, task)) as file:
                found += [int(word) for word in file.read().split()]
    except OSError:
        pass
    return found


def send(pid: int, number: int) -> None:
    """Signal a process of ours, or with a negative number the group of the unreaped command."""
    try:
        os.kill(pid, number)
    except OSError:
        pass


def stat_field(pid: int, index: int) -> bytes:
    """A field of /proc/PID/stat, counted from the one behind the name, which may hold anything."""
    try:
        with open("/proc/%d/stat" % pid, "rb") as file:
            stat = file.read()
        return stat[stat.rindex(b")") + 2 :].split()[index]
    except (OSError, ValueError, IndexError):
        return b""


def boot_id() -> bytes:
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            return file.read().strip()
    except OSError:
        return b""


def json_text(text: str) -> str:
    """A JSON string without the cost of importing json (4 ms of a start)."""
    return '"%s"' % "".join(
        c if c.isascii() and c.isprintable() and c not in '"\\' else "?" for c in text
    )


class Bound:
    """One thing that the command is held to: `KIND MOST VALUE FOLDER`, of which FOLDER is its
    cgroup, which has the limit already; without, VALUE is an rlimit's. MOST 0: no limit is meant.
    """

    def __init__(self, text: bytes) -> None:
        self.kind, most, value, self.folder = text.split(b" ", 3)
        self.most, self.value = int(most), int(value)


def confine(pid: int, bounds: list[Bound]) -> bytes:
    """Hold a process that waits to what it is to be held to; what was achieved, as a member of
    the JSON object `started`. What fails is not told."""
    members = []
    joined = set()
    for bound in bounds:
        by = b"cgroup" if bound.folder else b"rlimit"
        try:
            if bound.folder:
                if bound.folder not in joined:
                    put(bound.folder + b"/cgroup.procs", b"%d" % pid)
                    joined.add(bound.folder)
            else:
                limit = getattr(resource, RLIMITS[bound.kind])
                resource.prlimit(pid, limit, (bound.value, bound.value))
        except (AttributeError, OSError, ValueError):
            continue
        if bound.most:
            members.append(b'"%s": %d, "%s_by": "%s"' % (bound.kind, bound.most, bound.kind, by))
    try:
        put(b"/proc/%d/oom_score_adj" % pid, b"500")  # when memory is short, jobs go first
    except OSError:
        pass
    return b', "limits": {%s}' % b", ".join(members) if members else b""


def limit_hit(bounds: list[Bound]) -> bytes:
    """The kind of the limit that the command ran into, empty when it did not."""
    for bound in sorted(bounds, key=lambda bound: bound.kind):  # memory first
        folder = bound.folder + b"/"
        if not bound.folder or not bound.most:
            continue
        if bound.kind == b"memory_mb":
            # A kill may also come of the whole machine's need: then our limit was not reached.
            ours = count(folder + b"memory.events.local", b"oom")
            killed = count(folder + b"memory.events", b"oom_kill")
            if not ours:  # v1, which keeps the peak; it is charged in steps
                names = (b"memory.max_usage_in_bytes", b"memory.memsw.max_usage_in_bytes")
                ours = max(count(folder + name) for name in names) >= (bound.most - 1) << 20
                killed = count(folder + b"memory.oom_control", b"oom_kill")
            if ours and killed:
                return bound.kind
        elif count(folder + b"pids.events", b"max"):
            # The refusal may be that of a cgroup above ours.
            peak = count(folder + b"pids.peak", default=bound.most)
            if peak >= bound.most:
                return bound.kind
    return b""


def kill_cgroups(folders: list[bytes]) -> None:
    """Let nothing in them fork any more, and kill all that is there where the kernel does that."""
    for folder in folders:
        for name, text in ((b"/pids.max", b"0"), (b"/cgroup.kill", b"1")):
            try:
                put(folder + name, text)
            except OSError:
                pass


def remove_cgroups(folders: list[bytes], tries: int = 50) -> bool:
    """Remove them with those below; whether all are gone. The kernel keeps one that is in use."""
    gone = True
    for folder in folders:
        for left in reversed(range(tries)):
            try:
                for below, _, _ in os.walk(folder, topdown=False):
                    os.rmdir(below)
                break
            except FileNotFoundError:
                continue  # by somebody else, who may have left something
            except OSError:
                if left:
                    time.sleep(0.002)
        gone = gone and not os.path.isdir(folder)
    return gone


def put(path: bytes, text: bytes) -> None:
    """Write to a file of the kernel's, which is never made by that."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text)
    finally:
        os.close(fd)


def count(path: bytes, key: bytes = b"", default: int = 0) -> int:
    """The number behind `key` in a file of the kernel's, or the one that is all of it."""
    try:
        with open(path, "rb") as file:
            for line in file:
                words = line.split()
                if words[:-1] == ([key] if key else []):
                    return int(words[-1])
    except (OSError, ValueError, IndexError):
        pass
    return default


def touch(path: bytes) -> bool:
    """Make a file that a program looks for, in its working directory; whether it is there."""
    if not path:
        return False
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        os.close(os.open(path, flags, 0o600))
    except OSError:
        return False
    return True
