"""What the keeper does for single jobs beside its loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

log = logging.getLogger(__name__)


class Tasks(dict[str, asyncio.Task[None]]):
    """The task that has a job in hand at this moment, by the job's ID."""

    def __init__(self, on_end: Callable[[], None]) -> None:
        super().__init__()
        self._on_end = on_end

    def run(self, job_ids: list[str], work: Coroutine[Any, Any, None]) -> None:
        """Run beside the loop for some jobs; a pass follows its end. What goes wrong is tried again
        by a pass."""

        async def run() -> None:
            try:
                await work
            except Exception:
                # Whatever it is, the loop must go on for the sake of all other jobs.
                log.exception("%s: will look again", job_ids[0])
                await asyncio.sleep(1)
            finally:
                for job_id in job_ids:
                    del self[job_id]
                self._on_end()

        task = asyncio.get_running_loop().create_task(run())
        self.update(dict.fromkeys(job_ids, task))
