#!/usr/bin/env python3
"""Fit a Lennard-Jones potential to second virial coefficients, with Optuna.

Searches the well depth epsilon/k (K) and the diameter sigma (angstrom) whose B2(T) comes closest
to a table, by the plain RMS difference in cm3/mol.

Files left in the output directory:
  study.db       the Optuna study (SQLite); the same command goes on from it, and --trials counts
                 the completed trials of all starts together
  trials.csv     every trial: number, state, parameters, RMS, seconds
  summary.json   the best parameters, RMS, trials by state, versions
  history.png    RMS of each trial and the best so far
  fit.png        table, fitted curve and residuals

Exit codes: 0 done; 66 unusable input; 74 a file could not be read or written; 75 stopped by TERM,
INT or USR1 after the trial at hand: the same command goes on.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import math
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import optuna
from optuna.trial import TrialState
from script_support import (
    DATA,
    ScriptError,
    exit_code,
    listen_for_stop,
    positive_float,
    positive_int,
    replacing,
    save_png,
    say,
    script_parser,
    write_json,
)

Floats = npt.NDArray[np.float64]
AVOGADRO_PER_MOL = 6.02214076e23
CM3_PER_ANGSTROM3 = 1e-24
COLUMNS = ("temperature_k", "b2_cm3_mol")
NODES, WEIGHTS = np.polynomial.legendre.leggauss(128)
COLDEST = 0.05  # kT/epsilon below which the quadrature is not trusted
LARGEST = 1e6  # K and cm3/mol: beyond is no measurement, and sums of squares stay finite
LARGEST_SIGMA_ANGSTROM = 100.0
EDGE = 0.05  # part of a range that counts as its edge


# ---- physics -------------------------------------------------------------------------------------


def reduced_b2(t: Floats) -> Floats:
    """B2 of the Lennard-Jones gas in units of 2/3 pi N sigma^3, at reduced temperatures kT/epsilon.

    With y = (sigma/r)^3 the potential is 4 epsilon (y^4 - y^2), and what was an integral over all
    distances,  B2 = - integral of (exp(-u/kT) - 1) / y^2 dy,  is smooth down to y = 0. Beyond
    y = top, where exp(-u/kT) < 1e-17, the rest is 1/top: the hard core.
    """
    top = np.sqrt(0.5 + np.sqrt(0.25 + 10 * t))  # here u/kT = 40
    y = np.multiply.outer(top / 2, NODES + 1)
    integrand = np.expm1(-4 * (y**4 - y**2) / t[:, None]) / y**2
    return np.asarray(1 / top - top / 2 * (integrand @ WEIGHTS), dtype=np.float64)


def b2_cm3_mol(temperature_k: Floats, epsilon_k: float, sigma_angstrom: float) -> Floats:
    """Second virial coefficient, cm3/mol, at each temperature."""
    volume = 2 / 3 * math.pi * sigma_angstrom**3 * CM3_PER_ANGSTROM3 * AVOGADRO_PER_MOL
    return volume * reduced_b2(temperature_k / epsilon_k)


# ---- data ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Data:
    """The table that is fitted."""

    name: str
    sha256: str
    temperature_k: Floats
    b2_cm3_mol: Floats

    def residuals(self, epsilon_k: float, sigma_angstrom: float) -> Floats:
        """Model less table, cm3/mol."""
        return b2_cm3_mol(self.temperature_k, epsilon_k, sigma_angstrom) - self.b2_cm3_mol


def read_data(path: Path) -> Data:
    """A CSV file with the two columns of COLUMNS; lines that start with # are remarks."""
    try:
        content = path.read_bytes()
        lines = content.decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as problem:
        raise ScriptError(f"cannot read {path} ({problem}); check --data") from None
    wanted = f"give a CSV file with the columns {','.join(COLUMNS)} and plain numbers"
    rows = csv.DictReader(line for line in lines if line.strip() and not line.startswith("#"))
    try:
        values = np.array([[float(row[name]) for name in COLUMNS] for row in rows])
    except (KeyError, TypeError, ValueError) as problem:
        raise ScriptError(f"{path}: {type(problem).__name__} {problem}; {wanted}") from None
    if len(values) < 3 or not (np.abs(values) <= LARGEST).all() or (values[:, 0] <= 0).any():
        needed = f"at least 3 rows, temperatures above 0 K, no NaN, nothing beyond {LARGEST:g}"
        raise ScriptError(f"{path}: {needed}; {wanted}")
    digest = hashlib.sha256(content).hexdigest()
    return Data(path.name, digest, *values[np.argsort(values[:, 0])].T)


# ---- the study -----------------------------------------------------------------------------------


