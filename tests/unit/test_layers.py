"""The layers of ARCHITECTURE.md, read from the syntax trees."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
FILES = sorted([*ROOT.glob("jobs/**/*.py"), *ROOT.glob("server/**/*.py")])
SHIM = sorted(ROOT.glob("jobs/engines/shim*.py"))

#: Lowest first. A module may import from its own line or a lower one.
LAYERS = [
    ["jobs", "jobs.errors", "jobs.failpoints", "jobs.text", "jobs.clock", "jobs.paths"],
    ["jobs.bounded", "jobs.drawing", "jobs.tables"],
    ["jobs.containers", "jobs.trajectories", "jobs.formats", "jobs.pictures"],
    ["jobs.states", "jobs.files", "jobs.holes", "jobs.limits", "jobs.patterns"],
    ["jobs.param_schema", "jobs.toml_places"],
    ["jobs.batch", "jobs.rules"],
    ["jobs.manifest_faults", "jobs.manifest_schema"],
    ["jobs.manifest_check"],
    ["jobs.model"],
    ["jobs.settings", "jobs.secrets", "jobs.manifests", "jobs.logs", "jobs.progress"],
    [
        "jobs.arguments",
        "jobs.artifacts",
        "jobs.batching",
        "jobs.disk",
        "jobs.directory",
        "jobs.environment",
        "jobs.resuming",
        "jobs.software",
        "jobs.sweeps",
        "jobs.keeping",
        "jobs.log_limit",
        "jobs.plots",
    ],
    ["jobs.contents"],
    ["jobs.engines.shim_system"],
    ["jobs.engines.shim_job"],
    ["jobs.engines", "jobs.engines.base", "jobs.engines.shim", "jobs.engines.confinement"],
    ["jobs.engines.orphans", "jobs.engines.slurm_rows", "jobs.engines.slurm_script"],
    [
        "jobs.engines.local",
        "jobs.engines.slurm_commands",
        "jobs.engines.slurm_states",
        "jobs.engines.slurm_submission",
    ],
    ["jobs.engines.slurm_answers", "jobs.engines.slurm_report"],
    ["jobs.engines.slurm_cluster"],
    ["jobs.engines.slurm"],
    ["jobs.index"],
    ["jobs.intake"],
    ["jobs.store"],
    [
        "jobs.identity",
        "jobs.launch",
    ],
    [
        "jobs.acceptance",
        "jobs.cancel",
        "jobs.finish",
        "jobs.lookup",
        "jobs.outcome",
        "jobs.pruning",
        "jobs.rebuild",
        "jobs.recovery",
    ],
    ["jobs.enquiries"],
    ["jobs.ending", "jobs.tasks"],
    ["jobs.starting"],
    ["jobs.inbox", "jobs.keeper", "jobs.service"],
]
RANK = {module: rank for rank, modules in enumerate(LAYERS) for module in modules}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    """Every module that is imported, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_run_one_way(path: Path) -> None:
    me = module_name(path)
    for other in imports(path):
        if me.startswith("jobs"):
            assert not other.startswith(("server", "mcp", "typer", "starlette", "argparse")), other
            if other in RANK:
                assert RANK[other] <= RANK[me], f"{me} imports {other} from a higher layer"
        elif me not in ("server.wiring", "server.keeper_main"):
            assert not other.startswith(("jobs.engines", "jobs.store", "jobs.keeper")), other
            assert other != "jobs.recovery"


def test_every_module_of_the_core_has_its_layer() -> None:
    modules = {module_name(path) for path in FILES if path.parts[-2] != "server"}
    assert {name for name in modules if name.startswith("jobs")} == set(RANK)


def test_only_the_store_knows_the_database() -> None:
    users = {module_name(path) for path in FILES if {"aiosqlite", "sqlite3"} & imports(path)}
    assert users <= {"jobs.index", "jobs.intake", "jobs.store", "server.doctor"}
    assert "aiosqlite" not in imports(ROOT / "jobs/index.py")
    assert "aiosqlite" not in imports(ROOT / "jobs/intake.py")
    assert "aiosqlite" not in imports(ROOT / "server/doctor.py")


def test_the_shim_needs_nothing_but_the_standard_library() -> None:
    allowed = {
        "_signal",
        "_thread",
        "ctypes",
        "errno",
        "fcntl",
        "os",
        "resource",
        "select",
        "signal",
        "sys",
        "time",
    }
    ours = {"jobs.failpoints", "jobs.engines.shim_job", "jobs.engines.shim_system"}
    for path in [*SHIM, ROOT / "jobs/failpoints.py"]:
        modules = {name for name in imports(path) if name.rpartition(".")[0] not in ours}
        assert modules <= allowed | ours, path


def test_only_the_drawing_process_decodes_and_draws() -> None:
    for path in FILES:
        if path.name != "drawing.py":
            outside = {name.partition(".")[0] for name in imports(path)}
            assert not outside & {"PIL", "matplotlib", "numpy"}, path
    ours = {name for name in imports(ROOT / "jobs/drawing.py") if name.startswith("jobs")}
    assert ours == set(), "it is run by its path, and finds none of ours"


def test_the_keeper_does_not_load_a_face() -> None:
    import subprocess
    import sys

    code = "import sys, jobs.keeper, jobs.engines.local; print('mcp' in sys.modules)"
    seen = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert seen.stdout.strip() == "False"


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_no_file_is_too_long(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 350


def test_no_import_runs_in_a_circle() -> None:
    graph = {module_name(path): imports(path) & RANK.keys() for path in FILES}
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, f"circle: {' -> '.join([*above, module])}"
        if module not in done:
            for other in graph.get(module, set()) - {module, "jobs", "jobs.engines"}:
                visit(other, (*above, module))
            done.add(module)

    for module in graph:
        visit(module, ())
