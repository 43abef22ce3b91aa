"""The run directory: where a run's files are, and how each is written and read.

Knows names, modes and formats of files, and where a run's socket is. Does not know what the events
mean. Outputs are appended as they arrive and put into input order at the end; run.json is always
replaced whole, so that a reader never sees half of it.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
import time
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec
import platformdirs

from runner.protocol import AnyEvent, OutputRecord, Summary
from runner.protocol.config import RunConfig
from runner.state.costs import CostPoint
from runner.sweep.verdict import SweepSummary

RUN_FILE = "run.json"
PROMPTS_FILE = "prompts.jsonl"
EVENTS_FILE = "events.jsonl"
OUTPUTS_FILE = "outputs.jsonl"
LOG_FILE = "runner.log"
LOCK_FILE = "supervisor.lock"

RUNTIME_ROOT = Path("/tmp")
STARTING_SECONDS = 5.0
"""So long after run.json was written a supervisor may be on its way to its lock, on a busy machine."""

LOCK_SECONDS = 1.0
"""Somebody who asks whether a supervisor is alive holds its lock for an instant."""


class RunFileError(Exception):
    """A run directory is not what it should be; the text says where and what to do."""


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """Where a run ran: versions of what computes, host, devices."""

    rankdeck: str
    python: str
    host: str
    platform: str
    cores: int
    packages: dict[str, str] = {}
    devices: list[str] = []


Status = Literal["running", "completed", "failed", "stopped"]


class RunFile(msgspec.Struct, frozen=True, kw_only=True):
    """run.json. `started_at` (the command was given) and `ended_at` are unix seconds.

    `loading` has the seconds of each phase from the command to the first batch, in the order of time.
    `costs` and `lengths` are what batches cost and how long the answers were: what predictions are made from.
    """

    name: str
    status: Status = "running"
    started_at: float
    config: RunConfig
    prompts: int
    environment: Environment | None = None
    supervisor_pid: int | None = None
    ended_at: float | None = None
    exit_status: int | None = None
    cause: str | None = None
    summary: Summary | None = None
    sweep: SweepSummary | None = None
    costs: list[CostPoint] = []
    lengths: list[int] = []
    loading: dict[str, float] = {}


# --- places -------------------------------------------------------------------------------------


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


# --- run.json -----------------------------------------------------------------------------------


def write_run_file(directory: Path, run: RunFile) -> None:
    """Replace run.json whole, and have it on disk before the old one is gone."""
    replace_file(directory / RUN_FILE, msgspec.json.format(msgspec.json.encode(run), indent=2) + b"\n")


def replace_file(path: Path, content: bytes) -> None:
    """Put `content` where `path` is, in one step: a reader sees the old or the new, never a part."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_run_file(directory: Path) -> RunFile:
    """What run.json says.

    Raises:
        RunFileError: there is none, or it is not one of ours.
    """
    path = directory / RUN_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=RunFile)
    except FileNotFoundError:
        raise RunFileError(f"{directory} is no run directory: it has no {RUN_FILE}") from None
    except (OSError, msgspec.MsgspecError) as error:
        raise RunFileError(f"{path}: cannot be read as a run: {error}") from None


def register(directory: Path, name: str) -> None:
    """Have a run that lives elsewhere found by its name among the others.

    Raises:
        FileExistsError: there is one of that name already.
    """
    runs_directory().mkdir(mode=0o700, parents=True, exist_ok=True)
    (runs_directory() / name).symlink_to(directory)


def has_ended(directory: Path) -> bool:
    try:
        return read_run_file(directory).status != "running"
    except RunFileError:
        return False


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


# --- the supervisor's lock: who is alive ----------------------------------------------------------


def hold_lock(directory: Path) -> int:
    """Mark this process as the run's supervisor until it ends, however it ends. Returns the open descriptor.

    Raises:
        RunFileError: another supervisor has the run.
    """
    descriptor = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise RunFileError(f"{directory} already has a live supervisor") from None
            time.sleep(0.02)
        else:
            return descriptor


def supervisor_alive(directory: Path) -> bool:
    """Whether a supervisor holds the run's lock. The kernel drops the lock of a process that was killed."""
    try:
        descriptor = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


