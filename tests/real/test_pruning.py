"""What `prune` proposes: by the space that jobs hold, the oldest first."""

from __future__ import annotations

from jobs.service import Service
from tests.support.launching import bash
from tests.support.wait import ended

MB = 1 << 20


async def test_holes_and_shared_files_are_no_space(service: Service) -> None:
    ids = []
    for script in (
        "head -c 3M /dev/urandom > old.bin",
        "truncate -s 3T sparse.bin",
        "head -c 3M /dev/urandom > mine.bin; ln mine.bin mine-too.bin",
    ):
        ids.append((await ended(service, (await bash(service, script)).id)).id)

    async def chosen(keep_bytes: int) -> list[str]:
        found = await service.pruner.choose(older_than_s=1e9, keep_bytes=keep_bytes)
        assert all(item.size < 4 * MB for item in found)
        return [item.job.id for item in found]

    assert await chosen(7 * MB) == []
    assert await chosen(5 * MB) == ids[:1]
    assert await chosen(1 * MB) == ids
    by_age = await service.pruner.choose(older_than_s=0, keep_bytes=None)
    assert [item.job.id for item in by_age] == ids
