"""Core: what a job is, how it is started, watched and ended. Knows no face."""

__version__ = "0.1.0"
