"""md-openmm as a job: the real program under a real keeper."""

from __future__ import annotations

import struct
from pathlib import Path

from jobs.model import Job
from jobs.service import Service
from jobs.states import State
from tests.support.launching import kill_command
from tests.support.science import (
    Ran,
    check_whole,
    needs_module,
    run,
    start,
    watched,
)
from tests.support.scripts import MANIFESTS
from tests.support.wait import until

pytestmark = needs_module("openmm", "matplotlib")

SHORT = {"steps": 3000, "report_every": 100, "checkpoint_every": 500}
ENDLESS = {"steps": 100_000_000, "report_every": 20, "checkpoint_every": 60}


def steps(ran: Ran, table: str = "energies.csv") -> list[int]:
    return [int(row["step"]) for row in ran.table(table)]


def frame_steps(path: Path) -> list[int]:
    """The steps of the frames of a DCD file, by its header."""
    mark, count, first, interval = struct.unpack("<4x4s3i", path.read_bytes()[:20])
    assert mark == b"CORD"
    return [first + interval * i for i in range(count)]


async def until_step(service: Service, job: Job, step: int) -> None:
    """Until the run has told of this step."""
    log = service.directory(job).stdout
    await until(lambda: log.exists() and f"step={step}/" in log.read_text("utf-8"), 60)


async def resumed(service: Service, parent: Ran, **params: float) -> Ran:
    """The parent's run gone on with to its end."""
    ran = await run(service, None, resume_from=parent.job.id, params=params, time_limit_s=0)
    assert ran.job.state is State.COMPLETED, ran.job.outcome
    assert all(fraction > 0 for fraction in ran.fractions)
    assert ran.job.parent == parent.job.id
    return ran


def check_gone_on(parent: Ran, ran: Ran, every: int, to: int) -> None:
    """Every row is there once, and the segments hold the frames of the same steps; what one holds
    from the first step of the next on, a hard kill has left there."""
    for table in ("energies.csv", "observables.csv"):
        assert steps(ran, table) == list(range(0, to + 1, every))
    segments = [frame_steps(path) for path in sorted(ran.work.glob("trajectory.*.dcd"))]
    assert len(segments) == 1 + len(list(parent.work.glob("trajectory.*.dcd")))
    frames: list[int] = []
    for segment in segments:
        frames = [step for step in frames if step < segment[0]] + segment
    assert frames == list(range(0, to + 1, every))
    assert ran.json()["finished"] is True
    assert ran.json()["steps"] == to


async def test_a_run_comes_to_its_end(service: Service) -> None:
    ran = await run(service, "md-openmm", params=SHORT)
    check_whole(service, ran)
    assert steps(ran) == list(range(0, 3001, 100))
    assert {"temperature_k", "potential_kj_mol", "rmsd_nm", "ns_per_day"} <= ran.metrics
    summary, shown = ran.json(), ran.job.outcome.summary
    assert shown == {name: summary[name] for name in shown}
    assert len(shown) == 8
    assert ran.record.software_version == summary["version"]
    off_k = abs(summary["mean_temperature_k"] - 300)
    assert off_k < 4 * summary["mean_temperature_error_k"] < 200
    assert not ran.job.outcome.warnings
    # Alanine dipeptide in water stays left of phi = 0 for longer than this.
    assert all(float(row["phi_deg"]) < 0 for row in ran.table("observables.csv"))


async def test_a_finished_run_is_made_longer_as_if_it_had_never_ended(service: Service) -> None:
    params = {"report_every": 20, "checkpoint_every": 60}
    parent = await run(service, "md-openmm", params={"steps": 200, **params})
    ran = await resumed(service, parent, steps=400)
    check_gone_on(parent, ran, 20, 400)
    whole = await run(service, "md-openmm", params={"steps": 400, **params})
    assert (ran.work / "final.pdb").read_bytes() == (whole.work / "final.pdb").read_bytes()
    # The parent's own files are as they were.
    assert steps(parent) == list(range(0, 201, 20))
    assert frame_steps(parent.work / "trajectory.000000000.dcd") == steps(parent)


