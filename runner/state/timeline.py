"""What each rank did when, over the whole run: a lane of spans per rank, and how busy the devices were. Pure.

Made from events alone (`runner.state.timeline_reducer`), like the state that it is part of. Seconds count from the
start of the supervisor; in a resumed run the time between its supervisors is left out.

It stays small however long the run: a lane with more spans than its share of MOST_SPANS keeps its newest quarter as it
is, and joins older neighbours that together are shorter than a limit, the same for the whole lane. A joined span says
how many it stands for, and has their sums. Does not know what the gaps between spans mean (`runner.advice.segments`).
"""

from itertools import groupby
from typing import Literal

import msgspec

from rankdeck.runner.state.load import threads_in_use

MOST_SPANS = 4096
"""In all lanes together."""

LEAST_OF_A_LANE = 96
"""A lane may always have this many; with 64 ranks that makes somewhat more than MOST_SPANS."""

BUSY_POINTS = 512
BUSY_SERIES = 16
"""With more devices than this only their mean is kept."""

MOST_HOLDS = 256

SpanKind = Literal[
    "batch",
    "stint",
    "failed",
    "lost",
    "stopped",
    "down",
    "starting",
    "importing",
    "joining",
    "loading",
    "compiling",
    "warming up",
    "ready",
]
"""`stint`: an account of a continuous rank; `lost`: a batch whose rank was lost; `down`: the rank is lost and not yet
launched again; `ready`: it waits for the other ranks."""

WORK: tuple[SpanKind, ...] = ("batch", "stint", "failed", "lost", "stopped")
LOADING: tuple[SpanKind, ...] = ("starting", "importing", "joining", "loading", "compiling", "warming up")


class Work(msgspec.Struct, frozen=True, array_like=True):
    """The figures of a batch or account, or the sums of several."""

    prompt_tokens: int = 0
    output_tokens: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    steps: int = 0
    row_steps: int = 0
    slots: int = 0
    padded_slots: int = 0

    @property
    def padding_waste(self) -> float | None:
        return self.padded_slots / self.slots if self.slots else None


class Span(msgspec.Struct, frozen=True, array_like=True):
    """Something a rank did from `began` to `ended`. `batch` is its number, or that of the first of joined spans.

    `joined` is how many spans this one stands for, `gaps` the seconds between them.
    """

    kind: SpanKind
    began: float
    ended: float
    batch: int = 0
    rows: int = 0
    attempt: int = 1
    work: Work | None = None
    joined: int = 1
    gaps: float = 0.0

    @property
    def seconds(self) -> float:
        return self.ended - self.began


class Lane(msgspec.Struct, frozen=True, array_like=True):
    """One rank's spans in order of time, and the present one, whose `ended` has no meaning yet.

    `threads` are those that it loaded with, on a CPU: its equal share of the `cores` with all ranks. The rows of a
    `stepwise` one stand still while the run is paused.
    """

    spans: tuple[Span, ...] = ()
    open: Span | None = None
    threads: int | None = None
    cores: int | None = None
    stepwise: bool = False


class Hold(msgspec.Struct, frozen=True, array_like=True):
    """A pause, and why; `ended` is None while it lasts."""

    began: float
    ended: float | None
    reason: str


class BusyPoint(msgspec.Struct, frozen=True, array_like=True):
    """How busy each device was up to `at`, in percent; None if unknown."""

    at: float
    percents: tuple[int | None, ...]


class Timeline(msgspec.Struct, frozen=True, kw_only=True):
    """All lanes on one clock: the supervisor's unix time `zero_at` is `zero` seconds on it.

    `origins` has the first batch of each supervisor: the seconds of work before it, and its time on this clock.
    `active` has the number of active ranks, each with the time from which it held.
    """

    zero_at: float = 0.0
    zero: float = 0.0
    attempt: int = 1
    lanes: tuple[Lane, ...] = ()
    origins: tuple[tuple[float, float], ...] = ()
    pauses: tuple[Hold, ...] = ()
    active: tuple[tuple[float, int], ...] = ()
    busy: tuple[BusyPoint, ...] = ()
    busy_step: float = 1.0
    busy_of: Literal["GPU", "CPU"] = "GPU"

    def moment(self, at: float) -> float:
        """Unix seconds `at`, converted to this clock."""
        return round(self.zero + max(0.0, at - self.zero_at), 4)

    def threads(self, rank: int) -> int | None:
        """How many threads a rank may use now, which is more while fewer share the cores; None on a GPU."""
        if not 0 <= rank < len(self.lanes):
            return None
        active = self.active[-1][1] if self.active else len(self.lanes)
        at_work = [lane.open is not None and lane.open.kind in WORK for lane in self.lanes]
        sharing = sum(number < active or working for number, working in enumerate(at_work))
        return threads_in_use(self.lanes[rank].threads, self.lanes[rank].cores, len(self.lanes), sharing)

    @property
    def first_batch(self) -> float | None:
        return self.origins[0][1] if self.origins else None

    def of_work(self, elapsed: float) -> float:
        """On this clock, the time `elapsed` seconds of work after the first batch: the clock of marks and tokens/s."""
        origins = self.origins or ((0.0, 0.0),)
        before, moment = next((one for one in reversed(origins) if elapsed >= one[0]), origins[0])
        return moment + elapsed - before


