"""What the engine does that hands jobs to Slurm, beyond what every engine does."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.batch import BatchWishes
from jobs.engines import slurm_answers, slurm_cluster, slurm_commands
from jobs.engines.base import Engine, Phase, RefusedError, Submission, UnreachableError
from jobs.engines.slurm_script import RAN_BEFORE
from jobs.model import Resources
from jobs.paths import JobDir
from tests.support.engines import directory, end_of, job, says, seen, start, submit, wish_end
from tests.support.slurm import Cluster
from tests.support.slurm_engine import batch_of, counted_calls
from tests.support.wait import until

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.parametrize("new_engine", ["slurm"], indirect=True),
]
LATER = BatchWishes(options=["--begin=now+1hour"])
ON_N2 = ["-w", "n2"]


def path_without_sacct(folder: Path) -> Path:
    """All programs of this machine but that one."""
    there = folder / "but sacct"
    there.mkdir()
    for program in (path for place in ("/usr/bin", "/bin") for path in Path(place).iterdir()):
        if program.name != "sacct" and not (there / program.name).exists():
            (there / program.name).symlink_to(program)
    return there


async def sweep_of_three(engine: Engine, home: Path) -> list[JobDir]:
    """The first runs, the last waits: they come one by one."""
    job_dirs = [directory(home, f"job {number}") for number in range(3)]
    wishes = BatchWishes(options=["-w", "n1", "--exclusive"])
    orders = [job(job_dir, "exec sleep 60", batch=wishes) for job_dir in job_dirs]
    pairs = zip(orders, job_dirs, strict=True)
    await engine.submit([Submission(order, job_dir, [], 1) for order, job_dir in pairs])
    await seen(engine, job_dirs[0], Phase.RUNNING)
    await seen(engine, job_dirs[2], Phase.WAITING)
    return job_dirs


async def start_one_that_goes_on(engine: Engine, job_dir: JobDir) -> None:
    """On the node n2."""
    again = ["bash", "-c", "echo again; exit 6"]
    wishes = BatchWishes(options=ON_N2, restart_command=again)
    await start(engine, job(job_dir, "echo first; exec sleep 60", batch=wishes), job_dir)


async def has_gone_on(cluster: Cluster, engine: Engine, job_dir: JobDir) -> None:
    await cluster.begin_anew(str(batch_of(job_dir).id))
    record = await end_of(engine, job_dir)
    assert (record.exit_code, batch_of(job_dir).restarts) == (6, 1)
    assert job_dir.stdout.read_text(encoding="utf-8") == "first\nagain\n"


async def test_a_job_that_waits_says_why_and_can_be_cancelled(
    engine: Engine, job_dir: JobDir
) -> None:
    await submit(engine, job(job_dir, "exit 0", batch=LATER), job_dir)

    async def says_why() -> bool:
        waiting = await seen(engine, job_dir, Phase.WAITING)
        return (waiting.detail or "").startswith("not to start before a set time, expected start 2")

    await until(says_why)  # where all nodes are full it is "waiting for resources" at first
    await wish_end(engine, job_dir)
    record = await end_of(engine, job_dir)
    assert (record.why, record.exit_code, record.wall_s) == ("cancelled", None, 0.0)
    assert not job_dir.started.exists()


async def test_cancelled_at_once_it_never_runs(engine: Engine, job_dir: JobDir) -> None:
    """Before Slurm was ever asked about it."""
    await submit(engine, job(job_dir, "exit 0", batch=LATER), job_dir)
    await wish_end(engine, job_dir)
    assert (await end_of(engine, job_dir)).why == "cancelled"


async def test_what_has_begun_since_slurm_was_asked_is_stopped_cleanly(
    slurm: Cluster, engine: Engine, job_dir: JobDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its whole grace period, of which Slurm's own way of ending it knows nothing: that
    kills after KillWait, which is 5 s there."""
    script = "trap 'sleep 10; exit 4' TERM; echo up; while :; do sleep 0.05; done"
    order = job(job_dir, script, grace_s=60, batch=LATER)
    await submit(engine, order, job_dir)
    await seen(engine, job_dir, Phase.WAITING)
    with monkeypatch.context() as patched:
        patched.setattr(slurm_answers.Answers, "take_turn", lambda self: False)
        slurm.control("update", f"jobid={batch_of(job_dir).id}", "starttime=now")
        await seen(engine, job_dir, Phase.RUNNING)
        await until(says(job_dir, "up"))
        await wish_end(engine, job_dir)
    record = await end_of(engine, job_dir)
    assert (record.why, record.exit_code) == ("cancelled", 4)