async def test_a_cancelled_run_goes_on_where_it_stopped(service: Service) -> None:
    job = await start(service, "md-openmm", params=ENDLESS)
    await until_step(service, job, 500)
    await service.cancel(job.id)
    parent = await watched(service, job)
    assert parent.job.state is State.CANCELLED
    assert parent.job.outcome.exit_code == 75
    assert parent.job.outcome.resumable
    done = parent.json()["steps"]
    to = done // 20 * 20 + 200
    check_gone_on(parent, await resumed(service, parent, steps=to), 20, to)


async def test_a_killed_run_goes_on_from_its_last_checkpoint(service: Service) -> None:
    job = await start(service, "md-openmm", params=ENDLESS)
    await until_step(service, job, 500)
    kill_command(service, job)
    parent = await watched(service, job)
    assert parent.job.state is State.FAILED
    assert parent.job.outcome.signal == "SIGKILL"
    assert parent.job.outcome.resumable
    to = steps(parent)[-1] // 20 * 20 + 200
    check_gone_on(parent, await resumed(service, parent, steps=to), 20, to)


async def test_a_run_at_its_time_limit_can_go_on(service: Service) -> None:
    parent = await run(service, "md-openmm", params=ENDLESS, time_limit_s=10)
    assert parent.job.state is State.TIMED_OUT
    assert parent.job.outcome.resumable
    to = parent.json()["steps"] // 20 * 20 + 200
    check_gone_on(parent, await resumed(service, parent, steps=to), 20, to)


async def test_a_job_that_goes_on_keeps_its_time_step(service: Service) -> None:
    parent = await run(service, "md-openmm", params={**SHORT, "steps": 200})
    middle = await resumed(service, parent, steps=300)
    params = {"steps": 400, "timestep_fs": 2.0}
    refused = await run(service, None, resume_from=middle.job.id, params=params)
    assert refused.job.outcome.exit_code == 66
    assert "this changes timestep_fs:" in (refused.job.outcome.error or "")


async def test_a_mean_far_from_the_set_temperature_is_a_warning(service: Service) -> None:
    parent = await run(service, "md-openmm", params={**SHORT, "steps": 1500})
    ran = await resumed(service, parent, steps=1600, temperature_k=1500)
    assert ran.json()["mean_temperature_k"] < 800
    assert any("mean temperature" in warning for warning in ran.job.outcome.warnings)


async def test_a_blow_up_is_a_failure_that_says_so(service: Service, tmp_path: Path) -> None:
    text = (MANIFESTS / "data" / "alanine-dipeptide.pdb").read_text(encoding="utf-8")
    nitrogen, hydrogen = "-1.213   0.338  -0.658", "-1.782   1.172  -0.658"
    assert nitrogen in text
    assert hydrogen in text
    pdb = tmp_path / "clash.pdb"  # two atoms in one place: forces that are no numbers
    pdb.write_text(text.replace(hydrogen, nitrogen), encoding="utf-8")
    ran = await run(service, "md-openmm", params={"pdb": str(pdb), "steps": 1000})
    outcome = ran.job.outcome
    assert ran.job.state is State.FAILED
    assert outcome.exit_code == 65
    assert outcome.decided_by == "exit code"
    assert "blew up" in (outcome.reason or "")
    assert "NaN" in (outcome.error or "")
    assert not outcome.resumable


async def test_a_structure_that_cannot_be_used_fails_in_one_sentence(
    service: Service, tmp_path: Path
) -> None:
    pdb = tmp_path / "empty.pdb"
    pdb.write_text("REMARK nothing\n", encoding="utf-8")
    ran = await run(service, "md-openmm", params={"pdb": str(pdb)})
    assert ran.job.state is State.FAILED
    assert ran.job.outcome.exit_code == 66
    assert "holds no PDB structure" in (ran.job.outcome.error or "")
