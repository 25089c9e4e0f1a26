"""The command line for people: each verb is one or two calls of the service."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import __version__
from jobs.model import LaunchRequest, ResourceWishes
from jobs.states import State
from jobs.sweeps import Sweep
from jobs.text import shown
from server import cli_care, cli_look, cli_manifests
from server.cli_look import tell_job, watch_job
from server.terminal import (
    Json,
    answer,
    pairs,
    parameters,
    refusing,
    run_app,
    say,
    seconds,
    values_of,
)

if TYPE_CHECKING:  # what a verb needs it imports when it runs, so that each starts fast
    from jobs.model import Job
    from jobs.service import Service

app = typer.Typer(
    name="outlast",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"outlast {__version__}")
        raise typer.Exit


@app.callback()
def outlast(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Long scientific jobs that outlast the chat, the server and the terminal they came from.

    outlast doctor                      does everything work on this machine?
    outlast demo                        a first job, as an assistant would run it
    outlast launch -- python sim.py     your own job
    outlast ps                          what runs, what ended and how
    """


@app.command()
def serve() -> None:
    """Serve MCP on standard input and output: what a chat client starts.

    In the client's configuration:
      "outlast": {"command": "outlast", "args": ["serve"]}
    Jobs are not the server's: it may be stopped at any moment.
    """
    from server.mcp_app import serve_stdio

    serve_stdio()


@app.command()
def demo(
    steps: Annotated[int, typer.Option(min=1, help="MD steps; 25000 take about 30 s.")] = 25000,
    home: Annotated[
        Path | None, typer.Option(help="Another state directory than the usual one.")
    ] = None,
    engine: Annotated[
        str, typer.Option(metavar="ENGINE", help="local, slurm or slurm:PROFILE.")
    ] = "local",
) -> None:
    """Launch a simulation, kill the server that did, and read the result through a new one.

    What an assistant does in two chats, with real MCP clients and servers. Exit code 0 only if
    everything held.
    """
    from server.demo import run

    with refusing(as_json=False):
        raise typer.Exit(run(steps, home, engine))


