"""The job: everything of a run that needs no terminal."""

__version__ = "0.1.0"
