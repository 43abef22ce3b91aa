"""The directory of a new run: made, entered among the runs by name, and removed if the run does not start.

Knows how directories are named. What goes into one is written by `runner.start`.
"""

import contextlib
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from rankdeck.runner.inputs.paths import why_nowhere, why_unrecordable
from rankdeck.runner.run_directory.files import LOG_FILE, PROMPTS_FILE
from rankdeck.runner.run_directory.places import register, runs_directory, unregister
from rankdeck.runner.run_directory.run_file import RUN_FILE, RunFile, RunFileError, write_run_file

MADE_BEFORE_THE_START = (RUN_FILE, PROMPTS_FILE, LOG_FILE)
IN_THE_MAKING = (f".{RUN_FILE}.", f".{PROMPTS_FILE}.")


@dataclass(frozen=True)
class NewDirectory:
    """A directory for one run, private to its owner. `created` is False if it was already there, empty."""

    path: Path
    created: bool

    def remove(self) -> None:
        """Leave nothing of the run behind, and whatever else has come into its directory meanwhile."""
        with contextlib.suppress(OSError):
            for path in self.path.iterdir():
                if path.name in MADE_BEFORE_THE_START or path.name.startswith(IN_THE_MAKING):
                    path.unlink()
            if self.created:
                self.path.rmdir()
        unregister(self.path)


def create_directory(wanted: Path | None, *, name: str | None, prompts: str) -> NewDirectory:
    """The directory `wanted`, else one called `name` among the runs, else one named after the prompts and the time.

    Raises:
        RunFileError: it is in use, or cannot be made.
    """
    if wanted is not None and (said := why_nowhere(wanted)):
        raise RunFileError(f"--run-dir: {said}")
    if said := why_unrecordable(wanted.absolute() if wanted is not None else runs_directory()):
        raise RunFileError(f"no run directory can be made: {said}")
    try:
        if wanted is not None:
            if wanted.exists() and (not wanted.is_dir() or any(wanted.iterdir())):
                raise RunFileError(f"--run-dir: {wanted} exists and is not empty; name another")
            created = not wanted.exists()
            wanted.mkdir(mode=0o700, parents=True, exist_ok=True)
            _make_private(wanted)
            return NewDirectory(wanted.absolute(), created)
        root = runs_directory()
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        if name is not None:
            directory = root / name
            if directory.exists():
                raise RunFileError(f"--name: a run called {name} exists already; choose another name")
            directory.mkdir(mode=0o700)
            return NewDirectory(directory, True)
        return NewDirectory(_fresh_directory(root, prompts), True)
    except OSError as error:
        raise RunFileError(f"no run directory can be made: {error}") from None


def _make_private(directory: Path) -> None:
    """Take a directory that was there already from everybody but its owner: prompts and answers go into it."""
    status = directory.stat()
    if status.st_uid != os.getuid():
        raise RunFileError(f"--run-dir: {directory} belongs to another user, who could read the run; name another")
    if status.st_mode & 0o077:
        directory.chmod(0o700)


def _fresh_directory(root: Path, prompts: str) -> Path:
    stem = "stdin" if prompts == "-" else re.sub(r"[^A-Za-z0-9_-]+", "-", Path(prompts).stem).strip("-")[:32] or "run"
    base = f"{stem}-{time.strftime('%Y%m%d-%H%M%S', time.localtime())}"
    for number in range(1, 1000):
        directory = root / (base if number == 1 else f"{base}-{number}")
        try:
            directory.mkdir(mode=0o700)
        except FileExistsError:
            continue
        return directory
    raise OSError(f"{root / base} and a thousand more exist already")


def register_run(directory: Path, run: RunFile) -> None:
    """Have a run in `directory`, outside the usual place, found by its name; a name that is taken gets a number."""
    for number in range(1, 1000):
        name = run.name if number == 1 else f"{run.name}-{number}"
        try:
            register(directory, name)
        except FileExistsError:
            continue
        if number > 1:
            write_run_file(directory, msgspec.structs.replace(run, name=name))
        return
