"""The tiny detached process that owns one local job, from before its start to its exit record.

Run by file path as `python -I -S shim.py JOB_DIR LOCK_FD READY_FD`, standard library only. What to
run comes on standard input, as fields that each end in NUL: wake FIFO, executable, working
directory, stop signal, grace seconds, time limit seconds (0: none), two counts, then as many words
of the keeper's command, as many arguments, and the environment as NAME=VALUE.

What holds, whatever is killed:
- The shim lives exactly as long as it holds the lock, which it inherits already locked.
- The command cannot run before `started` is on the disk: it waits at a gate, and a shim that dies
  first never opens it. So: no `started` means that it never ran; `started` means never again.
- `exit` is written after everything below the shim is dead, into space reserved at the start.
"""

import fcntl
import os
import resource
import select
import signal
import sys
import time

EXIT_RECORD_BYTES = 4096
SWEEP_S = 10.0  # only processes that the kernel will not let die survive this
NEVER = float("inf")
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def main() -> int:
    job_dir, lock_fd, ready_fd = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    os.set_inheritable(lock_fd, False)  # else the command would hold the lock after our death
    os.set_inheritable(ready_fd, False)
    fields = sys.stdin.buffer.read().split(b"\0")[:-1]
    os.chdir(job_dir)
    # Succeeds for the open file description that we inherited, fails for a stranger's lock.
    fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if os.path.exists("started") or os.path.exists("exit"):
        return 0
    os.ftruncate(lock_fd, 0)
    os.pwrite(lock_fd, b"%d\n" % os.getpid(), 0)
    return Shim(fields, ready_fd).run()


