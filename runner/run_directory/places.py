"""Where runs are: their directories, found by name or path, and the socket of each.

The path of a socket has 107 bytes at most, so sockets are kept apart from run directories, in a short private folder.
"""

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec
import platformdirs

from rankdeck.runner.run_directory.lock import supervisor_alive
from rankdeck.runner.run_directory.run_file import RUN_FILE, NotARunError, RunFile, RunFileError, read_run_file

RUNTIME_ROOT = Path("/tmp")


def runs_directory() -> Path:
    """Where runs are kept by default: $XDG_STATE_HOME/rankdeck/runs, private to its owner."""
    return platformdirs.user_state_path("rankdeck", appauthor=False) / "runs"


def socket_path(directory: Path) -> Path:
    """The path of a run's unix socket: short, private, and derived from `directory`.

    Raises:
        RunFileError: the folder of sockets cannot be made, or others have access to it.
    """
    digest = hashlib.sha256(os.fsencode(directory.resolve())).hexdigest()[:16]
    return runtime_directory() / f"{digest}.sock"


def runtime_directory() -> Path:
    """The folder of sockets, private to its owner; made if there is none.

    Raises:
        RunFileError: it cannot be made, or something else is there: anybody may put anything into /tmp.
    """
    # Not $XDG_RUNTIME_DIR: it is removed at the last logout, which a dropped SSH connection is, and differs between
    # kinds of sessions. A run has to be found again from any session.
    return own_folder(RUNTIME_ROOT / f"rankdeck-{os.getuid()}")


def own_folder(path: Path) -> Path:
    """The folder of sockets at `path`, made if there is none. Raises as `runtime_directory` does."""
    try:
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        status = path.lstat()
    except OSError as error:
        raise RunFileError(f"{path}, the folder of sockets, cannot be made: {error.strerror}") from None
    if status.st_uid != os.getuid() or not stat.S_ISDIR(status.st_mode) or status.st_mode & 0o077:
        raise RunFileError(f"{path} must be a directory of your own with mode 0700; remove what is there")
    return path


def register(directory: Path, name: str) -> None:
    """Make a run outside the usual place known by its name.

    Raises:
        FileExistsError: there is a run of that name already.
    """
    runs_directory().mkdir(mode=0o700, parents=True, exist_ok=True)
    (runs_directory() / name).symlink_to(directory)


def unregister(directory: Path) -> None:
    """Have a run outside the usual place no longer found by name."""
    with contextlib.suppress(OSError):
        for link in runs_directory().iterdir():
            if link.is_symlink() and link.readlink() == directory:
                link.unlink()


def list_runs() -> list[tuple[Path, RunFile]]:
    """The runs in the usual place, newest first; what is unreadable, and other directories, are left out.

    Each has the name by which commands know it: a folder may have been renamed, or copied, since the run began.

    Raises:
        RunFileError: the place cannot be read.
    """
    return [(path.resolve(), msgspec.structs.replace(run, name=path.name)) for path, run in _readable()]


def newest_runs(most: int) -> list[tuple[Path, float]]:
    """At most `most` runs in the usual place, readable or not, and when their run.json was written, the newest first.

    No run is read. There are none where the place cannot be read.
    """
    dated = []
    try:
        for path in runs_directory().iterdir():
            try:
                dated.append(((path / RUN_FILE).stat().st_mtime, path))
            except (FileNotFoundError, NotADirectoryError):
                continue  # not a run, or deleted meanwhile
            except OSError:
                dated.append((path.lstat().st_mtime, path))  # a loop of links, or no permission: shown as unreadable
    except OSError:
        return []
    dated.sort(reverse=True, key=lambda item: item[0])
    return [(path, changed_at) for changed_at, path in dated[:most]]


def _readable() -> list[tuple[Path, RunFile]]:
    """The readable runs, newest first, as they lie in the usual place: those outside it by their links."""
    found = [(path, run) for path, run in _looked_through() if isinstance(run, RunFile)]
    return sorted(found, key=lambda item: item[1].started_at, reverse=True)


def unreadable_runs() -> list[tuple[Path, RunFileError]]:
    """The directories in the usual place that should be runs but cannot be read, and why, by name.

    Raises:
        RunFileError: the place cannot be read.
    """
    found = [(path, why) for path, why in _looked_through() if isinstance(why, RunFileError)]
    return sorted(found, key=lambda item: item[0].name)


def _looked_through() -> Iterator[tuple[Path, RunFile | RunFileError]]:
    try:
        paths = list(runs_directory().iterdir())
    except FileNotFoundError:
        return
    except OSError as error:
        raise RunFileError(f"{runs_directory()}, the place of your runs, cannot be read: {error.strerror}") from None
    for path in paths:
        try:
            yield path, read_run_file(path)
        except NotARunError:
            continue
        except RunFileError as error:
            yield path, error


def find_run(run: str) -> Path:
    """The directory of a run, by its name or its directory.

    Raises:
        RunFileError: there is no such run; the text lists the runs there are.
    """
    for directory in (runs_directory() / run, Path(run)):
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            if (directory / RUN_FILE).is_file():
                return directory.resolve()
        with contextlib.suppress(OSError, ValueError):
            if os.path.lexists(directory / RUN_FILE):
                raise RunFileError(f"{directory / RUN_FILE}: cannot be read as a run: it is not a file")
    names = [path.name for path, _ in _readable()]
    known = f"known are: {', '.join(names[:10])}" if names else "there are no runs yet"
    raise RunFileError(f"there is no run called {run!r}; {known}")


def newest_live_run() -> Path:
    """The directory of the newest run that has a live supervisor.

    Raises:
        RunFileError: no run has one.
    """
    for directory, _ in [*list_runs(), *unreadable_runs()]:
        if supervisor_alive(directory):
            return directory.resolve()
    raise RunFileError("no run is live; `rankdeck list` shows those there were")
