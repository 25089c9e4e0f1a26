"""In a wheel this file is `outlast/__main__.py`, so that `python -m outlast` works."""

from outlast import main  # type: ignore[import-untyped]

main()
