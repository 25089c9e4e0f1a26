"""A pw.x input file: what it says, and the same with other values.

Only what a run needs is understood: the namelists' assignments, and where each card begins and
ends. pw.x itself is the judge of the rest.
"""

from __future__ import annotations

import re
from pathlib import Path

from script_support import ScriptError

_CARDS = (
    "ATOMIC_SPECIES",
    "ATOMIC_POSITIONS",
    "K_POINTS",
    "ADDITIONAL_K_POINTS",
    "CELL_PARAMETERS",
    "CONSTRAINTS",
    "OCCUPATIONS",
    "ATOMIC_VELOCITIES",
    "ATOMIC_FORCES",
)
MOST_BYTES = 20_000_000
#: In a namelist quotes and comments may hold the slash that ends it elsewhere.
_BODY = r"((?:'[^']*'|\"[^\"]*\"|![^\n]*|[^'\"!/])*)/"
_VALUE = r"(?:'[^']*'|\"[^\"]*\"|[^\s,!'\"]+)"
#: What one run can bring to an end, and whether it moves atoms.
CALCULATIONS = {"scf": False, "relax": True, "vc-relax": True}


class PwInput:
    """The text of an input file, which `set` and `set_kpoints` change."""

    def __init__(self, path: Path) -> None:
        """Raises ScriptError when it is no input of pw.x that can be run as a job."""
        try:
            if path.stat().st_size > MOST_BYTES:
                raise ScriptError(f"{path} is too large for a pw.x input file; check input")
            text = path.read_text(encoding="utf-8")
        except OSError as problem:
            raise ScriptError(f"cannot read {path}: {problem.strerror}; check input") from None
        except ValueError:
            raise ScriptError(f"{path} is no text; give a pw.x input file") from None
        self.text = text.replace("\r\n", "\n")
        for name in ("CONTROL", "SYSTEM", "ELECTRONS"):
            if self._namelist(name) is None:
                raise ScriptError(
                    f"{path.name} has no namelist &{name} with a / at its end; give a pw.x input"
                    " file"
                )
        calculation = self.get("CONTROL", "calculation") or "scf"
        if calculation not in CALCULATIONS:
            raise ScriptError(
                f"{path.name} asks for calculation = {calculation!r}; this kind of job runs"
                f" {', '.join(CALCULATIONS)}"
            )
        self.calculation = calculation
        self.moves_atoms = CALCULATIONS[calculation]
        self.pseudopotentials = self._pseudopotentials(path.name)

    def _namelist(self, name: str) -> re.Match[str] | None:
        """Its match, the assignments in group 1."""
        return re.search(rf"(?im)^[ \t]*&{name}\b{_BODY}", self.text)

    def get(self, namelist: str, key: str) -> str | None:
        """The value that a namelist gives to `key`, without quotes."""
        found = self._namelist(namelist)
        bare = re.sub(r"('[^']*'|\"[^\"]*\")|![^\n]*", r"\1", found[1]) if found else ""
        values = re.findall(rf"(?i)(?<![\w(]){re.escape(key)}\s*=\s*({_VALUE})", bare)
        return values[-1].strip("'\"").strip() if values else None

    def set(self, namelist: str, values: dict[str, str]) -> None:
        """Give the keys these values, written as Fortran has them, whatever they had before."""
        found = self._namelist(namelist)
        assert found is not None
        body = found[1]
        for key in values:
            body = re.sub(rf"(?i)(?<![\w(]){re.escape(key)}\s*=\s*{_VALUE}[ \t]*,?", "", body)
        new = "".join(f"\n  {key} = {value}" for key, value in values.items())
        # `&CONTROL a=1, b=2` may go on on the same line.
        self.text = f"{self.text[: found.start(1)]}{new}\n{body}{self.text[found.end(1) :]}"

    def _card(self, name: str) -> tuple[int, int]:
        """Where a card begins and ends; both at the end of the text when it is not there."""
        starts = [
            (match.start(), match[1].upper())
            for match in re.finditer(rf"(?im)^[ \t]*({'|'.join(_CARDS)})\b", self.text)
        ]
        for index, (start, card) in enumerate(starts):
            if card == name:
                end = starts[index + 1][0] if index + 1 < len(starts) else len(self.text)
                return start, end
        return len(self.text), len(self.text)

    def set_kpoints(self, grid: list[int]) -> None:
        """A grid through the zone's centre instead of the k points of the file."""
        start, end = self._card("K_POINTS")
        card = f"K_POINTS automatic\n{' '.join(map(str, grid))} 0 0 0\n"
        before = self.text[:start].rstrip("\n")
        self.text = f"{before}\n{card}{self.text[end:]}"

    def unchangeable(self) -> dict[str, str | None]:
        """What a density and wavefunctions that were saved must agree with."""
        start, end = self._card("K_POINTS")
        return {
            "calculation": self.calculation,
            "A": self.get("SYSTEM", "A"),
            "ecutwfc": self.get("SYSTEM", "ecutwfc"),
            "k points": " ".join(self.text[start:end].split()),
        }

    def _pseudopotentials(self, name: str) -> list[str]:
        """The file names in ATOMIC_SPECIES, each once."""
        start, end = self._card("ATOMIC_SPECIES")
        found = []
        for line in self.text[start:end].splitlines()[1:]:
            words = re.split(r"[!#]", line)[0].split()
            if len(words) >= 3:
                found.append(words[2])
        if not found:
            raise ScriptError(f"{name} names no pseudopotential; fill its card ATOMIC_SPECIES")
        for file in found:
            if "/" in file or file.startswith("."):
                raise ScriptError(
                    f"the pseudopotential {file!r} is no plain file name; name the folder with"
                    " pseudo_dir"
                )
        return list(dict.fromkeys(found))
