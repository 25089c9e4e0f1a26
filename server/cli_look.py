"""The verbs that look at jobs, and the one that ends them."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from jobs.errors import InvalidArgumentError
from jobs.states import State
from jobs.sweeps import Sweep, is_sweep
from server.terminal import Json, answer, err, print_reply, refusing, say, seconds, show

if TYPE_CHECKING:  # what a verb needs it imports when it runs, so that each starts fast
    from jobs.model import Job
    from jobs.service import Service

JobArgument = Annotated[
    str, typer.Argument(metavar="JOB", help="Its ID, or any part that no other ID has.")
]


def ps(
    project: Annotated[str | None, typer.Option(help="Of this project only.")] = None,
    state: Annotated[
        State | None, typer.Option(metavar="STATE", help="As in running or failed.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many.")] = 20,
    every: Annotated[bool, typer.Option("--all", "-a", help="Not only the newest.")] = False,
    as_json: Json = False,
) -> None:
    """List the newest jobs: what runs, what waits, what ended and how.

    outlast ps
    outlast ps --project villin --state failed
    outlast ps --all --json
    """

    async def verb(service: Service) -> None:
        from server import cli_views, job_replies

        page = await service.list_jobs(project=project, state=state, limit=min(limit, 100))
        jobs, sweeps = page.jobs, dict(page.sweeps)
        while page.more and (every or len(jobs) < limit):
            left = 100 if every else min(limit - len(jobs), 100)
            page = await service.list_jobs(
                project=project, state=state, limit=left, cursor=page.cursor_after(len(page.jobs))
            )
            jobs = jobs + page.jobs
            sweeps |= page.sweeps
        if as_json:
            whole = replace(page, jobs=jobs, sweeps=sweeps)
            print_reply(job_replies.job_list(whole, filtered=False, budget=float("inf"))[1])
            return
        if not jobs:
            say("No job matches." if project or state else "There are no jobs yet.")
            return
        several = project is None and any(job.project != jobs[0].project for job in jobs)
        show(cli_views.job_table(jobs, sweeps, with_project=several))
        if page.more:
            say("There are older ones: outlast ps --all", "dim")

    answer(verb, as_json=as_json)


def status(
    job: JobArgument,
    wait: Annotated[bool, typer.Option("--wait", help="Look on until it ends.")] = False,
    as_json: Json = False,
) -> None:
    """Show one job: state, progress, outcome, and where its directory is.

    outlast status k3f9x
    outlast status k3f9x --wait && echo done
    With --wait the exit code is 1 unless the job completed; ^C only stops the watching.
    """

    async def verb(service: Service) -> int:
        job_id = await service.find_job_id(job)
        if is_sweep(job_id):
            whole = await service.sweep(job_id)
            return await tell_sweep(service, whole, wait=wait, as_json=as_json)
        found = await service.job(job_id)
        if wait:
            found = await watch_job(service, found)
        tell_job(service, found, as_json=as_json)
        return int(wait and found.state is not State.COMPLETED)

    answer(verb, as_json=as_json)


def logs(
    job: JobArgument,
    stderr: Annotated[bool, typer.Option("--stderr", help="Instead of stdout.")] = False,
    stream: Annotated[
        str | None, typer.Option(metavar="NAME", help="A log in the working directory.")
    ] = None,
    lines: Annotated[int, typer.Option("-n", "--lines", help="How many of the last.")] = 50,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Go on until the job ends.")
    ] = False,
    grep: Annotated[
        str | None, typer.Option(metavar="REGEX", help="Only lines that match.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Print the last lines that a job wrote, or follow them to the last byte.

    outlast logs k3f9x
    outlast logs k3f9x -f
    outlast logs k3f9x --stderr --grep 'error|warning'
    outlast logs k3f9x --stream md.log -n 200
    """
    with refusing(as_json=as_json):
        if stderr and stream:
            raise InvalidArgumentError("Give --stderr or --stream, not both.")
        if follow and (grep or as_json):
            raise InvalidArgumentError("--follow goes with neither --grep nor --json.")
    source = stream or ("stderr" if stderr else "stdout")

    async def verb(service: Service) -> None:
        from server import cli_watch, replies

        job_id = await service.find_job_id(job)
        if follow:
            await cli_watch.follow(
                service, job_id, stream=source, lines=lines, write=_write, note=_note
            )
            return
        found, excerpt = await service.tail(job_id, stream=source, lines=lines, grep=grep)
        if as_json:
            print_reply(replies.log_text(found, source, excerpt)[1])
            return
        _write(excerpt.text)
        if excerpt.text and not excerpt.text.endswith("\n"):
            _write("\n")
        for note in excerpt.notes:
            _note(note)

    answer(verb, as_json=as_json)