def open_study(options: argparse.Namespace, data: Data) -> optuna.Study:
    """The study in study.db, new or gone on with, or ScriptError."""
    path = options.out / "study.db"
    try:
        study = optuna.create_study(
            study_name=options.study,
            storage=f"sqlite:///{path}",
            direction="minimize",
            load_if_exists=True,
        )
    except Exception as problem:  # Optuna passes on what SQLAlchemy and Alembic raise
        reason = str(problem).splitlines()[0]
        raise ScriptError(f"{path} cannot be opened ({reason}); choose another --out") from None
    if study.user_attrs.setdefault("data_sha256", data.sha256) != data.sha256:
        raise ScriptError(f"{path} was made with other data than {data.name}: choose another --out")
    study.set_user_attr("data_sha256", data.sha256)
    trials = study.get_trials(deepcopy=False)
    for trial in trials:
        if trial.state == TrialState.RUNNING:  # left by a hard kill: nobody will finish it
            study.tell(trial.number, state=TrialState.FAIL)
    # A resumed sampler with the old seed would propose its first points over again.
    seed = options.seed + len(trials)
    samplers = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
    study.sampler = samplers[options.sampler](seed=seed)
    return study


def completed(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def run_trial(study: optuna.Study, data: Data, options: argparse.Namespace) -> float:
    """Try one pair of parameters; the RMS difference, cm3/mol."""
    trial = study.ask()
    epsilon_k = trial.suggest_float("epsilon_k", options.epsilon_min_k, options.epsilon_max_k)
    sigma = trial.suggest_float(
        "sigma_angstrom", options.sigma_min_angstrom, options.sigma_max_angstrom
    )
    rms = float(np.sqrt(np.mean(np.square(data.residuals(epsilon_k, sigma)))))
    study.tell(trial, rms)
    return rms


# ---- results -------------------------------------------------------------------------------------


def write_trials(study: optuna.Study, path: Path) -> None:
    header = ["trial", "state", "epsilon_k", "sigma_angstrom", "rms_cm3_mol", "best_rms_cm3_mol"]
    best: float | None = None
    with replacing(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow([*header, "duration_s"])
        for trial in study.get_trials(deepcopy=False):
            parameters = [trial.params.get(name) for name in header[2:4]]
            seconds = trial.duration.total_seconds() if trial.duration else None
            state, value = trial.state.name.lower(), trial.value
            if value is not None:
                best = value if best is None else min(best, value)
            table.writerow([trial.number + 1, state, *parameters, value, best, seconds])


def write_summary(
    study: optuna.Study, data: Data, options: argparse.Namespace, wall_s: float
) -> None:
    """summary.json: `best` is null before the first trial; `wall_s` is that of this start."""
    trials = study.get_trials(deepcopy=False)
    states = Counter(trial.state.name.lower() for trial in trials)
    best = None
    if states["complete"]:
        params = study.best_params
        worst = float(np.abs(data.residuals(**params)).max())
        best = {
            "trial": study.best_trial.number + 1,
            "epsilon_k": round(params["epsilon_k"], 4),
            "sigma_angstrom": round(params["sigma_angstrom"], 5),
            "rms_cm3_mol": round(study.best_value, 4),
            "largest_residual_cm3_mol": round(worst, 4),
        }
    summary = {
        "program": "Optuna",
        "version": optuna.__version__,
        "numpy": np.__version__,
        "study": study.study_name,
        "sampler": options.sampler,
        "seed": options.seed,
        "epsilon_range_k": [options.epsilon_min_k, options.epsilon_max_k],
        "sigma_range_angstrom": [options.sigma_min_angstrom, options.sigma_max_angstrom],
        "data": {"file": data.name, "sha256": data.sha256, "points": len(data.temperature_k)},
        "finished": states["complete"] >= options.trials,
        "trials_asked": options.trials,
        "trials": dict(states),
        "best": best,
        "wall_s": round(wall_s, 1),
    }
    write_json(summary, options.out / "summary.json")


def draw(study: optuna.Study, data: Data, out: Path) -> None:
    """history.png and fit.png; without matplotlib only a hint."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        say("[warn] matplotlib is not installed: no history.png, no fit.png")
        return
    trials = completed(study)
    if not trials:
        return
    numbers = [trial.number + 1 for trial in trials]
    values = np.array([trial.value for trial in trials], dtype=np.float64)

    figure = Figure(figsize=(6.4, 4.2), dpi=110, layout="constrained")
    panel = figure.subplots()
    panel.semilogy(numbers, values, "o", markersize=4, alpha=0.5, label="trial")
    panel.step(numbers, np.minimum.accumulate(values), where="post", label="best so far")
    panel.set(xlabel="trial", ylabel="RMS difference (cm³/mol)", title=study.study_name)
    panel.grid(alpha=0.3, which="both")
    panel.legend()
    save_png(figure, out / "history.png")

    best = study.best_params
    curve_k = np.geomspace(data.temperature_k[0], data.temperature_k[-1], 300)
    figure = Figure(figsize=(6.4, 5.6), dpi=110, layout="constrained")
    upper, lower = figure.subplots(2, sharex=True, height_ratios=[3, 1])
    label = f"Lennard-Jones: ε/k = {best['epsilon_k']:.2f} K, σ = {best['sigma_angstrom']:.4f} Å"
    upper.plot(curve_k, b2_cm3_mol(curve_k, **best), color="tab:orange", label=label)
    upper.plot(data.temperature_k, data.b2_cm3_mol, "o", color="tab:blue", label=data.name)
    upper.axhline(0, color="black", linewidth=0.8)
    upper.set(ylabel="B₂ (cm³/mol)", title="Second virial coefficient")
    upper.legend(loc="lower right")
    lower.stem(data.temperature_k, data.residuals(**best), basefmt="k-")
    lower.set(xlabel="temperature (K)", ylabel="fit − data\n(cm³/mol)")
    for panel in (upper, lower):
        panel.grid(alpha=0.3)
    save_png(figure, out / "fit.png")


# ---- the run -------------------------------------------------------------------------------------


def check_ranges(data: Data, options: argparse.Namespace) -> None:
    """Raise ScriptError unless both ranges are ranges and every trial stays computable."""
    if options.epsilon_min_k >= options.epsilon_max_k:
        raise ScriptError("--epsilon-min-k must be below --epsilon-max-k")
    if options.sigma_min_angstrom >= options.sigma_max_angstrom:
        raise ScriptError("--sigma-min-angstrom must be below --sigma-max-angstrom")
    if options.sigma_max_angstrom > LARGEST_SIGMA_ANGSTROM:
        raise ScriptError(f"--sigma-max-angstrom must be at most {LARGEST_SIGMA_ANGSTROM:g}")
    limit_k = float(data.temperature_k[0]) / COLDEST
    if options.epsilon_max_k > limit_k:
        raise ScriptError(f"--epsilon-max-k must be at most {limit_k:g} with these temperatures")


def warn_of_edges(best: dict[str, float], options: argparse.Namespace) -> None:
    """Tell which of the best parameters only the range has kept from going on."""
    for name, value, low, high in (
        ("epsilon/k", best["epsilon_k"], options.epsilon_min_k, options.epsilon_max_k),
        ("sigma", best["sigma_angstrom"], options.sigma_min_angstrom, options.sigma_max_angstrom),
    ):
        if min(value - low, high - value) < EDGE * (high - low):
            say(f"[warn] the best {name} lies at the edge of its range, {value:.5g}: widen it")


def run(options: argparse.Namespace) -> bool:
    """Ask, try, tell until enough trials are complete; whether they are."""
    began_s = time.monotonic()
    stops = listen_for_stop()
    data = read_data(options.data)
    check_ranges(data, options)
    options.out.mkdir(parents=True, exist_ok=True)
    study = open_study(options, data)
    done = earlier = len(completed(study))
    say(f"[setup] points={len(data.temperature_k)} completed={done}/{options.trials}")
    while done < options.trials and not stops:
        value = run_trial(study, data, options)
        done += 1
        eta_s = (time.monotonic() - began_s) / (done - earlier) * (options.trials - done)
        say(
            f"[trial] {done}/{options.trials} rms_cm3_mol={value:.4g}"
            f" best_rms_cm3_mol={study.best_value:.4g} eta_s={eta_s:.0f}"
        )
    if done < options.trials:
        say(f"[stopped] {done}/{options.trials} signal={stops[0]} study=study.db")
    write_trials(study, options.out / "trials.csv")
    write_summary(study, data, options, time.monotonic() - began_s)
    draw(study, data, options.out)
    if done < options.trials:
        return False
    warn_of_edges(study.best_params, options)
    best = " ".join(f"{name}={value:.5g}" for name, value in study.best_params.items())
    say(f"[done] {done}/{options.trials} {best} rms={study.best_value:.4g}")
    return True


def parse() -> argparse.Namespace:
    parser = script_parser(__doc__)
    add = parser.add_argument
    add("--data", type=Path, default=DATA / "argon-b2.csv", help=f"CSV: {','.join(COLUMNS)}")
    add("--trials", type=positive_int, default=150, help="completed trials, over all starts")
    add("--sampler", choices=("tpe", "random"), default="tpe")
    add("--seed", type=positive_int, default=1)
    add("--epsilon-min-k", type=positive_float, default=50.0, help="well depth epsilon/k, K")
    add("--epsilon-max-k", type=positive_float, default=250.0)
    add("--sigma-min-angstrom", type=positive_float, default=2.5, help="diameter sigma")
    add("--sigma-max-angstrom", type=positive_float, default=4.5)
    add("--study", default="argon-lj", help="name of the study in study.db")
    return parser.parse_args()


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sys.exit(exit_code(run, parse()))
