"""Files of the real programs are recognised for what they are."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from jobs import formats
from tests.support.science import needs

#: 64 argon atoms on a lattice, 200 steps: a frame every 20 and every 50 steps.
TOPOLOGY = """
[ defaults ]
1 1 no 1.0 1.0
[ atomtypes ]
AR AR 18 39.948 0.0 A 0.0062220 9.847e-06
[ moleculetype ]
Ar 1
[ atoms ]
1 AR 1 Ar Ar 1 0 39.948
[ system ]
argon
[ molecules ]
Ar 64
"""
SETTINGS = """
integrator = md
dt = 0.002
nsteps = 200
nstxout = 50
nstxout-compressed = 20
rcoulomb = 0.9
rvdw = 0.9
"""
#: One brick, fixed below and pulled at a corner.
BRICK = """
*NODE,NSET=ALL
1,0,0,0
2,1,0,0
3,1,1,0
4,0,1,0
5,0,0,1
6,1,0,1
7,1,1,1
8,0,1,1
*ELEMENT,TYPE=C3D8,ELSET=E
1,1,2,3,4,5,6,7,8
*MATERIAL,NAME=STEEL
*ELASTIC
210000,0.3
*SOLID SECTION,ELSET=E,MATERIAL=STEEL
*BOUNDARY
1,1,3
2,1,3
3,1,3
4,1,3
*STEP
*STATIC
*CLOAD
7,3,10
*NODE FILE
U
*EL FILE
S
*END STEP
"""


def said(path: Path) -> str:
    with path.open("rb") as file:
        found = formats.recognise(file.fileno(), os.fstat(file.fileno()).st_size, path.name)
    assert found is not None, path
    return " ".join([found.words, *found.details])


@needs("gmx")
def test_gromacs(tmp_path: Path) -> None:
    places = [(x, y, z) for x in range(4) for y in range(4) for z in range(4)]
    atoms = "".join(
        f"{n:5d}{'Ar':<5}{'Ar':>5}{n:5d}" + "".join(f"{0.2 + 0.55 * i:8.3f}" for i in at) + "\n"
        for n, at in enumerate(places, 1)
    )
    box = "".join(f"{2.2:10.5f}" for _ in range(3))
    (tmp_path / "conf.gro").write_text(f"argon\n64\n{atoms}{box}\n", encoding="utf-8")
    (tmp_path / "topol.top").write_text(TOPOLOGY, encoding="utf-8")
    (tmp_path / "grompp.mdp").write_text(SETTINGS, encoding="utf-8")
    for words in (["grompp", "-maxwarn", "5"], ["mdrun", "-ntmpi", "1", "-ntomp", "1"]):
        subprocess.run(["gmx", *words], cwd=tmp_path, check=True, capture_output=True)
    assert said(tmp_path / "topol.tpr").startswith("GROMACS run input (.tpr) of 20")
    assert said(tmp_path / "state.cpt").startswith("GROMACS checkpoint (.cpt) of 20")
    assert said(tmp_path / "traj.trr") == "TRR trajectory: 5 frames of 64 atoms, 0 to 0.4 ps"
    assert said(tmp_path / "traj_comp.xtc") == "XTC trajectory: 11 frames of 64 atoms, 0 to 0.4 ps"
    assert said(tmp_path / "confout.gro") == "GRO: 1 frame of 64 atoms"
    energies = said(tmp_path / "ener.edr")
    assert "Potential (kJ/mol) Kinetic En. (kJ/mol) Total Energy (kJ/mol)" in energies


@needs("ccx")
def test_calculix(tmp_path: Path) -> None:
    (tmp_path / "brick.inp").write_text(BRICK.lstrip(), encoding="utf-8")
    subprocess.run(["ccx", "brick"], cwd=tmp_path, check=True, capture_output=True)
    words = "CalculiX results: 8 nodes, 1 element, 1 step DISP x 1 STRESS x 1"
    assert said(tmp_path / "brick.frd").startswith(words)
