"""A job that leaves a hundred thousand files, and files of every strange kind."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from jobs.model import ArtifactPage
from jobs.service import Service
from jobs.states import State
from tests.support.launching import PYTHON, bash, launch
from tests.support.wait import ended, until

COUNT = 100_000

MAKE = f"""
import os
for folder in range({COUNT} // 1000):
    os.mkdir(str(folder))
    for file in range(1000):
        os.close(os.open(f"{{folder}}/{{file}}", os.O_CREAT | os.O_WRONLY))
"""


async def test_the_pages_of_a_list_are_of_one_look(service: Service) -> None:
    waits = "until [ -e go ]; do sleep 0.05; done"
    script = f"touch $(seq -w 1 40); {waits}; rm 1* 2*; touch b; sleep 60"
    job = await bash(service, script)

    async def pages(first: ArtifactPage) -> list[str]:
        found, page = list(first.artifacts), first
        while cursor := page.cursor_after(len(page.artifacts)):
            page = await service.list_artifacts(job.id, cursor=cursor)
            found += page.artifacts
        return [artifact.path for artifact in found]

    async def listed(count: int) -> ArtifactPage | None:
        page = await service.list_artifacts(job.id)
        return page if page.matching == count else None

    first = await until(lambda: listed(40))
    assert first is not None
    (service.directory(job).work / "go").touch()
    await until(lambda: (service.directory(job).work / "b").exists())
    assert await pages(first) == [f"{number:02}" for number in range(1, 41)]
    first = await until(lambda: listed(22))
    assert first is not None
    assert len(await pages(first)) == 22


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_hundred_thousand_files_are_listed_while_others_are_served(
    service: Service,
) -> None:
    job = await launch(service, PYTHON, "-S", "-c", MAKE)
    job = await ended(service, job.id, seconds=200)
    assert job.state is State.COMPLETED, job.outcome
    order = []

    async def ask() -> None:
        await service.job(job.id)
        order.append("asked")

    async def list_them() -> None:
        page = await service.list_artifacts(job.id, pattern="99/*")
        order.append("listed")
        assert (page.matching, len(page.scan.artifacts)) == (1000, COUNT)
        assert not page.scan.truncated
        assert len(page.artifacts) < 100
        assert all(artifact.sha256 for artifact in page.artifacts)

    await asyncio.gather(list_them(), ask())
    assert order == ["asked", "listed"]


async def test_strange_files_are_passed_over_or_told_as_what_they_are(
    service: Service, tmp_path: Path
) -> None:
    (tmp_path / "other").write_text("with a second name", encoding="utf-8")
    script = rf"""
ln -s {tmp_path}/other link; mkfifo fifo; ln {tmp_path}/other hard; truncate -s 1T sparse
touch $'bad\xff' $'two\nlines'; mkdir -p a/b; touch a/b/c
"""
    job = await bash(service, script, wait_s=15)
    assert job.state is State.COMPLETED
    scan = (await service.list_artifacts(job.id)).scan
    found = {artifact.path: artifact for artifact in scan.artifacts}
    assert set(found) == {"hard", "sparse", "bad\\xff", "two\nlines", "a/b/c"}
    assert found["sparse"].size == 1 << 40
    assert found["sparse"].sha256 is None  # reading a terabyte of zeros would take an hour
    assert sum(scan.skipped.values()) == 2
