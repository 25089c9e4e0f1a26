"""What Slurm 22.05 printed, as it is read; and any other text, which must do no harm."""

from __future__ import annotations

import os
import stat
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.engines import slurm_commands
from jobs.engines.slurm_commands import NoAccounting, Refused, Unreachable, command_env
from jobs.engines.slurm_rows import (
    ACCOUNT_FIELDS,
    QUEUE_FIELDS,
    parse_account,
    parse_duration,
    parse_partitions,
    parse_queue,
    parse_time,
)

QUEUE = """\
31|1|CANCELLED|15|0|2026-11-25T23:33:57|2026-11-25T23:33:59|0:02|1:00:00|1|n2|None|out-array|
27|N/A|COMPLETED|0|0|2026-11-25T23:33:57|2026-11-25T23:33:57|0:00|1:00:00|1|n1|None|out-ok|
28|N/A|FAILED|768|0|2026-11-25T23:33:57|2026-11-25T23:33:57|0:00|1:00:00|1|n2|NonZeroExitCode|out-3|
29|N/A|FAILED|9|0|2026-11-25T23:33:57|2026-11-25T23:33:57|0:00|1:00:00|1|n2|JobLaunchFailure|out-kill|
30|N/A|OUT_OF_MEMORY|253|0|2026-11-25T23:33:57|2026-11-25T23:33:58|0:01|1:00:00|1|n1|OutOfMemory|out-oom|
31|3|PENDING|0|0|N/A|N/A|0:00|1:00:00|1||JobArrayTaskLimit|out-array|
33|N/A|PENDING|0|0|N/A|N/A|0:00|1:00:00|1||ReqNodeNotAvail, UnavailableNodes:n3|out-drained|
35|N/A|PENDING|0|1|2026-11-25T23:34:57|2026-11-26T00:34:57|0:00|1:00:00|1||BeginTime|out-requeue|
26|N/A|RUNNING|0|0|2026-11-25T23:33:57|2026-11-25T23:34:57|0:05|1:00|1|n1|None|out-timeout|
34|N/A|RUNNING|0|0|2026-11-25T23:33:59|2026-11-26T00:33:59|0:03|UNLIMITED|1|n[1,3]|None|out|name|
11|N/A|FAILED|768|0|2026-11-25T23:21:42|2026-11-25T23:21:43|0:01|1-02:03:04|1|n1|NonZeroExitCode|na|me
with| a second line|
"""
ACCOUNTS = """\
26|TIMEOUT|0:0|n1|88|1|00:00:00|00:00.003||1|2026-11-25T23:33:57|2026-11-25T23:35:25|out-timeout
26.batch|CANCELLED|0:15|n1|89||00:00:00|00:00.003|4837376|1|2026-11-25T23:33:57|2026-11-25T23:35:26|batch
28|FAILED|3:0|n2|0|60|00:00.003|00:00:00||1|2026-11-25T23:33:57|2026-11-25T23:33:57|out-3
28.batch|FAILED|3:0|n2|0||00:00.003|00:00:00|3735552|1|2026-11-25T23:33:57|2026-11-25T23:33:57|batch
28.extern|COMPLETED|0:0|n2|0||00:00:00|00:00:00|1000K|1|2026-11-25T23:33:57|2026-11-25T23:33:57|extern
29|FAILED|0:9|n2|0|60|00:00.003|00:00:00||1|2026-11-25T23:33:57|2026-11-25T23:33:57|out-kill
30|OUT_OF_MEMORY|0:125|n1|1|60|00:00.102|00:00.131||1|2026-11-25T23:33:57|2026-11-25T23:33:58|out-oom
30.batch|OUT_OF_MEMORY|0:125|n1|1||00:00.102|00:00.131|3534848|1|2026-11-25T23:33:57|2026-11-25T23:33:58|batch
32|CANCELLED by 0|0:0|None assigned|0|60|00:00:00|00:00:00||1|None|2026-11-25T23:36:00|out-later
33|PENDING|0:0|None assigned|0|Partition_Limit|00:00:00|00:00:00||1|Unknown|Unknown|allocation
43_0|CANCELLED by 0|0:0|n1|0|60|00:00.002|00:00:00||1|2026-11-25T23:36:07|2026-11-25T23:36:07|sweep
43_0.batch|CANCELLED|0:15|n1|0||00:00.002|00:00:00|1265664|1|2026-11-25T23:36:07|2026-11-25T23:36:07|batch
43_[1-2,6%1]|CANCELLED by 0|0:0|None assigned|0|60|0:0|0:0||1|None|2026-11-25T23:36:07|sweep
"""
PARTITIONS = """\
main*|up|infinite|2|idle|2|2000|(null)
main*|up|infinite|1|drained|2|2000|(null)
gpu|down|2-00:00:00|4|mixed|64+|512000+|gpu:a100:4
"""


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def test_rows_of_the_queue() -> None:
    rows = parse_queue(QUEUE)
    codes = {id: (row.state, row.exit_code, row.signal) for id, row in rows.items()}
    assert codes["28"] == ("FAILED", 3, 0)
    assert codes["29"] == ("FAILED", 0, 9)
    assert codes["30"] == ("OUT_OF_MEMORY", 0, 125)  # with the bit that says that a core was left
    assert codes["31_1"] == ("CANCELLED", 0, 15)
    assert codes["31_3"] == ("PENDING", 0, 0)
    waits = rows["33"]
    assert (waits.reason, waits.nodes) == ("ReqNodeNotAvail, UnavailableNodes:n3", "")
    assert (waits.start_time, waits.end_time) == (None, None)
    again = rows["35"]
    assert (again.restarts, again.start_time) == (1, at("2026-11-25T23:34:57"))
    assert (rows["26"].elapsed_s, rows["26"].time_limit_s) == (5.0, 60.0)
    assert (rows["34"].nodes, rows["34"].time_limit_s) == ("n[1,3]", None)
    assert rows["11"].time_limit_s == 93784.0
    assert rows["28"].name == "out-3"


