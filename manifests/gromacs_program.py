"""Running the programs of GROMACS, and understanding how they end."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from types import FrameType

from script_support import EXIT_STOPPED, ScriptError

EXIT_FAILED = 65
AFTER_BLOW_UP = (
    "What to do: lower timestep_fs, raise equilibrate_steps, or start from a better structure"
)

_FATAL = re.compile(r"^Program: .*?\n\n[^\n]+:\n(.+?)\n\nFor more", re.DOTALL | re.MULTILINE)
_FIRST = re.compile(r"^(?:ERROR|WARNING) 1 \[[^\n]*\n(.+?)\n\n", re.DOTALL | re.MULTILINE)


class StoppedError(Exception):
    """A signal asked the run to stop."""


class Gromacs:
    """Runs `gmx`, one program at a time, in the output directory; a stop reaches the program."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.stops: list[str] = []
        self._running: subprocess.Popen[bytes] | None = None
        # gmx refuses other threads than the environment's; and it overwrites, we count on that.
        threads = str(options.threads)
        self._environment = os.environ | {"OMP_NUM_THREADS": threads, "GMX_MAXBACKUP": "-1"}
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self._stop)

    def _stop(self, number: int, _: FrameType | None) -> None:
        self.stops.append(signal.Signals(number).name)
        # mdrun aborts at its third TERM: it gets one, whoever else may be sent more.
        if self._running and len(self.stops) == 1:
            self._running.terminate()

    def call(self, log: str, program: str, *arguments: str, answer: str = "") -> int:
        """Run `gmx program`; its exit code. What it prints goes to `log`.out."""
        if self.stops:
            raise StoppedError
        with (self.options.out / f"{log}.out").open("wb") as out:
            # A group of its own, so that a stop sent to all of ours does not reach it twice.
            with subprocess.Popen(
                ["gmx", "-quiet", program, *arguments],
                cwd=self.options.out,
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
                process_group=0,
            ) as process:
                self._running = process
                if self.stops:
                    process.terminate()
                process.communicate(answer.encode())
            self._running = None
        return process.returncode

    def prepare(self, log: str, program: str, *arguments: str, answer: str = "") -> None:
        """Run a program that only fails for what it was given."""
        code = self.call(log, program, *arguments, answer=answer)
        if self.stops:
            raise StoppedError
        if code:
            cause = complaint(self.options.out / f"{log}.out")
            raise ScriptError(
                f"gmx {program} refuses: {cause} What to do: change the structure or the"
                f" parameters; {log}.out has all that it said."
            )

    def mdrun(self, stage: str, *arguments: str) -> None:
        """Run the stage, from its checkpoint if there is one; all its steps are done then.

        Raises StoppedError, or ScriptError if it blew up or failed.
        """
        out = self.options.out
        checkpoint, before = out / f"{stage}.cpt", out / f"{stage}_prev.cpt"
        if before.exists() and not checkpoint.exists():  # killed between two renames
            shutil.copyfile(before, checkpoint)
        (out / f"{stage}.gro").unlink(missing_ok=True)
        every = ["-cpt", f"{self.options.checkpoint_minutes:g}"]
        cores = ["-ntmpi", "1", "-nt", str(self.options.threads), "-pin", "off"]
        files = ["-deffnm", stage, "-cpi", checkpoint.name]
        code = self.call(stage, "mdrun", *files, *every, *cores, *arguments)
        done = (out / f"{stage}.gro").exists()
        if done and code == 0:
            return
        if self.stops:
            raise StoppedError
        raise failure(out, stage, code)


def failure(out: Path, stage: str, code: int) -> ScriptError:
    """Why mdrun has not done all steps of the stage, as an error that says what to do."""
    log = out / f"{stage}.out"
    text = log.read_text(encoding="utf-8", errors="replace")
    if "LINCS WARNING" in text or "can not be settled" in text or "not finite" in text:
        return ScriptError(
            f"the simulation blew up in stage {stage}: {complaint(log)} {AFTER_BLOW_UP}",
            EXIT_FAILED,
        )
    if code == 0:
        step = last_checkpoint(out / f"{stage}.log")
        return ScriptError(
            f"unfinished: maxh was over at step {step}, before the last one; resume the job to"
            " go on from its checkpoint",
            EXIT_STOPPED,
        )
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"gave exit code {code}"
    return ScriptError(
        f"mdrun {how} in stage {stage}: {complaint(log)} What to do: see {stage}.log and"
        f" {stage}.out; look at memory and disk space",
        EXIT_FAILED,
    )


# ---- what GROMACS said ---------------------------------------------------------------------------


def complaint(log: Path) -> str:
    """Why a program of GROMACS gave up, in one line from what it printed."""
    text = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n")
    found = _FATAL.search(text)
    if found and re.match(r"Too many warnings|There (was|were) \d+ error", found[1]):
        found = _FIRST.search(text) or found
    if found:
        said = found[1]
    else:  # it died without a word: its last line about a step is the best there is
        lines = [line for line in text.splitlines() if line.strip()]
        about = [line for line in lines if re.match(r"(?i)step \d+[:,] ", line)]
        said = (about or lines or ["it said nothing"])[-1]
    said = " ".join(said.split()).rstrip(" .")
    return said + "." if len(said) <= 400 else said[:400] + "..."


def last_checkpoint(log: Path) -> int:
    """The step of the last checkpoint that the log of mdrun tells of, or 0."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return 0
    steps = re.findall(r"^Writing checkpoint, step (\d+) at", text, re.MULTILINE)
    return int(steps[-1]) if steps else 0
