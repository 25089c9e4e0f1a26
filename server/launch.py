"""Entry point of the command `outlast`.

In a wheel this file is `outlast/__init__.py`: it puts the nested `server/` and `jobs/` first on
the path, so that installing Outlast never claims the top-level names `server` or `jobs`.
"""

import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent
if (_HERE / "server").is_dir():  # true only in the installed wheel
    sys.path.insert(0, str(_HERE))


def main() -> None:
    """Run the command line; `serve` for a chat client takes a shorter way without its imports."""
    if sys.argv[1:] == ["serve"]:
        from server.mcp_app import serve_stdio

        serve_stdio()
    else:
        from server.cli import main as run

        run()
