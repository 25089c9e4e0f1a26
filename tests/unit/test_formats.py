"""Formats are recognised by what is in a file; whatever that is, little is read, nothing fails."""

from __future__ import annotations

import gzip
import io
import sqlite3
import struct
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs import bounded, formats, pictures


def recognised(raw: bytes, path: str = "x") -> tuple[str, tuple[str, ...]]:
    with tempfile.TemporaryFile() as file:
        file.write(raw)
        file.flush()
        found = formats.recognise(file.fileno(), len(raw), path)
        pictures.look(file.fileno(), len(raw))
    return (found.words, found.details) if found else ("", ())


def words(raw: bytes, path: str = "x") -> str:
    return recognised(raw, path)[0]


def record(raw: bytes, order: str = "<") -> bytes:
    """As Fortran writes it: between two lengths."""
    length = struct.pack(f"{order}i", len(raw))
    return length + raw + length


def dcd(frames: int, atoms: int, *, fixed: int = 0, cell: bool = True, order: str = "<") -> bytes:
    control = [frames, 0, 1, 0, 0, 0, 0, 0, fixed, 0, int(cell), *[0] * 8, 24]
    raw = record(b"CORD" + struct.pack(f"{order}20i", *control), order)
    raw += record(struct.pack(f"{order}i", 2) + b" " * 160, order)
    raw += record(struct.pack(f"{order}i", atoms), order)
    if fixed:
        raw += record(bytes(4 * (atoms - fixed)), order)
    for frame in range(frames):
        raw += record(bytes(48), order) if cell else b""
        raw += 3 * record(bytes(4 * (atoms - (fixed if frame else 0))), order)
    return raw


def xtc(times: list[float], atoms: int, magic: int = 1995) -> bytes:
    raw = b""
    for step, ps in enumerate(times):
        head = struct.pack(">iiif9fi", magic, atoms, step, ps, *[0.0] * 9, atoms)
        if atoms <= 9:
            raw += head + bytes(12 * atoms)
        else:
            length = struct.pack(">q" if magic == 2023 else ">i", 13)
            raw += head + struct.pack(">f7i", 1000, *[0] * 7) + length + bytes(16)
    return raw


def trr(times: list[float], atoms: int, *, double: bool = False) -> bytes:
    width = 8 if double else 4
    parts = (0, 0, 9 * width, 0, 0, 0, 0, 3 * atoms * width, 0, 0)
    raw = b""
    for step, ps in enumerate(times):
        raw += struct.pack(">iii12s", 1993, 13, 12, b"GMX_trn_file")
        raw += struct.pack(">13i", *parts, atoms, step, 0)
        raw += struct.pack(">2d" if double else ">2f", ps, 0) + bytes(sum(parts))
    return raw


def netcdf() -> bytes:
    def text(name: bytes) -> bytes:
        return struct.pack(">i", len(name)) + name + bytes(-len(name) % 4)

    dimensions = ((b"frame", 0), (b"atom", 22), (b"spatial", 3))
    listed = b"".join(text(name) + struct.pack(">i", size) for name, size in dimensions)
    return b"CDF\1" + struct.pack(">iii", 7, 10, 3) + listed + bytes(16)


def archive(files: dict[str, bytes], how: int = zipfile.ZIP_DEFLATED) -> bytes:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", how) as file:
        for name, content in files.items():
            file.writestr(name, content)
    return whole.getvalue()


def tarred(files: dict[str, bytes]) -> bytes:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as file:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return whole.getvalue()


def database(tables: int) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.db")
        connection = sqlite3.connect(path)
        for number in range(tables):
            connection.execute(f"CREATE TABLE table_{number} (a TEXT, {'b' * 90} REAL)")
        connection.execute("CREATE INDEX by_a ON table_0 (a)")
        connection.commit()
        connection.close()
        return path.read_bytes()


