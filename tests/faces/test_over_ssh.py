"""A server on a login node that a chat client starts over ssh, with a real sshd on this machine."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

from tests.support.cli import ROOT
from tests.support.faces import Caller
from tests.support.slurm import Cluster
from tests.support.wait import until

pytestmark = pytest.mark.slurm
SSHD = shutil.which("sshd", path="/usr/sbin:/usr/bin")


@pytest.fixture
def login_node(home: Path, tmp_path: Path) -> Iterator[list[str]]:
    """The arguments with which ssh starts `outlast` there."""
    if SSHD is None or shutil.which("ssh") is None:
        reason = "no sshd here: run `sudo sh tests/support/get_sshd.sh`"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # for its separated privileges
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name in ("host", "user"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)], check=True
        )
    (tmp_path / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {tmp_path}/host\nUsePAM no\n"
        f"AuthorizedKeysFile {tmp_path}/user.pub\nStrictModes no\nPidFile none\n"
        "PasswordAuthentication no\nPermitRootLogin prohibit-password\n",
        encoding="utf-8",
    )
    (tmp_path / "ssh_config").write_text(
        f"Host cluster\nHostName 127.0.0.1\nPort {port}\nUser {getpass.getuser()}\n"
        f"IdentityFile {tmp_path}/user\nUserKnownHostsFile {tmp_path}/known\n"
        "IdentitiesOnly yes\nStrictHostKeyChecking accept-new\nBatchMode yes\nLogLevel ERROR\n",
        encoding="utf-8",
    )
    outlast = tmp_path / "outlast"
    settings = [name for name in os.environ if name.startswith("OUTLAST_")]
    lines = [f"export {name}='{os.environ[name]}'" for name in [*settings, "SLURM_CONF"]]
    start = f"cd '{ROOT}' && exec '{sys.executable}' -m server \"$@\""
    outlast.write_text("\n".join(["#!/bin/sh", *lines, start, ""]), encoding="utf-8")
    outlast.chmod(0o755)
    sshd = subprocess.Popen(
        [SSHD, "-D", "-E", str(tmp_path / "sshd.log"), "-f", str(tmp_path / "sshd_config")],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )
    try:
        _wait_for(port, sshd)
        yield ["-F", str(tmp_path / "ssh_config"), "cluster", str(outlast)]
    finally:
        sshd.terminate()
        sshd.wait(20)


def _wait_for(port: int, sshd: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while sshd.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise AssertionError("sshd does not listen")


def servers(home: Path) -> list[psutil.Process]:
    """The `outlast serve` processes of this state directory."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            serves = process.cmdline()[-3:] == ["-m", "server", "serve"]
            if serves and process.environ().get("OUTLAST_HOME") == str(home):
                found.append(process)
    return found


async def test_a_broken_connection_costs_no_job(
    slurm: Cluster, home: Path, login_node: list[str]
) -> None:
    def connect() -> Client:
        return Client(
            stdio_client(StdioServerParameters(command="ssh", args=[*login_node, "serve"]))
        )

    waits = "echo here on $SLURMD_NODENAME; until [ -e go ]; do sleep 0.1; done; echo done"
    job_id, broken = "", False
    try:
        async with connect() as client:
            call = Caller(client)
            reply = await call("launch_job", command=["bash", "-c", waits], engine="slurm")
            job_id = reply.data["job_id"]
            assert len(servers(home)) == 1
            for process in psutil.Process().children():
                if process.name() == "ssh":
                    process.kill()
                    broken = True
    except Exception:  # the client may say that its server has gone
        if not broken:
            raise
    assert broken
    await until(lambda: servers(home) == [])  # it ends with its connection

    async with connect() as client:
        call = Caller(client)

        async def is_running() -> bool:
            return (await call("job_status", job_id=job_id)).data["state"] == "running"

        await until(is_running)
        (home / "jobs" / "default" / job_id / "work" / "go").touch()

        async def is_completed() -> bool:
            return (await call("job_status", job_id=job_id)).data["state"] == "completed"

        await until(is_completed)
        log = await call("tail_log", job_id=job_id)
        assert log.data["text"].startswith("here on n")
        assert log.data["text"].endswith("done\n")
        status = await call("job_status", job_id=job_id)
        assert status.data["placement"].startswith("Slurm job")
        assert status.data["placement"] in status.text


async def test_the_command_line_works_over_it(
    slurm: Cluster, home: Path, login_node: list[str]
) -> None:
    words = ["launch", "--engine", "slurm", "--wait", "--", "true"]
    ssh = subprocess.run(["ssh", *login_node, *words], capture_output=True, text=True, timeout=60)
    assert ssh.returncode == 0, ssh.stderr
    assert "completed with exit code 0" in ssh.stdout