def test_rows_of_the_accounting() -> None:
    there = ["26", "28", "29", "30", "32", "33", "43_0", "43_1", "43_2", "43_6"]
    rows = parse_account(ACCOUNTS, [*there, "43_3", "43_60", "4"])
    assert list(rows) == there
    assert (rows["28"].state, rows["28"].exit_code, rows["28"].signal) == ("FAILED", 3, 0)
    assert (rows["29"].exit_code, rows["29"].signal) == (0, 9)
    assert (rows["28"].max_rss_kb, rows["26"].max_rss_kb) == (3648, 4724)  # of the largest step
    assert (rows["32"].state, rows["32"].nodes) == ("CANCELLED", "None assigned")
    assert (rows["26"].elapsed_s, rows["26"].time_limit_s) == (88, 60.0)
    assert (rows["33"].time_limit_s, rows["33"].start_time) == (None, None)
    assert (rows["30"].user_s, rows["30"].system_s) == (0.102, 0.131)
    assert rows["30"].cpu_efficiency == pytest.approx(0.233)
    assert rows["33"].cpu_efficiency is None
    assert {rows[f"43_{task}"].state for task in (0, 1, 2, 6)} == {"CANCELLED"}
    assert set(parse_account(ACCOUNTS)) == {"26", "28", "29", "30", "32", "33", "43_0"}


def test_rows_of_partitions() -> None:
    main, drained, gpu = parse_partitions(PARTITIONS)
    assert (main.name, main.is_default, main.is_up, main.time_limit_s) == ("main", True, True, None)
    assert (drained.nodes, drained.state) == (1, "drained")
    assert (gpu.is_up, gpu.time_limit_s, gpu.cpus, gpu.gres) == (
        False,
        172800.0,
        "64+",
        "gpu:a100:4",
    )


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0:05", 5.0),
        ("1:00:00", 3600.0),
        ("1-02:03:04", 93784.0),
        ("00:00.131", 0.131),
        ("UNLIMITED", None),
        ("INVALID", None),
        ("", None),
        ("9" * 400 + ":00", None),
        ("999999-99999999999999:00:00", None),
    ],
)
def test_durations(text: str, seconds: float | None) -> None:
    assert parse_duration(text) == seconds


