"""The tiny detached process that owns one local job, from before its start to its exit record.

Run by file path as `python -I -S shim.py JOB_DIR LOCK_FD READY_FD`, standard library only. What to
run comes on standard input; `shim_job.Order` says how. Everything is imported before the command
runs: an upgrade that replaces our files does not touch jobs that run.

What holds, whatever is killed:
- The shim lives exactly as long as it holds the lock, which it inherits already locked.
- The command cannot run before `started` is on the disk: it waits at a gate, and a shim that dies
  first never opens it. So: no `started` means that it never ran; `started` means never again.
- `exit` is written after everything below the shim is dead, into space reserved at the start.
"""

import fcntl
import os
import sys

# The rest of the shim is imported because Python keeps modules compiled, but compiles a script
# each time it is run. With -I and -S no path leads to our modules.
sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from jobs.engines.shim_job import Order, Shim
from jobs.failpoints import reach


def main() -> int:
    job_dir, lock_fd, ready_fd = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    os.set_inheritable(lock_fd, False)  # else the command would hold the lock after our death
    os.set_inheritable(ready_fd, False)
    order = Order(sys.stdin.buffer.read())
    os.chdir(job_dir)
    # Succeeds for the open file description that we inherited, fails for a stranger's lock.
    fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if os.path.exists("started") or os.path.exists("exit"):
        return 0
    os.ftruncate(lock_fd, 0)
    os.pwrite(lock_fd, b"%d\n" % os.getpid(), 0)
    reach("shim.begun")
    return Shim(order, ready_fd).run()


if __name__ == "__main__":
    sys.exit(main())
