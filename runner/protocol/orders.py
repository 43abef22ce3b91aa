"""Messages between supervisor, ranks and viewers that are not events: they do not enter the journal.

From a rank: its greeting, progress, accounts. To a rank: work, limits, and when to leave. From a viewer: commands.
"""

from typing import Literal

from rankdeck.runner.protocol.events import BatchFailed, BatchFinished, LogLine, Output, RankPhase, RankReady
from rankdeck.runner.protocol.framing import PROTOCOL_VERSION, Message
from rankdeck.runner.protocol.records import BatchResult, Prompt, StepsInFlight
from rankdeck.runner.protocol.sweep_plan import SweepPlan


class RankHello(Message, frozen=True, kw_only=True):
    """A rank's greeting. `attempt` is the number of its launch, which tells it from stragglers of an earlier one.

    It names no process: the supervisor has that from the kernel.
    """

    version: int = PROTOCOL_VERSION
    rank: int
    world_size: int
    attempt: int


class Share(Message, frozen=True, kw_only=True):
    """`split` dispatch: what `split_between_processes` gave this rank, prompts `start` to `stop` (exclusive)."""

    rank: int
    start: int
    stop: int


MeetingPoint = Literal["memory taken", "memory seen", "limits"]
"""Where ranks wait for each other: each has taken what CUDA itself needs of a GPU; each has looked at what is free;
none loads or warms up while rank 0 measures what its device can do at most."""


class Arrived(Message, frozen=True, kw_only=True):
    """This rank has come to a meeting point. Those that wait there do so until all ranks of the launch have come."""

    rank: int
    at: MeetingPoint


class Steps(Message, frozen=True, kw_only=True):
    """Progress inside a batch, a few times a second; old ones may be dropped."""

    steps: StepsInFlight


ACCOUNT_SECONDS = 10.0
"""A continuous rank closes its account after this long at the latest, or after as many steps as an answer may have."""


class RankAccount(Message, frozen=True, kw_only=True, tag="stint"):
    """A continuous rank's account since its last one; sent at intervals, and when nothing is in hand any more."""

    rank: int
    result: BatchResult


class RankFailed(Message, frozen=True, kw_only=True):
    """A rank gives up: the error in one line, and its traceback for the log."""

    rank: int
    error: str
    traceback: str


class Gathered(Message, frozen=True, kw_only=True):
    """What gather_object brought: (index, digest of the record), a part at a time until the `last`."""

    records: list[tuple[int, str]]
    last: bool


class Work(Message, frozen=True, kw_only=True):
    """A batch to generate; for a continuous rank, more prompts for the rows that fall free.

    `measure` asks for the time of every decode step; without `keep` only the account is wanted, not the records;
    `max_new_tokens` cuts the batch short (a warm-up). For a continuous rank `stream` is the batch that the order
    belongs to, named by the number of its first order; if that batch has failed meanwhile, the rank drops the order.
    """

    batch: int
    prompts: list[Prompt]
    measure: bool = False
    keep: bool = True
    max_new_tokens: int | None = None
    stream: int | None = None


class Cancel(Message, frozen=True, kw_only=True):
    """Abandon `batch` within a decode step, without any report."""

    batch: int


class Limit(Message, frozen=True, kw_only=True):
    """Generate at most this many rows at once, from the next step on; for a continuous rank."""

    rows: int


class ShareCores(Message, frozen=True, kw_only=True):
    """Share the cores with this many ranks in all, from the next decode step on; on a CPU."""

    ranks: int


class GoOn(Message, frozen=True, kw_only=True):
    """All ranks have come to this meeting point."""

    at: MeetingPoint


class Leave(Message, frozen=True, kw_only=True):
    """Leave: there is no more work. With `gather` (`split` dispatch) the ranks gather first."""

    gather: bool = False


class ViewerHello(Message, frozen=True, kw_only=True):
    """A viewer's greeting; the answer is a Snapshot, or Refused."""

    version: int = PROTOCOL_VERSION


class Refused(Message, frozen=True, kw_only=True):
    """The supervisor will not talk to this peer; `reason` says why."""

    reason: str


class Stop(Message, frozen=True, kw_only=True):
    """End the run: after the batches in flight, or `now`, abandoning them."""

    now: bool = False


class SetBatchSize(Message, frozen=True, kw_only=True):
    """Use this batch size from each rank's next batch on; None: search for the best one."""

    batch_size: int | None


class SetActiveRanks(Message, frozen=True, kw_only=True):
    """Give batches to ranks 0 to `active_ranks` - 1 only."""

    active_ranks: int


class StartSweep(Message, frozen=True, kw_only=True):
    """Measure these settings on the prompts that are left, then go on with the best; None ends a sweep."""

    plan: SweepPlan | None


class Pause(Message, frozen=True, kw_only=True):
    """Hand out no batch until Resume; batches in flight are finished."""


class Resume(Message, frozen=True, kw_only=True):
    """Hand out batches again."""


FromRank = (
    RankHello
    | RankPhase
    | RankReady
    | Share
    | Arrived
    | Steps
    | Output
    | RankAccount
    | BatchFinished
    | BatchFailed
    | RankFailed
    | Gathered
    | LogLine
)


ToRank = Work | Limit | Cancel | ShareCores | GoOn | Leave | Refused


Greeting = RankHello | ViewerHello


Command = Stop | SetBatchSize | SetActiveRanks | StartSweep | Pause | Resume