HOSTILE = st.text() | st.lists(
    st.lists(
        st.text(max_size=12)
        | st.sampled_from(
            ["9" * 5000, "43_[0-99999999999]", "43_[1-2,,%]", "-1", "1e9", "٣", "N/A", "nan", "\0"]
        ),
        max_size=16,
    ).map("|".join),
    max_size=8,
).map("\n".join)


@given(HOSTILE)
def test_any_text_is_read_without_harm(text: str) -> None:
    ids = ["43_1", "25"]
    for rows in (parse_queue(text), parse_account(text, ids), parse_account(text)):
        for id, row in rows.items():
            assert row.id == id
            assert all(part.isdecimal() and part.isascii() for part in id.split("_"))
            assert 0 <= row.exit_code < 10**10
            assert 0 <= row.signal < 10**10
    assert set(parse_account(text, ids)) <= {*parse_account(text), *ids}
    assert all(part.nodes >= 0 for part in parse_partitions(text))
    parse_time(text)
    parse_duration(text)


@given(st.text(st.characters(exclude_characters="\n"), max_size=40))
def test_a_reason_may_hold_anything(reason: str) -> None:
    fields = ["25", "N/A", "PENDING", "0", "0", "N/A", "N/A", "0:00", "1:00", "1", "", reason, "t"]
    row = parse_queue("|".join(fields) + "|\n")["25"]
    assert (row.reason, row.name) == (reason, "t")
    assert len(fields) == len(QUEUE_FIELDS) == len(ACCOUNT_FIELDS)


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the test puts programs that stand in for Slurm's."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


def put(program: Path, text: str) -> None:
    program.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


