"""The keeper's process: `python server/keeper_main.py STATE_DIRECTORY`.

Started by file path and not as a module, because a child does not inherit how its parent found
the package. The lock is taken before anything costly is imported: of several keepers that start
at once, all but one leave within milliseconds.
"""

import sys
from pathlib import Path

# Replaces server/, which Python put there for a script: its modules are no top-level names.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from jobs.keeping import become_keeper  # noqa: E402
from jobs.paths import Home  # noqa: E402


def main() -> None:
    home = Home(Path(sys.argv[1]))
    if become_keeper(home):
        from server.wiring import run_keeper

        run_keeper(home)


if __name__ == "__main__":
    main()
