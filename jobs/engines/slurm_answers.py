"""What Slurm has said of the jobs of one cluster, when, and whether it is silent."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Collection

from jobs import clock
from jobs.engines import slurm_commands as slurm
from jobs.engines.slurm_rows import AccountRow, QueueRow
from jobs.engines.slurm_states import FINAL, Seen
from jobs.model import ExitRecord, StartedRecord

log = logging.getLogger(__name__)

SETTLE_S = 15.0  #: for a shared file system, or the accounting, to show what has happened
CATCH_UP_S = 120.0  #: for the accounting to be told what has happened while it did not answer
SLOWEST_S = 60.0  #: between looks at a queue in which nothing happens


class Answers:
    """The last answers; Slurm is asked again, at a pace that follows what happens."""

    def __init__(self, poll_s: float) -> None:
        self._poll_s = poll_s
        self._interval_s = poll_s
        self.queue: dict[str, QueueRow] = {}
        self.account: dict[str, AccountRow] = {}
        self.has_accounting: bool | None = None  #: None: not known yet, or it does not answer
        self._no_account = ""  #: that the accounting does not answer, and why
        self._no_account_at = -math.inf  #: the last time
        self._asked_at = -math.inf  #: by the monotonic clock, as all times here
        self._arrays: set[str] = set()  #: that some task of is in these answers
        self._answered: set[str] = set()  #: IDs that the last answer was about
        self._answered_at = -math.inf  #: by the wall clock
        self._silent_since: float | None = None  #: by the wall clock
        self.silence = ""  #: since when Slurm has been silent, and why
        self._over_since: dict[str, float] = {}  #: IDs that Slurm has told the end of, or forgotten

    @property
    def is_silent(self) -> bool:
        return self._silent_since is not None

    def is_ready(self) -> bool:
        """Whether it is worth asking Slurm for anything."""
        return not self.is_silent or self._due()

    def _due(self) -> bool:
        return time.monotonic() - self._asked_at >= self._interval_s

    def look_soon(self) -> None:
        """Something has happened: look at the next occasion that the pace allows."""
        self._interval_s = self._poll_s

    def take_turn(self) -> bool:
        """Whether it is time to ask; who is told so does it."""
        if not self._due():
            return False
        self._asked_at = time.monotonic()
        return True

    async def ask(self, ids: Collection[str]) -> None:
        """One question to the queue about all jobs, one to the accounting about those that it does
        not know to be alive."""
        before = {job_id: row.state for job_id, row in self.queue.items()}
        asked_at = clock.now()
        try:
            if self.is_silent:  # the queue would be tried for 18 s
                await slurm.ping()
            queued = await slurm.queue(ids)
        except slurm.Unreachable as error:
            self.fell_silent(str(error))
            return
        queue = {id: row for id, row in queued.items() if id in ids}
        over = {id for id in ids if id not in queue or queue[id].state in FINAL}
        accounts = await self._accounts(over)
        self._silent_since, self._answered_at = None, asked_at
        self.account = {id: row for id, row in accounts.items() if id in over}
        self.queue, self._answered = queue, set(ids)
        self._arrays = {id.partition("_")[0] for id in (*queued, *accounts)}
        now = time.monotonic()
        self._over_since = {id: self._over_since.get(id, now) for id in over}
        changed = before != {job_id: row.state for job_id, row in queue.items()}
        unsettled = any(now - since < SETTLE_S for since in self._over_since.values())
        slower = min(self._interval_s * 1.5, max(SLOWEST_S, self._poll_s))
        self._interval_s = self._poll_s if changed or unsettled else slower

    async def _accounts(self, over: set[str]) -> dict[str, AccountRow]:
        """None of an accounting that does not answer: what the queue says holds without it."""
        if not over:
            return {}
        try:
            accounts = await slurm.accounting(over)
        except slurm.NoAccounting as error:
            if not self._no_account:
                log.warning("Slurm's accounting does not answer: %s", error)
            self.has_accounting = None
            self._no_account = f"Slurm's accounting does not answer: {error}"
            self._no_account_at = time.monotonic()
            return {}
        self.has_accounting, self._no_account = accounts is not None, ""
        if time.monotonic() - self._no_account_at < CATCH_UP_S:
            self._no_account = "Slurm's accounting did not answer for a while, and may be late"
        return accounts or {}

    def fell_silent(self, why: str) -> None:
        if self._silent_since is None:
            self._silent_since = clock.now()
        self._asked_at = time.monotonic()
        self._interval_s = self._poll_s
        self.silence = f"Slurm has not answered since {clock.iso(self._silent_since)}: {why}"
        log.warning("%s", self.silence)

    def are_about(self, job_id: str) -> bool:
        return job_id in self._answered

    def are_older_than(self, at: float) -> bool:
        """Whether Slurm was asked before this, by the wall clock."""
        return self._answered_at < at

    def seen(
        self, job_id: str, started: StartedRecord | None, ended: ExitRecord | None, *, wished: bool
    ) -> Seen:
        over_since = self._over_since.get(job_id)
        return Seen(
            started=started,
            exit=ended,
            queue=self.queue.get(job_id),
            account=self.account.get(job_id),
            array_is_known="_" in job_id and job_id.partition("_")[0] in self._arrays,
            wished=wished,
            queue_answered=not self.is_silent and self.are_about(job_id),
            no_account=self._no_account,
            settled=over_since is not None and time.monotonic() - over_since >= SETTLE_S,
        )
