#!/usr/bin/env python3
"""Energy or optimised geometry of a molecule by density functional theory or Hartree-Fock, with
PySCF and geomeTRIC.

A self-consistent field (SCF) or a geometry that has not converged is a failure: PySCF itself would
go on with it.

Files left in the output directory:
  scf.csv         energy of each SCF cycle (Hartree)
  energies.csv    energy (Hartree) and gradient (Hartree/bohr) of each geometry; the gradient of an
                  atom is the length of its vector
  trajectory.xyz  the geometries
  optimised.xyz   the last geometry, if it converged
  opt.chk         orbitals (PySCF), from which the SCF goes on
  scf.log, geometric.log  what PySCF and geomeTRIC print
  geomopt.png, scf.png, summary.json
  scratch/        what PySCF keeps while it runs, unless PYSCF_TMPDIR names another place

Exit codes: 0 done; 65 the SCF or the geometry did not converge; 66 unusable input; 74 a file could
not be read or written; 75 stopped by TERM, INT or USR1 after an SCF cycle: the same command with
--resume goes on from the last geometry and orbitals.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import geometric.errors
from dft_report import GEOMETRY, Record, frontier_gap_ev, write_summary
from molecule_support import (
    EXIT_FAILED,
    SYMBOLS,
    Molecule,
    check_electrons,
    read_xyz,
)
from pyscf import dft, gto, lib, scf
from pyscf.data.nist import BOHR
from pyscf.dft import dft_parser
from pyscf.geomopt import geometric_solver
from script_support import (
    DATA,
    ScriptError,
    check_same_model,
    exit_code,
    listen_for_stop,
    positive_float,
    positive_int,
    say,
    script_parser,
)

FIRST_WITH_CORE_POTENTIAL = SYMBOLS.index("Rb")
OF_MEMORY = 0.8  # what PySCF may plan with: the rest is for Python itself


class Stopped(Exception):  # noqa: N818 - no error, but a wish that was heard
    """Somebody asked us to stop; the orbitals of the last SCF cycle are in opt.chk."""


def keep_scratch_here() -> None:
    """In the system's folder for temporary files a kill would leave it for ever."""
    if "PYSCF_TMPDIR" not in os.environ:
        lib.param.TMPDIR = "scratch"
        Path("scratch").mkdir(exist_ok=True)


# ---- setting up ----------------------------------------------------------------------------------


def read_molecule(options: argparse.Namespace) -> Molecule:
    """The molecule that was given, or ScriptError."""
    if len(options.xyz) > 1:
        raise ScriptError("two molecules are given: give a file or a text, not both")
    molecule = read_xyz(options.xyz[0] if options.xyz else DATA / "water-distorted.xyz")
    check_electrons(molecule, options.charge, options.spin)
    if options.task == "optimise" and len(molecule.symbols) == 1:
        raise ScriptError("one atom has no geometry to optimise: choose the task single-point")
    return molecule


def build(molecule: Molecule, options: argparse.Namespace) -> gto.Mole:
    """PySCF's molecule with its basis, or ScriptError. Heavy atoms get the effective core potential
    that belongs to the basis: without it their energies would be nonsense."""
    mol = gto.Mole()
    in_bohr = [tuple(x / BOHR for x in point) for point in molecule.points]
    mol.atom, mol.unit = list(zip(molecule.symbols, in_bohr, strict=True)), "Bohr"
    mol.basis, mol.charge, mol.spin = options.basis, options.charge, options.spin
    mol.verbose, mol.output = 4, "scf.log"
    mol.max_memory = OF_MEMORY * options.memory_mb
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a package that may have more basis sets
            heavy = {s for s in molecule.symbols if SYMBOLS.index(s) >= FIRST_WITH_CORE_POTENTIAL}
            mol.ecp = {s: options.basis for s in heavy if gto.basis.load_ecp(options.basis, s)}
            return mol.build(dump_input=False, parse_arg=False)
    except (RuntimeError, KeyError, AssertionError, ValueError):
        names = ", ".join(sorted(set(molecule.symbols)))
        raise ScriptError(
            f"PySCF has no basis set {options.basis!r} for {names}: take another name, for instance"
            " def2-svp, def2-tzvp, 6-31g*, cc-pvdz or sto-3g"
        ) from None


def make_method(mol: gto.Mole, options: argparse.Namespace) -> Any:
    """Hartree-Fock, or Kohn-Sham with the functional; spin-unrestricted with unpaired electrons."""
    if options.method.lower() == "hf":
        method = (scf.UHF if options.spin else scf.RHF)(mol)
    else:
        method = (dft.UKS if options.spin else dft.RKS)(mol)
        method.xc = options.method
        try:
            dft.libxc.parse_xc(dft_parser.parse_dft(options.method)[0])  # without its dispersion
        except (KeyError, ValueError):
            raise ScriptError(
                f"PySCF has no functional {options.method!r}: take another name, for instance"
                " b3lyp, pbe, pbe0, r2scan or wb97x-v; or hf"
            ) from None
    method.conv_tol, method.max_cycle = options.scf_tolerance_hartree, options.max_cycles
    method.chkfile = "opt.chk"
    return method