def supervisor_comes(directory: Path) -> bool:
    """Whether a supervisor holds the run's lock, or does so soon: one that was started a moment ago is waited for."""
    while not supervisor_alive(directory):
        try:
            age = time.time() - (directory / RUN_FILE).stat().st_mtime
        except OSError:
            return False
        if not 0 <= age < STARTING_SECONDS or read_run_file(directory).status != "running":
            return False
        time.sleep(0.05)
    return True


# --- lines: outputs and the journal ---------------------------------------------------------------


class LineWriter:
    """Appends lines to a file: `write` hands them to the system at once, `sync` to the disk."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)
        self._dirty = False

    def write(self, lines: bytes) -> None:
        """Append whole lines.

        Raises:
            OSError: not all could be written; what was written of them is cut off again.
        """
        position = self._file.seek(0, os.SEEK_END)
        try:
            view = memoryview(lines)
            while view:
                view = view[self._file.write(view) :]
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(position)
            raise
        self._dirty = True

    def sync(self) -> None:
        if self._dirty:
            os.fsync(self._file.fileno())
            self._dirty = False

    def close(self) -> None:
        self.sync()
        self._file.close()


def read_outputs(directory: Path) -> Iterator[OutputRecord]:
    """The records of outputs.jsonl in the file's order. A torn last line (still being written) is left out.

    Raises:
        RunFileError: a line is damaged (file and line are named).
    """
    path = directory / OUTPUTS_FILE
    decoder = msgspec.json.Decoder(OutputRecord)
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.endswith(b"\n"):
                    try:
                        record = decoder.decode(line)
                    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                        raise RunFileError(f"{path}:{number}: damaged, not a record: {error}") from None
                    yield record
    except FileNotFoundError:
        return


def read_events(directory: Path) -> Iterator[AnyEvent]:
    """The journal's events.

    Raises:
        RunFileError: there is no journal, or a line of it cannot be understood (file and line are named).
    """
    path = directory / EVENTS_FILE
    decoder: Any = msgspec.json.Decoder(AnyEvent)
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    yield decoder.decode(line)
                except msgspec.MsgspecError as error:
                    raise RunFileError(f"{path}:{number}: not an event this version knows: {error}") from None
    except OSError as error:
        raise RunFileError(f"{path}: cannot be read: {error.strerror}") from None


def mend(path: Path) -> int:
    """Cut a torn last line off (a supervisor was killed while it wrote). Returns how many bytes were cut."""
    try:
        with path.open("r+b") as file:
            end = file.seek(0, os.SEEK_END)
            position = end
            while position > 0:
                start = max(0, position - 65536)
                file.seek(start)
                block = file.read(position - start)
                if (newline := block.rfind(b"\n")) >= 0:
                    position = start + newline + 1
                    break
                position = start
            if position != end:
                file.truncate(position)
            return end - position
    except FileNotFoundError:
        return 0


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


def order_outputs(directory: Path, prompts: int) -> None:
    """Put outputs.jsonl into input order, in one step. Holds an offset per prompt in memory, no text."""
    path = directory / OUTPUTS_FILE
    starts, ends = array("q", [-1]) * prompts, array("q", [-1]) * prompts
    decoder = msgspec.json.Decoder(_Indexed)
    with path.open("rb") as source:
        position, previous, in_order = 0, -1, True
        for line in source:
            index = decoder.decode(line).index
            in_order = in_order and index > previous
            previous = index
            starts[index], ends[index] = position, position + len(line)
            position += len(line)
        if in_order:
            return
        handle, temporary = tempfile.mkstemp(dir=directory, prefix=f".{OUTPUTS_FILE}.")
        try:
            with os.fdopen(handle, "wb") as target:
                for start, end in zip(starts, ends, strict=True):
                    if start >= 0:
                        source.seek(start)
                        target.write(source.read(end - start))
                target.flush()
                os.fsync(target.fileno())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def copy_outputs(directory: Path, target: Path) -> None:
    """Copy outputs.jsonl to `target` in one step.

    Raises:
        OSError: it cannot be written there.
    """
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        os.close(handle)
        shutil.copyfile(directory / OUTPUTS_FILE, temporary)
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


class _Indexed(msgspec.Struct):
    index: int