NPY = b"\x93NUMPY\1\0v\0{'descr': '<f4', 'fortran_order': False, 'shape': (5, 22, 3), }\n" + bytes(
    99
)
XYZ = b"3\nwater\nO 0 0 0\nH 0 0 1\nH 0 1 0\n"
DUMP = b"ITEM: TIMESTEP\n0\nITEM: NUMBER OF ATOMS\n2\nITEM: ATOMS id x\n1 0\n2 0\n"
MODEL = b"MODEL        1\nATOM      1  N\nHETATM    2  O\nENDMDL\n"
EDR = struct.pack(">iii", -55555, 5, 1) + b"\0\0\0\4Bond\0\0\0\6kJ/mol\0\0" + bytes(40)
#: Name, content, and what is said of it.
KNOWN: list[tuple[str, bytes, str]] = [
    ("x.dcd", dcd(10, 22), "DCD trajectory: 10 frames of 22 atoms"),
    ("x.dcd", dcd(1, 22, cell=False), "DCD trajectory: 1 frame of 22 atoms"),
    ("x.dcd", dcd(0, 22), "DCD trajectory: 0 frames of 22 atoms"),
    ("x.dcd", dcd(9, 22, order=">", fixed=4), "DCD trajectory: 9 frames of 22 atoms"),
    ("x.dcd", dcd(9, 22)[:-5], "DCD trajectory: 8 frames and a part of one more of 22 atoms"),
    ("x.xtc", xtc([0, 2, 4], 64), "XTC trajectory: 3 frames of 64 atoms, 0 to 4 ps"),
    ("x.xtc", xtc([1], 64, 2023), "XTC trajectory: 1 frame of 64 atoms, 1 to 1 ps"),
    ("x.xtc", xtc([0, 2], 5), "XTC trajectory: 2 frames of 5 atoms, 0 to 2 ps"),
    (
        "x.xtc",
        xtc([0, 2], 64)[:-3],
        "XTC trajectory: 1 frame and a part of one more of 64 atoms, 0 to 0 ps",
    ),
    ("x.trr", trr([0, 0.5], 64), "TRR trajectory: 2 frames of 64 atoms, 0 to 0.5 ps"),
    ("x.trr", trr([0, 1], 6, double=True), "TRR trajectory: 2 frames of 6 atoms, 0 to 1 ps"),
    ("x.nc", netcdf(), "NetCDF trajectory: 7 frames of 22 atoms"),
    ("x.lammpstrj", 30 * DUMP, "LAMMPS dump: 30 frames of 2 atoms"),
    ("x.xyz", 40 * XYZ, "XYZ: 40 frames of 3 atoms"),
    ("x.xyz", 40 * XYZ + b"3\nwater\nO 0", "XYZ: 40 frames and a part of one more of 3"),
    ("x.gro", b"a\n 1\n1Ar\n2 2 2\n" * 3, "GRO: 3 frames of 1 atoms"),
    ("x.pdb", 30 * MODEL + b"END\n", "PDB: 30 models of 2 atoms"),
    ("x.pdb", MODEL.split(b"\n", 1)[1], "PDB: 2 atoms"),
    ("x.pdbqt", 9 * MODEL, "PDB: 9 models of 2 atoms"),
    ("x.sdf", 3 * b"water\n\nM  END\n$$$$\n", "SDF: 3 molecules"),
    ("x.mol2", 2 * b"@<TRIPOS>MOLECULE\nwater\n", "MOL2: 2 molecules"),
    ("x.cif", b"data_quartz\n_cell_length_a 4.9\n", "CIF: 1 data block"),
    (
        "x.cube",
        b"a\nb\n 3 0 0 0\n 10 1 0 0\n 20 0 1 0\n -30 0 0 1\n",
        "Gaussian cube: grid of 10 x 20 x 30 points, 3 atoms",
    ),
    ("x.edr", EDR, "GROMACS energies (.edr), 1 terms"),
    ("x.tpr", b"\0\0\0\x0f\0\0\0\x0eVERSION 2022.5\0\0", "GROMACS run input (.tpr) of 2022.5"),
    ("x.cpt", b"\0\x02\x9f\x29\0\0\0\x062022.5\0\0", "GROMACS checkpoint (.cpt) of 2022.5"),
    ("x.npy", NPY, "NumPy array, float32, shape (5, 22, 3)"),
    ("x.npz", archive({"forces.npy": NPY, "b.npy": NPY}), "NumPy archive, 2 arrays"),
    ("x.npz", archive({"forces.npy": NPY}, zipfile.ZIP_STORED), "NumPy archive, 1 arrays"),
    ("x.zip", archive({"a.txt": b"abc"}), "ZIP archive, 1 entries"),
    ("x.tar", tarred({"a.txt": b"abc", "b": bytes(2000)}), "tar archive, 2 files"),
    ("x.gz", gzip.compress(bytes(5000)), "gzip-compressed file, 5000 bytes when unpacked"),
    ("x.db", database(3), "SQLite database, 3 tables"),
    ("x.db", database(120), "SQLite database, 120 tables"),
    ("x.h5", b"\x89HDF\r\n\x1a\n" + bytes(90), "HDF5 file"),
    ("x.pdf", b"%PDF-1.7\n" + bytes(90), "PDF document, version 1.7"),
    ("x.frd", b"    1C\n    2C                             8     1\n -4  DISP        4    1\n"
     b" -4  STRESS      6    1\n -4  DISP        4    1\n",
     "CalculiX results: 8 nodes, 0 elements, 2 steps"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "raw", "expected"), KNOWN, ids=[f"{n}{k[0]}" for n, k in enumerate(KNOWN)]
)
def test_formats_are_told_in_words(path: str, raw: bytes, expected: str) -> None:
    assert words(raw, path).startswith(expected)


def test_names_within_are_told_apart_from_our_words() -> None:
    assert recognised(archive({"forces.npy": NPY}))[1] == ("forces: float32, shape (5, 22, 3)",)
    assert recognised(database(2))[1] == ("table_0", "table_1")
    assert recognised(EDR)[1] == ("Bond (kJ/mol)",)
    assert recognised(netcdf())[1] == ("frame 7", "atom 22", "spatial 3")
    assert recognised(archive({"a\u202e\nb": b""}))[1] == ("a\ufffd\\nb 0 B",)


