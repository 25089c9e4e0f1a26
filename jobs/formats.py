"""What kind of file this is, from how it begins: in words, without showing its bytes."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable

from jobs import containers, trajectories
from jobs.bounded import Bounded, Format, NotSoError
from jobs.text import shown

Reads = Callable[[Bounded], Format]


def recognise(fd: int, size: int, path: str) -> Format | None:
    """What the file is, if that is known. Reads a bounded part of it, for about a second at most.

    Nothing in the file can make this fail: what does not keep its promise is called unknown.
    """
    file = Bounded(fd, size)
    suffix = os.path.splitext(path)[1].lower()
    try:
        head = file.some(0, 4096)
    except (NotSoError, OSError):
        return None
    for reads in _candidates(head, suffix):
        try:
            return reads(file)
        except (NotSoError, struct.error, OSError):
            continue
    return None


def _candidates(head: bytes, suffix: str) -> list[Reads]:
    """By the file's beginning, and for formats without a mark of their own by its name."""
    found = [reads for place, mark, reads in _MAGIC if head[place : place + len(mark)] == mark]
    if suffix in _BY_SUFFIX:
        found.append(_BY_SUFFIX[suffix])
    return found


def _plain(words: str) -> Reads:
    return lambda _: Format(words)


def _tpr(file: Bounded) -> Format:
    """GROMACS run input: the version that wrote it."""
    return Format(f"GROMACS run input (.tpr) of {_text(file, 4)[0].removeprefix('VERSION ')}")


def _cpt(file: Bounded) -> Format:
    return Format(f"GROMACS checkpoint (.cpt) of {_text(file, 4)[0]}")


def _edr(file: Bounded) -> Format:
    """GROMACS energies: the names and units of the terms."""
    _, terms = struct.unpack(">ii", file.at(4, 8))
    if not 0 < terms <= 1000:
        raise NotSoError
    details, offset = [], 12
    for _ in range(terms):
        name, offset = _text(file, offset)
        unit, offset = _text(file, offset)
        details.append(f"{name} ({unit})")
    words = f"GROMACS energies (.edr), {terms} terms; `gmx energy` makes a table of them"
    return Format(words, tuple(details))


def _text(file: Bounded, offset: int) -> tuple[str, int]:
    """A text of XDR at `offset`, and where it ends."""
    (length,) = struct.unpack(">i", file.at(offset, 4))
    if not 0 <= length <= 1000:
        raise NotSoError
    raw = file.at(offset + 4, length).split(b"\0", 1)[0]
    return shown(raw.decode("utf-8", "replace"), 80), offset + 4 + (length + 3) // 4 * 4


def _gzip(file: Bounded) -> Format:
    (length,) = struct.unpack("<I", file.at(file.size - 4, 4))
    return Format(f"gzip-compressed file, {length} bytes when unpacked (if less than 4 GB)")


def _pdf(file: Bounded) -> Format:
    version = re.match(rb"%PDF-(\d\.\d)", file.some(0, 16))
    return Format(f"PDF document, version {version[1].decode()}" if version else "PDF document")


_HDF5 = b"\x89HDF\r\n\x1a\n"
#: (place, what stands there, who reads it); the first that can read the file wins.
_MAGIC: list[tuple[int, bytes, Reads]] = [
    (0, b"\x54\0\0\0CORD", trajectories.dcd),
    (0, b"\0\0\0\x54CORD", trajectories.dcd),
    (0, b"\0\0\x07\xcb", trajectories.xtc),
    (0, b"\0\0\x07\xe7", trajectories.xtc),
    (0, b"\0\0\x07\xc9", trajectories.trr),
    (0, b"CDF", trajectories.netcdf),
    (0, b"ITEM: ", trajectories.lammpstrj),
    (0, b"    1C", trajectories.frd),
    (8, b"VERSION ", _tpr),
    (0, b"\xff\xff\x26\xfd", _edr),
    (0, b"\0\x02\x9f\x29", _cpt),
    (0, b"\x93NUMPY", containers.npy),
    (0, b"PK\3\4", containers.zip_archive),
    (0, b"PK\5\6", containers.zip_archive),
    (257, b"ustar", containers.tar),
    (0, b"SQLite format 3\0", containers.sqlite),
    (0, b"\x1f\x8b", _gzip),
    (0, b"%PDF-", _pdf),
    (0, _HDF5, _plain("HDF5 file")),
    (0, b"BZh", _plain("bzip2-compressed file")),
    (0, b"\xfd7zXZ\0", _plain("xz-compressed file")),
    (0, b"\x28\xb5\x2f\xfd", _plain("Zstandard-compressed file")),
    (0, b"PAR1", _plain("Parquet table")),
    (0, b"ARROW1", _plain("Arrow table")),
    (0, b"MATLAB 5.0 MAT-file", _plain("MATLAB data file")),
    (0, b"LammpS RestartT", _plain("LAMMPS restart file")),
    (0, b"\x7fELF", _plain("executable or library (ELF)")),
    (0, b"\x80\x04\x95", _plain("Python pickle: loading it runs what it holds")),
    (0, b"\x80\x05\x95", _plain("Python pickle: loading it runs what it holds")),
]
_BY_SUFFIX: dict[str, Reads] = {
    ".xyz": trajectories.xyz,
    ".extxyz": trajectories.xyz,
    ".gro": trajectories.gro,
    ".pdb": trajectories.pdb,
    ".pdbqt": trajectories.pdb,
    ".sdf": trajectories.sdf,
    ".mol2": trajectories.mol2,
    ".cif": trajectories.cif,
    ".cube": trajectories.cube,
    ".chk": _plain("checkpoint that only its program reads"),
}
