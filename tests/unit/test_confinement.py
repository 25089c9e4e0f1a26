"""Where cgroups are and how limits are written, for systems that are not this one; rlimits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.engines.confinement import (
    V2_FILES,
    Confinement,
    Place,
    _ceilings,
    _rlimits,
    own_cgroups,
)
from jobs.engines.shim_system import Bound, confine, limit_hit
from jobs.limits import Bounds, Limits
from jobs.paths import Home, JobDir

V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate"
V1 = """31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw
32 31 0:29 {root} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 31 0:30 {root} /sys/fs/cgroup/my\\040pids rw - cgroup cgroup rw,pids"""


@pytest.mark.parametrize(
    ("mounts", "own", "folders"),
    [
        (V2, "0::/user.slice/a.scope", {"": "/sys/fs/cgroup/user.slice/a.scope"}),
        (V2, "0::/", {"": "/sys/fs/cgroup"}),
        (V2, "0::/../other", {}),  # outside of what this container sees
        (V2, "0::/caf\udce9", {}),  # cannot be written down
        (
            V1.format(root="/"),
            "9:name=systemd:/\n8:pids:/x\n4:memory:/y/z\n0::/",
            {"pids": "/sys/fs/cgroup/my pids/x", "memory": "/sys/fs/cgroup/memory/y/z"},
        ),
        (
            V1.format(root="/docker/1"),
            "8:cpu,pids:/docker/1/in\n4:memory:/docker/1",
            {"pids": "/sys/fs/cgroup/my pids/in", "memory": "/sys/fs/cgroup/memory"},
        ),
        (V1.format(root="/docker/1"), "8:pids:/elsewhere", {}),
        ("", "0::/", {}),
    ],
)
def test_our_own_cgroups_are_found(mounts: str, own: str, folders: dict[str, str]) -> None:
    assert own_cgroups(mounts, own) == {name: Path(path) for name, path in folders.items()}


def _like_v2(folder: Path, **values: str) -> Path:
    """A folder with files as cgroup v2 has them. Nothing is enforced here."""
    folder.mkdir(parents=True)
    for name in ("cgroup.procs", "pids.max", "memory.max", "memory.oom.group", "memory.swap.max"):
        (folder / name).write_text(values.get(name.replace(".", "_"), "max\n"), encoding="ascii")
    return folder


def test_limits_are_written_as_the_kernel_reads_them(tmp_path: Path) -> None:
    ours = _like_v2(tmp_path / "ours", pids_max="100\n")
    assert _ceilings(ours) == {"processes": 100}
    confinement = Confinement(Home(tmp_path))
    confinement._places = [Place(tmp_path, V2_FILES, _ceilings(ours))]
    job_dir = JobDir(tmp_path / "jobs" / "job-x\n/..")
    folder = tmp_path / confinement.name(job_dir)
    _like_v2(folder)
    (folder / "below").mkdir()  # cannot be removed, as one that is in use cannot
    made, orders = confinement.prepare(job_dir, Bounds(processes=4096, memory_mb=900))
    assert made == [str(folder)]
    assert confinement.folders(job_dir, [str(folder), "/sys/fs/cgroup/user.slice"]) == [
        bytes(folder)
    ]
    values = {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}
    assert values["pids.max"].startswith("100")
    assert int(values["memory.max"]) == 900 << 20
    assert (values["memory.oom.group"][0], values["memory.swap.max"][0]) == ("1", "0")
    assert orders == [
        f"member 0 0 {folder}",
        f"memory_mb 900 0 {folder}",
        f"processes 100 0 {folder}",  # no more than our own cgroup may have
    ]


@pytest.mark.parametrize(
    ("files", "hit"),
    [
        ({}, b""),
        ({"memory.events.local": "oom 1\n", "memory.events": "oom_kill 1\n"}, b"memory_mb"),
        ({"memory.events.local": "oom 0\n", "memory.events": "oom_kill 1\n"}, b""),  # the machine's
        ({"pids.events": "max 3\n", "pids.peak": "50\n"}, b"processes"),
        ({"pids.events": "max 3\n"}, b"processes"),
        ({"pids.events": "max 3\n", "pids.peak": "49\n"}, b""),  # refused by one above
        ({"pids.events": "max 0\n", "pids.peak": "50\n"}, b""),
        ({"memory.oom_control": "oom_kill 1\n", "memory.max_usage_in_bytes": "1\n"}, b""),
        (
            {"memory.oom_control": "oom_kill 1\n", "memory.max_usage_in_bytes": f"{90 << 20}\n"},
            b"memory_mb",
        ),
        ({"pids.events": "gibberish\nmax x\n", "memory.events": ""}, b""),
    ],
)
def test_which_limit_was_reached(tmp_path: Path, files: dict[str, str], hit: bytes) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="ascii")
    orders = ("member 0 0", "processes 50 0", "memory_mb 90 0")
    bounds = [Bound(f"{order} {tmp_path}".encode()) for order in orders]
    assert limit_hit(bounds) == hit


def test_limits_in_words() -> None:
    whole = Limits(processes=9, processes_by="cgroup", memory_mb=7, memory_mb_by="cgroup")
    assert str(whole) == "9 processes (cgroup), 7 MB memory (cgroup)"
    single = Limits(processes=9, processes_by="rlimit", memory_mb=7, memory_mb_by="rlimit")
    assert str(single) == "9 processes more of the user (rlimit), 7 MB memory per process (rlimit)"
    assert str(Limits()) == "none"


#: As a user whom the kernel holds to it: what is held, and how many forks a held process can do.
FORKS = """
import json, os, sys
from jobs.engines.confinement import _rlimits
from jobs.engines.shim_system import Bound, confine
from jobs.limits import Bounds
if os.geteuid() == 0:
    os.setgid(54321)
    os.setuid(54321)
bounds = [Bound(order.encode()) for order in _rlimits(Bounds(processes=15), {"processes"})]
gate, opened = os.pipe()
said, say = os.pipe()
child = os.fork()
if child == 0:
    os.read(gate, 1)
    end, hold = os.pipe()
    for forks in range(100):
        try:
            if os.fork() == 0:
                os.close(hold)
                os.read(end, 1)
                os._exit(0)
        except OSError:
            break
    os.write(say, b"%d" % forks)
    os._exit(0)
held = json.loads("{" + confine(child, bounds).decode()[1:] + "}")
os.write(opened, b"g")
print(json.dumps([held, int(os.read(said, 9))]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prlimit is of Linux")
def test_without_a_cgroup_an_rlimit_holds_a_user() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKS], capture_output=True, text=True, check=True, timeout=60
    )
    held, forks = json.loads(done.stdout)
    assert held == {"limits": {"processes": 15, "processes_by": "rlimit"}}
    assert 10 <= forks <= 15


def test_root_is_told_no_rlimit_that_does_not_hold_it() -> None:
    kinds = {order.split()[0] for order in _rlimits(Bounds(processes=15), {"processes"})}
    assert kinds == (set() if os.geteuid() == 0 else {"processes"})


def test_the_memory_of_each_process_is_held_when_asked_for() -> None:
    code = "import sys\nsys.stdin.read(1)\nx = bytearray(300 << 20)"
    command = [sys.executable, "-c", code]
    (order,) = _rlimits(Bounds(memory_mb=900, process_memory_mb=200), {"memory_mb"})
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stderr=pipe) as process:
        held = confine(process.pid, [Bound(order.encode())])
        assert b'"memory_mb": 200, "memory_mb_by": "rlimit"' in held
        errors = process.communicate(b"g")[1]
    assert b"MemoryError" in errors
