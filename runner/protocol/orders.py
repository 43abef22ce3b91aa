"""What is asked for and reported between supervisor, ranks and viewers, but is no event: none of it enters the journal.

From a rank: its greeting, steps, results. To a rank: work, and when to stop. From a viewer: commands.
"""

from rankdeck.runner.protocol.events import BatchFailed, BatchFinished, LogLine, Output, RankPhase, RankReady
from rankdeck.runner.protocol.framing import PROTOCOL_VERSION, Message
from rankdeck.runner.protocol.records import BatchResult, Prompt, StepsInFlight
from rankdeck.runner.protocol.sweep_plan import SweepPlan


class RankHello(Message, frozen=True, kw_only=True):
    """A rank's greeting. `attempt` tells a rank of this launch from a straggler of an earlier one."""

    version: int = PROTOCOL_VERSION
    rank: int
    world_size: int
    pid: int
    attempt: int


class Share(Message, frozen=True, kw_only=True):
    """`split` dispatch: what `split_between_processes` gave this rank, prompts `start` to `stop` (exclusive)."""

    rank: int
    start: int
    stop: int


class Steps(Message, frozen=True, kw_only=True):
    """Progress inside a batch, a few times a second; old ones may be dropped."""

    steps: StepsInFlight


class RankAccount(Message, frozen=True, kw_only=True, tag="stint"):
    """A continuous rank's account of what it did since the last one; sent now and then, and when it has run dry."""

    rank: int
    result: BatchResult


class RankFailed(Message, frozen=True, kw_only=True):
    """A rank cannot go on: the error in one line, and its traceback for the log."""

    rank: int
    error: str
    traceback: str


class Gathered(Message, frozen=True, kw_only=True):
    """What gather_object brought the main process: (index, digest of the record), a part at a time until the `last`."""

    records: list[tuple[int, str]]
    last: bool


class Work(Message, frozen=True, kw_only=True):
    """A batch to generate; for a continuous rank, more prompts for the rows that fall free.

    `measure` asks for the time of every decode step; without `keep` the records are not wanted, only the
    accounting; `max_new_tokens` cuts the batch short (a warm-up). `stream` is the number by which a continuous rank's
    batch goes, that of its first order; one that comes after that stream has failed was meant for it, and is dropped.
    """

    batch: int
    prompts: list[Prompt]
    measure: bool = False
    keep: bool = True
    max_new_tokens: int | None = None
    stream: int | None = None


class Cancel(Message, frozen=True, kw_only=True):
    """Abandon `batch` within a decode step; report nothing of it."""

    batch: int


class Limit(Message, frozen=True, kw_only=True):
    """To a continuous rank: so many rows at most are to be generated at once, from its next step on."""

    rows: int


class ShareCores(Message, frozen=True, kw_only=True):
    """On a CPU: so many ranks are at work and share the cores, from the next decode step on."""

    ranks: int


class Leave(Message, frozen=True, kw_only=True):
    """There is no more work. In `split` dispatch the ranks gather first."""

    gather: bool = False


class ViewerHello(Message, frozen=True, kw_only=True):
    """A viewer's greeting; it is answered with a Snapshot, or Refused."""

    version: int = PROTOCOL_VERSION


class Refused(Message, frozen=True, kw_only=True):
    """The supervisor will not talk to this peer, and why."""

    reason: str


class Stop(Message, frozen=True, kw_only=True):
    """End the run: after the batches in flight, or `now`, abandoning them."""

    now: bool = False


class SetBatchSize(Message, frozen=True, kw_only=True):
    """Use this batch size from each rank's next batch on; None has the best size searched for."""

    batch_size: int | None


class SetActiveRanks(Message, frozen=True, kw_only=True):
    """Give batches to ranks 0 to `active_ranks` - 1 only."""

    active_ranks: int


class StartSweep(Message, frozen=True, kw_only=True):
    """Measure these settings on the prompts that are left, then go on at the chosen one; None ends a sweep."""

    plan: SweepPlan | None


class Pause(Message, frozen=True, kw_only=True):
    """Hand out no batch until Resume; those in flight are finished."""


class Resume(Message, frozen=True, kw_only=True):
    """Hand out batches again."""


FromRank = (
    RankHello
    | RankPhase
    | RankReady
    | Share
    | Steps
    | Output
    | RankAccount
    | BatchFinished
    | BatchFailed
    | RankFailed
    | Gathered
    | LogLine
)


ToRank = Work | Limit | Cancel | ShareCores | Leave | Refused


Greeting = RankHello | ViewerHello


Command = Stop | SetBatchSize | SetActiveRanks | StartSweep | Pause | Resume