class Shim:
    """All state of one job's life; times are monotonic seconds unless the name says otherwise."""

    def __init__(self, fields: list[bytes], ready_fd: int) -> None:
        self.wake, self.executable, self.cwd, stop, grace, limit, words, count = fields[:8]
        argv_at = 8 + int(words)
        env_at = argv_at + int(count)
        self.keeper = fields[8:argv_at]
        self.argv = fields[argv_at:env_at]
        self.env = dict(field.split(b"=", 1) for field in fields[env_at:])
        self.stop_signal = getattr(signal, "SIG" + stop.decode())
        self.grace_s = float(grace)
        self.time_limit_s = float(limit)
        self.ready_fd = ready_fd
        self.why = "exit"
        self.error = ""
        self.pid = 0
        self.code = 0
        self.kill_at = NEVER

    def run(self) -> int:
        self.prepare()
        gate, errors = self.fork()
        identity = (self.pid, stat_field(self.pid, 19), boot_id(), time.time())
        started = b'{"pid": %d, "start_ticks": "%s", "boot_id": "%s", "started_at": %.6f}\n'
        write_file(".started.tmp", started % identity, publish_as="started")
        self.started_at = time.monotonic()
        os.write(gate, b"g")
        os.close(gate)
        error = os.read(errors, 512)  # empty once exec has closed the other end
        os.close(errors)
        if error:
            self.why, self.error = "start_error", error.decode("utf-8", "replace")
        os.close(self.ready_fd)
        self.watch()
        survivors = self.end_all()
        self.record(survivors)
        self.tell_keeper()
        return 0

    def prepare(self) -> None:
        """Everything that can fail for lack of space or descriptors, before anything runs."""
        write_file(".exit.reserved", b" " * EXIT_RECORD_BYTES)
        if not os.path.exists("ctl"):
            os.mkfifo("ctl", 0o600)
        # Opened for both, so that it never reads as ended when a writer closes it.
        self.control = os.open("ctl", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        if sys.platform == "linux":
            import ctypes

            ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self.signals, wake_write = os.pipe()
        os.set_blocking(self.signals, False)
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def fork(self) -> tuple[int, int]:
        """The command's process, waiting at the gate: (gate to open, pipe of start errors)."""
        gate_read, gate_write = os.pipe()
        error_read, error_write = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(gate_read)
            os.close(error_write)
            return gate_write, error_read
        try:
            os.close(gate_write)
            os.close(error_read)
            os.setsid()
            signal.set_wakeup_fd(-1)
            for name in ("CHLD", "TERM", "INT", "HUP", "PIPE", "XFSZ"):
                signal.signal(getattr(signal, "SIG" + name), signal.SIG_DFL)
            what = b"log files"
            os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
            append = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
            os.dup2(os.open("stdout.log", append, 0o600), 1)
            os.dup2(os.open("stderr.log", append, 0o600), 2)
            what = b"working directory " + self.cwd
            os.chdir(self.cwd)
            what = b"executable " + self.executable
            if os.read(gate_read, 1) == b"g":
                os.execve(self.executable, self.argv, self.env)
        except OSError as error:
            os.write(error_write, what[:400] + b": " + os.strerror(error.errno or 0).encode())
        finally:
            os._exit(127)

    def watch(self) -> None:
        """Until the command itself has ended: obey orders, the time limit and our own signals."""
        poll = select.poll()
        poll.register(self.signals, select.POLLIN)
        poll.register(self.control, select.POLLIN)
        limit_at = self.started_at + (self.time_limit_s or NEVER)
        while not self.command_ended():
            now = time.monotonic()
            if now >= limit_at:
                limit_at = NEVER
                self.stop("timeout", self.grace_s)
            if now >= self.kill_at:
                self.kill_at = NEVER
                send(-self.pid, signal.SIGKILL)
            left = min(limit_at, self.kill_at) - now
            poll.poll(min(left, 86400) * 1000 + 1 if left < NEVER else None)  # a C int of ms
            received = read_all(self.signals)
            if signal.SIGTERM in received or signal.SIGINT in received:
                self.stop("terminated", self.grace_s)
            self.obey()

    def obey(self) -> None:
        """Carry out the orders that have come: `T<grace seconds>`, or `T` for the job's own."""
        for order in read_all(self.control).split():
            given = order[1:].replace(b".", b"", 1).isdigit()
            self.stop("cancelled", float(order[1:]) if given else self.grace_s)

    def stop(self, why: str, grace_s: float) -> None:
        """Ask the command's group to end; a repeated order can only bring the kill nearer."""
        now = time.monotonic()
        if self.why == "exit":
            if self.command_ended():
                return  # by itself, a moment earlier
            self.why = why
            send(-self.pid, self.stop_signal)
            send(-self.pid, signal.SIGCONT)  # a frozen process cannot end
        self.kill_at = min(self.kill_at, now + grace_s)

    def command_ended(self) -> bool:
        """Whether the command itself has ended; what else has ended below us is reaped.

        The command stays a zombie till the end, so that its pid, and the process group of that
        number, cannot become a stranger's while we still mean to signal it.
        """
        while True:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None:
                return False
            if ended.si_pid == self.pid:
                return True
            os.waitpid(ended.si_pid, os.WNOHANG)

    def end_all(self) -> list[int]:
        """End every descendant; the pids of those that even SIGKILL did not end.

        After a stop, what the command left (MPI ranks, data loaders) has the rest of the grace
        period. As the subreaper we are the parent of every escapee (setsid, double fork) whose own
        parent is gone: when we have no child any more, nothing is left, and only then.
        """
        while time.monotonic() < self.kill_at < NEVER and descendants():
            time.sleep(0.02)
            self.obey()
        send(-self.pid, signal.SIGKILL)
        give_up_at = time.monotonic() + SWEEP_S
        while not self.reap():
            # Nothing is reaped from here to the kill: no pid in the list can become a stranger's.
            living = descendants(signal.SIGSTOP)
            for pid in living:
                send(pid, signal.SIGKILL)
            if time.monotonic() > give_up_at:
                return living
            time.sleep(0.001)
        return []

    def reap(self) -> bool:
        """Collect what has ended, the command too; whether no child is left at all."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                return False
            if pid == self.pid:
                self.code = os.waitstatus_to_exitcode(status)  # negative for a signal

    def record(self, survivors: list[int]) -> None:
        """Write `exit`; with a full disk there is the reserved space, and patience."""
        wall_s = time.monotonic() - self.started_at
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        text = (
            '{"why": "%s", "exit_code": %s, "signal": %s, "error": %s, "ended_at": %.6f, '
            '"wall_s": %.3f, "user_s": %.3f, "system_s": %.3f, "max_rss_kb": %d, "survivors": %s}\n'
        ) % (
            self.why,
            self.code if self.code >= 0 and not self.error else "null",
            -self.code if self.code < 0 else "null",
            json_text(self.error) if self.error else "null",
            time.time(),
            wall_s,
            used.ru_utime,
            used.ru_stime,
            used.ru_maxrss if sys.platform == "linux" else used.ru_maxrss // 1024,
            survivors[:100],
        )
        pause_s = 0.05
        while os.stat(".").st_nlink:  # else the job directory is deleted: nowhere to write
            try:
                write_file(".exit.reserved", text.encode(), publish_as="exit")
                os.unlink("ctl")
                break
            except FileNotFoundError:
                break
            except OSError:
                time.sleep(pause_s)
                pause_s = min(pause_s * 2, 5.0)

    def tell_keeper(self) -> None:
        """Wake the keeper, or become one: else queued jobs would wait for somebody to ask."""
        try:
            os.write(os.open(self.wake, os.O_WRONLY | os.O_NONBLOCK), b"w")
        except FileNotFoundError:
            pass  # the state directory is gone
        except OSError:
            os.execve(self.keeper[0], self.keeper, os.environ)


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
        os.replace(name, publish_as)
        folder = os.open(".", os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


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


if __name__ == "__main__":
    sys.exit(main())
