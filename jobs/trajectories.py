"""Frames and atoms of trajectories and structures, from their headers and their size."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

from jobs.bounded import Bounded, Format, NotSoError, number
from jobs.text import shown

_TEXT_HEAD = 8192  #: within which a text format says how many atoms it has
_OVERLAP = 64  #: of blocks: longer than each mark that is looked for


def dcd(file: Bounded) -> Format:
    """CHARMM, NAMD, OpenMM, LAMMPS: frames of one size, so that the file's size counts them."""
    head = file.at(0, 92)
    order = "<" if head[:4] == struct.pack("<i", 84) else ">"
    control = struct.unpack(f"{order}20i", head[8:88])
    fixed, charmm = control[8], control[19]
    (title,) = struct.unpack(f"{order}i", file.at(92, 4))
    if not 0 <= title <= 1 << 20 or fixed < 0:
        raise NotSoError
    start = 92 + 8 + title
    _, atoms, _ = struct.unpack(f"{order}3i", file.at(start, 12))
    start += 12
    if atoms < 1 or fixed >= atoms:
        raise NotSoError
    cell = 56 if charmm and control[10] else 0
    axes = 4 if charmm and control[11] else 3
    first = cell + axes * (4 * atoms + 8)
    later = cell + axes * (4 * (atoms - fixed) + 8)
    if fixed:
        start += 4 * (atoms - fixed) + 8  # which atoms are free
    space = max(0, file.size - start)
    frames = 0 if space < first else 1 + (space - first) // later
    cut = bool(space % first if space < first else (space - first) % later)
    return _frames("DCD trajectory", frames, atoms, cut=cut)


def xtc(file: Bounded) -> Format:
    """GROMACS, compressed: each frame says how long it is."""

    def frame(offset: int) -> tuple[int, int, float]:
        magic, atoms, _, time_ps = struct.unpack(">iiif", file.at(offset, 16))
        (coded,) = struct.unpack(">i", file.at(offset + 52, 4))
        if magic not in (1995, 2023) or atoms < 0 or coded != atoms:
            raise NotSoError
        if atoms <= 9:  # not compressed
            return 56 + 12 * atoms, atoms, time_ps
        wide = magic == 2023
        (length,) = struct.unpack(">q" if wide else ">i", file.at(offset + 88, 8 if wide else 4))
        if length < 0:
            raise NotSoError
        return (96 if wide else 92) + (length + 3) // 4 * 4, atoms, time_ps

    return _walk("XTC trajectory", file, frame)


