"""The one place that constructs objects."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NoReturn

from jobs import rebuild
from jobs.batch import ClusterReport
from jobs.errors import JobError, JobNotFoundError
from jobs.failpoints import reach
from jobs.launch import resolve
from jobs.manifests import Manifests
from jobs.model import LaunchRequest
from jobs.paths import Home
from jobs.resuming import Parent
from jobs.service import Service
from jobs.settings import Settings, load_settings
from jobs.store import Store


def keeper_command(home: Home) -> list[str]:
    return [sys.executable, str(Path(__file__).with_name("keeper_main.py")), str(home.root)]


def rebuild_index(settings: Settings) -> rebuild.Rebuilt:
    return rebuild.rebuild(settings.state)


async def open_store(home: Home) -> Store:
    return await Store.open(home.database, lambda: rebuild.entries(home))


@asynccontextmanager
async def open_service(settings: Settings | None = None) -> AsyncIterator[Service]:
    """The service over the state directory that the settings name."""
    settings = settings or load_settings()
    home = settings.state
    store = await open_store(home)
    try:
        yield Service(
            store=store,
            settings=settings,
            manifests=Manifests(settings.all_manifest_dirs),
            keeper_command=keeper_command(home),
        )
    finally:
        await store.close()


async def slurm_report(settings: Settings) -> ClusterReport:
    """What the cluster tells of itself. Raises OSError when Slurm does not answer."""
    from jobs.batching import cluster_access
    from jobs.engines.slurm_report import report

    return await report(cluster_access(settings))


async def slurm_trial(
    request: LaunchRequest, settings: Settings
) -> tuple[str | None, float | None]:
    """Why Slurm would refuse such a job, if it would, and the time limit that it would be asked
    for. Nothing is submitted.

    Raises JobError for what is refused here, OSError when Slurm does not answer.
    """
    from jobs.engines.slurm_commands import Refused
    from jobs.engines.slurm_report import check_accepted
    from jobs.engines.slurm_script import slurm_limit_s

    def no_parent(job_id: str) -> Parent:
        raise JobNotFoundError(job_id)

    manifests = Manifests(settings.all_manifest_dirs)
    (launch,) = resolve(request, settings, manifests, client=None, find_parent=no_parent)
    refusal = None
    try:
        await check_accepted(launch.manifest)
    except Refused as error:
        refusal = str(error)
    return refusal, slurm_limit_s(launch.manifest)


def run_keeper(home: Home) -> NoReturn:
    """Keep until there is nothing left to keep. The caller holds the keeper's lock."""
    from jobs.batching import LOCAL, SLURM
    from jobs.engines.base import Engine
    from jobs.engines.local import LocalEngine
    from jobs.engines.slurm import SlurmEngine
    from jobs.keeper import Keeper

    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s keeper[%(process)d] %(levelname)s %(message)s"
    )

    async def keep() -> None:
        status = 1
        try:
            settings = load_settings(home=home.root)
            store = await open_store(home)
            reach("keeper.begun")
            engines: dict[str, Engine] = {
                LOCAL: LocalEngine(home.wake, keeper_command(home)),
                SLURM: SlurmEngine(settings.engines.slurm.poll_s),
            }
            await Keeper(store=store, engines=engines, home=home, settings=settings).run()
            await store.close()
            status = 0
        except JobError as error:
            logging.error("%s", error)
        except BaseException:
            logging.exception("this keeper has to end; the next one carries on")
        # Whatever it was: a process that lingers holds the lock, and keeps the next keeper out. A
        # thread of ours may hash for minutes, and the index's waits for ever when it is not closed.
        logging.shutdown()
        os._exit(status)

    asyncio.run(keep())
    raise AssertionError("a keeper leaves by os._exit")
