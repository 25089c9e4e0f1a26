"""md-openmm as a job: the real program under a real keeper."""

from __future__ import annotations

from jobs.service import Service
from tests.support.science import check_whole, run

SHORT = {"steps": 3000, "report_every": 100, "checkpoint_every": 500}


async def test_a_run_comes_to_its_end(service: Service) -> None:
    ran = await run(service, "md-openmm", params=SHORT)
    check_whole(service, ran)
    assert [int(row["step"]) for row in ran.table("energies.csv")] == list(range(0, 3001, 100))
