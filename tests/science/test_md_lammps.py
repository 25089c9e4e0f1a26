"""md-lammps as a job: LAMMPS itself under a real keeper."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from jobs.errors import JobError
from jobs.model import Job
from jobs.service import Service
from jobs.states import State
from tests.support.launching import kill_command
from tests.support.science import Ran, check_whole, needs_module, run, start, watched
from tests.support.scripts import MANIFESTS
from tests.support.wait import until

pytestmark = needs_module("lammps")

SMALL = {"cells": 3, "report_every": 50, "frame_every": 100, "checkpoint_every": 100}
ENDLESS = {**SMALL, "steps": 1_000_000}

#: A gas between open walls: what leaves the box is lost, and LAMMPS says so.
LEAKING = """\
units lj
lattice fcc 0.8
region box block 0 4 0 4 0 4
create_box 1 box
create_atoms 1 box
mass 1 1.0
velocity all create 50.0 ${seed}
pair_style lj/cut 2.5
pair_coeff 1 1 1.0 1.0
change_box all boundary f f f
fix move all nve
thermo 10
run ${steps}
"""
#: Two runs with a table of its own columns, and no word of going on.
OWN = """\
units real
atom_style atomic
lattice fcc 5.3
region box block 0 3 0 3 0 3
create_box 1 box
create_atoms 1 box
mass 1 39.95
velocity all create ${temperature_k} ${seed}
pair_style lj/cut 8.5
pair_coeff 1 1 0.238 3.405
fix move all nve
timestep 2.0
thermo_style custom step temp etotal ke
thermo 100
run ${early}
run $(v_steps-v_early)
"""


def steps_of(ran: Ran) -> list[int]:
    return [int(row["step"]) for row in ran.table("thermo.csv")]


def script(tmp_path: Path, text: str) -> str:
    path = tmp_path / "in.lammps"
    path.write_text(text, encoding="utf-8")
    return str(path)


async def running(
    service: Service, params: dict[str, Any], step: int, resume_from: str | None = None
) -> Job:
    """A job that goes on and on, and that has left a checkpoint at `step` or later."""
    manifest = None if resume_from else "md-lammps"
    job = await start(service, manifest, params=params, resume_from=resume_from)
    work = service.directory(job).work

    def checkpointed() -> bool:
        found = [path.name.split(".")[1] for path in work.glob("checkpoint.*.restart")]
        return any(int(number) >= step for number in found)

    await until(checkpointed, 60, "no checkpoint came")
    return await service.job(job.id)


async def test_hot_copper_melts(service: Service) -> None:
    ran = await run(service, "md-lammps", params={**SMALL, "cells": 4, "steps": 12_000})
    check_whole(service, ran)
    assert steps_of(ran) == list(range(0, 12_001, 50))
    summary = ran.json()
    assert (summary["atoms"], summary["finished"], summary["units"]) == (256, True, "metal")
    # The potential was fitted to copper's cohesive energy, 3.54 eV: Foiles, Baskes and Daw 1986.
    assert float(ran.table("thermo.csv")[0]["potential_ev_atom"]) == pytest.approx(-3.54, abs=1e-3)
    means = summary["mean_of_second_half"]
    assert means["temperature_k"] == pytest.approx(2000, rel=0.06)
    # Liquid copper, extrapolated to 2000 K: 7.5 g/cm3 (Assael et al., J. Phys. Chem. Ref. Data
    # 39, 033105); it diffuses by some 1e-4 cm2/s, and a solid not at all.
    assert means["density_g_cm3"] == pytest.approx(7.5, rel=0.04)
    assert 3e-5 < summary["self_diffusion_cm2_s"] < 3e-4
    assert {"temperature_k", "density_g_cm3", "steps_per_s"} <= ran.metrics


async def test_cold_copper_stays_solid(service: Service) -> None:
    params = {**SMALL, "temperature_k": 300, "steps": 1000}
    summary = (await run(service, "md-lammps", params=params)).json()
    # 8.96 g/cm3 at room temperature (CRC Handbook), and hardly any motion.
    assert summary["mean_of_second_half"]["density_g_cm3"] == pytest.approx(8.96, rel=0.03)
    assert summary["last"]["msd_angstrom2"] < 0.2
    assert abs(summary["self_diffusion_cm2_s"]) < 1e-5


async def test_a_cancelled_run_goes_on_where_it_stopped(service: Service) -> None:
    job = await running(service, ENDLESS, step=100)
    await service.cancel(job.id)
    stopped = await watched(service, job)
    assert stopped.job.state is State.CANCELLED
    assert stopped.job.outcome.exit_code == 75
    assert stopped.job.outcome.resumable
    at = steps_of(stopped)[-1]
    summary = stopped.json()
    assert summary["finished"] is False
    assert summary["steps"] >= at  # the very step, and not the last checkpoint before it
    goal = (summary["steps"] // 50 + 4) * 50
    ran = await run(service, None, resume_from=job.id, params={"steps": goal})
    check_gone_on(ran, goal)
    assert (ran.work / f"log.{summary['steps']:09d}.lammps").exists()


async def test_a_killed_run_goes_on_from_its_checkpoint(service: Service) -> None:
    job = await running(service, ENDLESS, step=300)
    kill_command(service, job)
    killed = await watched(service, job)
    assert killed.job.state is State.FAILED
    assert killed.job.outcome.signal == "SIGKILL"
    assert killed.job.outcome.resumable
    steps = sorted(
        int(path.name.split(".")[1]) for path in killed.work.glob("checkpoint.*.restart")
    )
    goal = steps[-1] + 200
    ran = await run(service, None, resume_from=job.id, params={"steps": goal})
    check_gone_on(ran, goal)
    begun = sorted(int(path.name.split(".")[1]) for path in ran.work.glob("log.*.lammps"))
    assert begun[0] == 0
    assert begun[1:] in [[step] for step in steps[-2:]]  # the kill may have come amid the newest


async def test_a_run_that_was_killed_and_then_stopped_has_each_step_once(
    service: Service,
) -> None:
    job = await running(service, ENDLESS, step=300)
    kill_command(service, job)
    killed = await watched(service, job)
    newest = max(
        killed.work.glob("checkpoint.*.restart"), key=lambda path: int(path.name.split(".")[1])
    )
    newest.write_bytes(b"the kill came amid it")
    again = int(newest.name.split(".")[1])  # the rows up to here come a second time
    job = await running(service, ENDLESS, step=again + 200, resume_from=job.id)
    await service.cancel(job.id)
    stopped = await watched(service, job)
    begun = {path.name for path in stopped.work.glob("log.*.lammps")}
    assert begun == {"log.000000000.lammps", f"log.{again - 100:09d}.lammps"}
    goal = (stopped.json()["steps"] // 50 + 4) * 50
    ran = await run(service, None, resume_from=job.id, params={"steps": goal})
    check_gone_on(ran, goal, starts=3)


def check_gone_on(ran: Ran, goal: int, starts: int = 2) -> None:
    """It came to its goal, and no step is twice in the table, or missing."""
    assert ran.job.state is State.COMPLETED, ran.job.outcome.model_dump_json()
    steps = steps_of(ran)
    assert steps == sorted(set(steps))
    assert set(range(0, goal + 1, 50)) <= set(steps)
    assert ran.json()["steps"] == goal
    assert len(list(ran.work.glob("trajectory.*.lammpstrj"))) == starts
    moved = [float(row["msd_angstrom2"]) for row in ran.table("thermo.csv")]
    assert min(moved[1:]) > 0.02  # still measured from the first step: it is 0 where that begins


async def test_a_half_written_checkpoint_is_passed_over(service: Service) -> None:
    first = await run(service, "md-lammps", params={**SMALL, "steps": 300})
    newest = first.work / "checkpoint.300.restart"
    newest.write_bytes(newest.read_bytes()[:1000])
    ran = await run(service, None, resume_from=first.job.id, params={"steps": 400})
    assert ran.job.state is State.COMPLETED
    assert (ran.work / "log.000000200.lammps").exists()
    assert steps_of(ran) == list(range(0, 401, 50))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"metal": "Ag", "cells": 5}, "metal, cells"),
        ({"input": "a copy with one line more"}, "input"),
        ({"variables": ["melt=no"]}, "variables"),
    ],
)
async def test_a_run_goes_on_with_the_system_that_it_was_begun_with(
    service: Service, tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    first = await run(service, "md-lammps", params={**SMALL, "steps": 100})
    if "input" in change:
        text = (MANIFESTS / "data" / "metal-melt.lammps").read_text(encoding="utf-8")
        change = {"input": script(tmp_path, text + "print done\n")}
    more = {"steps": 200, **change}
    refused = await run(service, None, resume_from=first.job.id, params=more)
    assert refused.job.state is State.FAILED
    assert refused.job.outcome.exit_code == 66
    assert f"this changes {named}:" in (refused.job.outcome.error or "")


async def test_a_run_without_a_record_of_its_system_goes_on(service: Service) -> None:
    first = await run(service, "md-lammps", params={**SMALL, "steps": 100})
    (first.work / "model.json").unlink()  # as runs were before there was one
    bath = {"temperature_k": 900, "pressure_bar": 10, "timestep_fs": 1.0}
    ran = await run(service, None, resume_from=first.job.id, params={"steps": 200, **bath})
    assert ran.job.state is State.COMPLETED, ran.job.outcome.model_dump_json()
    times = [float(row["time_ps"]) for row in ran.table("thermo.csv")]
    assert times == pytest.approx([0, 0.1, 0.2, 0.25, 0.3])
    more = {"steps": 300, "cells": 4}
    refused = await run(service, None, resume_from=ran.job.id, params=more)
    assert "this changes cells:" in (refused.job.outcome.error or "")


async def test_too_long_a_time_step_loses_atoms(service: Service) -> None:
    ran = await run(service, "md-lammps", params={**SMALL, "timestep_fs": 20.0})
    assert ran.job.state is State.FAILED
    outcome = ran.job.outcome
    assert outcome.exit_code == 65
    assert re.search(r"Lost atoms: original 108 current \d+", outcome.error or "")


async def test_a_script_of_ones_own(service: Service, tmp_path: Path) -> None:
    params = {"input": script(tmp_path, OWN), "steps": 80_000, "temperature_k": 80}
    ran = await run(service, "md-lammps", params={**params, "variables": ["early=400"]})
    check_whole(service, ran, absent=["trajectory.*.lammpstrj"])
    assert steps_of(ran) == list(range(0, 80_001, 100))
    assert list(ran.table("thermo.csv")[0]) == [
        "step", "temperature_k", "total_kcal_mol", "kinetic_kcal_mol",
    ]  # fmt: skip
    total = [float(row["total_kcal_mol"]) for row in ran.table("thermo.csv")]
    assert max(total) - min(total) < 0.01 * abs(total[0])  # no bath: energy is kept
    assert not ran.job.outcome.resumable  # it does not know how


async def test_a_script_that_loses_atoms_fails(service: Service, tmp_path: Path) -> None:
    params = {"input": script(tmp_path, LEAKING), "steps": 2000}
    ran = await run(service, "md-lammps", params=params)
    assert ran.job.state is State.FAILED
    assert "Lost atoms" in (ran.job.outcome.error or "")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("units metal\nbogus 3\n", "Unknown command: bogus 3"),
        ("units metal\npair_coeff 1 1 1.0\n", "Pair_coeff command before"),
        ("print ${nothing}\n", "nothing"),
    ],
)
async def test_a_faulty_script_is_quoted(
    service: Service, tmp_path: Path, text: str, says: str
) -> None:
    ran = await run(service, "md-lammps", params={"input": script(tmp_path, text)})
    assert (ran.job.state, ran.job.outcome.exit_code) == (State.FAILED, 65)
    error = ran.job.outcome.error or ""
    assert error.startswith("[error] LAMMPS stopped:")
    assert says in error


@pytest.mark.parametrize(
    "params",
    [
        {"input": "/nowhere/in.lammps"},
        {"metal": "Fe"},
        {"cells": 0},
        {"variables": ['x="; shell true']},
    ],
)
async def test_bad_input_is_refused(service: Service, params: dict[str, Any]) -> None:
    with pytest.raises(JobError):
        await start(service, "md-lammps", params=params)
