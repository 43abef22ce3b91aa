"""Messages between the supervisor and the parent of its ranks, which forks one for each order. They stay between them.

They travel over a pair of sockets that only these two have: what the parent says of pids and ends, the kernel told it.
"""

import msgspec

from rankdeck.runner.protocol.engines import EngineHint
from rankdeck.runner.protocol.framing import Message


class StartRank(Message, frozen=True, kw_only=True):
    """Fork rank `rank` of `world_size`, for the run's `attempt`-th launch.

    With `store`, a file for torch's FileStore, the ranks of the launch form a process group. `environment` is added to
    the parent's: what may have changed since that was launched. `engine_hint` is what `--engine auto` takes.
    """

    rank: int
    world_size: int
    attempt: int = 1
    store: str | None = None
    environment: dict[str, str] = msgspec.field(default_factory=dict)
    engine_hint: EngineHint | None = None


class ParentImporting(Message, frozen=True, kw_only=True):
    """The parent, process `pid`, is there, and begins to import what all ranks need."""

    pid: int


class ParentReady(Message, frozen=True, kw_only=True):
    """The parent, process `pid`, forks ranks from now on."""

    pid: int


class RankForked(Message, frozen=True, kw_only=True):
    """A rank's process is there."""

    rank: int
    attempt: int
    pid: int


class RankExited(Message, frozen=True, kw_only=True):
    """A rank's process has ended: its exit status, or minus the number of the signal that killed it.

    `error` says why there was no process at all.
    """

    rank: int
    attempt: int
    status: int
    error: str | None = None


FromParent = ParentImporting | ParentReady | RankForked | RankExited
