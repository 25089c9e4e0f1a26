"""Jobs on one cluster: handed to Slurm, found again by a token, told from three witnesses.

A job's directory has to be visible on the nodes under the same path. `batch.json` says what Slurm
has of a job: a token before anything is submitted, its ID behind that, and each change.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import secrets
import time
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jobs.batch import BatchRecord
from jobs.directory import read_record
from jobs.engines import slurm_commands as slurm
from jobs.engines.base import Phase, RefusedError, Sighting, Submission, UnreachableError
from jobs.engines.slurm_answers import SETTLE_S, Answers
from jobs.engines.slurm_script import batch_script
from jobs.engines.slurm_states import LIVE, WAITING, Seen, believed, facts_of, sight
from jobs.engines.slurm_submission import Searches, furnish, options_of
from jobs.failpoints import reach
from jobs.files import write_durable
from jobs.model import ExitRecord, LaunchManifest, StartedRecord
from jobs.paths import JobDir

log = logging.getLogger(__name__)

#: After so long without a trace a submission counts as never made. The sbatch of a keeper that was
#: killed may be on its way even then: it tries for two minutes while Slurm takes no more jobs. Of
#: two submissions only one claims the job directory (`slurm_job.sh`), and the other refuses.
IN_FLIGHT_S = 30.0
WORTH_S = 60.0  #: of a shorter job it is not waited for what it has used
AGAIN_S = 20.0  #: between orders to end a job that does not end
KILL_AFTER_S = 60.0  #: behind the grace period Slurm is to end what the script has not


class SlurmCluster:
    """What it remembers are answers of Slurm, which it asks again. Its methods are those of an
    `Engine`, and run within `slurm_commands.reaching`."""

    def __init__(self, poll_s: float) -> None:
        self._said = Answers(poll_s)
        self._records: dict[Path, BatchRecord] = {}  #: of jobs that have not ended
        self._ended_since: dict[str, float] = {}  #: IDs whose own record of the end is there
        self._wished_at: dict[str, float] = {}  #: IDs that are to end
        self._told_at: dict[str, float] = {}  #: and the last order of those that were told so
        self._to_tell: dict[str | None, set[str]] = {}  #: by the signal; None: Slurm's own way
        self._errands: dict[str, asyncio.Task[None]] = {}
        self._submitting = asyncio.Lock()
        self._searches = Searches(poll_s)

    def is_ready(self) -> bool:
        return self._said.is_ready()

    async def submit(self, batch: Sequence[Submission]) -> None:
        """Submit once what can go together: the tasks of an array have all options in common."""
        groups: dict[tuple[str, ...], list[Submission]] = {}
        async with self._submitting:  # so that a second submission of a job finds the first
            for one in batch:
                if await self._was_submitted(one.job_dir):
                    continue
                groups.setdefault(tuple(options_of(one.launched)), []).append(one)
            refused: dict[Path, str] = {}
            for options, group in groups.items():
                if not self.is_ready():
                    raise UnreachableError(self._said.silence)
                try:
                    await self._submit(group, options)
                except slurm.Refused as error:
                    refused |= dict.fromkeys((one.job_dir.root for one in group), str(error))
        if refused:
            raise RefusedError(refused)

    async def _was_submitted(self, job_dir: JobDir) -> bool:
        """Whether Slurm has the job already. Raises UnreachableError when that is not known yet."""
        record = self._record(job_dir)
        if record is None:
            return False
        if record.id is None:
            record = await self._found(job_dir, record)
        return record.id is not None

    async def _submit(self, group: list[Submission], options: tuple[str, ...]) -> None:
        # Never the same twice: an earlier array of some of these jobs had other places for them.
        token = f"{group[0].launched.job_id}.{secrets.token_hex(3)}"
        several = len(group) > 1
        for index, one in enumerate(group):
            record = BatchRecord(token=token, index=index if several else None)
            await asyncio.to_thread(furnish, one, record)
            self._records[one.job_dir.root] = record
        reach("slurm.intended")
        log_file = "/dev/null" if several else str(group[0].job_dir.batch_log)
        array = [f"--array=0-{len(group) - 1}"] if several else []
        script = batch_script([one.job_dir for one in group])
        try:
            base = await slurm.submit(script, token, [*options, *array, f"--output={log_file}"])
        except slurm.Refused:
            for one in group:
                self._forget(one.job_dir)
                one.job_dir.batch.unlink(missing_ok=True)
            raise
        except slurm.Unreachable as error:
            self._said.fell_silent(str(error))
            raise UnreachableError(f"Slurm does not answer: {error}") from None
        reach("slurm.submitted")
        for index, one in enumerate(group):
            self._note(one.job_dir, id=f"{base}_{index}" if several else base)
        reach("slurm.recorded")
        self._said.look_soon()

    async def poll(self, job_dir: JobDir) -> Sighting:
        """From the job's own records and the last answers; Slurm is asked beside."""
        ended = read_record(job_dir.exit, ExitRecord)
        started = read_record(job_dir.started, StartedRecord)
        record = self._record(job_dir)
        if record is None:
            if ended is not None:
                return Sighting(Phase.ENDED, started, ended)
            if started is None:
                return Sighting(Phase.NEVER_STARTED)
            return Sighting(Phase.VANISHED, started, detail="what Slurm had of it is gone")
        place = started.batch if started else None
        if place is not None and place.job != record.id:
            record = self._note(job_dir, id=place.job)  # of two submissions the one that runs
        if record.id is None:
            try:
                record = await self._found(job_dir, record)
            except UnreachableError as error:
                return Sighting(Phase.UNKNOWN, detail=str(error))
            if record.id is None:
                return Sighting(Phase.NEVER_STARTED)
        self._ask_if_due()
        seen = self._said.seen(record.id, started, ended, wished=record.id in self._wished_at)
        sighting = sight(seen)
        if started and ended is None and self._said.are_older_than(started.started_at):
            sighting = Sighting(Phase.RUNNING, started)  # since Slurm was asked for the last time
        if sighting.phase is Phase.ENDED and ended and self._awaits_account(record.id, seen, ended):
            sighting = Sighting(Phase.RUNNING, started, detail="it has ended; its use is asked for")
        sighting = self._in_our_words(record.id, sighting)
        self._keep(job_dir, seen, sighting)
        return sighting

    def _awaits_account(self, job_id: str, seen: Seen, ended: ExitRecord) -> bool:
        """Whether a job of some length has ended just now, and the accounting may still tell what
        it has used."""
        since = self._ended_since.setdefault(job_id, time.monotonic())
        if ended.wall_s < WORTH_S or believed(seen) or seen.no_account:
            return False
        if self._said.has_accounting is False or self._said.is_silent:
            return False
        self._said.look_soon()
        return time.monotonic() - since < 2 * SETTLE_S

    async def stop(self, job_dir: JobDir, *, grace_s: float | None) -> None:
        record = self._record(job_dir)
        if record is None or not self.is_ready():
            return  # the keeper's next look asks for it again
        if record.id is None:
            with contextlib.suppress(UnreachableError):
                record = await self._found(job_dir, record)
        job_id = record.id
        now = time.monotonic()
        if job_id is None or now - self._told_at.get(job_id, -math.inf) < AGAIN_S:
            return
        waited_s = now - self._wished_at.setdefault(job_id, now)
        row = self._said.queue.get(job_id)
        started = read_record(job_dir.started, StartedRecord)
        begun = started is not None or (row is not None and row.state in LIVE)
        if row is not None and row.state in WAITING:  # unless it has begun since Slurm was asked
            begun = started is not None and self._said.are_older_than(started.started_at)
        launched = read_record(job_dir.launch_manifest, LaunchManifest)
        grace_s = grace_s if grace_s is not None else launched.grace_s if launched else 0.0
        signal = "TERM" if begun and waited_s <= grace_s + KILL_AFTER_S else None
        self._to_tell.setdefault(signal, set()).add(job_id)
        self._run("tell", self._tell())

    async def _tell(self) -> None:
        """One order for all jobs that are to end in the same way."""
        while self._to_tell:
            signal, job_ids = self._to_tell.popitem()
            try:
                await slurm.cancel(sorted(job_ids), signal=signal)
            except slurm.Unreachable as error:
                self._said.fell_silent(str(error))  # the keeper's next look asks for it again
                return
            self._told_at |= dict.fromkeys(job_ids, time.monotonic())
        self._said.look_soon()

    async def _found(self, job_dir: JobDir, record: BatchRecord) -> BatchRecord:
        """The record with the ID that Slurm knows the token by, if it does. Raises UnreachableError
        when it could not be asked, or a submission may still be on its way."""
        intended_at = job_dir.batch.stat().st_mtime
        if not self.is_ready():
            raise UnreachableError(self._said.silence)
        try:
            searched_at, base = await self._searches.find(record.token, since=intended_at - 86400)
        except slurm.NoAccounting as error:
            raise UnreachableError(f"Slurm's accounting does not answer: {error}") from None
        except slurm.Unreachable as error:
            self._said.fell_silent(str(error))
            raise UnreachableError(f"Slurm does not answer: {error}") from None
        if base is not None:
            found = base if record.index is None else f"{base}_{record.index}"
            return self._note(job_dir, id=found)
        if searched_at - intended_at < IN_FLIGHT_S:
            raise UnreachableError("it is not known yet whether Slurm has it")
        return record

    # What Slurm says.

    def _ask_if_due(self) -> None:
        if "ask" not in self._errands and self._said.take_turn():
            ids = {record.id for record in self._records.values() if record.id is not None}
            self._run("ask", self._said.ask(ids))

    def _in_our_words(self, job_id: str, sighting: Sighting) -> Sighting:
        """A job that waits can be stopped; one that runs needs no words, unless Slurm is silent."""
        row = self._said.queue.get(job_id)
        if sighting.phase is Phase.STARTING and row is not None and row.state in WAITING:
            return replace(sighting, phase=Phase.WAITING)
        silent = self._said.silence if self._said.is_silent else None
        if sighting.phase is Phase.UNKNOWN and not self._said.are_about(job_id):
            return replace(sighting, detail=silent or "Slurm has just been given it")
        if sighting.phase is Phase.UNKNOWN and silent:
            return replace(sighting, detail=silent)
        if sighting.phase is Phase.RUNNING and sighting.started and job_id not in self._ended_since:
            words = (LIVE.get(row.state) or None) if row is not None else None
            return replace(sighting, detail=silent or words)
        return sighting

    # What is written down.

    def _record(self, job_dir: JobDir) -> BatchRecord | None:
        if job_dir.root not in self._records:
            record = read_record(job_dir.batch, BatchRecord)
            if record is None:
                return None
            self._records[job_dir.root] = record
        return self._records[job_dir.root]

    def _note(self, job_dir: JobDir, **facts: Any) -> BatchRecord:
        """Keep what has become known, if it is new."""
        before = self._records[job_dir.root]
        record = before.model_copy(update=facts)
        if record != before:
            self._records[job_dir.root] = record
            text = record.model_dump_json(exclude_defaults=True) + "\n"
            with contextlib.suppress(FileNotFoundError):  # its directory was removed
                write_durable(job_dir.batch, text.encode())
        return record

    def _keep(self, job_dir: JobDir, seen: Seen, sighting: Sighting) -> None:
        facts = facts_of(seen, sighting)
        place = sighting.started.batch if sighting.started else None
        if place is not None and self._records[job_dir.root].nodes is None:
            facts.setdefault("nodes", place.node)  # Slurm has not been asked since it began
        self._note(job_dir, **facts)
        if sighting.phase in (Phase.ENDED, Phase.VANISHED):
            self._forget(job_dir)

    def _forget(self, job_dir: JobDir) -> None:
        record = self._records.pop(job_dir.root, None)
        if record is not None and record.id is not None:
            for times in (self._wished_at, self._told_at, self._ended_since):
                times.pop(record.id, None)

    def _run(self, name: str, errand: Coroutine[Any, Any, None]) -> None:
        """Run beside the keeper's loop, which no silent scheduler may hold up; one of a name."""
        if name in self._errands:
            errand.close()
            return
        task = asyncio.get_running_loop().create_task(errand)
        self._errands[name] = task
        task.add_done_callback(lambda _: self._errands.pop(name, None))
