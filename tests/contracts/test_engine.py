"""What every engine promises the keeper: how jobs begin, are watched and end by themselves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.engines.base import Engine, Phase, Submission
from jobs.paths import JobDir
from tests.support.engines import directory, end_of, job, run, says, seen, start, submit
from tests.support.processes import all_of, is_running
from tests.support.wait import until


async def test_before_anything_it_has_never_started(engine: Engine, job_dir: JobDir) -> None:
    assert engine.is_ready(job_dir)
    assert (await engine.poll(job_dir)).phase is Phase.NEVER_STARTED


async def test_submit_leads_to_proof_of_life(engine: Engine, job_dir: JobDir) -> None:
    started = await start(engine, job(job_dir, "sleep 60"), job_dir)
    assert is_running(started.pid)
    assert started.attempt == 1


@pytest.mark.parametrize(
    ("script", "exit_code", "signal"),
    [
        ("exit 0", 0, None),
        ("exit 7", 7, None),
        ("exit 137", 137, None),
        ("exit 139", 139, None),
        ("kill -9 $$", None, 9),
        ("kill -SEGV $$", None, 11),
    ],
)
async def test_exit_codes_and_signals_are_told_apart(
    engine: Engine, job_dir: JobDir, script: str, exit_code: int | None, signal: int | None
) -> None:
    record = await run(engine, job(job_dir, script), job_dir)
    assert (record.why, record.exit_code, record.signal) == ("exit", exit_code, signal)
    assert record.survivors == []


async def test_an_end_stays_as_it_was_told(
    new_engine: Callable[[], Engine], engine: Engine, job_dir: JobDir
) -> None:
    record = await run(engine, job(job_dir, "exit 7"), job_dir)
    await engine.stop(job_dir, grace_s=0)  # harmless, when it has ended
    for each in (engine, new_engine()):
        assert (await each.poll(job_dir)).exit == record


async def test_the_logs_are_what_it_printed(engine: Engine, job_dir: JobDir) -> None:
    script = "cat; printf 'out\\n\\xff'; echo error >&2; pwd; sleep 0.2; echo last"
    await run(engine, job(job_dir, script), job_dir)
    assert job_dir.stdout.read_bytes() == b"out\n\xff%s\nlast\n" % bytes(job_dir.work)
    assert job_dir.stderr.read_bytes() == b"error\n"


async def test_the_command_gets_its_arguments_and_environment(
    engine: Engine, job_dir: JobDir
) -> None:
    words = ["", "two words", "a'b", "new\nline", "*", "$HOME"]
    show = "import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ)]))"
    order = job(
        job_dir,
        "",
        command=["called so", "-c", show, *words],
        executable="/usr/bin/python3",
        env={"PATH": "/usr/bin:/bin", "QUOTED": 'it\'s "$HOME"\nand `x` é', "KEY_TOKEN": "***"},
        secret_env=["KEY_TOKEN"],
    )
    job_dir.secrets.write_text('{"KEY_TOKEN": "s3 cret"}', encoding="utf-8")
    await run(engine, order, job_dir)
    arguments, environment = json.loads(job_dir.stdout.read_text(encoding="utf-8"))
    assert arguments == words
    assert environment["QUOTED"] == order.env["QUOTED"]
    assert environment["KEY_TOKEN"] == "s3 cret"
    assert environment["OUTLAST_JOB_DIR"] == str(job_dir.root)
    told = [path for path in job_dir.root.iterdir() if path.is_file() and path != job_dir.stdout]
    assert not [
        path for path in told if b"s3 cret" in path.read_bytes() and "secret" not in path.name
    ]


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ({"executable": "/no/such/program"}, "/no/such/program"),
        ({"cwd": "/no/such/folder"}, "/no/such/folder"),
    ],
)
async def test_what_cannot_be_started_is_told(
    engine: Engine, job_dir: JobDir, more: dict[str, str], error: str
) -> None:
    record = await run(engine, job(job_dir, "exit 0", **more), job_dir)
    assert (record.why, record.exit_code) == ("start_error", None)
    assert error in (record.error or "")


async def test_a_second_submit_starts_nothing(
    new_engine: Callable[[], Engine], engine: Engine, job_dir: JobDir, home: Path
) -> None:
    witness = home / "witness"
    again = job(job_dir, f"echo ran >> {witness}; sleep 0.5")
    await asyncio.gather(*(submit(engine, again, job_dir) for _ in range(4)))
    await submit(new_engine(), again, job_dir)
    await end_of(engine, job_dir)
    for each in (engine, new_engine()):
        await submit(each, again, job_dir)
    await until(lambda: not all_of(home))
    assert witness.read_text(encoding="utf-8") == "ran\n"


async def test_those_of_a_sweep_come_together_and_stay_apart(engine: Engine, home: Path) -> None:
    job_dirs = [directory(home, f"job {number}") for number in range(5)]
    orders = [
        job(job_dir, f"echo {number}; exit {number}") for number, job_dir in enumerate(job_dirs)
    ]
    pairs = zip(orders, job_dirs, strict=True)
    await engine.submit([Submission(order, job_dir, [], 1) for order, job_dir in pairs])
    for number, job_dir in enumerate(job_dirs):
        assert (await end_of(engine, job_dir)).exit_code == number
        assert says(job_dir, f"{number}\n")()


async def test_another_engine_object_sees_the_same(
    new_engine: Callable[[], Engine], engine: Engine, job_dir: JobDir
) -> None:
    """An engine holds no fact of its own: a new one adopts what an old one started."""
    started = await start(
        engine, job(job_dir, "until [ -e go ]; do sleep 0.05; done; exit 5"), job_dir
    )
    other = new_engine()
    assert (await seen(other, job_dir, Phase.RUNNING)).started == started
    release = other.adopt(job_dir, lambda: None)
    (job_dir.work / "go").touch()
    assert (await end_of(other, job_dir)).exit_code == 5
    release()
    assert (await end_of(engine, job_dir)).exit_code == 5


async def test_what_a_command_leaves_is_ended(engine: Engine, job_dir: JobDir, home: Path) -> None:
    left = "setsid sleep 61 & (setsid bash -c 'trap \"\" TERM; sleep 62; sleep 63' &); exit 4"
    record = await run(engine, job(job_dir, left), job_dir)
    assert (record.exit_code, record.survivors) == (4, [])
    await until(lambda: not all_of(home))