def test_no_variable_of_the_user_bends_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    bending = ("SBATCH_PARTITION", "SQUEUE_FORMAT", "SACCT_FORMAT", "SLURM_JOB_ID", "SINFO_ALL")
    for name in (*bending, "SCANCEL_INTERACTIVE"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("SLURM_CONF", "/c")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    env = command_env()
    assert not {*bending, "SCANCEL_INTERACTIVE"} & env.keys()
    assert (env["SLURM_CONF"], env["LC_ALL"], env["SLURM_TIME_FORMAT"]) == ("/c", "C", "standard")


def test_a_cluster_is_asked_as_the_launch_reached_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", "/here")
    monkeypatch.setenv("SLURM_CLUSTERS", "here")
    monkeypatch.setenv("PATH", "/usr/bin")
    with slurm_commands.reaching({"SLURM_CONF": "/there", "PATH": "/opt/slurm/bin"}):
        env = command_env()
    assert (env["SLURM_CONF"], env["PATH"]) == ("/there", "/opt/slurm/bin:/usr/bin")
    assert "SLURM_CLUSTERS" not in env
    assert command_env()["SLURM_CONF"] == "/here"


REFUSALS = [
    "sbatch: error: Batch job submission failed: Invalid partition name specified",
    "sbatch: unrecognized option '--bogus'\nTry \"sbatch --help\" for more information",
    "sbatch: error: Invalid --time specification",
    "sbatch: error: Memory specification can not be satisfied\n"
    "sbatch: error: Batch job submission failed: Requested node configuration is not available",
]
TROUBLES = [
    "sbatch: error: resolve_ctls_from_dns_srv: res_nsearch error: Unknown host\n"
    "sbatch: fatal: Could not establish a configuration source",
    "sbatch: error: Batch job submission failed: "
    "Unable to contact slurm controller (connect failure)",
    "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation",
    "sbatch: error: Batch job submission failed: Zero Bytes were transmitted or received",
    "sbatch: error: If munged is up, restart with --num-threads=10",
    "sbatch: error: Batch job submission failed: Protocol authentication error",
]


@pytest.mark.parametrize("text", REFUSALS)
async def test_a_bad_request_is_told_from_trouble(program: Path, text: str) -> None:
    put(program / "sbatch", f"cat >/dev/null; echo '{text}' >&2; exit 1")
    with pytest.raises(Refused) as refused:
        await slurm_commands.submit("#!/bin/bash\n", "token")
    assert not str(refused.value).startswith("sbatch")
    assert "Try" not in str(refused.value)


@pytest.mark.parametrize("text", TROUBLES)
async def test_trouble_says_nothing_about_the_request(program: Path, text: str) -> None:
    put(program / "sbatch", f"echo '{text}' >&2; exit 1")
    with pytest.raises(Unreachable):
        await slurm_commands.submit("#!/bin/bash\n" + "#" * (1 << 20), "token")


@pytest.mark.parametrize("answer", ["", "echo", "echo x", "kill -9 $$"])
async def test_an_answer_that_is_none_says_nothing_either(program: Path, answer: str) -> None:
    put(program / "sbatch", answer)
    with pytest.raises((Unreachable, Refused)):
        await slurm_commands.submit("#!/bin/bash\n", "token")


async def test_the_job_id_is_read_with_and_without_a_cluster(program: Path) -> None:
    for answer, job_id in (("12", "12"), ("12;east", "12")):
        put(program / "sbatch", f"cat >/dev/null; echo '{answer}'")
        assert await slurm_commands.submit("#!/bin/bash\n", "token") == job_id


async def test_sbatch_is_given_little_of_our_environment(
    program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUR_SECRET", "x")
    put(program / "sbatch", f"cat >/dev/null; env >{program}/seen; echo 1")
    await slurm_commands.submit("#!/bin/bash\n", "token")
    assert "OUR_SECRET" not in (program / "seen").read_text(encoding="utf-8")


async def test_a_program_that_is_missing_or_never_ends_is_no_answer(
    program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(program / "squeue", f"echo $$ >{program}/pid; exec sleep 60")
    monkeypatch.setattr(slurm_commands, "CALL_S", 0.3)
    with pytest.raises(Unreachable, match="squeue did not answer"):
        await slurm_commands.queue(["1"])
    with pytest.raises(ProcessLookupError):
        os.kill(int((program / "pid").read_text(encoding="utf-8")), 0)
    monkeypatch.setenv("PATH", str(program))
    assert await slurm_commands.accounting(["1"]) is None  # then nobody here can ask it
    (program / "sacct").write_text("no program", encoding="utf-8")
    (program / "sacct").chmod(0o755)
    with pytest.raises(NoAccounting, match="sacct cannot be run"):
        await slurm_commands.accounting(["1"])


async def test_an_endless_answer_is_cut_off(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm_commands, "MOST_BYTES", 100_000)
    put(program / "sinfo", "exec yes")
    with pytest.raises(Unreachable, match="too long"):
        await slurm_commands.partitions()


async def test_where_no_accounting_is_kept_there_is_none(program: Path) -> None:
    put(program / "sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    put(program / "squeue", "true")
    assert await slurm_commands.accounting(["1"]) is None
    assert await slurm_commands.find("token", since=0) == []


async def test_one_that_cannot_be_asked_makes_a_search_fail(program: Path) -> None:
    """An empty answer would have the job submitted once more."""
    put(program / "squeue", "true")
    put(program / "sacct", "echo 'sacct: error: Problem talking to the database' >&2; exit 1")
    with pytest.raises(Unreachable, match="Problem talking"):
        await slurm_commands.find("token", since=0)


async def test_nothing_is_asked_about_no_job(program: Path) -> None:
    assert await slurm_commands.queue([]) == {}
    assert await slurm_commands.accounting([]) == {}


async def test_an_order_to_what_has_just_ended_is_carried_out(program: Path) -> None:
    """Of a job that ends at that moment scancel says so by its exit code alone."""
    put(program / "scancel", "exit 229")
    await slurm_commands.cancel(["1"], signal="TERM")
    put(program / "scancel", "exit 1")
    with pytest.raises(Unreachable, match="scancel ended with 1"):
        await slurm_commands.cancel(["1"], signal="TERM")
