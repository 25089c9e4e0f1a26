"""Whether jobs can be given to Slurm, what there is to run on, and whether nodes see the jobs."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.batch import ClusterReport, PartitionReport
from jobs.batching import chosen_engine
from jobs.errors import JobError, nearest
from jobs.model import Job, LaunchRequest
from jobs.paths import Home
from jobs.settings import Settings, SlurmProfile, config_path, load_settings
from jobs.states import State
from jobs.sweeps import MOST_JOBS
from jobs.text import shown
from server.doctor import Check, end_keeper, ground_checks, not_doctor
from server.job_replies import duration, headline
from server.wiring import open_service, slurm_report, slurm_trial

if TYPE_CHECKING:
    from jobs.service import Service

END_S = 40.0  #: for it to end, once it runs or was cancelled
#: How sinfo begins the state of a node that takes no job now; one that does not answer ends in `*`.
_OUT_OF_SERVICE = ("down", "drain", "fail", "maint", "unk", "inval")
#: What a trial submission is told of a request that no node can ever hold, and of one whose nodes
#: are all out of service; a real one waits then.
_NO_SUCH_NODE = "node configuration is not available"
#: Names what of its arguments is not on the node.
_TRIAL = 'sleep 1; for path; do [ -e "$path" ] || echo "$path"; done'


async def slurm_checks(engine: str, *, start_s: float) -> list[Check]:
    """What this machine needs, then the cluster, from the ground up. Changes nothing but a
    temporary folder in the state directory, and runs one small job, which may wait in the queue for
    `start_s`. `engine` may name a profile."""
    checks, settings = await ground_checks(shared=True)
    if settings is None:
        return checks
    try:
        chosen_engine(LaunchRequest(engine=engine), settings)
    except JobError as error:
        return [*checks, Check("profile", "fail", error.cause, error.next_step)]
    conf = os.environ.get("SLURM_CONF")
    if conf is not None and not Path(conf).is_file():
        mend = "Correct the variable, or leave it out where Slurm finds its configuration itself."
        what = f"SLURM_CONF names {shown(conf, 300)}, which is no file"
        return [*checks, Check("Slurm", "fail", what, mend)]
    try:
        cluster = await slurm_report(settings)
        checks += _cluster(cluster)
        checks += [_partition(partition) for partition in cluster.partitions]
        profiles = settings.engines.slurm.profiles
        for name, profile in profiles.items():
            checks.append(await _profile(name, profile, settings, cluster))
    except OSError as error:
        mend = "Try `scontrol ping` here; Slurm's commands, its configuration and munge's key are "
        mend += "needed where servers run."
        return [*checks, Check("Slurm", "fail", f"does not answer: {error}", mend)]
    if any(check.name == "state directory" and check.state == "fail" for check in checks):
        return checks
    return [*checks, *await _trial(settings, engine, start_s)]


def _cluster(cluster: ClusterReport) -> list[Check]:
    asked = f"Slurm {cluster.version}, cluster {cluster.name}: {cluster.controllers}"
    checks = [Check("Slurm", "ok", asked)]
    if cluster.has_accounting:
        checks.append(Check("accounting", "ok", f"answers ({cluster.accounting})"))
    elif cluster.has_accounting is None:
        what = f"does not answer: {cluster.accounting}"
        mend = "Jobs run without it, but what they used, and ends that no node has written down, "
        checks.append(Check("accounting", "warn", what, f"{mend}are not known until it does."))
    else:
        left = f"for {cluster.remembers_s:g} s after it" if cluster.remembers_s else "for a while"
        what = "the cluster keeps none: of an end that no node has written down Slurm knows only "
        mend = "Nothing has to be done; only how much memory jobs have used is not told then."
        checks.append(Check("accounting", "warn", what + left, mend))
    if cluster.most_tasks is not None and cluster.most_tasks < MOST_JOBS:
        what = f"of at most {cluster.most_tasks} jobs: MaxArraySize is {cluster.most_tasks + 1}"
        checks.append(Check("sweeps", "warn", what, "Larger ones are refused: split them."))
    return checks


def _partition(partition: PartitionReport) -> Check:
    limit = partition.time_limit_s
    nodes = ", ".join(f"{count} {state}" for state, count in sorted(partition.nodes.items()))
    words = [
        "default" if partition.is_default else "",
        "up" if partition.is_up else "not up",
        "no time limit" if limit is None else f"at most {duration(limit)}",
        f"nodes: {nodes or 'none'}",
        f"each with {partition.node}",
    ]
    what = ", ".join(filter(None, words))
    label = f"partition {partition.name}"
    if not partition.is_up:
        return Check(label, "warn", what, "Jobs in it wait until an administrator opens it.")
    if not partition.nodes.keys() - _out_of_service(partition):
        return Check(label, "warn", what, "No node of it takes jobs now: they wait.")
    return Check(label, "ok", what)


def _out_of_service(partition: PartitionReport) -> set[str]:
    """The states of its nodes in which they take no job now."""
    return {
        state
        for state in partition.nodes
        if state.startswith(_OUT_OF_SERVICE) or state.endswith("*")
    }


async def _profile(
    name: str, profile: SlurmProfile, settings: Settings, cluster: ClusterReport
) -> Check:
    """Whether a job of one core with this profile would be accepted, and could ever run."""
    label = f"profile {name}"
    mend = f"Correct [engines.slurm.profiles.{name}] in {config_path()}."
    known = {partition.name: partition for partition in cluster.partitions}
    chosen = [known[one] for one in (profile.partition or "").split(",") if one in known]
    if profile.partition is None:
        chosen = [partition for partition in cluster.partitions if partition.is_default]
    elif missing := [one for one in profile.partition.split(",") if one not in known]:
        what = f"there is no partition {missing[0]!r}.{nearest(missing[0], known)}"
        return Check(label, "fail", what, mend)
    request = LaunchRequest(command=["true"], engine=f"slurm:{name}")
    try:
        refusal, asked = await slurm_trial(request, settings)
    except JobError as error:
        return Check(label, "fail", error.cause, error.next_step)
    waiting = [one.name for one in chosen if _out_of_service(one)]
    if refusal and _NO_SUCH_NODE in refusal and waiting:
        what = f"no node could run a job of one core with it now, and nodes of {', '.join(waiting)}"
        mend += " If those are nodes that it needs, its jobs wait for them."
        return Check(label, "warn", f"{what} are out of service: {refusal}", mend)
    if refusal:
        return Check(label, "fail", f"Slurm refuses a job of one core with it: {refusal}", mend)
    limits = [partition.time_limit_s for partition in chosen if partition.time_limit_s]
    if asked and chosen and len(limits) == len(chosen) and asked > max(limits):
        what = f"for time_limit_s = {profile.time_limit_s:g} Slurm is asked for {asked:g} s, which "
        what += f"is more than its partition gives ({max(limits):g})"
        return Check(label, "fail", f"{what}: its jobs would wait for ever", mend)
    where = ", ".join(partition.name for partition in chosen) or "the default partition"
    default = " (the default)" if name == settings.engines.slurm.default_profile else ""
    return Check(label, "ok", f"{where}{default}; Slurm would accept a job of one core")


async def _trial(settings: Settings, engine: str, start_s: float) -> list[Check]:
    """Run a job of one second where jobs will run, with a keeper and an index of its own, inside
    the state directory: that is what nodes have to see."""
    root = settings.state.root
    with tempfile.TemporaryDirectory(
        prefix=".doctor-", dir=root, ignore_cleanup_errors=True
    ) as folder:
        home = Home(Path(folder))
        try:
            async with open_service(load_settings(home=home.root)) as service:
                return await _run(service, settings, engine, start_s)
        except JobError as error:
            return [Check("trial job", "fail", error.cause, not_doctor(error))]
        finally:
            await end_keeper(home)


async def _run(service: Service, settings: Settings, engine: str, start_s: float) -> list[Check]:
    needed = [sys.executable, *(str(path) for path in settings.all_manifest_dirs if path.is_dir())]
    request = LaunchRequest(
        command=["bash", "-c", _TRIAL, "doctor", *needed],
        name="doctor",
        engine=engine,
        time_limit_s=10,
    )
    job = (await service.launch(request, client="outlast doctor")).job
    try:
        job = await _until(service, job, start_s, {State.RUNNING})
        if job.state is State.RUNNING:
            job = await _until(service, job, END_S)
        if not job.is_final:
            return [await _gave_up(service, job)]
    except asyncio.CancelledError:
        await service.cancel(job.id, wait_s=5)
        raise
    return _ended(service, job, settings.state)


async def _until(service: Service, job: Job, seconds: float, states: Collection[State] = ()) -> Job:
    """The job once it has ended or is in one of the states, or after so long."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not (job.is_final or job.state in states) and (left := deadline - loop.time()) > 0:
        job = await service.job(job.id, wait_s=min(left, 5))
    return job


