"""Every step that lasts, or ends something, has a name in the table of failpoints."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

from jobs.failpoints import POINTS

ROOT = Path(__file__).resolve().parent.parent.parent
#: What is not watched, and why it need not be.
UNWATCHED = {
    "files directory engines/shim_system": "what steps are made of: their callers are watched",
    "failpoints": "the steps themselves",
    "keeping inbox": "lock and FIFO of a keeper, before `keeper.begun`; no job's",
    "drawing pictures software": "processes of a moment, which leave nothing",
    "engines/confinement": "cgroups, between `keeper.lock_taken` and `keeper.cgroups_made`",
    "engines/slurm engines/slurm_cluster engines/slurm_commands engines/slurm_submission": (
        "its steps need a cluster: tests/faults/test_slurm_submission.py"
    ),
    "contents holes logs manifest_faults outcome progress resuming": "they only read",
    "engines/slurm_rows toml_places trajectories": "they only read",
}
_PASSED_OVER = {f"jobs/{name}.py" for names in UNWATCHED for name in names.split()}
MODULES = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("jobs/**/*.py")}
WATCHED = sorted(MODULES - _PASSED_OVER)
#: Calls that change what the next process finds: files, rows, processes. By the last part of the
#: name: `os.unlink`, `path.unlink` and `unlink` are one.
EFFECTS = {
    *("make_unborn", "remove_unborn", "give_birth", "give_births"),
    *("write_durable", "write_synced", "write_file"),
    *(
        "rename",
        "unlink",
        "rmtree",
        "remove_tree",
        "rmdir",
        "mkdir",
        "mkfifo",
        "pwrite",
        "symlink_to",
    ),
    *("append_line", "punch_hole"),
    *("insert", "claim", "move", "delete", "wish_cancel"),
    *("Popen", "fork", "execve", "kill", "killpg", "send", "_send", "pidfd_send_signal"),
    *("submit", "stop", "end", "touch", "confine", "kill_cgroups", "remove_cgroups"),
}
#: Effects beyond the steps that a function names, and why they need none of their own.
EXCUSED = {
    "jobs.cancel.wish_cancel": (
        "give_birth send",
        "the launch's step, when its server was killed; a wake-up is no step",
    ),
    "jobs.engines.local._remove_leftovers": ("remove_cgroups", "again by the next keeper"),
    "jobs.engines.local.poll": ("remove_cgroups", "again at each look, until they are gone"),
    "jobs.engines.local._terminate_shim": (
        "pidfd_send_signal",
        "`keeper.stop_ordered` follows in the keeper",
    ),
    "jobs.engines.local.stop": ("end", "`keeper.stop_ordered` follows in the keeper"),
    "jobs.engines.orphans._enforce_limit": ("end", "begun again by the next look"),
    "jobs.engines.orphans._kill": (
        "kill_cgroups remove_cgroups",
        "nothing is recorded: the next pass looks again and goes on",
    ),
    "jobs.engines.orphans._kill_all": ("_send", "as in _kill"),
    "jobs.engines.orphans._send": ("pidfd_send_signal", "its callers decide"),
    "jobs.engines.orphans.end": ("touch _send _send", "as in _kill"),
    "jobs.engines.shim_job.end_all": ("send send kill_cgroups", "`shim.tree_ended` follows in run"),
    "jobs.engines.shim_job.fork": ("fork execve", "`shim.forked` follows in run"),
    "jobs.engines.shim_job.obey": ("stop", "`shim.stop_sent` is in stop"),
    "jobs.engines.shim_job.prepare": ("write_file mkfifo", "`shim.prepared` follows in run"),
    "jobs.engines.shim_job.record": ("unlink", "tidies up what nobody reads any more"),
    "jobs.engines.shim_job.stop": (
        "touch send",
        "the file or the signal is one step; SIGCONT only lets it arrive",
    ),
    "jobs.engines.shim_job.watch": ("send stop stop stop", "`shim.stop_sent` is in stop"),
    "jobs.index._make": ("unlink unlink unlink", "what an error or a death has left half-made"),
    "jobs.index.prepare": ("mkdir", "the state directory itself"),
    "jobs.index.replace": ("unlink", "whoever opens next finds no index, and makes it"),
    "jobs.log_limit._trim": ("end", "that of a hole, a number"),
    "jobs.rebuild._what_became_of_it": ("unlink", "again by whoever makes the index next"),
    "jobs.ending.end_unstarted": ("give_birth", "the launch's step"),
    "jobs.keeper._pass": ("wish_cancel", "its own wish: a pass that finds none wishes again"),
    "jobs.starting._start": ("give_birth submit", "the launch's step; the engine names its own"),
    "jobs.starting.start_again": ("move", "back to what it was before `keeper.claimed`"),
    "jobs.keeper._stop_if_wished": ("stop", "one order, given here or by a task"),
    "jobs.acceptance._accept": (
        "insert give_births give_births",
        "a retry gives the directories their names when the first server did not come to it",
    ),
    "jobs.acceptance._undo": ("remove_unborn", "what a kill leaves of it is swept later"),
    "jobs.pruning._empty": ("remove_tree unlink", "inside what was set aside"),
    "jobs.recovery.sweep_abandoned": ("rmtree remove_tree delete", "repeats the steps of a prune"),
    "jobs.service._launched": ("give_birth", "the launch's step"),
    "jobs.service._have_cancelled": ("send", "a wake-up is no step"),
    "jobs.service.cancel": ("wish_cancel", "the wish names its own"),
    "jobs.service.cancel_sweep": ("wish_cancel", "the wish names its own"),
}


def calls(node: ast.AST) -> list[str]:
    """The last part of the name of everything that is called or handed to be called."""
    names = []
    for inner in ast.walk(node):
        if isinstance(inner, ast.Call):
            for called in (inner.func, *inner.args):  # to_thread(write_durable, ...)
                if isinstance(called, ast.Attribute | ast.Name):
                    names.append(called.attr if isinstance(called, ast.Attribute) else called.id)
    return names


def functions(path: Path) -> dict[str, list[str]]:
    """What each function calls; what is nested in one belongs to it."""
    module = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    found: dict[str, list[str]] = {}

    def visit(node: ast.AST) -> None:
        for inner in ast.iter_child_nodes(node):
            if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
                found[f"{module}.{inner.name}"] = calls(inner)
            elif isinstance(inner, ast.ClassDef):
                visit(inner)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


@pytest.mark.parametrize("name", WATCHED)
def test_what_lasts_is_a_named_step(name: str) -> None:
    for function, called in functions(ROOT / name).items():
        effects = Counter(call for call in called if call in EFFECTS)
        excused = Counter(EXCUSED.get(function, ("", ""))[0].split())
        assert excused <= effects, f"{function}: an excuse for what it does not do"
        nameless = effects - excused
        assert nameless.total() <= called.count("reach"), (
            f"{function} does {', '.join(nameless)} with {called.count('reach')} calls of reach: "
            "give the new step a point in jobs/failpoints.py and a scenario in the crash matrix"
        )


def test_what_is_not_watched_is_there() -> None:
    assert _PASSED_OVER <= MODULES


def test_every_excuse_is_of_a_function_that_is_there() -> None:
    there = {function for name in WATCHED for function in functions(ROOT / name)}
    assert set(EXCUSED) <= there


def test_every_step_is_reached_in_one_place_and_every_reach_names_a_step() -> None:
    reached: Counter[str] = Counter()
    for path in [*ROOT.glob("jobs/**/*.py"), *ROOT.glob("server/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "reach":
                (name,) = node.args
                assert isinstance(name, ast.Constant), f"{path}: a step is named by its text"
                reached[name.value] += 1
    assert set(reached) == set(POINTS)
    assert set(reached.values()) == {1}, reached
