"""What a cluster tells of itself, and whether it would take jobs of a profile: for the doctor."""

from __future__ import annotations

import re
from collections.abc import Mapping

from jobs.batch import ClusterReport, PartitionReport
from jobs.engines import slurm_commands as slurm
from jobs.engines.base import UnreachableError
from jobs.engines.slurm_rows import Partition
from jobs.engines.slurm_submission import options_of
from jobs.model import LaunchManifest


async def report(access: Mapping[str, str]) -> ClusterReport:
    """Of the cluster that `BatchWishes.access` reaches. Raises UnreachableError when Slurm does not
    answer."""
    with slurm.reaching(access):
        return await _report()


async def _report() -> ClusterReport:
    try:
        controllers = await slurm.ping()
        settings = await slurm.configuration()
        partitions = await slurm.partitions()
    except slurm.Unreachable as error:
        raise UnreachableError(str(error)) from None
    kind = settings.get("AccountingStorageType", "").rpartition("/")[2] or "none"
    try:
        # There need not be such a job: it is only asked for an answer.
        has_accounting: bool | None = await slurm.accounting(["1"]) is not None
    except slurm.Unreachable as error:
        has_accounting, kind = None, str(error)
    largest = _number(settings.get("MaxArraySize", ""))
    return ClusterReport(
        name=settings.get("ClusterName", "?"),
        version=settings.get("SLURM_VERSION", "?"),
        controllers=controllers,
        most_tasks=None if largest is None else max(largest - 1, 0),
        remembers_s=_number(settings.get("MinJobAge", "")),
        has_accounting=has_accounting,
        accounting=kind,
        partitions=_gathered(partitions),
    )


async def check_accepted(launched: LaunchManifest) -> None:
    """Returns when Slurm would accept such a job; none is submitted.

    Raises slurm_commands.Refused with Slurm's reason, or UnreachableError.
    """
    try:
        with slurm.reaching(launched.batch.access if launched.batch else None):
            await slurm.try_out("#!/bin/bash\n", options_of(launched))
    except slurm.Unreachable as error:
        raise UnreachableError(str(error)) from None


def _gathered(rows: list[Partition]) -> list[PartitionReport]:
    """One for each partition, whose nodes may be in several states, and not alike."""
    found: dict[str, PartitionReport] = {}
    for row in rows:
        node = f"{row.cpus} cores, {row.memory_mb} MB"
        if row.gres != "(null)":
            node += f", {row.gres}"
        one = found.setdefault(
            row.name,
            PartitionReport(
                name=row.name,
                is_default=row.is_default,
                is_up=row.is_up,
                time_limit_s=row.time_limit_s,
                nodes={},
                node=node,
            ),
        )
        states = {**one.nodes, row.state: one.nodes.get(row.state, 0) + row.nodes}
        alike = one.node if node in one.node.split("; ") else f"{one.node}; {node}"
        found[row.name] = one.model_copy(update={"nodes": states, "node": alike})
    return list(found.values())


def _number(text: str) -> int | None:
    """The first word of `30 sec`."""
    found = re.match(r"[0-9]{1,9}\b", text)
    return int(found[0]) if found else None