def cancel(
    job: JobArgument,
    reason: Annotated[str | None, typer.Option(help="Kept with the job.")] = None,
    grace: Annotated[
        str | None, typer.Option(metavar="TIME", help="From the request to end to the kill.")
    ] = None,
    as_json: Json = False,
) -> None:
    """End a job and every process that it started. Safe to repeat.

    outlast cancel k3f9x
    outlast cancel k3f9x --grace 5m --reason 'wrong force field'
    """
    with refusing(as_json=as_json):
        grace_s = None if grace is None else seconds(grace, "--grace")

    async def verb(service: Service) -> None:
        from server import job_replies, sweep_replies

        job_id = await service.find_job_id(job)
        if is_sweep(job_id):
            was_final = (await service.sweep(job_id)).is_final
            ended = await service.cancel_sweep(job_id, reason=reason, grace_s=grace_s)
            text, data = sweep_replies.cancelled(ended, was_final=was_final)
            if as_json:
                print_reply(data)
            else:
                print(text.split("\nNext:")[0])
            return
        before = await service.job(job_id)
        after = await service.cancel(before.id, reason=reason, grace_s=grace_s)
        job_dir = str(service.directory(after).root)
        text, data = job_replies.cancelled(after, job_dir, was_final=before.is_final)
        if as_json:
            print_reply(data)
            return
        show(Text(text.split("\nNext:")[0], no_wrap=True, overflow="ignore"))
        if not after.is_final:
            say(f"next: outlast status {_short(after)} --wait", "dim")

    answer(verb, as_json=as_json)


def artifacts(
    job: JobArgument,
    pattern: Annotated[str | None, typer.Option(metavar="GLOB", help="As in '*.csv'.")] = None,
    as_json: Json = False,
) -> None:
    """List the files that a job made, and the expected ones that are missing.

    outlast artifacts k3f9x
    outlast artifacts k3f9x --pattern '*.png' --json
    """

    async def verb(service: Service) -> None:
        from jobs.directory import read_launch_manifest
        from server import cli_views, replies

        job_id = await service.find_job_id(job)
        page = await service.list_artifacts(job_id, pattern=pattern)
        found, files = page, page.artifacts
        while cursor := page.cursor_after(len(page.artifacts)):
            page = await service.list_artifacts(job_id, pattern=pattern, cursor=cursor)
            files = files + page.artifacts
        if as_json:
            whole = replace(page, artifacts=files, start=0)
            print_reply(replies.artifact_list(whole, budget=float("inf"))[1])
            return
        if files:
            show(cli_views.artifact_table(files))
        for note in cli_views.artifact_notes(found):
            say(note, "dim")
        try:
            folder = read_launch_manifest(service.directory(found.job)).cwd
        except (OSError, ValueError):
            return
        say(f"in {folder}", "dim")

    answer(verb, as_json=as_json)


