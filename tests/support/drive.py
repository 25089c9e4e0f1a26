"""A server that a test may kill: one verb of the service in a process of its own.

`python -m tests.support.drive launch|cancel|prune|look JSON`; the answer is a line of JSON, or the
exit code is 1 and the line is the code of the refusal.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from jobs.errors import JobError
from jobs.model import LaunchRequest
from jobs.service import Service
from server.wiring import open_service


async def _answer(service: Service, verb: str, given: dict[str, Any]) -> dict[str, Any]:
    if verb == "launch":
        launched = await service.launch(LaunchRequest(**given), client="drive")
        return {"job_id": launched.job.id, "reused": launched.reused}
    job = await service.job(given["job_id"])
    if verb == "look":
        return {"job_id": job.id, "state": job.state}
    if verb == "cancel":
        job = await service.cancel(job.id)
        return {"job_id": job.id, "state": job.state}
    return {"job_id": job.id, "removed": await service.pruner.remove(job)}


async def _main(verb: str, given: dict[str, Any]) -> int:
    try:
        async with open_service() as service:
            print(json.dumps(await _answer(service, verb, given)), flush=True)
    except JobError as error:
        print(json.dumps({"refused": error.code}), flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(_main(sys.argv[1], json.loads(sys.argv[2]))))