def thinned(spans: tuple[Span, ...], most: int) -> tuple[Span, ...]:
    """At most three quarters of `most` spans: the newest quarter as they are, older ones joined to even lengths.

    Only spans of one kind are joined, so that no lost batch turns into a good one. If kinds alternate so often that
    neighbours are seldom alike, time is cut into even slices, and each keeps one span for each kind in it.
    """
    keep = most // 4
    old, newest = spans[:-keep], spans[-keep:]
    # Neighbours that were not joined are together longer than this: so at most most / 2 are left if all are alike.
    fine = (old[-1].ended - old[0].began) * 4 / most
    joined = _neighbours(old, fine)
    return (*(joined if len(joined) <= most // 2 else _by_kind(old, most // 2)), *newest)


def _alike(span: Span) -> tuple[SpanKind, bool]:
    """What spans must have in common to be joined: their kind, and whether they belong to a relaunch."""
    return span.kind, span.attempt > 1


def _neighbours(spans: tuple[Span, ...], longest: float) -> list[Span]:
    """Neighbours joined to spans of `longest` seconds at most."""
    joined = [spans[0]]
    for span in spans[1:]:
        if span.ended - joined[-1].began <= longest and _alike(span) == _alike(joined[-1]):
            joined[-1] = _joined(joined[-1], span)
        else:
            joined.append(span)
    return joined


def _by_kind(spans: tuple[Span, ...], most: int) -> list[Span]:
    """At most `most` spans, or one for each kind: in a slice of time each kind is joined, one after the other."""
    began = spans[0].began
    slices = max(1, most // len({_alike(span) for span in spans}))
    length = (spans[-1].ended - began) / slices or 1.0
    joined: list[Span] = []
    for _, within in groupby(spans, lambda span: min(slices - 1, int((span.began - began) / length))):
        kinds: dict[tuple[SpanKind, bool], list[Span]] = {}
        for span in within:
            kinds.setdefault(_alike(span), []).append(span)
        at = next(iter(kinds.values()))[0].began
        for of_a_kind in kinds.values():
            for number, span in enumerate(of_a_kind):
                moved = msgspec.structs.replace(span, began=at, ended=at + span.seconds)
                at = moved.ended
                if number:
                    joined[-1] = _joined(joined[-1], moved)
                else:
                    joined.append(moved)
    return joined


def _joined(one: Span, other: Span) -> Span:
    longer = one if one.seconds >= other.seconds else other
    work = one.work or other.work
    if one.work is not None and other.work is not None:
        sums = (
            round(mine + theirs, 4)
            for mine, theirs in zip(msgspec.structs.astuple(one.work), msgspec.structs.astuple(other.work), strict=True)
        )
        work = Work(*sums)
    return Span(
        kind=longer.kind,
        began=one.began,
        ended=other.ended,
        batch=one.batch or other.batch,
        rows=one.rows + other.rows,
        attempt=longer.attempt,
        work=work,
        joined=one.joined + other.joined,
        gaps=round(one.gaps + other.gaps + max(0.0, other.began - one.ended), 4),
    )


def mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def halved(points: tuple[BusyPoint, ...]) -> tuple[BusyPoint, ...]:
    """Half as many points: the mean of each pair, at the later of its two times."""
    means_of_pairs = []
    for one, other in zip(points[::2], points[1::2], strict=False):
        pairs = zip(one.percents, other.percents, strict=False)
        means = [mean(list(pair)) for pair in pairs]
        means_of_pairs.append(BusyPoint(other.at, tuple(None if mean is None else round(mean) for mean in means)))
    return tuple(means_of_pairs)
