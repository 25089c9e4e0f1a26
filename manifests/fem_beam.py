"""A clamped beam under a load at its tip: the CalculiX input, and what beam theory says of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product


@dataclass(frozen=True)
class Beam:
    """Along x from the clamped face at 0; y across, z up; the load points down."""

    length_mm: float
    width_mm: float
    height_mm: float
    load_n: float
    young_mpa: float
    poisson: float
    elements: int  #: along the length
    across: int  #: over the width, and over the height
    nlgeom: bool
    increments: int

    @property
    def _inertia_mm4(self) -> float:
        return self.width_mm * self.height_mm**3 / 12

    def deflection_mm(self, x_mm: float) -> float:
        """Euler-Bernoulli: small deflection, no shear."""
        bending = self.load_n * x_mm**2 * (3 * self.length_mm - x_mm)
        return bending / (6 * self.young_mpa * self._inertia_mm4)

    def timoshenko_mm(self) -> float:
        """The tip's deflection with shear; Cowper's coefficient of a rectangle."""
        shear_modulus = self.young_mpa / (2 * (1 + self.poisson))
        coefficient = 10 * (1 + self.poisson) / (12 + 11 * self.poisson)
        area = self.width_mm * self.height_mm
        shear = self.load_n * self.length_mm / (coefficient * shear_modulus * area)
        return self.deflection_mm(self.length_mm) + shear

    def stress_mpa(self) -> float:
        """The greatest bending stress of beam theory, at the clamp."""
        return self.load_n * self.length_mm * self.height_mm / 2 / self._inertia_mm4

    def node(self, i: int, j: int, k: int) -> int:
        return 1 + k + (self.across + 1) * (j + (self.across + 1) * i)

    def section(self, i: int) -> list[int]:
        """The nodes at the i-th place along the length."""
        first = self.node(i, 0, 0)
        return list(range(first, first + (self.across + 1) ** 2))

    def x_mm(self, i: int) -> float:
        return self.length_mm * i / self.elements

    def deck(self) -> Iterator[str]:
        """The lines of the input file."""
        cells, side = range(self.across), range(self.across + 1)
        yield "** Cantilever beam; mm, N, MPa"
        yield "*NODE, NSET=ALL"
        for i, j, k in product(range(self.elements + 1), side, side):
            y = self.width_mm * (j / self.across - 0.5)
            z = self.height_mm * (k / self.across - 0.5)
            yield f"{self.node(i, j, k)}, {self.x_mm(i):.9g}, {y:.9g}, {z:.9g}"
        yield "*ELEMENT, TYPE=C3D8I, ELSET=BEAM"
        corners = ((0, 0), (1, 0), (1, 1), (0, 1))
        for number, (i, j, k) in enumerate(product(range(self.elements), cells, cells), 1):
            nodes = [self.node(i + a, j + b, k + up) for up in (0, 1) for a, b in corners]
            yield ", ".join(map(str, [number, *nodes]))
        yield "*NSET, NSET=CLAMP"
        yield from (f"{node}," for node in self.section(0))
        yield "*MATERIAL, NAME=ELASTIC"
        yield "*ELASTIC"
        yield f"{self.young_mpa!r}, {self.poisson!r}"
        yield "*SOLID SECTION, ELSET=BEAM, MATERIAL=ELASTIC"
        yield "*BOUNDARY"
        yield "CLAMP, 1, 3"
        yield f"*STEP{', NLGEOM' if self.nlgeom else ''}, INC=100000"
        yield "*STATIC"
        first = 1 / self.increments
        yield f"{first:.9g}, 1., {first * 1e-4:.9g}, {first:.9g}"
        yield "*CLOAD"
        for j, k in product(side, side):
            # A node bears the share of the quarter cells around it.
            halves = (j in (0, self.across)) + (k in (0, self.across))
            share = 0.5**halves / self.across**2
            yield f"{self.node(self.elements, j, k)}, 3, {-self.load_n * share:.12g}"
        yield "*NODE FILE"
        yield "U"
        yield "*EL FILE"
        yield "S"
        yield "*END STEP"
