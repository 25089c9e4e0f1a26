"""Named steps at which a test can kill, freeze or fail the process that takes them.

`OUTLAST_FAILPOINTS` names a folder. A file in it that is named after a step arms the step, and says
what happens there: `kill`, `stop` (SIGSTOP) or the name of an error (`ENOSPC`). `kill` and `stop`
happen once; an error is raised as long as the file is there. All leave `STEP.fired`, which holds
the pid. Without the variable a step costs one comparison.

Standard library only: the shim, which imports nothing of ours, loads this file when it is armed.
"""

import errno
import os

_FOLDER = os.environ.get("OUTLAST_FAILPOINTS")

#: Every step, in the order in which a job goes through them: what has just been done.
POINTS = {
    # launch, by a server
    "server.directory_made": "the job directory is on the disk, under its unborn name",
    "server.accepted": "the row of the job is stored",
    "server.named": "the job directory has its own name",
    "server.keeper_called": "a keeper is there and was woken",
    # start
    "keeper.begun": "a keeper holds its lock and has opened the index",
    "keeper.claimed": "the job is stored as starting",
    "keeper.lock_taken": "the keeper holds the lock of the job",
    "keeper.cgroups_made": "the cgroups of the job are there, if there can be any",
    "keeper.shim_spawned": "the shim has been started",
    "slurm.intended": "`batch.json` is on the disk, with the token; nothing is submitted yet",
    "slurm.submitted": "Slurm has accepted the job, or the array",
    "slurm.recorded": "`batch.json` holds Slurm's ID of each job",
    "shim.begun": "the shim holds the lock of the job",
    "shim.prepared": "the shim has reserved what it needs to record the end",
    "shim.forked": "the command's process waits at the gate",
    "shim.confined": "the command's process is in its cgroups",
    "shim.started_recorded": "`started` is on the disk; the gate is still shut",
    "shim.gate_opened": "the command may run",
    "keeper.alive_stored": "the job is stored as running",
    # watch, at each look and after the end
    "keeper.log_trimmed": "a log that was too long has a hole",
    "keeper.sample_written": "`progress.jsonl` has a further sample",
    # cancel and time limit
    "server.wish_written": "`cancel.json` is on the disk",
    "server.wish_stored": "the wish is in the index",
    "keeper.cancelling_stored": "the job is stored as cancelling",
    "keeper.stop_ordered": "the shim has the order to stop",
    "shim.stop_sent": "the command has the signal to end, or its time limit has passed",
    # end
    "shim.command_ended": "the command itself has ended",
    "shim.tree_ended": "everything below the shim has ended",
    "shim.end_recorded": "`exit` is on the disk",
    "shim.cgroups_removed": "the cgroups of the job are gone",
    "shim.keeper_told": "the keeper was woken, or the shim is about to become one",
    "keeper.end_seen": "a keeper has seen the end",
    "keeper.record_written": "`run.json` is on the disk",
    "keeper.secrets_removed": "`secrets.json` is gone",
    "keeper.final_stored": "the job is stored as final",
    # prune, and making the index anew
    "server.job_set_aside": "the job directory has a name that is no job's",
    "server.job_emptied": "what the job directory held is gone",
    "server.row_deleted": "the index has forgotten the job",
    "server.job_removed": "nothing is left of the job directory",
    "server.index_filled": "a new index is whole, under a temporary name",
    "server.index_published": "the new index has its name",
}


def reach(point: str) -> None:
    """Say that a step was taken. Does nothing unless a test has armed the step."""
    if _FOLDER is not None:
        _fire(_FOLDER, point)


def _fire(folder: str, point: str) -> None:
    import _thread
    import signal

    if point not in POINTS:
        raise LookupError(point)
    path = os.path.join(folder, point)
    try:
        with open(path, encoding="ascii") as file:
            action = file.read().strip()
        if action not in ("kill", "stop"):
            number = getattr(errno, action)
            with open(path + ".fired", "w", encoding="ascii") as file:
                file.write(str(os.getpid()))
            raise OSError(number, os.strerror(number))
        with open(f"{path}.{os.getpid()}", "w", encoding="ascii") as file:
            file.write(str(os.getpid()))
        os.remove(path)  # of several processes that come here at once, one goes on
        os.rename(file.name, path + ".fired")
    except FileNotFoundError:
        return
    # To this thread: a signal to the process may be taken up by another one, a little later.
    signal.pthread_kill(_thread.get_ident(), signal.SIGKILL if action == "kill" else signal.SIGSTOP)
