"""What dock_vina.py docks, and where: ligand, receptor and box, or a clear refusal."""

from __future__ import annotations

import argparse
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from script_support import ScriptError, file_sha256, replacing

Point = tuple[float, float, float]

#: Beyond this Vina's search is not thorough any more: its authors advise against it.
LARGEST_BOX_ANGSTROM3 = 27_000.0
REACH_ANGSTROM = 4.0  # a box whose edge is nearer than this to an atom can hold a contact
DEFAULT_EDGE_ANGSTROM = 20.0


def first_words(problem: Exception) -> str:
    """The cause in one line, without what an extension module adds about its own types."""
    text = str(problem).split("Additional information")[0]
    return " ".join(text.split()) or type(problem).__name__


# ---- the ligand ----------------------------------------------------------------------------------


def prepare_ligand(options: argparse.Namespace) -> Any:
    """The molecule in 3D with all hydrogens, also written to ligand.sdf; or ScriptError."""
    from rdkit import Chem, rdBase

    rdBase.DisableLog("rdApp.*")  # it repeats on many lines what is said here in one
    if options.smiles is not None:
        mol = Chem.MolFromSmiles(options.smiles)
        if mol is None or not mol.GetNumAtoms():
            raise ScriptError(f"{options.smiles[:80]!r} is not a valid SMILES; check --smiles")
    else:
        mol = _read_molecule(options.ligand)
    if len(Chem.GetMolFrags(mol)) > 1:
        raise ScriptError("the ligand is more than one molecule: leave out counter-ions and water")
    has_3d = mol.GetNumConformers() > 0 and mol.GetConformer().Is3D()
    mol = Chem.AddHs(mol, addCoords=has_3d)
    if not has_3d:
        _embed(mol, options.seed)
    with replacing(options.out / "ligand.sdf") as part, Chem.SDWriter(str(part)) as writer:
        writer.write(mol)
    return mol


def _read_molecule(path: Path) -> Any:
    from rdkit import Chem

    try:
        mol = next(iter(Chem.SDMolSupplier(str(path), removeHs=False)), None)
    except OSError:
        raise ScriptError(f"cannot open {path}; check --ligand") from None
    if mol is None or not mol.GetNumAtoms():
        raise ScriptError(f"{path.name} holds no valid molecule; give an SDF file")
    return mol


def _embed(mol: Any, seed: int) -> None:
    """Give the molecule coordinates and relax them, or ScriptError."""
    from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

    if rdDistGeom.EmbedMolecule(mol, randomSeed=seed) != 0 and (
        rdDistGeom.EmbedMolecule(mol, randomSeed=seed, useRandomCoords=True) != 0
    ):
        raise ScriptError("no 3D shape of the ligand can be made: give an SDF file with one")
    if rdForceFieldHelpers.MMFFHasAllMoleculeParams(mol):
        rdForceFieldHelpers.MMFFOptimizeMolecule(mol, maxIters=2000)
    elif rdForceFieldHelpers.UFFHasAllMoleculeParams(mol):
        rdForceFieldHelpers.UFFOptimizeMolecule(mol, maxIters=2000)


def ligand_pdbqt(mol: Any) -> str:
    """The ligand as Vina reads it, by Meeko."""
    from meeko import MoleculePreparation, PDBQTWriterLegacy

    try:
        setup = MoleculePreparation().prepare(mol)[0]
        text, done, problem = PDBQTWriterLegacy.write_string(setup)
    except (ValueError, RuntimeError) as error:
        done, problem, text = False, first_words(error), ""
    if not done:
        raise ScriptError(f"Meeko cannot prepare the ligand: {problem}")
    return str(text)


# ---- the receptor --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Receptor:
    """A rigid receptor in PDBQT."""

    path: Path
    sha256: str  #: of the file that was given
    atoms: list[Point]  #: angstrom
    left_out: list[str] = field(default_factory=list)  #: names of residues that were in the file


def prepare_receptor(source: Path, target: Path) -> Receptor:
    """The receptor, at `target` in PDBQT, or ScriptError."""
    try:
        digest = file_sha256(source)
    except OSError as problem:
        raise ScriptError(f"cannot open {source}: {problem.strerror}; check --receptor") from None
    left_out: list[str] = []
    if source.suffix.lower() == ".pdbqt":
        if source.resolve() != target.resolve():
            with replacing(target) as part:
                shutil.copyfile(source, part)
    else:
        text, left_out = _pdbqt_of(source)
        with replacing(target) as part:
            part.write_text(text, encoding="utf-8")
    atoms = _atoms_of(target)
    if not atoms:
        raise ScriptError(f"{source.name} holds no atoms; give a receptor as PDBQT, PDB or mmCIF")
    return Receptor(target, digest, atoms, left_out)


def _atoms_of(path: Path) -> list[Point]:
    atoms = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith(("ATOM", "HETATM")):
            try:
                x, y, z = (float(line[at : at + 8]) for at in (30, 38, 46))
            except ValueError:
                raise ScriptError(f"{path.name}: no coordinates in {line[:60]!r}") from None
            atoms.append((x, y, z))
        elif line.startswith(("ROOT", "BRANCH")):
            raise ScriptError("the receptor is a PDBQT of a ligand: give a rigid one")
    return atoms


