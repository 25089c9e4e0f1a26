"""manifests/fit_optuna.py: its physics, and the script run as a job runs it."""

from __future__ import annotations

import csv
import importlib
import json
import math
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tests.support.scripts import MANIFESTS, Script

ARGON = MANIFESTS / "data" / "argon-b2.csv"
SCRIPT = Script("fit_optuna.py", "--trials", "100000")
command, run, run_until = SCRIPT.command, SCRIPT.run, SCRIPT.run_until


def summary_of(out: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    return found


def trials_of(out: Path) -> list[dict[str, str]]:
    with (out / "trials.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    """Imported by its plain name, as the scripts import each other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(MANIFESTS)
        yield importlib.import_module("fit_optuna")


# ---- physics -------------------------------------------------------------------------------------


def series(t: float) -> float:
    """The classical power series of the reduced Lennard-Jones B2 in 1/sqrt(t)."""
    return -sum(
        2 ** (j - 1.5) / math.factorial(j) * math.gamma((2 * j - 1) / 4) * t ** (-(2 * j + 1) / 4)
        for j in range(80)
    )


@pytest.mark.parametrize("t", [0.3, 0.5, 1.0, 3.4179, 20.0, 1000.0])
def test_quadrature_agrees_with_the_exact_series(script: ModuleType, t: float) -> None:
    assert script.reduced_b2(np.array([t]))[0] == pytest.approx(series(t), rel=1e-9, abs=1e-9)


def test_quadrature_gives_the_published_values(script: ModuleType) -> None:
    at_one, at_boyle = script.reduced_b2(np.array([1.0, 3.418]))
    assert at_one == pytest.approx(-2.538, abs=5e-4)
    assert at_boyle == pytest.approx(0, abs=1e-4)


def test_argon_has_its_textbook_size(script: ModuleType) -> None:
    # epsilon/k = 119.8 K and sigma = 3.405 angstrom are the usual parameters of liquid argon.
    near_room = script.b2_cm3_mol(np.array([300.0]), 119.8, 3.405)[0]
    assert near_room == pytest.approx(-15, abs=2)


def test_table_follows_the_equation_in_its_header(script: ModuleType) -> None:
    data = script.read_data(ARGON)
    x = 298.15 / data.temperature_k - 1
    smooth = -16 - 60 * x - 9.7 * x**2 - 1.5 * x**3
    assert len(x) == 14
    assert np.abs(smooth - data.b2_cm3_mol).max() < 0.7


# ---- runs ----------------------------------------------------------------------------------------


def test_short_run_leaves_everything(tmp_path: Path) -> None:
    done = run(tmp_path, "--trials", "25")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("[trial] ") == 25
    assert "[trial] 25/25 rms_cm3_mol=" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {
        "study.db", "trials.csv", "summary.json", "history.png", "fit.png",
    }  # fmt: skip
    summary = summary_of(tmp_path)
    assert summary["trials"] == {"complete": 25}
    assert summary["finished"] is True
    best = summary["best"]
    assert isinstance(best, dict)
    trials = trials_of(tmp_path)
    assert len(trials) == 25
    least = min(float(trial["rms_cm3_mol"]) for trial in trials)
    assert best["rms_cm3_mol"] == pytest.approx(least, abs=1e-3)
    for name in ("history.png", "fit.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / name).stat().st_size < 100_000


def test_fit_finds_the_parameters_that_made_the_data(tmp_path: Path, script: ModuleType) -> None:
    temperature_k = np.linspace(120, 900, 12)
    made = script.b2_cm3_mol(temperature_k, 120.0, 3.4)
    table = tmp_path / "made.csv"
    lines = [f"{t},{b}" for t, b in zip(temperature_k, made, strict=True)]
    table.write_text("\n".join(["temperature_k,b2_cm3_mol", *lines, ""]), encoding="utf-8")
    narrow = ["--epsilon-min-k", "115", "--epsilon-max-k", "125", "--sigma-min-angstrom", "3.3"]
    out = tmp_path / "out"
    done = run(out, "--data", str(table), "--trials", "60", *narrow, "--sigma-max-angstrom", "3.5")
    assert done.returncode == 0, done.stderr
    best = summary_of(out)["best"]
    assert isinstance(best, dict)
    assert best["epsilon_k"] == pytest.approx(120, abs=2)
    assert best["sigma_angstrom"] == pytest.approx(3.4, abs=0.05)


def test_term_stops_and_the_same_command_counts_what_is_there(tmp_path: Path) -> None:
    code, output = run_until(tmp_path, "[trial] 5/", signal.SIGTERM)
    assert code == 75
    assert "[stopped] " in output
    summary = summary_of(tmp_path)
    assert summary["finished"] is False
    stopped_at = len(trials_of(tmp_path))
    assert summary["trials"] == {"complete": stopped_at}
    resumed = run(tmp_path, "--trials", str(stopped_at + 3))
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.count("[trial] ") == 3
    points = [(trial["epsilon_k"], trial["sigma_angstrom"]) for trial in trials_of(tmp_path)]
    assert len(set(points)) == stopped_at + 3  # no point is proposed twice


def test_a_killed_run_leaves_no_trial_running(tmp_path: Path) -> None:
    code, _ = run_until(tmp_path, "[trial] 5/", signal.SIGKILL)
    assert code == -signal.SIGKILL
    # The kill may fall between two trials: leave one open, as a kill within a trial does.
    with sqlite3.connect(tmp_path / "study.db") as database:
        query = "UPDATE trials SET state = 'RUNNING' WHERE number = 4"
        assert database.execute(query).rowcount == 1
    database.close()
    resumed = run(tmp_path, "--trials", "10")
    assert resumed.returncode == 0, resumed.stderr
    states = [trial["state"] for trial in trials_of(tmp_path)]
    assert states.count("complete") == 10
    assert states[4] == "fail"
    assert "running" not in states


# ---- what can go wrong ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot read"),
        ("", "at least 3 rows"),
        ("t,b\n100,-184\n200,-48\n300,-16\n", "KeyError"),
        ("temperature_k,b2_cm3_mol\n100,-184\n200,much\n300,-16\n", "much"),
        ("temperature_k,b2_cm3_mol\n100,-184\n200\n300,-16\n", "plain numbers"),
        ("temperature_k,b2_cm3_mol\n100,-184\n200,nan\n300,-16\n", "no NaN"),
        ("temperature_k,b2_cm3_mol\n-100,-184\n200,-48\n300,-16\n", "above 0 K"),
        ("temperature_k,b2_cm3_mol\n100,-184\n200,-48\n300,1e300\n", "nothing beyond 1e+06"),
    ],
)
def test_unusable_table_is_one_clear_line(tmp_path: Path, content: str | None, says: str) -> None:
    table = tmp_path / "table.csv"
    if content is not None:
        table.write_text(content, encoding="utf-8")
    refused = run(tmp_path / "out", "--data", str(table))
    assert refused.returncode == 66
    assert refused.stderr.startswith("[error] ")
    assert says in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_other_data_in_the_same_directory_are_refused(tmp_path: Path) -> None:
    assert run(tmp_path, "--trials", "1").returncode == 0
    other = tmp_path / "other.csv"
    other.write_text(ARGON.read_text(encoding="utf-8") + "1100,24\n", encoding="utf-8")
    refused = run(tmp_path, "--trials", "2", "--data", str(other))
    assert refused.returncode == 66
    assert "other data" in refused.stderr


def test_a_file_that_is_no_study_and_a_bad_range_are_refused(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_text("no database\n" * 20, encoding="utf-8")
    refused = run(tmp_path, "--trials", "1")
    assert refused.returncode == 66
    assert refused.stderr.count("\n") == 1
    refused = run(tmp_path / "out", "--epsilon-min-k", "300")
    assert refused.returncode == 66
    assert "--epsilon-max-k" in refused.stderr
    refused = run(tmp_path / "out", "--sigma-max-angstrom", "1e200")
    assert refused.returncode == 66
    assert "at most 100" in refused.stderr


def test_without_matplotlib_the_fit_still_ends_well(tmp_path: Path) -> None:
    shadow = tmp_path / "shadow"
    shadow.mkdir()
    (shadow / "matplotlib.py").write_text("raise ImportError('absent')\n", encoding="utf-8")
    done = run(tmp_path / "out", "--trials", "2", PYTHONPATH=str(shadow))
    assert done.returncode == 0, done.stderr
    assert "[warn] matplotlib is not installed" in done.stdout
