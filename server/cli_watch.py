"""Looking on while a job runs: its progress until it ends, its log as it is written."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from jobs import clock
from jobs.model import Job
from jobs.states import FINAL, State
from jobs.text import shown
from server.cli_views import STATE_STYLES, bar
from server.job_replies import duration

if TYPE_CHECKING:
    from jobs.service import Service

LOOK_EVERY_S = 0.5  #: between looks at a job's progress
POLL_LOG_S = 0.2  #: between looks at a log that has not grown
#: Where there is no terminal: a line for so much progress, or after so long.
PLAIN_STEP, PLAIN_EVERY_S = 0.1, 30.0


@dataclass(frozen=True)
class Moment:
    """A job at one moment, as far as an onlooker wants to know."""

    state: State
    elapsed_s: float | None = None
    fraction: float | None = None
    eta_s: float | None = None
    message: str = ""

    @classmethod
    def of(cls, job: Job) -> Moment:
        progress = job.progress
        message = (progress.message if progress else None) or job.wait_reason or ""
        return cls(
            job.state,
            job.elapsed_s(clock.now()),
            progress.fraction if progress else None,
            progress.eta_s if progress else None,
            shown(message),
        )

    def words(self) -> str:
        """`running for 12.0 s, 40 %, about 18.0 s left`"""
        text = str(self.state)
        if self.elapsed_s is not None and self.state is State.RUNNING:
            text += f" for {duration(self.elapsed_s)}"
        if self.fraction is not None:
            text += f", {100 * self.fraction:.0f} %"
        if self.eta_s is not None and self.state not in FINAL:
            text += f", about {duration(self.eta_s)} left"
        return text


class Onlooker:
    """Shows moment after moment: on a terminal as a bar that goes when left, else in lines."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._spinner = Spinner("dots")
        self._live: Live | None = None
        self._told: Moment | None = None
        self._told_at = 0.0

    def __enter__(self) -> Onlooker:
        if self._console.is_terminal:
            self._live = Live(
                console=self._console, transient=True, refresh_per_second=8, redirect_stdout=False
            )
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, moment: Moment) -> None:
        if self._live is not None:
            self._live.update(self._picture(moment))
        elif self._is_news(moment):
            self._told, self._told_at = moment, time.monotonic()
            self._console.print(Text(moment.words()), soft_wrap=True)

    def _is_news(self, moment: Moment) -> bool:
        told = self._told
        if told is None or told.state != moment.state:
            return True
        step = (moment.fraction or 0.0) - (told.fraction or 0.0)
        return step >= PLAIN_STEP or time.monotonic() - self._told_at >= PLAIN_EVERY_S

    def _picture(self, moment: Moment) -> RenderableType:
        line = Table.grid(padding=(0, 1, 0, 0), expand=True)
        for _ in range(2):
            line.add_column(no_wrap=True)
        line.add_column(ratio=1)
        line.add_column(no_wrap=True, justify="right")
        how_far = "" if moment.fraction is None else f"{100 * moment.fraction:.0f} %"
        if moment.eta_s is not None and moment.state not in FINAL:
            how_far += f", {duration(moment.eta_s)} left"
        elif moment.elapsed_s is not None:
            how_far = f"{how_far} {duration(moment.elapsed_s)}".strip()
        line.add_row(
            self._spinner,
            Text(moment.state.value, style=STATE_STYLES[moment.state]),
            ProgressBar(pulse=True, pulse_style="cyan")
            if moment.fraction is None
            else bar(moment.fraction, width=None),
            Text(how_far),
        )
        message = Text(f"  {moment.message}", style="dim", no_wrap=True, overflow="ellipsis")
        return Group(line, message)


async def watch(service: Service, job: Job, console: Console) -> Job:
    """The job once it has ended. Interrupted, only the watching ends."""
    with Onlooker(console) as onlooker:
        onlooker.show(Moment.of(job))
        while not job.is_final:
            job = await service.job(job.id, wait_s=LOOK_EVERY_S)
            onlooker.show(Moment.of(job))
    return job


async def follow(
    service: Service,
    job_id: str,
    *,
    stream: str,
    lines: int,
    write: Callable[[str], object],
    note: Callable[[str], object],
) -> Job:
    """Write the log's last lines and then all that comes, to the last byte of an ended job."""
    job, excerpt = await service.tail(job_id, stream=stream, lines=lines)
    for text in excerpt.notes:
        note(text)
    write(excerpt.text)
    while True:
        before = excerpt.next_cursor
        job, excerpt = await service.tail(job_id, stream=stream, lines=1000, cursor=before)
        for text in excerpt.breaks:
            note(text)
        write(excerpt.text)
        if excerpt.text or excerpt.next_cursor != before:
            continue
        if job.is_final:
            return job
        await asyncio.sleep(POLL_LOG_S)