def _pdbqt_of(source: Path) -> tuple[str, list[str]]:
    """The polymers of a PDB or mmCIF file as PDBQT, and the names of what was left out."""
    import gemmi
    from meeko import MoleculePreparation, PDBQTWriterLegacy, Polymer, ResidueChemTemplates
    from meeko import PolymerCreationError as NoPolymerError

    try:
        structure = gemmi.read_structure(str(source))
    except (RuntimeError, ValueError) as problem:
        raise ScriptError(f"{source.name} is no PDB or mmCIF: {first_words(problem)}") from None
    structure.setup_entities()
    del structure[1:]  # models after the first
    before = _names(structure)
    structure.remove_alternative_conformations()
    structure.remove_ligands_and_waters()
    structure.remove_empty_chains()
    names = _names(structure)
    templates = ResidueChemTemplates.create_from_defaults()
    known = set(templates.residue_templates) | set(templates.ambiguous)
    if not names:
        raise ScriptError(f"{source.name} holds no protein or nucleic acid; give a PDBQT file")
    if names - known:  # Meeko would look for them on the internet
        unknown = ", ".join(sorted(names - known))
        raise ScriptError(f"{source.name}: Meeko has no template for {unknown}; give a PDBQT file")
    try:
        polymer = Polymer.from_pdb_string(
            structure.make_pdb_string(), templates, MoleculePreparation()
        )
        text, _ = PDBQTWriterLegacy.write_from_polymer(polymer)
    except (NoPolymerError, RuntimeError, ValueError) as problem:
        cause = first_words(problem).split("Recommendations")[0][:300]
        raise ScriptError(
            f"Meeko cannot prepare {source.name}: {cause} What to do: add missing atoms and"
            " hydrogens first (PDBFixer does), or give a PDBQT file."
        ) from None
    return str(text), sorted(before - names)


def _names(structure: Any) -> set[str]:
    return {residue.name for model in structure for chain in model for residue in chain}


# ---- the box -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Box:
    """Where the ligand is looked for."""

    center: Point  #: angstrom
    size: Point  #: angstrom
    origin: str  #: what it was made from

    def touches(self, atoms: list[Point]) -> bool:
        """Whether an atom is in it, or near enough for a contact."""
        return any(
            all(
                abs(at - middle) <= edge / 2 + REACH_ANGSTROM
                for at, middle, edge in zip(atom, self.center, self.size, strict=True)
            )
            for atom in atoms
        )


def find_box(options: argparse.Namespace, receptor: Receptor) -> Box:
    """The box that is asked for, or ScriptError."""
    for name in ("center", "size"):
        given = getattr(options, name)
        if given is not None and len(given) != 3:
            raise ScriptError(f"--{name} must be three numbers: x, y and z")
    if options.center is not None:
        if options.reference is not None:
            raise ScriptError("give --center or --reference, not both")
        x, y, z = options.center
        a, b, c = options.size or [DEFAULT_EDGE_ANGSTROM] * 3
        return Box((x, y, z), (a, b, c), "center and size")
    if options.reference is not None:
        found = _around(_atoms_of_reference(options.reference), options, options.reference.name)
    else:
        found = _around(receptor.atoms, options, "the whole receptor")
        if found.size[0] * found.size[1] * found.size[2] > LARGEST_BOX_ANGSTROM3:
            raise ScriptError(
                f"the receptor is too large for a box around all of it: {ask_for_box(receptor)}"
            )
    return found


def ask_for_box(receptor: Receptor) -> str:
    spans = zip(*receptor.atoms, strict=True)
    ranges = [
        f"{axis} {min(span):.0f} to {max(span):.0f}"
        for axis, span in zip("xyz", spans, strict=True)
    ]
    return f"give --center within {', '.join(ranges)} (angstrom), or a --reference ligand there"


def _around(atoms: list[Point], options: argparse.Namespace, origin: str) -> Box:
    spans = [(min(values), max(values)) for values in zip(*atoms, strict=True)]
    (x, a), (y, b), (z, c) = [((lo + hi) / 2, hi - lo + 2 * options.padding) for lo, hi in spans]
    size = (a, b, c) if options.size is None else tuple(options.size)
    return Box((x, y, z), (size[0], size[1], size[2]), origin)


def _atoms_of_reference(path: Path) -> list[Point]:
    """The heavy atoms of a ligand in place."""
    from rdkit import Chem

    if path.suffix.lower() in (".pdb", ".ent", ".pdbqt"):
        try:
            atoms = _atoms_of(path)
        except OSError as problem:
            raise ScriptError(f"cannot open {path}: {problem.strerror}") from None
    else:
        mol = _read_molecule(path)
        positions = Chem.RemoveHs(mol).GetConformer().GetPositions()
        atoms = [(float(x), float(y), float(z)) for x, y, z in positions]
    if not atoms:
        raise ScriptError(f"{path.name} holds no atoms; check --reference")
    return atoms
