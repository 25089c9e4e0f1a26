"""Running a manifest's script as a job runs it: a process with a directory of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

MANIFESTS = Path(__file__).resolve().parents[2] / "manifests"


class Script:
    def __init__(self, name: str, *endless: str) -> None:
        self.path = MANIFESTS / name
        self._endless = endless  #: options of a run that does not end by itself

    def command(self, out: Path, *options: str) -> list[str]:
        return [sys.executable, str(self.path), "--out", str(out), *options]

    def run(self, out: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(out, *options),
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
            env=os.environ | environment,
        )

    def run_until(self, out: Path, mark: str, signal_number: signal.Signals) -> tuple[int, str]:
        """Start an endless run, send it the signal after a line with `mark`; exit code, stdout."""
        command = self.command(out, *self._endless)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            lines = []
            for line in process.stdout:
                lines.append(line)
                if mark in line:
                    process.send_signal(signal_number)
                    break
            rest = process.stdout.read()
            return process.wait(timeout=60), "".join(lines) + rest
