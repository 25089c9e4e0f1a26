"""The doctor tells what is true of a cluster, and the demo holds on one."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jobs.batch import BatchRecord
from tests.support.cli import CLI, ROOT, run
from tests.support.slurm import FOLDER, NODES, Cluster

pytestmark = pytest.mark.slurm
#: The nodes may be full of other tests' jobs.
PATIENT = "--wait=120"
WITH = ROOT / "tests" / "services" / "slurm" / "with.sh"


async def doctor(*words: str, engine: str = "slurm", code: int = 0) -> dict[str, Any]:
    """Each check by its name."""
    out, _ = await _within(150, *CLI, "doctor", "--json", "--engine", engine, *words, code=code)
    reply = json.loads(out)
    assert reply["ok"] == (code == 0)
    return {check["name"]: check for check in reply["checks"]}


async def _within(seconds: float, *command: str, code: int = 0, **more: Any) -> tuple[str, str]:
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, **more,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), seconds)
    assert process.returncode == code, (out, err)
    assert b"Traceback" not in out + err
    return out.decode(), err.decode()


def configure(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.toml").write_text(text, encoding="utf-8")


async def test_a_sound_cluster(slurm: Cluster, home: Path) -> None:
    checks = await doctor(PATIENT)
    assert re.search(r"Slurm \d+\.\d+\.\d+, cluster outlast: .* UP", checks["Slurm"]["what"])
    assert checks["accounting"]["state"] == ("ok" if slurm.has_accounting else "warn")
    assert "default, up, no time limit" in checks["partition main"]["what"]
    assert "each with 2 cores, 2000 MB" in checks["partition main"]["what"]
    assert "at most 2 min" in checks["partition short"]["what"]
    assert "sweeps" not in checks, "arrays of a thousand jobs are possible there"
    trial = checks["trial job"]
    assert trial["state"] == "ok"
    assert re.search(r"Slurm job \d+ on n[123], used [1-9]\d* of \d+ s", trial["what"]), trial
    assert checks["kinds of job"]["state"] == "ok"
    assert [path.name for path in home.glob(".doctor-*")] == []
    out, _ = await run("doctor", "--engine", "slurm")
    assert "✓  trial job" in out


async def test_each_profile_is_tried(slurm: Cluster, home: Path, tmp_path: Path) -> None:
    configure(
        tmp_path,
        """
        [engines.slurm]
        default_profile = "good"
        [engines.slurm.profiles]
        good = { partition = "short", time_limit_s = 20 }
        padded = { partition = "short", time_limit_s = 60 }
        misspelt = { partition = "mian" }
        feature = { constraint = "no-such-feature" }
        option = { options = ["--no-such-option"] }
        long = { partition = "short", time_limit_s = 600 }
        either = { partition = "short,main", time_limit_s = 600 }
        """,
    )
    checks = await doctor(PATIENT, code=1)
    profiles = {name: check for name, check in checks.items() if name.startswith("profile ")}
    failed = {name for name, check in profiles.items() if check["state"] == "fail"}
    assert failed == {
        "profile misspelt",
        "profile feature",
        "profile option",
        "profile padded",
        "profile long",
    }
    assert "(the default)" in profiles["profile good"]["what"]
    assert "Did you mean 'main'?" in profiles["profile misspelt"]["what"]
    assert "Invalid feature" in profiles["profile feature"]["what"]
    assert "unrecognized option" in profiles["profile option"]["what"]
    assert "would wait for ever" in profiles["profile long"]["what"]
    assert "= 60 Slurm is asked for 180 s" in profiles["profile padded"]["what"]
    assert "[engines.slurm.profiles.feature]" in profiles["profile feature"]["mend"]
    assert checks["trial job"]["state"] == "ok", "the default profile is a good one"


async def test_a_state_directory_that_nodes_do_not_see(
    slurm: Cluster, home: Path, tmp_path: Path
) -> None:
    """In a mount namespace of its own, which the nodes are not in."""
    home.mkdir()
    inside = [
        f"mount -t tmpfs tmpfs {home}",
        f"exec {' '.join(CLI)} doctor --json --engine slurm {PATIENT}",
    ]
    command = ["unshare", "--mount", "bash", "-c", " && ".join(inside)]
    out, _ = await _within(150, *command, code=1)
    trial = next(c for c in json.loads(out)["checks"] if c["name"] == "trial job")
    assert trial["state"] == "fail"
    assert "on the node n" in trial["what"]
    assert f"Nodes must see {home} under the same path" in trial["mend"]


async def test_manifests_that_are_not_on_the_node(
    slurm: Cluster, home: Path, tmp_path: Path
) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    configure(tmp_path, f"manifest_dirs = ['{hidden}/kinds']\n")
    inside = [f"mount -t tmpfs tmpfs {hidden}", f"mkdir {hidden}/kinds"]
    inside.append(f"exec {' '.join(CLI)} doctor --json --engine slurm {PATIENT}")
    out, _ = await _within(150, "unshare", "--mount", "bash", "-c", " && ".join(inside))
    kinds = next(c for c in json.loads(out)["checks"] if c["name"] == "kinds of job")
    assert kinds["state"] == "warn"
    assert kinds["what"] == f"not on the node: {hidden}/kinds"


async def test_wrong_words_are_refused(home: Path) -> None:
    """No cluster is asked."""
    _, err = await run("doctor", "--engine", "slrum", code=2)
    assert "There is no engine 'slrum'. Did you mean 'slurm'?" in err
    assert (
        "There is no Slurm profile 'x'"
        in (await doctor(engine="slurm:x", code=1))["profile"]["what"]
    )


async def test_no_slurm_here(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "none"))
    assert (await doctor(code=1))["Slurm"]["what"].endswith("which is no file")
    monkeypatch.delenv("SLURM_CONF")
    monkeypatch.setenv("PATH", str(tmp_path))
    slurm = (await doctor(code=1))["Slurm"]
    assert "scontrol cannot be run: No such file" in slurm["what"]
    assert "munge" in slurm["mend"]


async def test_a_trial_job_that_does_not_start_is_cancelled_with_its_reason(
    slurm: Cluster, home: Path, tmp_path: Path
) -> None:
    configure(tmp_path, '[engines.slurm.profiles]\nlater = { options = ["--begin=now+1hour"] }\n')
    trial = (await doctor("--wait", "3", engine="slurm:later"))["trial job"]
    assert trial["state"] == "warn"
    assert "not to start before a set time" in trial["what"]
    assert trial["what"].endswith("it was cancelled")
    queued = subprocess.run(
        ["squeue", "-h", "-o", "%j"], capture_output=True, text=True, check=True, timeout=30
    )
    assert "doctor" not in queued.stdout


async def test_without_a_controller(slurm_alone: Cluster, home: Path) -> None:
    with slurm_alone.without_controller():
        checks = await doctor(code=1)
    assert checks["Slurm"]["state"] == "fail"
    assert "does not answer" in checks["Slurm"]["what"]
    assert "trial job" not in checks


async def test_a_drained_cluster_and_one_closed_partition(
    slurm_alone: Cluster, home: Path, tmp_path: Path
) -> None:
    profiles = 'good = { partition = "main" }\nfeature = { constraint = "no-such-feature" }\n'
    configure(tmp_path, f"[engines.slurm.profiles]\n{profiles}")
    for node in NODES:
        slurm_alone.set_node(node, "drain")
    slurm_alone.control("update", "partitionname=short", "state=down")
    try:
        checks = await doctor("--wait", "12", code=1)
    finally:
        slurm_alone.control("update", "partitionname=short", "state=up")
    assert {name for name, check in checks.items() if check["state"] == "fail"} == {
        "profile feature"
    }, "a cluster that takes no jobs now is no fault of a profile's"
    assert "nodes of main are out of service" in checks["profile good"]["what"]
    assert "No node of it takes jobs now" in checks["partition main"]["mend"]
    assert "not up" in checks["partition short"]["what"]
    assert "drained" in checks["trial job"]["what"]


async def test_the_demo_holds_on_a_cluster(slurm: Cluster, home: Path) -> None:
    pytest.importorskip("openmm")
    demo = [*CLI, "demo", "--engine", "slurm", "--steps", "2000"]
    said, err = await _within(110, "bash", str(WITH), *demo)
    assert "using the cluster that answers" in err
    job_id = re.search(r"launch_job gave (\S+), ", said)
    assert job_id is not None
    job_dir = home / "jobs" / "default" / job_id[1]
    batch = BatchRecord.model_validate_json((job_dir / "batch.json").read_text())
    assert f"Slurm job {batch.id} on {batch.nodes}" in said
    assert "completed, exit code 0" in said
    assert re.search(r"md\.png, \d+ x \d+ pixels", said)
    assert (job_dir / "slurm.log").exists()


async def test_a_cluster_is_brought_up_for_one_command(slurm_alone: Cluster, home: Path) -> None:
    """It is taken down for that first, and brought up again afterwards."""
    up, down = WITH.with_name("up.sh"), WITH.with_name("down.sh")
    kind = [] if slurm_alone.has_accounting else ["--no-accounting"]
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "OUTLAST_TEST_SLURM": str(FOLDER)}
    try:
        await _within(60, "bash", str(down), str(FOLDER), env=env)
        inside = 'echo "$SLURM_CONF"; scontrol ping >&2; exit 7'
        out, err = await _within(120, "bash", str(WITH), "bash", "-c", inside, code=7, env=env)
        assert out == f"{FOLDER}/slurm.conf\n"
        assert "UP" in err
        assert "taking the cluster down" in err
        gone = subprocess.run(
            ["scontrol", "ping"], env={**env, "SLURM_CONF": f"{FOLDER}/slurm.conf"}, timeout=30
        )
        assert gone.returncode != 0
    finally:
        await _within(120, "bash", str(up), *kind, str(FOLDER), env=env)


def test_make_has_the_target() -> None:
    """As it is written down, with the Python of the checkout."""
    make = shutil.which("make")
    assert make is not None
    shown = subprocess.run(
        [make, "--dry-run", "demo-slurm", f"BIN={Path(sys.executable).parent}"],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    assert "with.sh" in shown.stdout
    assert "outlast demo --engine slurm" in shown.stdout
