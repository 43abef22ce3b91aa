"""The job: everything of a run that needs no terminal."""