def read(
    job: JobArgument,
    path: Annotated[str, typer.Argument(help="As `outlast artifacts` lists it.")],
    plot: Annotated[
        str | None, typer.Option(metavar="COLUMNS", help="Of a table, as in 'x: y1, y2'.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the picture or plot there.")
    ] = None,
    offset: Annotated[int, typer.Option(min=0, help="Of a text: the byte to begin at.")] = 0,
    as_json: Json = False,
) -> None:
    """Show what is in a file of a job, as an assistant sees it; or draw it.

    outlast read k3f9x summary.json
    outlast read k3f9x energies.csv --plot 'time_ps: potential_kj_mol, temperature_k' -o plot.png
    outlast read k3f9x progress.jsonl -o progress.png
    progress.jsonl is what was measured while the job ran. Without --plot, a table that goes to a
    file is drawn as its kind of job declares.
    """

    async def verb(service: Service) -> None:
        from jobs.contents import MAX_TEXT_BYTES, Part
        from server import artifact_replies

        job_id = await service.find_job_id(job)
        part = Part(offset=offset, max_bytes=MAX_TEXT_BYTES, plot=plot)
        found, content = await service.read_artifact(job_id, path, part)
        if out is not None and content.image is None and content.kind == "table":
            found, content = await service.read_artifact(job_id, path, replace(part, plot="true"))
        if out is not None:
            _write_picture(out, content.image)
        if as_json:
            print_reply(artifact_replies.content(found, content)[1])
            return
        for text in filter(None, [content.text.rstrip("\n"), "\n".join(content.about)]):
            _write(f"{text}\n")
        _note(content.summary)
        if content.next_offset is not None:
            _note(f"it goes on: --offset {content.next_offset}")
        if content.image is not None:
            say(f"written: {out}" if out else "next: the same with --out FILE.png", "dim")

    answer(verb, as_json=as_json)


def _write_picture(path: Path, image: bytes | None) -> None:
    if image is None:
        raise InvalidArgumentError(
            "The file gives no picture, so there is nothing for --out.", "Leave --out out."
        )
    try:
        path.write_bytes(image)
    except OSError as error:
        raise InvalidArgumentError(f"{path} cannot be written: {error.strerror}.") from None


async def watch_job(service: Service, job: Job) -> Job:
    """Look on until the job has ended; ^C says that it goes on, and how to look again."""
    from server import cli_watch

    try:
        return await cli_watch.watch(service, job, err())
    except asyncio.CancelledError:
        say(f"Stopped watching; {job.id} goes on.")
        say(f"next: outlast status {_short(job)} --wait, or outlast cancel {_short(job)}", "dim")
        raise


async def tell_sweep(service: Service, sweep: Sweep, *, wait: bool, as_json: bool) -> int:
    """Print the table of a sweep, after its end if wished; 1 if it was waited for and not all of it
    completed."""
    from server import cli_views, sweep_replies

    while wait and not sweep.is_final:
        sweep = await service.sweep(sweep.id, wait_s=20.0)
        if not as_json:
            say(sweep_replies.sweep_headline(sweep.id, sweep_replies.title(sweep), sweep.counts))
    if as_json:
        print_reply(sweep_replies.status(sweep, state=None, budget=float("inf"))[1])
    else:
        show(cli_views.sweep_block(sweep))
    return int(wait and any(job.state is not State.COMPLETED for job in sweep.jobs))


def tell_job(service: Service, job: Job, *, as_json: bool) -> None:
    """Print the job, as a block or as JSON."""
    from jobs.directory import read_limits
    from server import cli_views, job_replies

    job_dir = service.directory(job)
    root, limits = str(job_dir.root), read_limits(job_dir)
    if as_json:
        print_reply(job_replies.one_job(job, root, "", limits)[1])
    else:
        show(cli_views.job_block(job, root, service.last_line(job), limits, service.placement(job)))


def _short(job: Job) -> str:
    from server.cli_views import short_id

    return short_id(job.id)


def _note(text: str) -> None:
    say(f"({text})", "dim")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