@app.command(context_settings={"allow_interspersed_args": False})
def launch(
    command: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="COMMAND", show_default=False, help="Program and arguments, after --."
        ),
    ] = None,
    manifest: Annotated[str | None, typer.Option(help="A kind of job instead.")] = None,
    param: Annotated[
        list[str] | None, typer.Option("-p", "--param", metavar="NAME=VALUE", help="Of the kind.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Short title; part of the ID.")] = None,
    project: Annotated[str | None, typer.Option(help="Groups jobs.")] = None,
    cwd: Annotated[Path | None, typer.Option(help="Run there. Default: a fresh folder.")] = None,
    env: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Environment variable.")
    ] = None,
    environment: Annotated[str | None, typer.Option(help="Named in the configuration.")] = None,
    input_: Annotated[
        list[Path] | None, typer.Option("--input", help="Copied into the fresh folder.")
    ] = None,
    output: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="File that success requires.")
    ] = None,
    cores: Annotated[int | None, typer.Option(min=1, help="CPU cores that it holds.")] = None,
    memory_mb: Annotated[int | None, typer.Option(min=0, help="Memory that it holds.")] = None,
    gpus: Annotated[int | None, typer.Option(min=0, help="GPUs that it holds.")] = None,
    engine: Annotated[
        str | None, typer.Option(metavar="ENGINE", help="local, slurm or slurm:PROFILE.")
    ] = None,
    engine_option: Annotated[
        list[str] | None, typer.Option(metavar="OPTION", help="Of sbatch, where allowed.")
    ] = None,
    nodes: Annotated[int | None, typer.Option(min=1, help="Of the cluster.")] = None,
    tasks: Annotated[int | None, typer.Option(min=1, help="MPI ranks, on a cluster.")] = None,
    time_limit: Annotated[
        str | None, typer.Option(metavar="TIME", help="90 (seconds), 30m, 2h, 1d.")
    ] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Same key, same job: safe to repeat.")
    ] = None,
    resume_from: Annotated[
        str | None,
        typer.Option(metavar="JOB", help="Go on from its checkpoint; -p overrides its own."),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=A,B,C", help="A job for each value; may be repeated."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Look on until it ends.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the ID only.")] = False,
    as_json: Json = False,
) -> None:
    """Start a job that goes on without this terminal, and print its ID.

    outlast launch -- python -c 'print(6 * 7)'
    outlast launch --cwd . --name fold --time-limit 2h -- python fold.py --seed 7
    outlast launch --manifest md-openmm -p steps=1000 -p seed=2 --wait
    outlast launch --manifest md-openmm --sweep temperature_k=280,300,320
    outlast launch --resume-from k3f9x -p steps=50000
    Options come before the command. With --wait the exit code is 1 unless the job completed.
    """
    with refusing(as_json=as_json):
        wishes = ResourceWishes(
            cores=cores, memory_mb=memory_mb, gpus=gpus, nodes=nodes, tasks=tasks
        )
        request = LaunchRequest(
            manifest=manifest,
            params=parameters(param or []),
            command=command or None,
            name=name,
            project=project,
            cwd=None if cwd is None else _absolute(cwd),
            env=pairs(env or [], "--env"),
            environment=environment,
            inputs=[_absolute(path) for path in input_ or []],
            outputs=output or [],
            resources=wishes,
            engine=engine,
            engine_options=engine_option or [],
            time_limit_s=None if time_limit is None else seconds(time_limit, "--time-limit"),
            idempotency_key=idempotency_key,
            sweep=values_of(sweep) if sweep else None,
        )

    async def verb(service: Service) -> int:
        asked = request
        if resume_from is not None:
            parent = await service.find_job_id(resume_from)
            asked = request.model_copy(update={"resume_from": parent})
        try:
            launched = await service.launch(_with_files_from_here(service, asked), client="cli")
        except asyncio.CancelledError:
            say("Interrupted while launching: `outlast ps` shows whether the job was accepted.")
            raise
        job = launched.job
        if launched.warning:
            say(f"warning: {launched.warning}", "yellow")
        if launched.reused:
            say("This key has been used: this is the earlier job.", "yellow")
        if sweep and job.sweep:
            whole = Sweep(job.sweep, launched.jobs)
            return await cli_look.tell_sweep(service, whole, wait=wait, as_json=as_json)
        if wait and not quiet:
            say(f"{job.id} was accepted.")
        elif not as_json:
            print(job.id, flush=True)
        if wait:
            job = await watch_job(service, job)
        if as_json or (wait and not quiet):
            tell_job(service, job, as_json=as_json)
        elif not quiet:
            _hint(service, job)
        return int(wait and job.state is not State.COMPLETED)

    answer(verb, as_json=as_json)


for _verb in (
    cli_look.ps,
    cli_look.status,
    cli_look.logs,
    cli_look.cancel,
    cli_look.artifacts,
    cli_look.read,
    cli_care.doctor,
    cli_care.prune,
):
    app.command()(_verb)
app.add_typer(cli_manifests.app, name="manifests")


def main() -> None:
    """Run the command line and end the process with its exit code."""
    run_app(app)


def _hint(service: Service, job: Job) -> None:
    """After a launch: what has become of it so far, and how to look again."""
    from server import cli_views, job_replies

    say(f"{job_replies.headline(job)}", "dim")
    last = service.last_line(job) if job.state is State.FAILED else None
    for line in filter(None, [job.outcome.reason, last[1] if last else None]):
        say(shown(line, 300), "red")
    short = cli_views.short_id(job.id)
    say(f"next: outlast status {short}{'' if job.is_final else ' --wait'}", "dim")


def _with_files_from_here(service: Service, request: LaunchRequest) -> LaunchRequest:
    """The same request, with files that parameters name relative to the current folder."""
    if request.manifest is None:
        return request
    kind = service.describe_manifests(request.manifest, near=Path.cwd())[0]
    if kind.folder == Path.cwd() / ".outlast" / "manifests":
        request = request.model_copy(update={"manifest": str(kind.path)})
    known = {name: value for name, value in request.params.items() if name in kind.file.params}
    files = {name: _absolute(Path(path)) for name, path in kind.file_params(known).items()}
    return request.model_copy(update={"params": {**request.params, **files}})


def _absolute(path: Path) -> str:
    return str(path.expanduser().absolute())
