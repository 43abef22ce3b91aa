"""run.json: the configuration of a run, where it ran, its status, and its figures at the end.

Always replaced whole, so that a reader never sees half of it; by `runner.start`, then by the supervisor.
"""

import os
import tempfile
from pathlib import Path
from typing import Literal

import msgspec

from rankdeck.runner.protocol import Summary
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.protocol.framing import encode
from rankdeck.runner.state.costs import CostPoint
from rankdeck.runner.sweep.verdict import SweepSummary

RUN_FILE = "run.json"


class RunFileError(Exception):
    """Something is wrong with a run directory; the text says what, where and what to do."""


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """Where a run ran: host, devices, and versions of the packages that compute."""

    rankdeck: str
    python: str
    host: str
    platform: str
    cores: int
    packages: dict[str, str] = {}
    devices: list[str] = []


Status = Literal["running", "completed", "failed", "stopped"]


class RunFile(msgspec.Struct, frozen=True, kw_only=True):
    """run.json. `started_at` (when the command was given) and `ended_at` are unix seconds.

    `loading` has the seconds of each phase from the command to the first batch, in order. `costs` and `lengths` are
    what batches cost and how long the answers were, for predictions. `remarks` say what of the prompt file was not
    taken as it stands.
    """

    name: str
    status: Status = "running"
    started_at: float
    config: RunConfig
    prompts: int
    remarks: list[str] = []
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


def write_run_file(directory: Path, run: RunFile) -> None:
    """Replace run.json atomically; the new one is on disk before the old one is gone."""
    replace_file(directory / RUN_FILE, msgspec.json.format(encode(run), indent=2) + b"\n")


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


def read_run_file(directory: Path) -> RunFile:
    """The content of run.json.

    Raises:
        RunFileError: there is none, or it cannot be read as one.
    """
    path = directory / RUN_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=RunFile)
    except FileNotFoundError:
        raise RunFileError(f"{directory} is not a run directory: it has no {RUN_FILE}") from None
    except (OSError, msgspec.MsgspecError) as error:
        raise RunFileError(f"{path}: cannot be read as a run: {error}") from None


def has_ended(directory: Path) -> bool:
    try:
        return read_run_file(directory).status != "running"
    except RunFileError:
        return False
