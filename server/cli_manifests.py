"""`outlast manifests`: the kinds of job that there are, and the files that describe them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text
from typer.core import TyperGroup

from jobs.text import shown
from server.terminal import Json, print_json, refusing, say, show

if TYPE_CHECKING:
    from jobs.manifests import Manifests
    from jobs.settings import Settings


class _Verbs(TyperGroup):
    """Its verbs; a word that is none of them is the name of a kind of job, to be shown."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] not in self.commands:
            args = ["check" if ctx.params.get("check") else "show", *args]
        return super().resolve_command(ctx, args)


app = typer.Typer(cls=_Verbs)


@app.callback(invoke_without_command=True)
def manifests(
    ctx: typer.Context,
    check: Annotated[bool, typer.Option("--check", hidden=True)] = False,
    as_json: Json = False,
) -> None:
    """List the kinds of job, show one with its parameters, or check what you have written.

    outlast manifests
    outlast manifests show md-openmm
    outlast manifests check relax.toml
    """
    if ctx.invoked_subcommand is None:
        if check:
            check_files(ctx, None)
        list_kinds(ctx)


@app.command("list")
def list_kinds(ctx: typer.Context, as_json: Json = False) -> None:
    """List the kinds of job: your own, those of the current folder, those of Outlast."""
    from server import cli_views, replies

    as_json = as_json or _asked_for_json(ctx)
    with refusing(as_json=as_json):
        _, known = _known()
        found, broken = known.all(Path.cwd())
        if as_json:
            data = replies.manifest_list(found)[1]
            print_json(data.model_dump(mode="json", exclude_none=True))
            return
        show(cli_views.manifest_table(found))
        say("next: outlast manifests show NAME", "dim")
        if broken:
            count = f"{len(broken)} of them {'is' if len(broken) == 1 else 'are'} broken"
            say(f"{count}: outlast manifests check", "yellow")


@app.command("show")
def show_kind(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A kind of job, or its file.")],
    as_json: Json = False,
) -> None:
    """Show a kind of job: its parameters, with types, ranges and defaults, and what it leaves."""
    from server import cli_views, replies

    as_json = as_json or _asked_for_json(ctx)
    with refusing(as_json=as_json):
        _, known = _known()
        kind = known.get(_as_file(name) or name, Path.cwd())
        if as_json:
            data = replies.one_manifest(kind)[1]
            print_json(data.model_dump(mode="json", exclude_none=True))
        else:
            show(cli_views.manifest_block(kind))


@app.command("check")
def check_files(
    ctx: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILE", show_default=False, help="Or names. Default: all."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Tell every mistake in manifests, with its line, and whether their software is there.

    outlast manifests check relax.toml
    Exit code 1 if there is a mistake; software that is missing is none.
    """
    from server.doctor import check_manifest

    as_json = as_json or _asked_for_json(ctx)
    with refusing(as_json=as_json):
        settings, known = _known()
        if names:
            files = [known.path(_as_file(name) or name, Path.cwd()) for name in names]
        else:
            files = list(known.paths(Path.cwd()).values())
        checks = [check_manifest(file, settings) for file in files]
        failed = sum(check.state == "fail" for check in checks)
        if as_json:
            print_json({"ok": not failed, "checks": [check.as_data() for check in checks]})
            raise typer.Exit(int(failed > 0))
        for check in checks:
            for fault in check.faults:
                print(shown(f"{check.file}:{fault['line']}: {fault['text']}", 1000))
            if check.state == "fail" and not check.faults:
                print(shown(f"{check.file}: {check.what}", 1000))
            if check.state == "warn":
                show(Text(f"! {shown(check.name)}: {shown(check.what, 1000)}"))
                show(Text(f"  → {shown(check.mend, 1000)}"))
            elif check.state == "ok":
                show(Text(f"✓ {shown(check.name)} is valid: {shown(check.what)}"))
        if failed:
            count = sum(len(check.faults) for check in checks)
            say(f"{count} mistake{'s' if count > 1 else ''} in {failed} of {len(checks)}", "red")
        raise typer.Exit(int(failed > 0))


@app.command("schema")
def print_schema() -> None:
    """Print the JSON Schema of manifests, with which editors complete and check them.

    outlast manifests schema > manifest.schema.json
    Then begin each manifest beside it with: #:schema ./manifest.schema.json
    """
    from jobs.manifest_schema import editor_schema_text

    sys.stdout.write(editor_schema_text())


def _known() -> tuple[Settings, Manifests]:
    from jobs.manifests import Manifests
    from jobs.settings import load_settings

    settings = load_settings()
    return settings, Manifests(settings.all_manifest_dirs)


def _as_file(name: str) -> str | None:
    """The absolute path, if it is the path of a file rather than a name."""
    if "/" in name or name.endswith(".toml"):
        return str(Path(name).expanduser().absolute())
    return None


def _asked_for_json(ctx: typer.Context) -> bool:
    """`--json` before the verb counts, too."""
    return bool(ctx.params.get("as_json") or (ctx.parent and ctx.parent.params.get("as_json")))
