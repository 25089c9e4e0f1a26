"""What is in archives, arrays and databases, from their directories alone: nothing is unpacked."""

from __future__ import annotations

import re
import struct
import zlib

from jobs.bounded import Bounded, Format, NotSoError
from jobs.text import shown

_MAX_NAMES = 200
_NPY = b"\x93NUMPY"


def npy(file: Bounded) -> Format:
    return Format(f"NumPy array, {_array(file.some(0, 4096))}")


def _array(head: bytes) -> str:
    """Type and shape as the head of a .npy file tells them; it is no code to be run."""
    if head[:6] != _NPY or len(head) < 12:
        raise NotSoError
    text = head[10:].split(b"\n", 1)[0].decode("latin-1")
    shape = re.search(r"'shape': *\(([\d, ]{0,200})\)", text)
    kind = re.search(r"'descr': *('[^']{1,20}'|\[)", text)
    if shape is None or kind is None:
        raise NotSoError
    sides = [side.strip() for side in shape[1].split(",") if side.strip()]
    word = "records" if kind[1] == "[" else _dtype(kind[1].strip("'"))
    return f"{word}, shape ({', '.join(sides)})"


def _dtype(code: str) -> str:
    kinds = {"f": "float", "i": "int", "u": "uint", "c": "complex"}
    match = re.fullmatch(r"[<>|=]?([fiuc])(\d{1,2})", code)
    return f"{kinds[match[1]]}{8 * int(match[2])}" if match else shown(code, 20)


def zip_archive(file: Bounded) -> Format:
    """ZIP, and what is one: .npz with its arrays, PyTorch's files, .xlsx."""
    length = min(file.size, 22 + 0xFFFF)
    tail = file.some(file.size - length, length)
    place = tail.rfind(b"PK\5\6")
    if place < 0 or len(tail) - place < 22:
        raise NotSoError
    entries, size, start = struct.unpack("<HII", tail[place + 10 : place + 20])
    if 0xFFFFFFFF in (size, start):
        return Format("ZIP archive, larger than 4 GB")
    directory, at = file.some(start, size), 0
    details: list[str] = []
    is_npz = entries > 0
    while directory[at : at + 4] == b"PK\1\2" and at + 46 <= len(directory):
        method, packed = struct.unpack("<H8xI", directory[at + 10 : at + 24])
        whole, name_length, *more = struct.unpack("<IHHH", directory[at + 24 : at + 34])
        (local,) = struct.unpack("<I", directory[at + 42 : at + 46])
        raw = directory[at + 46 : at + 46 + name_length]
        name = shown(raw.decode("utf-8", "replace"), 100)
        is_npz = is_npz and name.endswith(".npy")
        if len(details) < _MAX_NAMES and not file.spent:
            array = _zipped_array(file, local, method, packed) if is_npz else None
            details.append(
                f"{name.removesuffix('.npy')}: {array}" if array else f"{name} {whole} B"
            )
        at += 46 + name_length + sum(more)
    what = "NumPy archive, {} arrays" if is_npz else "ZIP archive, {} entries"
    return Format(what.format(entries), tuple(details))


def _zipped_array(file: Bounded, local: int, method: int, packed: int) -> str | None:
    try:
        sizes = struct.unpack("<HH", file.at(local + 26, 4))
        raw = file.some(local + 30 + sum(sizes), min(packed, 1024))
        return _array(raw if method == 0 else zlib.decompressobj(-15).decompress(raw, 1024))
    except (NotSoError, zlib.error):
        return None


def tar(file: Bounded) -> Format:
    offset, entries = 0, 0
    details: list[str] = []
    while not file.spent and offset + 512 <= file.size and entries < 100_000:
        head = file.at(offset, 512)
        if head[257:262] != b"ustar":
            break
        digits = head[124:136].strip(b"\0 ")
        if not re.fullmatch(b"[0-7]{1,12}", digits):
            break
        size = int(digits, 8)
        if head[156:157] in b"0\0" and head[156:157]:
            entries += 1
            if len(details) < _MAX_NAMES:
                name = head[:100].split(b"\0", 1)[0].decode("utf-8", "replace")
                details.append(f"{shown(name, 100)} {size} B")
        offset += 512 + (size + 511) // 512 * 512
    if offset == 0:
        raise NotSoError
    at_least = "at least " if file.spent else ""
    return Format(f"tar archive, {at_least}{entries} files", tuple(details))


def sqlite(file: Bounded) -> Format:
    """Names of the tables, read from the schema's pages: the database is not opened."""
    (page_size,) = struct.unpack(">H", file.at(16, 2))
    page_size = 65536 if page_size == 1 else page_size
    if page_size < 512 or page_size & (page_size - 1):
        raise NotSoError
    names: list[str] = []
    to_do, seen = [1], set[int]()
    while to_do and len(seen) < 100 and len(names) < _MAX_NAMES and not file.spent:
        page_number = to_do.pop()
        if page_number < 1 or page_number in seen:
            continue
        seen.add(page_number)
        page = file.some((page_number - 1) * page_size, page_size)
        head = 100 if page_number == 1 else 0
        if len(page) < page_size:
            continue
        kind, cells = page[head], struct.unpack(">H", page[head + 3 : head + 5])[0]
        first = head + (8 if kind == 13 else 12)
        pointers = page[first : first + 2 * cells]
        places = [
            place for (place,) in struct.iter_unpack(">H", pointers[: len(pointers) // 2 * 2])
        ]
        if kind == 13:  # a leaf of a table
            names += filter(None, (_table_name(page[place:]) for place in places))
        elif kind == 5:  # points to others; the last in its head
            children = [page[place : place + 4] for place in (*places, head + 8)]
            to_do += [int.from_bytes(child, "big") for child in reversed(children)]
    return Format(f"SQLite database, {len(names)} tables", tuple(names))


def _table_name(cell: bytes) -> str | None:
    """The name in a row of the schema that is about a table of the user's."""
    _, at = _varint(cell, 0)
    _, at = _varint(cell, at)
    head_size, columns = _varint(cell, at)
    kind_code, columns = _varint(cell, columns)
    name_code, _ = _varint(cell, columns)
    kind_length, name_length = (max(0, code - 13) // 2 for code in (kind_code, name_code))
    body = at + head_size
    kind = cell[body : body + kind_length]
    name = cell[body + kind_length : body + kind_length + min(name_length, 200)]
    if kind != b"table" or not name or name.startswith(b"sqlite_"):
        return None
    return shown(name.decode("utf-8", "replace"), 100)


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    """A number of SQLite's, and where it ends."""
    value = 0
    for _ in range(8):
        byte = raw[at] if at < len(raw) else 0
        value, at = value << 7 | byte & 0x7F, at + 1
        if byte < 0x80:
            break
    return value, at
