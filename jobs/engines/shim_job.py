"""One job's life as the shim lives it; the rules that hold are told in `shim.py`."""

import os
import resource
import select
import sys
import time

# What `signal` wraps in enums, which takes 6 ms of each start.
try:
    import _signal as signal  # type: ignore[import-not-found]
except ImportError:
    import signal

from jobs.engines.shim_system import (
    Bound,
    boot_id,
    confine,
    descendants,
    is_deleted,
    json_text,
    kill_cgroups,
    let_us_write,
    limit_hit,
    read_all,
    remove_cgroups,
    send,
    stat_field,
    touch,
    write_file,
)
from jobs.failpoints import reach

EXIT_RECORD_BYTES = 4096
SWEEP_S = 10.0  # only processes that the kernel will not let die survive this
LOOK_S = 10.0  # between looks whether the job directory is still there
NEVER = float("inf")
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


class Order:
    """What to run: fields that each end in NUL. First, one each: wake FIFO, executable, working
    directory, stop signal, stop file (empty: none), grace seconds, time limit seconds (0: none),
    further members of the JSON object `started`, and three counts; then as many words of the
    keeper's command, as many arguments, as many bounds (`shim_system.Bound`), and the environment
    as NAME=VALUE.
    """

    def __init__(self, raw: bytes) -> None:
        fields = raw.split(b"\0")[:-1]
        self.wake, self.executable, self.cwd, stop, self.stop_file = fields[:5]
        grace, limit, self.note = fields[5:8]
        argv_at = 11 + int(fields[8])
        bounds_at = argv_at + int(fields[9])
        env_at = bounds_at + int(fields[10])
        self.keeper = fields[11:argv_at]
        self.argv = fields[argv_at:bounds_at]
        self.bounds = [Bound(field) for field in fields[bounds_at:env_at]]
        self.cgroups = sorted({bound.folder for bound in self.bounds if bound.folder})
        self.env = dict(field.split(b"=", 1) for field in fields[env_at:])
        self.stop_signal = getattr(signal, "SIG" + stop.decode())
        self.grace_s = float(grace)
        self.time_limit_s = float(limit)