async def test_a_task_of_a_sweep_is_cancelled_before_it_began(engine: Engine, home: Path) -> None:
    """Slurm keeps no row of it."""
    job_dirs = await sweep_of_three(engine, home)
    await wish_end(engine, job_dirs[2])
    record = await end_of(engine, job_dirs[2])
    assert (record.why, job_dirs[2].started.exists()) == ("cancelled", False)
    assert (await engine.poll(job_dirs[0])).phase is Phase.RUNNING
    for job_dir in job_dirs[:2]:
        await wish_end(engine, job_dir)
    assert (await end_of(engine, job_dirs[0])).why == "cancelled"


async def test_of_a_cancelled_sweep_those_that_waited_are_cancelled_too(
    engine: Engine, home: Path
) -> None:
    """When nothing is asked any more about those that had begun."""
    job_dirs = await sweep_of_three(engine, home)
    for job_dir in reversed(job_dirs):
        await wish_end(engine, job_dir)
    for job_dir in job_dirs:
        assert (await end_of(engine, job_dir)).why == "cancelled"


async def test_what_it_refuses_was_never_started(engine: Engine, job_dir: JobDir) -> None:
    order = job(job_dir, "exit 0", resources=Resources(memory_mb=999_999))
    with pytest.raises(RefusedError, match="node configuration is not available"):
        await submit(engine, order, job_dir)
    assert (await engine.poll(job_dir)).phase is Phase.NEVER_STARTED
    await submit(engine, job(job_dir, "exit 3"), job_dir)
    assert (await end_of(engine, job_dir)).exit_code == 3


async def test_of_a_sweep_only_those_that_it_refuses_are_refused(
    engine: Engine, home: Path
) -> None:
    """Whatever comes before or behind them."""
    cores = {"first": 1, "too large": 3, "last": 2}
    job_dirs = {name: directory(home, name) for name in cores}
    batch = [
        Submission(job(one, "exit 3", resources=Resources(cores=cores[name])), one, [], 1)
        for name, one in job_dirs.items()
    ]
    with pytest.raises(RefusedError, match="node configuration is not available") as refused:
        await engine.submit(batch)
    assert set(refused.value.reasons) == {job_dirs["too large"].root}
    assert (await engine.poll(job_dirs["too large"])).phase is Phase.NEVER_STARTED
    for name in ("first", "last"):
        assert (await end_of(engine, job_dirs[name])).exit_code == 3


async def test_by_another_hand_it_is_cancelled_too(engine: Engine, job_dir: JobDir) -> None:
    await start(engine, job(job_dir, "exec sleep 60"), job_dir)
    subprocess.run(["scancel", str(batch_of(job_dir).id)], check=True, timeout=60)
    record = await end_of(engine, job_dir)
    assert (record.why, record.signal) == ("cancelled", 15)


async def test_of_a_script_that_is_killed_slurm_tells_the_end(
    engine: Engine, job_dir: JobDir
) -> None:
    await submit(engine, job(job_dir, "kill -9 $PPID; sleep 60"), job_dir)
    record = await end_of(engine, job_dir)
    assert (record.why, record.exit_code, record.signal) == ("exit", None, 9)


