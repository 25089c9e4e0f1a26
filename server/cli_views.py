"""What people see: jobs, files, kinds of job and checks as tables and blocks.

Names, messages and reasons come from outside: they are cleaned and shown as plain text.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from jobs import clock
from jobs.limits import Limits
from jobs.model import Artifact, ArtifactPage, Job
from jobs.states import State
from jobs.text import shown, size
from server.job_replies import duration, headline
from server.replies import credit
from server.sweep_replies import counts_in_words, sweep_headline, title

if TYPE_CHECKING:
    from jobs.manifests import Manifest
    from jobs.pruning import Prunable
    from jobs.sweeps import Sweep

STATE_STYLES = {
    State.QUEUED: "yellow",
    State.STARTING: "cyan",
    State.RUNNING: "bold cyan",
    State.CANCELLING: "yellow",
    State.COMPLETED: "green",
    State.FAILED: "bold red",
    State.CANCELLED: "yellow",
    State.TIMED_OUT: "red",
    State.LOST: "bold magenta",
}


def short_id(job_id: str) -> str:
    """The random end of an ID: in practice no other ID has it."""
    return job_id.rsplit("-", 1)[-1]


def job_table(
    jobs: Sequence[Job], sweeps: dict[str, dict[State, int]], *, with_project: bool
) -> Table:
    """One line for each job, and one for each sweep, which its first job stands for."""
    table = _table()
    table.add_column("JOB", overflow="fold", ratio=None)
    if with_project:
        table.add_column("PROJECT", overflow="fold", max_width=20)
    table.add_column("STATE", no_wrap=True)
    table.add_column("TIME", no_wrap=True, justify="right")
    table.add_column("HOW", no_wrap=True, overflow="ellipsis", min_width=12)
    for job in jobs:
        elapsed = job.elapsed_s(clock.now())
        project = [Text(shown(job.project, 64))] if with_project else []
        if job.sweep in sweeps:
            counts = sweeps[job.sweep]
            words = [Text(f"{sum(counts.values())} jobs"), Text(), Text(counts_in_words(counts))]
            table.add_row(Text(job.sweep), *project, *words)
            continue
        row = [
            Text(job.id),
            *project,
            _state(job),
            Text("" if elapsed is None else duration(elapsed)),
            Text(_how(job), style="" if job.state is not State.FAILED else "red"),
        ]
        table.add_row(*row)
    return table


def sweep_block(sweep: Sweep) -> RenderableType:
    """The table of a sweep under the line that stands for it."""
    header, *rows = sweep.table()
    table = _table()
    table.add_column("#", justify="right")
    for name in header[:-1]:
        table.add_column(Text(shown(name, 40)), overflow="fold")
    for job, row in zip(sweep.jobs, rows, strict=True):
        number = str((job.sweep_index or 0) + 1)
        table.add_row(number, *(Text(shown(text, 60)) for text in row[:-1]))
    head = sweep_headline(sweep.id, title(sweep), sweep.counts)
    part = f"{sweep.id}#1"
    return Group(Text(head, style="bold"), table, Text(f" next  outlast status {part}", "dim"))


def _how(job: Job) -> str:
    """How far it is, why it waits, or how it ended."""
    if job.is_final:
        return shown(job.outcome.reason or "")
    if job.progress is not None:
        percent = job.progress.fraction
        text = "" if percent is None else f"{100 * percent:.0f} %"
        if job.progress.eta_s is not None:
            text += f", {duration(job.progress.eta_s)} left"
        return text or shown(job.progress.message or "")
    return shown(job.wait_reason or "")


def job_block(
    job: Job,
    job_dir: str,
    last: tuple[str, str] | None,
    limits: Limits | None,
    placement: str | None = None,
) -> RenderableType:
    """One job whole, with what to do next."""
    grid = _facts()
    kind = f", manifest {job.manifest}" if job.manifest else ""
    grid.add_row("name", Text(f"{shown(job.name, 100)}, project {shown(job.project)}{kind}"))
    grid.add_row("launched", Text(f"{when(job.created_at)}, holds {_resources(job)}"))
    if placement:
        grid.add_row("placed", Text(shown(placement, 300)))
    if limits is not None:
        grid.add_row("limits", Text(str(limits)))
    progress = job.progress
    if progress is not None and not job.is_final:
        if progress.fraction is not None:
            grid.add_row("progress", bar(progress.fraction, width=32))
        grid.add_row("" if progress.fraction is not None else "progress", _message(job))
    outcome = job.outcome
    if job.is_final and outcome.reason:
        grid.add_row("reason", Text(shown(outcome.reason, 1000), style="red"))
    for name, value in outcome.summary.items() if job.is_final else ():
        grid.add_row(shown(name, 40), Text(shown(str(value), 200)))
    for warning in outcome.warnings:
        grid.add_row("doubtful", Text(shown(warning, 300), style="yellow"))
    if outcome.error:
        grid.add_row("error", Text(shown(outcome.error, 300), style="red"))
    if job.parent:
        grid.add_row("goes on from", Text(job.parent))
    if last is not None:
        grid.add_row(last[0], Text(shown(last[1], 300), style="dim"))
    head = Text.assemble((job.id, "bold"), ": ", (headline(job), STATE_STYLES[job.state]))
    facts = Padding(grid, (0, 0, 0, 1), expand=False)
    return Group(head, facts, path_line("directory", job_dir), _next(job))


def _message(job: Job) -> Text:
    message = job.progress.message if job.progress else None
    return Text(shown(message or ""), style="dim")


def _resources(job: Job) -> str:
    held = job.resources
    text = f"{held.cores} core{'s' if held.cores > 1 else ''}"
    if held.memory_mb:
        text += f", {held.memory_mb} MB"
    return text + (f", {held.gpus} GPU" if held.gpus else "")


def _next(job: Job) -> Text:
    part = short_id(job.id)
    if job.outcome.resumable and job.state is not State.COMPLETED:
        text = f"outlast launch --resume-from {part}"
    elif job.state in (State.FAILED, State.TIMED_OUT, State.LOST):
        text = f"outlast logs {part} --stderr"
    elif job.is_final:
        text = f"outlast artifacts {part}"
    else:
        text = f"outlast status {part} --wait   or   outlast logs {part} -f"
    return Text.assemble((" next       ", "dim"), text)


def path_line(label: str, path: str) -> Text:
    """A path on a line of its own, unbroken, so that it can be copied."""
    return Text.assemble((f" {label:<11}", "dim"), path, no_wrap=True, overflow="ignore")


def bar(fraction: float, *, width: int | None) -> ProgressBar:
    return ProgressBar(
        total=1.0,
        completed=fraction,
        width=width,
        complete_style="cyan",
        finished_style="green",
    )


def artifact_table(artifacts: Sequence[Artifact]) -> Table:
    table = _table()
    table.add_column("FILE", overflow="fold")
    table.add_column("KIND", no_wrap=True)
    table.add_column("SIZE", no_wrap=True, justify="right")
    table.add_column("CHANGED", no_wrap=True)
    table.add_column("SHA-256", no_wrap=True)
    for artifact in artifacts:
        table.add_row(
            Text(shown(artifact.path, 1000)),
            artifact.kind,
            size(artifact.size),
            when(artifact.modified_at),
            Text((artifact.sha256 or "")[:12], style="dim"),
        )
    return table


def artifact_notes(page: ArtifactPage) -> list[str]:
    """What else is to be known of the files: how many, what is missing, what was passed over."""
    found = page.scan
    more = " at least" if found.truncated else ""
    notes = [f"{page.matching} of{more} {len(found.artifacts)} files, {size(found.total_size)}"]
    for output in found.expected:
        if not output.present:
            yet = "" if page.job.is_final else " yet"
            required = " (required)" if output.required else ""
            notes.append(f"expected, but not there{yet}: {shown(output.path)}{required}")
    if found.skipped:
        skipped = ", ".join(f"{count} {what}" for what, count in found.skipped.items())
        notes.append(f"passed over: {skipped}")
    return notes


def manifest_table(manifests: Sequence[Manifest]) -> Table:
    table = _table()
    table.add_column("MANIFEST", no_wrap=True)
    table.add_column("WHAT IT DOES")
    for manifest in manifests:
        table.add_row(Text(manifest.name, style="bold"), Text(shown(manifest.file.title)))
    return table


def manifest_block(manifest: Manifest) -> RenderableType:
    """A kind of job with its parameters and what it leaves."""
    file = manifest.file
    table = _table()
    table.add_column("PARAMETER", no_wrap=True)
    table.add_column("DEFAULT", overflow="fold", max_width=26)
    table.add_column("MEANING")
    required = manifest.params_schema().get("required", [])
    for name, schema in file.params.items():
        default = "required" if name in required else _default(schema)
        bounds = [
            f"{label} {_words(schema[word])}" for word, label in _BOUNDS.items() if word in schema
        ]
        kind = "file" if schema.get("format") == "file-path" else str(schema.get("type", "any"))
        meaning = Text(shown(str(schema.get("description", "")), 500))
        meaning.append(f" {', '.join([kind, *bounds])}", style="dim")
        table.add_row(Text(name, style="bold"), Text(shown(default)), meaning)
    leaves = _facts()
    for output in file.output:
        leaves.add_row(Text(shown(output.path)), Text(shown(output.description, 500)))
    example = f"outlast launch --manifest {manifest.name}"
    for name in required or [name for name in file.params if "format" not in file.params[name]][:1]:
        example += f" -p {name}={file.params[name].get('default', '...')}"
    parts: list[RenderableType] = [
        Text.assemble((manifest.name, "bold"), f": {shown(file.title)}"),
        Text(" ".join(shown(file.description, 2000).replace("\\n", " ").split())),
        Text(),
        table,
    ]
    if file.output:
        parts += [Text("\nIt leaves", style="bold"), Padding(leaves, (0, 0, 0, 1), expand=False)]
    if words := credit(file):
        parts.append(Text(f"\n{words}"))
    return Group(*parts, Text.assemble(("\nnext  ", "dim"), shown(example)))


def _default(schema: dict[str, Any]) -> str:
    """A default in short: of a file that comes with the manifest, its name."""
    return str(schema.get("default", "")).removeprefix("{manifest_dir}/")


def _words(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


_BOUNDS = {
    "unit": "in",
    "minimum": "≥",
    "exclusiveMinimum": ">",
    "maximum": "≤",
    "exclusiveMaximum": "<",
    "enum": "one of",
}


def prune_table(items: Sequence[Prunable]) -> Table:
    table = _table()
    table.add_column("JOB", overflow="fold")
    table.add_column("STATE", no_wrap=True)
    table.add_column("ENDED", no_wrap=True)
    table.add_column("SIZE", no_wrap=True, justify="right")
    for item in items:
        job = item.job
        ended = when(job.ended_at) if job.ended_at else ""
        table.add_row(Text(job.id), _state(job), ended, size(item.size))
    return table


def when(epoch_s: float) -> str:
    """Local time, to the minute."""
    return datetime.fromtimestamp(epoch_s).strftime("%Y-%m-%d %H:%M")


def _state(job: Job) -> Text:
    return Text(job.state.value, style=STATE_STYLES[job.state])


def _table() -> Table:
    return Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")


def _facts() -> Table:
    """Label and text, side by side."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True, min_width=9)
    grid.add_column(overflow="fold")
    return grid