async def _gave_up(service: Service, job: Job) -> Check:
    """Cancel what has not come to its end in time, and tell what it waited for."""
    what = f"has not ended in time; it is {headline(job)}"
    await service.cancel(job.id, wait_s=0)
    job = await _until(service, job, END_S)
    if job.is_final:
        return Check(
            "trial job",
            "warn",
            f"{what}; it was cancelled",
            "Where the queue is long, give it more time with `--wait SECONDS`, or a profile that "
            "starts sooner: `outlast doctor --engine slurm:PROFILE`.",
        )
    placed = service.placement(job) or "Slurm has not been given it"
    return Check("trial job", "fail", f"{what}, and cannot be cancelled: {placed}", "See `squeue`.")


def _ended(service: Service, job: Job, home: Home) -> list[Check]:
    placed = service.placement(job) or job.engine
    if job.state is not State.COMPLETED:
        said = service.last_line(job)
        reason = job.outcome.reason or (said[1] if said else "no reason is known")
        what = f"{placed}; it is {headline(job)}: {shown(reason, 500)}"
        mend = (
            f"Nodes must see {home.root} under the same path: set OUTLAST_HOME, or home in "
            f"{config_path()}, to a folder on a file system that they share with this machine."
        )
        return [Check("trial job", "fail", what, mend)]
    done = Check("trial job", "ok", f"ran and completed, {placed}; nodes see {home.root}")
    missing = (
        service.directory(job).stdout.read_text(encoding="utf-8", errors="replace").split("\n")
    )
    if not any(missing):
        return [done, Check("kinds of job", "ok", "Python and the manifests' scripts are on nodes")]
    what = f"not on the node: {', '.join(filter(None, missing))}"
    mend = (
        "Kinds of job that run a script of ours fail there: install Outlast on a shared file "
        "system, or name a Python that nodes have in [environments] (docs/slurm.md)."
    )
    return [done, Check("kinds of job", "warn", what, mend)]