def test_openmm_writes_what_is_recognised(tmp_path: Path) -> None:
    app = pytest.importorskip("openmm.app")
    source = Path(__file__).parents[2] / "manifests/data/alanine-dipeptide.pdb"
    pdb = app.PDBFile(str(source))
    with (tmp_path / "x.dcd").open("wb") as file:
        trajectory = app.DCDFile(file, pdb.topology, 0.002)
        for _ in range(6):
            trajectory.writeModel(pdb.positions)
    assert words((tmp_path / "x.dcd").read_bytes()) == "DCD trajectory: 6 frames of 22 atoms"


def test_numpy_writes_what_is_recognised(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    numpy.savez_compressed(tmp_path / "x.npz", positions=numpy.zeros((4, 3)), n=numpy.int64(3))
    assert recognised((tmp_path / "x.npz").read_bytes())[1] == (
        "positions: float64, shape (4, 3)",
        "n: int64, shape ()",
    )


def test_a_trajectory_of_a_terabyte_costs_no_more(tmp_path: Path) -> None:
    path = tmp_path / "x.dcd"
    path.write_bytes(dcd(3, 1000))
    with path.open("r+b") as file:
        file.truncate(1 << 40)
    with path.open("rb") as file:
        found = formats.recognise(file.fileno(), 1 << 40, "x.dcd")
    assert found is not None
    assert found.words.endswith(" of 1000 atoms")


def test_a_walk_that_takes_too_long_is_ended_with_an_estimate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bounded, "MAX_BYTES", 50_000)
    assert words(xtc([0, 2] * 1000, 64)).startswith("XTC trajectory: about 2000 frames of 64 atoms")
    monkeypatch.setattr(bounded, "MAX_PART_BYTES", 4096)
    assert words(10_000 * XYZ, "x.xyz") == "XYZ: about 10000 frames of 3 atoms"
    assert words(10_000 * DUMP).startswith("LAMMPS dump: about ")


SEEDS = [(path, raw[:6000]) for path, raw, _ in KNOWN] + [
    ("x.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(30)),
    ("x.jpg", b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(30)),
    ("x.webp", b"RIFF\0\0\0\0WEBPVP8X" + bytes(30)),
    ("x.bmp", b"BM" + bytes(60)),
    ("x.ppm", b"P6 40 30 255\n" + bytes(90)),
]


@settings(max_examples=600, deadline=None)
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 6000), st.binary(min_size=1, max_size=8)), max_size=6),
    st.integers(0, 6000),
)
def test_damaged_files_are_called_something_within_the_bounds(
    seed: tuple[str, bytes], damage: list[tuple[int, bytes]], end: int
) -> None:
    path, raw = seed
    for place, junk in damage:
        place %= len(raw)
        raw = raw[:place] + junk + raw[place + len(junk) :]
    _check(raw[: max(1, end % (len(raw) + 1))], path)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(SEEDS), st.binary(max_size=400), st.integers(4, 40))
def test_a_good_beginning_may_lead_anywhere(
    seed: tuple[str, bytes], rest: bytes, head: int
) -> None:
    _check(seed[1][:head] + rest, seed[0])


@given(st.binary(max_size=600), st.sampled_from(sorted({path for path, _ in SEEDS})))
def test_any_bytes_under_any_name(raw: bytes, path: str) -> None:
    _check(raw, path)


def _check(raw: bytes, path: str) -> None:
    begun = time.process_time()
    said, details = recognised(raw, path)
    assert time.process_time() - begun < 2
    assert len(said) < 250
    assert all(len(detail) < 300 for detail in details)
    "".join([said, *details]).encode()


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b"\x93NUMPY\1\0\xff\xff{'descr': '<f8', 'shape': (" + b"9" * 4000, "x.npy"),
        (b"9" * 4000 + b"\n", "x.xyz"),
        (b"PK\3\4" + b"PK\1\2" + b"\xff" * 200 + b"PK\5\6" + b"\xfe" * 18, "x.zip"),
        (b"SQLite format 3\0\0\1" + b"\x05" * 4000, "x.db"),
        (struct.pack(">ii", 1995, 1 << 30) * 9000, "x.xtc"),
        (b"CDF\5" + b"\x7f" * 300, "x.nc"),
        (b"\xff\xd8\xff" + b"\xff" * 3_000_000, "x.jpg"),
        (b"ITEM: TIMESTEP\n" * 90_000 + b"ITEM: NUMBER OF ATOMS\n" + b"1" * 50, "x.lammpstrj"),
    ],
    ids=["npy", "xyz", "zip", "sqlite", "xtc", "netcdf", "jpeg", "dump"],
)
def test_lying_headers(raw: bytes, path: str) -> None:
    _check(raw, path)
