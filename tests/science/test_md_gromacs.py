"""md-gromacs as a job: the real program under a real keeper."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from jobs.directory import read_launch_manifest
from jobs.model import Job
from jobs.service import Service
from jobs.states import State
from tests.support.launching import kill_command
from tests.support.science import Ran, check_whole, needs, run, start, watched
from tests.support.scripts import MANIFESTS, Script
from tests.support.wait import until

pytestmark = needs("gmx")

DIPEPTIDE = MANIFESTS / "data" / "alanine-dipeptide.pdb"
TINY: dict[str, Any] = {
    "box_margin_nm": 0.7,  # 230 waters; with much less the cut-offs do not fit
    "equilibrate_steps": 200,
    "steps": 1500,
    "report_every": 50,
    "checkpoint_minutes": 0.01,
}
ENDLESS = TINY | {"steps": 1_000_000}
SCRIPT = Script("md_gromacs.py")
SHORT = ("--box-margin-nm", "0.7", "--equilibrate-steps", "20", "--steps", "100")


def frames(work: Path) -> list[int]:
    """The steps of the frames in md.xtc, as GROMACS itself reads them."""
    dumped = subprocess.run(
        ["gmx", "-quiet", "dump", "-f", "md.xtc"],
        cwd=work,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return [int(step) for step in re.findall(r"natoms=.* step= *(\d+)", dumped.stdout)]


def check_frames(ran: Ran, steps: int, every: int = TINY["report_every"]) -> None:
    """Every frame and every row of the tables is there, and there once."""
    wanted = list(range(0, steps + 1, every))
    assert frames(ran.work) == wanted
    assert steps_in(ran, "rmsd.csv") == wanted
    # The last step has its energies even when it is no multiple of report_every.
    assert steps_in(ran, "energies.csv") == sorted({*wanted, steps})


def steps_in(ran: Ran, table: str) -> list[int]:
    return [round(float(row["time_ps"]) / 0.002) for row in ran.table(table)]


async def producing(service: Service, job: Job) -> None:
    """Once production has done some steps, and has a checkpoint."""
    work = service.directory(job).work

    def there() -> bool:
        out = work / "md.out"
        return (work / "md.cpt").exists() and "step 600," in out.read_text(encoding="utf-8")

    await until(there, 120, "no production")


# ---- to the end ----------------------------------------------------------------------------------


async def test_a_run_comes_to_its_end(service: Service) -> None:
    longer = {"equilibrate_steps": 2500, "steps": 2500, "report_every": 100}
    ran = await run(service, "md-gromacs", params=TINY | longer)
    check_whole(service, ran)
    assert "time_ps" in ran.metrics
    check_frames(ran, 2500, every=100)
    summary = ran.json()
    assert (summary["finished"], summary["steps"], summary["simulated_ns"]) == (True, 2500, 0.005)
    assert summary["version"].startswith("20")
    assert (summary["atoms"] - 22) % 3 == 0
    assert summary["mean_temperature_k"] == pytest.approx(300, rel=0.04)
    # TIP3P at 1 bar and 298 K: 982 to 1002 kg/m3, by cut-off (Jorgensen 1983, Price and Brooks
    # 2004); the box begins at 928 and fluctuates by some per cent.
    assert summary["mean_density_kg_m3"] == pytest.approx(985, rel=0.05)
    assert 0 < summary["final_rmsd_nm"] < 0.2


#: A carboxylate in the place of a hydrogen of the dipeptide's CB.
CARBOXYLATE = """\
ATOM     12  CG  ASP A   2       0.045   2.891  -0.122  1.00  0.00           C
ATOM     13  OD1 ASP A   2       0.735   3.855   0.276  1.00  0.00           O
ATOM     14  OD2 ASP A   2      -1.133   2.761   0.276  1.00  0.00           O
"""


def test_a_charged_peptide_is_neutralised(tmp_path: Path) -> None:
    lines = DIPEPTIDE.read_text(encoding="utf-8").replace("ALA A", "ASP A").splitlines(True)
    charged = [CARBOXYLATE if " HB1 " in line else line for line in lines]
    pdb, out = tmp_path / "asp.pdb", tmp_path / "out"
    pdb.write_text("".join(charged), encoding="utf-8")
    done = SCRIPT.run(out, "--pdb", str(pdb), *SHORT)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^NA +1$", (out / "topol.top").read_text(encoding="utf-8"), re.MULTILINE)


# ---- stopped and gone on with --------------------------------------------------------------------


async def test_a_cancelled_run_goes_on(service: Service) -> None:
    job = await start(service, "md-gromacs", params=ENDLESS)
    await producing(service, job)
    await service.cancel(job.id)
    stopped = await watched(service, job)
    assert stopped.job.state is State.CANCELLED
    assert stopped.job.outcome.exit_code == 75
    assert stopped.job.outcome.resumable
    summary = stopped.json()
    assert not summary["finished"]
    steps = summary["steps"] + 525
    ran = await run(service, None, resume_from=job.id, params={"steps": steps})
    check_whole(service, ran)
    assert not (ran.work / "em.log").exists()  # nothing was prepared again
    check_frames(ran, steps)


async def test_a_killed_run_goes_on_from_its_checkpoint(service: Service) -> None:
    job = await start(service, "md-gromacs", params=ENDLESS)
    await producing(service, job)
    kill_command(service, job)
    killed = await watched(service, job)
    assert killed.job.state is State.FAILED
    assert killed.job.outcome.signal == "SIGKILL"
    assert killed.job.outcome.resumable
    before = frames(killed.work)
    steps = before[-1] + 500
    ran = await run(service, None, resume_from=job.id, params={"steps": steps})
    check_whole(service, ran)
    check_frames(ran, steps)
    assert frames(killed.work) == before  # the parent's trajectory is its own


# ---- what tells no truth by itself ---------------------------------------------------------------


async def test_maxh_is_no_success_and_the_run_goes_on(service: Service) -> None:
    ran = await run(service, "md-gromacs", params=ENDLESS | {"maxh": 0.0005})
    assert ran.job.state is State.FAILED
    assert ran.job.outcome.decided_by == "exit code"
    assert "can go on" in (ran.job.outcome.reason or "")
    assert (ran.job.outcome.error or "").startswith("[error] unfinished: maxh was over at step ")
    log = (ran.work / "md.log").read_text(encoding="utf-8")
    assert "Finished mdrun" in log  # so this line means nothing
    # Had the script lied, too, the manifest would have told.
    (marker,) = read_launch_manifest(service.directory(ran.job)).rules.success
    out = (ran.work / "md.out").read_text(encoding="utf-8")
    assert not re.search(marker.regex, out, re.MULTILINE)
    assert not (ran.work / "md.gro").exists()
    done = ran.json()["steps"]
    assert 0 < done < ENDLESS["steps"]
    assert ran.job.outcome.resumable
    params = {"steps": done + 500, "maxh": 1}
    again = await run(service, None, resume_from=ran.job.id, params=params)
    check_whole(service, again)
    check_frames(again, done + 500)


async def test_a_blow_up_is_called_so(service: Service) -> None:
    hot = {"temperature_k": 1500, "timestep_fs": 4.5}
    ran = await run(service, "md-gromacs", params=TINY | hot)
    assert ran.job.state is State.FAILED
    assert ran.job.outcome.exit_code == 65
    assert ran.job.outcome.decided_by == "exit code"
    assert (ran.job.outcome.error or "").startswith("[error] the simulation blew up in stage n")
    assert "LINCS WARNING" in "".join(path.read_text() for path in ran.work.glob("n?t.out"))


# ---- input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text.replace("ALA", "XYZ"), "residue XYZ2 is of type 'Other'"),
        (lambda text: re.sub(r".* CB .*\n", "", text), "CB"),
        (lambda text: "no structure\n", "holds no atoms in PDB format"),
    ],
)
async def test_an_unusable_structure_is_refused_in_the_words_of_gromacs(
    service: Service, tmp_path: Path, change: Any, says: str
) -> None:
    pdb = tmp_path / "input.pdb"
    pdb.write_text(change(DIPEPTIDE.read_text(encoding="utf-8")), encoding="utf-8")
    ran = await run(service, "md-gromacs", params=TINY | {"pdb": str(pdb)})
    assert ran.job.state is State.FAILED
    assert ran.job.outcome.exit_code == 66
    stderr = service.directory(ran.job).stderr.read_text(encoding="utf-8")
    assert stderr.startswith("[error] ")
    assert says in stderr
    assert stderr.count("\n") == 1
    assert stderr.startswith((ran.job.outcome.error or "?").rstrip("…"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a run has ended that had no matplotlib."""
    shadow, out = tmp_path_factory.mktemp("shadow"), tmp_path_factory.mktemp("out")
    (shadow / "matplotlib.py").write_text("raise ImportError('absent')\n", encoding="utf-8")
    done = SCRIPT.run(out, *SHORT, PYTHONPATH=str(shadow))
    assert done.returncode == 0, done.stderr
    assert "[warn] matplotlib is not installed" in done.stdout
    return out


def test_without_matplotlib_all_but_the_plot_is_there(finished: Path) -> None:
    assert not (finished / "md.png").exists()
    for name in ("summary.json", "energies.csv", "rmsd.csv", "md.gro"):
        assert (finished / name).exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--steps", "50"), "already done 100 steps"),
        (("--seed", "2"), "has seed 1, not 2"),
        (("--pdb", str(MANIFESTS / "md_gromacs.py")), "another pdb"),
    ],
)
def test_a_run_goes_on_only_as_what_it_was(
    finished: Path, options: tuple[str, ...], says: str
) -> None:
    refused = SCRIPT.run(finished, *SHORT, *options)
    assert refused.returncode == 66
    assert refused.stderr.startswith("[error] ")
    assert says in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_a_time_step_that_is_too_long_for_the_bonds_is_refused(tmp_path: Path) -> None:
    refused = SCRIPT.run(tmp_path, *SHORT, "--timestep-fs", "5")
    assert refused.returncode == 66
    assert "less than 5 times the time step" in refused.stderr
    assert refused.stderr.count("\n") == 1