async def test_an_answer_that_was_lost_is_found_by_its_token(
    new_engine: Callable[[], Engine],
    engine: Engine,
    job_dir: JobDir,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Slurm has the job, and whoever submitted it was told that it has not."""
    with counted_calls(home.parent / "bin", monkeypatch) as calls:
        calls.instead("sbatch", '"$real" "$@" >&2; echo "sbatch: error: timed out" >&2; exit 1')
        order = job(job_dir, "echo ran; exit 5")
        with pytest.raises(UnreachableError, match="timed out"):
            await submit(engine, order, job_dir)
        assert batch_of(job_dir).id is None
        other = new_engine()
        await submit(other, order, job_dir)
        assert (await end_of(other, job_dir)).exit_code == 5
        assert len(calls.of("sbatch")) == 1
    assert job_dir.stdout.read_text(encoding="utf-8") == "ran\n"


async def test_of_two_submissions_the_one_that_runs_is_the_job(
    slurm: Cluster, new_engine: Callable[[], Engine], engine: Engine, job_dir: JobDir
) -> None:
    """As when an sbatch came through after its job was submitted again."""
    await start(engine, job(job_dir, "echo ran; exec sleep 60"), job_dir)
    first = batch_of(job_dir)
    second = await slurm.submit(job_dir, token=first.token)
    later = first.model_copy(update={"id": second, "state": None})
    job_dir.batch.write_text(later.model_dump_json(), encoding="utf-8")

    async def refused() -> bool:
        row = (await slurm_commands.queue([second])).get(second)
        return row is not None and (row.state, row.exit_code) == ("FAILED", RAN_BEFORE)

    await until(refused, 60)
    other = new_engine()
    assert (await other.poll(job_dir)).phase is Phase.RUNNING
    assert batch_of(job_dir).id == first.id
    await wish_end(other, job_dir)
    assert (await end_of(other, job_dir)).why == "cancelled"
    assert job_dir.stdout.read_text(encoding="utf-8") == "ran\n"


async def test_what_never_came_to_slurm_is_submitted_again_after_a_while(
    engine: Engine, job_dir: JobDir, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm_cluster, "IN_FLIGHT_S", 3.0)
    order = job(job_dir, "exit 5")
    with counted_calls(home.parent / "bin", monkeypatch) as calls:
        calls.instead("sbatch", 'echo "sbatch: error: Unable to contact controller" >&2; exit 1')
        with pytest.raises(UnreachableError, match="Unable to contact"):
            await submit(engine, order, job_dir)
        assert not engine.is_ready(job_dir)
    assert (await engine.poll(job_dir)).phase is Phase.UNKNOWN
    await seen(engine, job_dir, Phase.NEVER_STARTED)
    await submit(engine, order, job_dir)
    assert (await end_of(engine, job_dir)).exit_code == 5


async def test_without_accounting_all_is_told_but_what_was_used(
    engine: Engine, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("ends", "waits", "dies")
    ends, waits, dies = (directory(home, name) for name in names)
    with counted_calls(home.parent / "bin", monkeypatch) as calls:
        calls.instead("sacct", 'echo "Slurm accounting storage is disabled" >&2; exit 1')
        await submit(engine, job(ends, "exit 3"), ends)
        await submit(engine, job(waits, "exit 0", batch=LATER), waits)
        await submit(engine, job(dies, "kill -9 $PPID; sleep 60"), dies)
        await seen(engine, waits, Phase.WAITING)
        await wish_end(engine, waits)
        assert (await end_of(engine, ends)).exit_code == 3
        assert (await end_of(engine, waits)).why == "cancelled"
        assert (await end_of(engine, dies)).signal == 9
        assert engine.is_ready(ends)
        assert calls.of("sacct")


@pytest.mark.parametrize("absent", [False, True])
async def test_without_an_answer_of_the_accounting_the_queue_is_believed(
    engine: Engine, home: Path, monkeypatch: pytest.MonkeyPatch, absent: bool
) -> None:
    """Or where there is no sacct at all."""
    ends, waits, dies = (directory(home, name) for name in ("ends", "waits", "dies"))
    with counted_calls(home.parent / "bin", monkeypatch) as calls:
        if absent:
            monkeypatch.setenv("PATH", str(path_without_sacct(home.parent)))
        calls.instead("sacct", 'echo "sacct: error: Connection refused" >&2; exit 1')
        await submit(engine, job(ends, "exit 3"), ends)
        await submit(engine, job(waits, "exit 0", batch=LATER), waits)
        await submit(engine, job(dies, "kill -9 $PPID; sleep 60"), dies)
        await seen(engine, waits, Phase.WAITING)
        assert (await end_of(engine, ends)).exit_code == 3
        assert (await end_of(engine, dies)).signal == 9
        await wish_end(engine, waits)
        assert (await end_of(engine, waits)).why == "cancelled"
        assert engine.is_ready(ends)
        assert bool(calls.of("sacct")) is not absent


async def test_what_was_forgotten_waits_for_an_accounting_that_is_down(
    slurm_alone: Cluster,
    engine: Engine,
    new_engine: Callable[[], Engine],
    job_dir: JobDir,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(slurm_answers, "SLOWEST_S", 1.0)
    if not slurm_alone.has_accounting:
        pytest.skip("the cluster keeps no accounting")
    with slurm_alone.without_accounting():
        await start(engine, job(job_dir, "kill -9 $PPID; sleep 60"), job_dir)
        job_id = str(batch_of(job_dir).id)

        async def forgotten() -> bool:
            return await slurm_commands.queue([job_id]) == {}

        await until(forgotten, 120)  # MinJobAge is 30 s there, looked at from time to time
        other = new_engine()

        async def says_why() -> bool:
            sighting = await seen(other, job_dir, Phase.UNKNOWN)
            return "Slurm's accounting does not answer" in (sighting.detail or "")

        await until(says_why)
        assert other.is_ready(job_dir)
    assert (await end_of(other, job_dir)).signal == 9


async def test_with_its_node_a_job_is_lost_or_goes_on_where_it_can(
    slurm_alone: Cluster, engine: Engine, home: Path
) -> None:
    """A node that it needs is drained meanwhile: it waits, and says so."""
    lost, again, waits = (directory(home, name) for name in ("lost", "again", "waits"))
    await start(engine, job(lost, "sleep 60", batch=BatchWishes(options=ON_N2)), lost)
    await start_one_that_goes_on(engine, again)
    slurm_alone.set_node("n2", "down")
    sighting = await seen(engine, lost, Phase.VANISHED)
    assert sighting.detail == "a node that it ran on has failed (n2)"
    await seen(engine, again, Phase.WAITING)
    slurm_alone.set_node("n2", "resume")
    slurm_alone.set_node("n2", "drain")
    await submit(engine, job(waits, "exit 4", batch=BatchWishes(options=ON_N2)), waits)

    async def says_why() -> bool:
        return "drained" in ((await seen(engine, waits, Phase.WAITING)).detail or "")

    await until(says_why, 60)
    slurm_alone.set_node("n2", "resume")
    assert (await end_of(engine, waits)).exit_code == 4
    await has_gone_on(slurm_alone, engine, again)


async def test_a_job_that_makes_room_for_another_ends_or_goes_on_where_it_can(
    slurm_alone: Cluster, engine: Engine, home: Path
) -> None:
    """Both heed the request to end, and have written down that they were ended from outside."""
    ends, again, urgent = (directory(home, name) for name in ("ends", "again", "urgent"))
    await start(engine, job(ends, "exec sleep 60", batch=BatchWishes(options=ON_N2)), ends)
    await start_one_that_goes_on(engine, again)
    first = BatchWishes(partition="urgent", options=[*ON_N2, "--exclusive"])
    await submit(engine, job(urgent, "exit 4", batch=first), urgent)
    assert (await end_of(engine, urgent)).exit_code == 4
    record = await end_of(engine, ends)
    assert (record.why, record.signal, batch_of(ends).state) == ("terminated", 15, "PREEMPTED")
    await has_gone_on(slurm_alone, engine, again)
