"""run.json: the configuration of a run, where it ran, its status, and its figures at the end.

Always replaced whole, so that a reader never sees half of it; by `runner.start`, then by the supervisor.
"""

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Literal

import msgspec

from rankdeck.runner.protocol import Summary
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.protocol.engines import EngineHint, EngineRecord
from rankdeck.runner.protocol.framing import encode
from rankdeck.runner.run_directory.private_files import open_private, open_regular
from rankdeck.runner.state.costs import CostPoint
from rankdeck.runner.sweep.verdict import SweepSummary

RUN_FILE = "run.json"


class RunFileError(Exception):
    """Something is wrong with a run directory; the text says what, where and what to do."""


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """Where a run ran: host, processor (`cpu`), devices, and versions of the packages that compute."""

    rankdeck: str
    python: str
    host: str
    platform: str
    cores: int
    cpu: str = ""
    packages: dict[str, str] = {}
    devices: list[str] = []


Status = Literal["running", "completed", "failed", "stopped"]


class RunFile(msgspec.Struct, frozen=True, kw_only=True):
    """run.json. `started_at` (when the command was given) and `ended_at` are unix seconds.

    `loading` has the seconds of each phase from the command to the first batch, in order. `costs` and `lengths` are
    what batches cost and how long the answers were, for predictions; `engine_record` is how fast the engine was, for
    the `--engine auto` of later runs, and `engine_hint` what its own goes by. `prompts_digest` is the SHA-256 of
    prompts.jsonl, `model_files` has a fingerprint of each file of a model that lies in a folder; this and the hint are
    from when the ranks were launched. `remarks` say what of the prompt file was not taken as it stands. `output_force`:
    whatever is at `config.output` may be replaced; `output_stamp` is that of the one file there that may be replaced in
    any case, this run's own copy. `inode` is that of the directory where the run began, which a copy has not: run.json
    may be anybody's, so only there does `resume` write to `config.output`.
    """

    name: str
    status: Status = "running"
    started_at: float
    config: RunConfig
    prompts: int
    prompts_digest: str | None = None
    model_files: dict[str, str] = {}
    remarks: list[str] = []
    environment: Environment | None = None
    engine_hint: EngineHint | None = None
    supervisor_pid: int | None = None
    inode: int | None = None
    output_force: bool = False
    output_stamp: tuple[int, int, int] | None = None
    ended_at: float | None = None
    exit_status: int | None = None
    cause: str | None = None
    summary: Summary | None = None
    sweep: SweepSummary | None = None
    costs: list[CostPoint] = []
    lengths: list[int] = []
    engine_record: EngineRecord | None = None
    loading: dict[str, float] = {}


def write_run_file(directory: Path, run: RunFile) -> None:
    """Replace run.json atomically; the new one is on disk before the old one is gone."""
    replace_file(directory / RUN_FILE, msgspec.json.format(encode(run), indent=2) + b"\n")


RESERVE_FILE = ".reserve"
RESERVE_BYTES = 64 * 1024


def reserve_room(directory: Path) -> None:
    """Keep room on the disk for the last run.json: a run that ends because the disk is full has to say so."""
    reserve = directory / RESERVE_FILE
    try:
        descriptor = open_private(reserve, os.O_WRONLY)
        try:
            os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
        finally:
            os.close(descriptor)
    except OSError:
        with contextlib.suppress(OSError):
            reserve.unlink(missing_ok=True)


def write_last_run_file(directory: Path, run: RunFile) -> None:
    """Replace run.json as the run ends, in the reserved room if there is no other.

    Raises:
        OSError: even that is not enough.
    """
    try:
        write_run_file(directory, run)
        (directory / RESERVE_FILE).unlink(missing_ok=True)
    except OSError:
        (directory / RESERVE_FILE).unlink(missing_ok=True)
        # What predictions are made from may be long; how the run ended is short.
        write_run_file(directory, msgspec.structs.replace(run, costs=[], lengths=[]))


def replace_file(path: Path, content: bytes) -> None:
    """Replace the file at `path` atomically: a reader sees the old or the new content, never a part."""
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


MAX_BYTES = 64 * 1024 * 1024
"""A run.json is a few kilobytes; with a sweep of thousands of trials, a few megabytes."""

LATEST = 1e11
"""The latest time that a run can have, in unix seconds: no calendar goes further."""

MOST = 2**53
"""No count of a run is larger."""


class NotARunError(RunFileError):
    """The directory has no run.json."""


def read_run_file(directory: Path) -> RunFile:
    """The content of run.json.

    Raises:
        RunFileError: there is none, or it cannot be read as one.
    """
    path = directory / RUN_FILE
    try:
        with open_regular(path) as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES:,} bytes")
        run = msgspec.json.decode(content, type=RunFile)
        _check(run)
    except (FileNotFoundError, NotADirectoryError):
        raise NotARunError(f"{directory} is not a run directory: it has no {RUN_FILE}") from None
    except RecursionError:
        raise RunFileError(f"{path}: cannot be read as a run: it is nested too deep") from None
    except OSError as error:
        raise RunFileError(f"{path}: cannot be read as a run: {error.strerror}") from None
    except (ValueError, MemoryError) as error:
        raise RunFileError(f"{path}: cannot be read as a run: {error}") from None
    return run


def _check(run: RunFile) -> None:
    """Refuse figures that no run can have, and that no clock or table could show."""
    for name, at in (("started_at", run.started_at), ("ended_at", run.ended_at)):
        if at is not None and not 0 <= at <= LATEST:
            raise ValueError(f"{name} {at:g} is not a time")
    summary = run.summary
    counts: dict[str, float | None] = {"prompts": run.prompts, "supervisor_pid": run.supervisor_pid}
    counts["ranks"] = run.config.ranks
    if summary is not None:
        counts |= {name: getattr(summary, name) for name in ("prompts", "completed", "failed", "output_tokens")}
    if run.engine_record is not None:
        record = msgspec.structs.asdict(run.engine_record)
        counts |= {name: record[name] for name in record if name != "engine"}
    for name, count in counts.items():
        if count is not None and not 0 <= count <= MOST:
            raise ValueError(f"{name} is out of range")


def has_ended(directory: Path) -> bool:
    try:
        return read_run_file(directory).status != "running"
    except RunFileError:
        return False
