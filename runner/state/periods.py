"""What each setting of the knobs brought: tokens/s between two turns of a knob, measured over whole batches. Pure.

A *period* is the time during which batch size and active ranks stayed the same. A batch counts for a period if it
began and ended within it, with only the active ranks at work; so no figure mixes two settings. A period's tokens/s is
the sum over its ranks of output tokens / seconds in batches: what the setting yields while there is work, without the
uneven end of a run. A *cold* batch pays for what is done once (`runner.state.batches`), so it counts only as long as
its rank has no other in the period, and such a rate is compared with no other.
"""

import functools
import math
from collections.abc import Sequence

import msgspec

from rankdeck.runner.state.load import LoadMeans
from rankdeck.runner.sweep.intervals import sum_half_width
from rankdeck.runner.sweep.mbu import Reading

MAX_PERIODS = 200


class RankShare(msgspec.Struct, frozen=True, array_like=True):
    """One rank's whole batches of a period; while these are `cold`, a warm one takes their place.

    `rates` sums the batches' output tokens/s, `squares` the squares of these. `read` is what their decode steps had to
    read, and `flops` what they computed; zero where that is not known. Of their `slots` for tokens `padded_slots` held
    none; zero where that is not known, too. `rows` sums the batches' rows; zero for a continuous rank, whose rows come
    and go.
    """

    batches: int = 0
    tokens: int = 0
    seconds: float = 0.0
    cold: bool = False
    rates: float = 0.0
    squares: float = 0.0
    read: Reading = Reading()
    flops: float = 0.0
    slots: int = 0
    padded_slots: int = 0
    rows: int = 0

    def plus(self, other: "RankShare") -> "RankShare":
        """Both together, or the warm one alone."""
        if self.cold != other.cold:
            return other if self.cold else self
        return RankShare(
            self.batches + other.batches,
            self.tokens + other.tokens,
            self.seconds + other.seconds,
            self.cold,
            self.rates + other.rates,
            self.squares + other.squares,
            self.read.plus(other.read),
            self.flops + other.flops,
            self.slots + other.slots,
            self.padded_slots + other.padded_slots,
            self.rows + other.rows,
        )

    @property
    def standard_error(self) -> float | None:
        """Standard error of the mean of the batches' tokens/s; None with fewer than two batches."""
        if self.batches < 2:
            return None
        variance = max(0.0, self.squares - self.rates**2 / self.batches) / (self.batches - 1)
        return math.sqrt(variance / self.batches)


def share_of_batch(
    tokens: int,
    seconds: float,
    *,
    cold: bool = False,
    read: Reading | None = None,
    flops: float | None = None,
    slots: int = 0,
    padded_slots: int = 0,
    rows: int = 0,
) -> RankShare:
    """One whole batch."""
    rate = tokens / seconds if seconds > 0 else 0.0
    known = read or Reading(), flops or 0.0
    return RankShare(1, tokens, seconds, cold, rate, rate**2, *known, slots, padded_slots, rows)


NOTHING = RankShare(cold=True)


