"""What an assistant is told of a real simulation that has ended."""

from __future__ import annotations

from pathlib import Path

from tests.support.faces import connected
from tests.support.science import needs_module
from tests.support.tokens import count_tokens


@needs_module("openmm")
async def test_a_finished_simulation_in_four_hundred_tokens(home: Path) -> None:
    async with connected() as call:
        launched = await call(
            "launch_job",
            manifest="md-openmm",
            params={"steps": 2000, "report_every": 100, "temperature_k": 310},
            name="dipeptide at 310 K",
        )
        job_id = launched.data["job_id"]
        for _ in range(10):
            status = await call("job_status", job_id=job_id, wait_s=20)
            if status.data["state"] not in ("queued", "starting", "running"):
                break
        text = status.text
        assert count_tokens(text) < 400, text
        assert "dipeptide at 310 K" in text  # what ran
        assert "manifest md-openmm" in text
        assert "completed with exit code 0" in text  # how it ended
        assert "mean_temperature_k=" in text  # the key numbers
        assert "md.png (image" in text  # what to look at
        assert "energies.csv (table" in text
        picture = await call.ask("read_artifact", {"job_id": job_id, "path": "md.png"})
        assert [block.type for block in picture.content] == ["text", "image"]