class Shim:
    """All state of one job's life; times are monotonic seconds unless the name says otherwise."""

    def __init__(self, order: Order, ready_fd: int) -> None:
        self.order = order
        self.ready_fd = ready_fd
        self.why = "exit"
        self.error = ""
        self.pid = 0
        self.code = 0
        self.kill_at = NEVER
        self.limit_hit = b""

    def run(self) -> int:
        self.prepare()
        reach("shim.prepared")
        gate = self.fork()
        reach("shim.forked")
        note = self.order.note + confine(self.pid, self.order.bounds)
        reach("shim.confined")
        identity = (self.pid, stat_field(self.pid, 19), boot_id(), time.time(), note)
        started = b'{"pid": %d, "start_ticks": "%s", "boot_id": "%s", "started_at": %.6f%s}\n'
        write_file(".started.tmp", started % identity, publish_as="started")
        reach("shim.started_recorded")
        self.started_at = time.monotonic()
        try:
            os.write(gate, b"g")
        except BrokenPipeError:
            pass  # it ended at the gate: `watch` sees why
        os.close(gate)
        reach("shim.gate_opened")
        self.watch()
        reach("shim.command_ended")
        survivors = self.end_all()
        reach("shim.tree_ended")
        self.record(survivors)
        remove_cgroups(self.order.cgroups)
        reach("shim.cgroups_removed")
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

    def fork(self) -> int:
        """Make the command's process, which waits at the gate; the gate to open."""
        gate_read, gate_write = os.pipe()
        self.start_errors, error_write = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(gate_read)
            os.close(error_write)
            return gate_write
        try:
            os.close(gate_write)
            os.setsid()
            signal.set_wakeup_fd(-1)
            for name in ("CHLD", "TERM", "INT", "HUP", "PIPE", "XFSZ"):
                signal.signal(getattr(signal, "SIG" + name), signal.SIG_DFL)
            what = b"log files"
            os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
            append = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
            os.dup2(os.open("stdout.log", append, 0o600), 1)
            os.dup2(os.open("stderr.log", append, 0o600), 2)
            what = b"working directory " + self.order.cwd
            os.chdir(self.order.cwd)
            what = b"executable " + self.order.executable
            if os.read(gate_read, 1) == b"g":
                os.execve(self.order.executable, self.order.argv, self.order.env)
        except OSError as error:
            os.write(error_write, what[:400] + b": " + os.strerror(error.errno or 0).encode())
        finally:
            os._exit(127)

    def watch(self) -> None:
        """Until the command itself has ended: obey orders, the time limit and our own signals."""
        poll = select.poll()
        poll.register(self.signals, select.POLLIN)
        poll.register(self.control, select.POLLIN)
        poll.register(self.start_errors, select.POLLIN)
        limit_at = self.started_at + (self.order.time_limit_s or NEVER)
        while not self.command_ended():
            now = time.monotonic()
            if now >= limit_at:
                limit_at = NEVER
                self.stop("timeout", self.order.grace_s)
            if now >= self.kill_at:
                self.kill_at = NEVER
                send(-self.pid, signal.SIGKILL)
            left = max(0.0, min(limit_at, self.kill_at) - now)
            ready = dict(poll.poll(min(left, LOOK_S) * 1000 + 1))
            if self.start_errors in ready:  # exec closes the other end, or says why it could not
                poll.unregister(self.start_errors)
                self.end_start()
            received = read_all(self.signals)
            if signal.SIGTERM in received or signal.SIGINT in received:
                wished = os.path.exists("cancel.json")  # and the command has taken the FIFO away
                self.stop("cancelled" if wished else "terminated", self.order.grace_s)
            self.obey()
            if is_deleted():  # nobody could look at the job, or end it, any more
                self.stop("cancelled", self.order.grace_s)
        self.end_start()

    def end_start(self) -> None:
        """Tell whoever waits for it that the command runs, or keep why it does not."""
        if self.ready_fd >= 0:
            error = os.read(self.start_errors, 512)
            if error:
                self.why, self.error = "start_error", error.decode("utf-8", "replace")
            os.close(self.start_errors)
            os.close(self.ready_fd)
            self.ready_fd = -1

    def obey(self) -> None:
        """Carry out the orders that have come: `T<grace seconds>`, or `T` for the job's own."""
        for order in read_all(self.control).split():
            given = order[1:].replace(b".", b"", 1).isdigit()
            self.stop("cancelled", float(order[1:]) if given else self.order.grace_s)

    def stop(self, why: str, grace_s: float) -> None:
        """Ask the command's group to end; a repeated order can only bring the kill nearer."""
        now = time.monotonic()
        if self.why == "exit":
            if self.command_ended():
                return  # by itself, a moment earlier
            self.why = why
            if not touch(self.order.stop_file):
                send(-self.pid, self.order.stop_signal)
            send(-self.pid, signal.SIGCONT)  # a frozen process cannot end
            self.kill_at = now + grace_s
            reach("shim.stop_sent")
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
        self.limit_hit = limit_hit(self.order.bounds)  # before forks are refused by our own doing
        send(-self.pid, signal.SIGKILL)
        give_up_at = time.monotonic() + SWEEP_S
        while not self.reap():
            kill_cgroups(self.order.cgroups)
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
            '"wall_s": %.3f, "user_s": %.3f, "system_s": %.3f, "max_rss_kb": %d, "survivors": %s, '
            '"limit_hit": %s}\n'
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
            '"%s"' % self.limit_hit.decode() if self.limit_hit else "null",
        )
        pause_s = 0.05
        while not is_deleted():
            try:
                write_file(".exit.reserved", text.encode(), publish_as="exit")
                reach("shim.end_recorded")
                break
            except FileNotFoundError:
                break
            except OSError as error:
                if isinstance(error, PermissionError):
                    let_us_write(".exit.reserved")
                time.sleep(pause_s)
                pause_s = min(pause_s * 2, 5.0)
        try:
            os.unlink("ctl")
        except OSError:
            pass  # whatever the command has made of it

    def tell_keeper(self) -> None:
        """Wake the keeper, or become one: else queued jobs would wait for somebody to ask."""
        keeper: list[bytes] = []
        try:
            os.write(os.open(self.order.wake, os.O_WRONLY | os.O_NONBLOCK), b"w\n")
        except FileNotFoundError:
            pass  # the state directory is gone
        except OSError:
            keeper = self.order.keeper
        reach("shim.keeper_told")
        if keeper:
            os.execve(keeper[0], keeper, os.environ)