def trr(file: Bounded) -> Format:
    """GROMACS, full precision: each frame says how long its parts are."""

    def frame(offset: int) -> tuple[int, int, float]:
        head = file.at(offset, 92)
        if head[:4] != b"\0\0\x07\xc9" or head[12:24] != b"GMX_trn_file":
            raise NotSoError
        *parts, atoms, _, _ = struct.unpack(">13i", head[24:76])
        if min(parts) < 0 or atoms < 1:
            raise NotSoError
        width = next(
            (size // per for size, per in ((parts[2], 9), (parts[7], 3 * atoms)) if size), 4
        )
        if width not in (4, 8):
            raise NotSoError
        (time_ps,) = struct.unpack(">f" if width == 4 else ">d", head[76 : 76 + width])
        return 76 + 2 * width + sum(parts), atoms, time_ps

    return _walk("TRR trajectory", file, frame)


def _walk(name: str, file: Bounded, frame: Callable[[int], tuple[int, int, float]]) -> Format:
    """Go from frame to frame: `frame(offset)` gives (length, atoms, time)."""
    length, atoms, first_ps = frame(0)
    offset, frames, last_ps, cut = 0, 0, first_ps, False
    while offset < file.size and not file.spent:
        try:
            length, _, time_ps = frame(offset)
        except NotSoError:
            cut = True
            break
        if offset + length > file.size:
            cut = True
            break
        offset, frames, last_ps = offset + length, frames + 1, time_ps
    if offset < file.size and not cut:
        about = round(frames * file.size / max(1, offset))
        return Format(f"{name}: about {about} frames of {atoms} atoms, from {first_ps:g} ps on")
    words = _frames(name, frames, atoms, cut=cut).words
    return Format(words + (f", {first_ps:g} to {last_ps:g} ps" if frames else ""))


def _frames(name: str, frames: int, atoms: int, *, cut: bool) -> Format:
    more = " and a part of one more" if cut else ""
    plural = "" if frames == 1 else "s"
    return Format(f"{name}: {frames} frame{plural}{more} of {atoms} atoms")


def netcdf(file: Bounded) -> Format:
    """The classic kinds of NetCDF: dimensions and, of AMBER's trajectories, frames and atoms."""
    version = file.at(3, 1)[0]
    if version not in (1, 2, 5):
        raise NotSoError
    wide = 8 if version == 5 else 4
    integer = ">q" if wide == 8 else ">i"

    def count(offset: int) -> int:
        (value,) = struct.unpack(integer, file.at(offset, wide))
        return int(value)

    records, offset = count(4), 4 + wide
    tag, entries = file.at(offset, 4), count(offset + 4)
    if tag not in (b"\0\0\0\0", b"\0\0\0\x0a") or not 0 <= entries <= 1000:
        raise NotSoError
    offset += 4 + wide
    dimensions = {}
    for _ in range(entries):
        length = count(offset)
        if not 0 <= length <= 1000:
            raise NotSoError
        name = shown(file.at(offset + wide, length).decode("utf-8", "replace"), 60)
        offset += wide + (length + 3) // 4 * 4
        size = count(offset)
        dimensions[name] = size if size > 0 else records  # 0: the one that grows
        offset += wide
    details = tuple(f"{name} {size}" for name, size in dimensions.items())
    if {"frame", "atom"} <= dimensions.keys():
        words = _frames("NetCDF trajectory", dimensions["frame"], dimensions["atom"], cut=False)
        return Format(words.words, details)
    return Format(f"NetCDF file, {len(dimensions)} dimensions", details)


def lammpstrj(file: Bounded) -> Format:
    head = file.some(0, _TEXT_HEAD)
    found = re.search(rb"ITEM: NUMBER OF ATOMS\s+(\d+)", head)
    if not head.startswith(b"ITEM: ") or found is None:
        raise NotSoError
    return _counted("LAMMPS dump", file, rb"ITEM: TIMESTEP", "frame", number(found[1]))


def xyz(file: Bounded) -> Format:
    head = file.some(0, _TEXT_HEAD)
    atoms = number(head.split(b"\n", 1)[0])
    if atoms < 1:
        raise NotSoError
    return _of_lines("XYZ", file, atoms, atoms + 2)


def gro(file: Bounded) -> Format:
    lines = file.some(0, _TEXT_HEAD).split(b"\n", 2)
    if len(lines) < 3 or (atoms := number(lines[1])) < 1:
        raise NotSoError
    return _of_lines("GRO", file, atoms, atoms + 3)


def pdb(file: Bounded) -> Format:
    """Models, and atoms of the first; PDBQT and its poses too."""
    atoms = 0
    for offset, block in file.blocks(overlap=_OVERLAP):
        end = block.find(b"\nENDMDL")
        first = block[: end if end >= 0 else None]
        atoms += len(_new(rb"^(?:ATOM  |HETATM)", first, offset))
        if end >= 0:
            break
    if not atoms:
        raise NotSoError
    if re.search(rb"^MODEL ", file.some(0, 1 << 16), re.M) is None:
        return Format(f"PDB: {'at least ' if file.spent else ''}{atoms} atoms")
    return _counted("PDB", file, rb"^MODEL ", "model", atoms)


def sdf(file: Bounded) -> Format:
    return _counted("SDF", file, rb"^\$\$\$\$", "molecule", None)


def mol2(file: Bounded) -> Format:
    return _counted("MOL2", file, rb"^@<TRIPOS>MOLECULE", "molecule", None)


def cif(file: Bounded) -> Format:
    return _counted("CIF", file, rb"^data_", "data block", None)


def cube(file: Bounded) -> Format:
    """Gaussian's grid of a density or an orbital."""
    lines = file.some(0, _TEXT_HEAD).split(b"\n")[2:6]
    if len(lines) < 4 or not all(line.split() for line in lines):
        raise NotSoError
    atoms, *grid = (number(line.split()[0].lstrip(b"-")) for line in lines)
    return Format(f"Gaussian cube: grid of {' x '.join(map(str, grid))} points, {atoms} atoms")


def frd(file: Bounded) -> Format:
    """CalculiX results: nodes, elements, and which fields at how many steps."""
    sizes: dict[bytes, int] = {}
    fields: dict[str, int] = {}
    for offset, block in file.blocks(overlap=_OVERLAP):
        for size in _new(rb"^    ([23])C +(\d{1,12}) ", block, offset):
            sizes.setdefault(size[1], number(size[2]))
        for field in _new(rb"^ -4  (\w{1,8}) ", block, offset):
            name = field[1].decode("ascii", "replace")
            if name in fields or len(fields) < 50:
                fields[name] = fields.get(name, 0) + 1
    if b"2" not in sizes:
        raise NotSoError
    most = max(fields.values(), default=0)
    parts = (sizes[b"2"], "node"), (sizes.get(b"3", 0), "element"), (most, "step")
    words = ", ".join(f"{count} {thing}{'' if count == 1 else 's'}" for count, thing in parts)
    details = tuple(f"{name} x {count}" for name, count in fields.items())
    return Format(f"CalculiX results: {words}", details)


def _of_lines(name: str, file: Bounded, atoms: int, per_frame: int) -> Format:
    """A format whose frames have all as many lines."""
    lines, seen, last = 0, 0, b"\n"
    for offset, block in file.blocks():
        lines += block.count(b"\n")
        seen, last = offset + len(block), block[-1:]
    if not lines:
        raise NotSoError
    if seen < file.size:
        about = round(lines * file.size / max(1, seen) / per_frame)
        return Format(f"{name}: about {about} frames of {atoms} atoms")
    lines += last != b"\n"
    frames, rest = divmod(lines, per_frame)
    return _frames(name, frames, atoms, cut=rest > 1)


def _counted(name: str, file: Bounded, mark: bytes, thing: str, atoms: int | None) -> Format:
    """A format whose parts each begin, or end, with a line of its own."""
    count, seen = 0, 0
    for offset, block in file.blocks(overlap=_OVERLAP):
        count += len(_new(mark, block, offset))
        seen = offset + len(block)
    if not count:
        raise NotSoError
    about = ""
    if seen < file.size:
        about, count = "about ", round(count * file.size / max(1, seen))
    of = f" of {atoms} atoms" if atoms is not None else ""
    return Format(f"{name}: {about}{count} {thing}{'' if count == 1 else 's'}{of}")


def _new(mark: bytes, block: bytes, offset: int) -> list[re.Match[bytes]]:
    """The matches in a block that were not whole in the one before, which it overlaps."""
    begin = _OVERLAP if offset else 0
    return [match for match in re.finditer(mark, block, re.M) if match.end() > begin]