class KnobPeriod(msgspec.Struct, frozen=True, kw_only=True):
    """A time of unchanged knobs; `trial` if a sweep set them.

    `began` is in seconds since the first batch, memory is that of the rank with the highest peak. `load` has the
    samples before and at which every active rank, and no other, had a batch of the period in hand.
    """

    batch_size: int
    active_ranks: int
    number: int = 0
    began: float = 0.0
    auto: bool = False
    reason: str = ""
    trial: bool = False
    shares: dict[int, RankShare] = {}
    peak_memory_bytes: int | None = None
    reserved_memory_bytes: int | None = None
    load: LoadMeans = LoadMeans()

    @property
    def batches(self) -> int:
        return sum(share.batches for share in self.shares.values())

    @property
    def tokens_per_second(self) -> float | None:
        """Output tokens/s; None until every active rank has ended a whole batch."""
        measured = [share for share in self.shares.values() if share.seconds > 0]
        if len(measured) < self.active_ranks:
            return None
        return sum(share.tokens / share.seconds for share in measured)

    @property
    def mean_rows(self) -> float | None:
        """Rows of a batch: fewer than the batch size where ranks ran out of memory, and where rounds are evened out."""
        rows = sum(share.rows for share in self.shares.values())
        return rows / self.batches if rows else None

    @property
    def padding_waste(self) -> float | None:
        """Share of the token slots of its batches that held no token, 0 to 1; None where no batch tells."""
        slots = sum(share.slots for share in self.shares.values())
        return sum(share.padded_slots for share in self.shares.values()) / slots if slots else None

    @property
    def half_width(self) -> float | None:
        """Half-width of the 95 % interval of `tokens_per_second`, from one batch to the next on each rank.

        None until every active rank has ended two batches. It tells how much batches differ, in length most of all; it
        knows nothing of drift in the course of a run.
        """
        errors = [(share.standard_error, share.batches) for share in self.shares.values() if share.seconds > 0]
        known = [(error, batches) for error, batches in errors if error is not None]
        if not known or len(known) < self.active_ranks:
            return None
        return sum_half_width(known)

    @property
    def cold(self) -> bool:
        """Whether a rank has only cold batches."""
        return any(share.cold for share in self.shares.values())

    @property
    def warm_rate(self) -> float | None:
        """Output tokens/s to compare with other settings: None until every active rank has ended a warm batch."""
        return None if self.cold else self.tokens_per_second

    def with_batch(
        self, rank: int, share: RankShare, peak_memory_bytes: int | None = None, reserved: int | None = None
    ) -> "KnobPeriod":
        """The period with one more whole batch of `rank`."""
        return msgspec.structs.replace(
            self,
            shares={**self.shares, rank: self.shares.get(rank, NOTHING).plus(share)},
            peak_memory_bytes=most(self.peak_memory_bytes, peak_memory_bytes),
            reserved_memory_bytes=most(self.reserved_memory_bytes, reserved),
        )


def with_new_period(
    periods: tuple[KnobPeriod, ...],
    began: float,
    batch_size: int,
    active_ranks: int,
    *,
    auto: bool,
    reason: str,
    trial: bool,
) -> tuple[KnobPeriod, ...]:
    """The periods after a knob was turned. A period without a whole batch is replaced by one that began with it."""
    number = periods[-1].number + 1 if periods else 0
    new = KnobPeriod(
        batch_size=batch_size,
        active_ranks=active_ranks,
        number=number,
        began=began,
        auto=auto,
        reason=reason,
        trial=trial,
    )
    if periods and not periods[-1].batches and periods[-1].began == began:
        periods = periods[:-1]
    return (*periods, new)[-MAX_PERIODS:]


def merged(one: KnobPeriod, other: KnobPeriod) -> KnobPeriod:
    """Two periods of one setting as one, which began with the first."""
    shares = dict(one.shares)
    for rank, share in other.shares.items():
        shares[rank] = shares.get(rank, NOTHING).plus(share)
    return msgspec.structs.replace(
        one,
        shares=shares,
        peak_memory_bytes=most(one.peak_memory_bytes, other.peak_memory_bytes),
        reserved_memory_bytes=most(one.reserved_memory_bytes, other.reserved_memory_bytes),
        load=one.load.with_all(other.load),
    )


def whole_setting(periods: Sequence[KnobPeriod], period: KnobPeriod) -> KnobPeriod:
    """All periods of this one's setting as one; those of trials, which may cut answers short, are kept apart."""
    key = period.batch_size, period.active_ranks, period.trial
    same = [one for one in periods if (one.batch_size, one.active_ranks, one.trial) == key]
    return functools.reduce(merged, same) if same else period


def most(*figures: int | None) -> int | None:
    """The largest figure that is known."""
    return max((figure for figure in figures if figure is not None), default=None)
