"""Where runs live: their directories, found by name or path, and the socket of each.

A socket path has 107 bytes at most, so sockets live apart from run directories, in a short private folder.
"""

import contextlib
import hashlib
import os
import stat
from pathlib import Path

import platformdirs

from rankdeck.runner.run_directory.lock import supervisor_alive
from rankdeck.runner.run_directory.run_file import RUN_FILE, RunFile, RunFileError, read_run_file

RUNTIME_ROOT = Path("/tmp")


def runs_directory() -> Path:
    """Where runs live unless told otherwise: $XDG_STATE_HOME/rankdeck/runs, for its owner only."""
    return platformdirs.user_state_path("rankdeck", appauthor=False) / "runs"


def socket_path(directory: Path) -> Path:
    """The unix socket of a run: short (a socket path has 107 bytes at most), private, and found from `directory`.

    Raises:
        RunFileError: the runtime directory is not ours alone.
    """
    digest = hashlib.sha256(os.fsencode(directory.resolve())).hexdigest()[:16]
    return _runtime_directory() / f"{digest}.sock"


def _runtime_directory() -> Path:
    # Not $XDG_RUNTIME_DIR: that is taken away at the last logout, which is what a dropped SSH line is, and
    # it is another one in another kind of session. A run has to be found again from everywhere.
    path = RUNTIME_ROOT / f"rankdeck-{os.getuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    status = path.lstat()
    if status.st_uid != os.getuid() or not stat.S_ISDIR(status.st_mode) or status.st_mode & 0o077:
        raise RunFileError(f"{path} must be a directory of your own with mode 0700; remove what is there")
    return path


def register(directory: Path, name: str) -> None:
    """Have a run that lives elsewhere found by its name among the others.

    Raises:
        FileExistsError: there is one of that name already.
    """
    runs_directory().mkdir(mode=0o700, parents=True, exist_ok=True)
    (runs_directory() / name).symlink_to(directory)


def list_runs() -> list[tuple[Path, RunFile]]:
    """The runs in the usual place, newest first. Directories that are no runs are left out."""
    found = []
    root = runs_directory()
    for path in root.iterdir() if root.is_dir() else ():
        try:
            found.append((path.resolve(), read_run_file(path)))
        except RunFileError:
            continue
    return sorted(found, key=lambda item: item[1].started_at, reverse=True)


def find_run(run: str) -> Path:
    """The directory of a run, by its name or its directory.

    Raises:
        RunFileError: there is no such run; the runs there are, are named.
    """
    for directory in (runs_directory() / run, Path(run)):
        with contextlib.suppress(OSError, ValueError):
            if (directory / RUN_FILE).is_file():
                return directory.resolve()
    names = [path.name for path, _ in list_runs()]
    known = f"known are: {', '.join(names[:10])}" if names else "there are no runs yet"
    raise RunFileError(f"there is no run called {run!r}; {known}")


def newest_live_run() -> Path:
    """The directory of the newest run that has a live supervisor.

    Raises:
        RunFileError: none has.
    """
    for directory, _ in list_runs():
        if supervisor_alive(directory):
            return directory
    raise RunFileError("no run is live; `rankdeck list` shows those there were")