def take_orbitals(method: Any) -> None:
    """The SCF starts from the orbitals of a former start, if they can be read."""
    chk = Path(method.chkfile)
    if not chk.exists():
        return
    try:
        if lib.chkfile.load(str(chk), "scf/mo_coeff") is not None:
            method.init_guess = "chkfile"
    except (OSError, KeyError):  # a kill in the middle of a write
        say("[resume] opt.chk cannot be read: the SCF starts afresh")
        chk.unlink()


# ---- the run -------------------------------------------------------------------------------------


def listen(method: Any, record: Record, stops: list[str]) -> None:
    """Each SCF cycle is recorded, and is where a wish to stop is heard."""

    def after_cycle(found: dict[str, Any]) -> None:
        record.scf_cycle(found["cycle"] + 1, found["e_tot"], found["e_tot"] - found["last_hf_e"])
        if stops:
            raise Stopped

    method.callback = after_cycle


def check_scf(method: Any, options: argparse.Namespace) -> None:
    if not method.converged:
        raise ScriptError(
            f"the SCF did not converge in {options.max_cycles} cycles. What to do: raise"
            " max_cycles, check the geometry, charge and spin, or take another functional.",
            EXIT_FAILED,
        )


def optimise(method: Any, record: Record, options: argparse.Namespace) -> bool:
    """Walk to the minimum, each step recorded; whether the geometry converged."""
    gradients = method.nuc_grad_method().as_scanner()

    def after_step(found: dict[str, Any]) -> None:
        check_scf(gradients.base, options)
        record.step(found["mol"], found["energy"], found["gradients"])

    converged, _ = geometric_solver.kernel(
        gradients,
        callback=after_step,
        maxsteps=options.max_steps - len(record.steps) - 1,  # it counts from 0
        convergence_set=GEOMETRY[options.convergence].name,
        logIni=str(DATA / "geometric-log.ini"),
    )
    record.method = gradients.base
    return bool(converged)


def calculate(record: Record, options: argparse.Namespace) -> bool:
    """Optimise, or evaluate once; whether it converged. What PySCF cannot do is a ScriptError."""
    try:
        if options.task == "optimise":
            return optimise(record.method, record, options)
        record.method.kernel()
        check_scf(record.method, options)
        record.step(record.method.mol, record.method.e_tot, None)
        return True
    except (NotImplementedError, RuntimeError, ImportError) as problem:
        reason = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        raise ScriptError(
            f"PySCF cannot do {options.method} here ({reason}): take another functional"
        ) from None
    except geometric.errors.Error as problem:
        raise ScriptError(
            f"geomeTRIC gave up ({type(problem).__name__}: {problem}). What to do: start from a"
            " better geometry; geometric.log has the steps.",
            EXIT_FAILED,
        ) from None


def run(options: argparse.Namespace) -> bool:
    """The calculation; whether it came to its end. ScriptError if it did not converge."""
    stops = listen_for_stop()
    began_s = time.monotonic()
    options.xyz = [path.resolve() for path in options.xyz]
    options.out.mkdir(parents=True, exist_ok=True)
    os.chdir(options.out)
    molecule = read_molecule(options)
    if Path("opt.chk").exists() and not options.resume:
        raise ScriptError(f"{options.out} holds a run: add --resume, or choose another --out")
    model = ("task", "method", "basis", "charge", "spin")
    check_same_model({name: getattr(options, name) for name in model})
    lib.num_threads(options.threads)
    keep_scratch_here()
    record = Record(molecule, options)
    record.method = make_method(build(record.start, options), options)
    take_orbitals(record.method)
    listen(record.method, record, stops)
    mol = record.method.mol
    say(f"[setup] atoms={mol.natm} electrons={mol.nelectron} basis_functions={mol.nao}")
    converged = False
    try:
        converged = calculate(record, options)
    except Stopped:
        pass
    finally:
        write_summary(record, options, converged, time.monotonic() - began_s)
    if stops and not converged:
        say(f"[stopped] step={len(record.steps)}/{options.max_steps} signal={stops[0]}")
        return False
    if not converged:
        raise ScriptError(
            f"the geometry did not converge in {len(record.steps)} steps. What to do: go on from"
            " the last geometry with more max_steps, or look at trajectory.xyz for a molecule that"
            " falls apart.",
            EXIT_FAILED,
        )
    gap = frontier_gap_ev(record.method)
    say(f"[done] converged=true steps={len(record.steps)} gap_ev={gap}")
    return True


def parse() -> argparse.Namespace:
    parser = script_parser(__doc__)
    add = parser.add_argument
    add("--xyz", type=Path, action="append", default=[], help="molecule; default: bent water")
    add("--task", choices=("optimise", "single-point"), default="optimise")
    add("--method", default="b3lyp", help="a functional, or hf")
    add("--basis", default="def2-svp")
    add("--charge", type=int, default=0)
    add("--spin", type=int, default=0, help="number of unpaired electrons")
    add("--max-cycles", type=positive_int, default=50, help="of each SCF")
    add("--scf-tolerance-hartree", type=positive_float, default=1e-9)
    add("--max-steps", type=positive_int, default=50, help="geometries in total, over all starts")
    add("--convergence", choices=tuple(GEOMETRY), default="normal", help="of the geometry")
    add("--memory-mb", type=positive_int, default=2048)
    add("--threads", type=positive_int, default=1)
    add("--resume", action="store_true", help="go on from the last geometry, if there is one")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(exit_code(run, parse()))
