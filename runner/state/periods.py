"""What each setting of the knobs brought: tokens/s between two turns of a knob, measured over whole batches. Pure.

A *period* is the time during which batch size and active ranks stayed the same. A batch counts for a period if it
began and ended within it, with only the active ranks at work; so no figure mixes two settings. A period's tokens/s is
the sum over its ranks of output tokens / seconds in batches: what the setting yields while there is work, without the
uneven end of a run. A *cold* batch pays for what is done once (`runner.state.batches`), so it counts only as long as
its rank has no other in the period, and such a rate is compared with no other.
"""

from collections.abc import Sequence

import msgspec

from rankdeck.runner.sweep.scaling import efficiency, speedup

MAX_PERIODS = 200


class RankShare(msgspec.Struct, frozen=True, array_like=True):
    """One rank's whole batches of a period; while these are `cold`, a warm one takes their place."""

    batches: int = 0
    tokens: int = 0
    seconds: float = 0.0
    cold: bool = False

    def plus(self, other: "RankShare") -> "RankShare":
        """Both together, or the warm one alone."""
        if self.cold != other.cold:
            return other if self.cold else self
        return RankShare(
            self.batches + other.batches, self.tokens + other.tokens, self.seconds + other.seconds, self.cold
        )


NOTHING = RankShare(cold=True)


class KnobPeriod(msgspec.Struct, frozen=True, kw_only=True):
    """A time of unchanged knobs; `trial` if a sweep set them.

    `began` is in seconds since the first batch, memory is that of the rank with the highest peak.
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
    def cold(self) -> bool:
        """Whether a rank has only cold batches."""
        return any(share.cold for share in self.shares.values())

    @property
    def warm_rate(self) -> float | None:
        """Output tokens/s to compare with other settings: None until every active rank has ended a warm batch."""
        return None if self.cold else self.tokens_per_second

    def with_batch(
        self,
        rank: int,
        tokens: int,
        seconds: float,
        peak_memory_bytes: int | None,
        reserved: int | None = None,
        *,
        cold: bool = False,
    ) -> "KnobPeriod":
        """The period with one more whole batch."""
        share = self.shares.get(rank, NOTHING).plus(RankShare(1, tokens, seconds, cold))
        return msgspec.structs.replace(
            self,
            shares={**self.shares, rank: share},
            peak_memory_bytes=most(self.peak_memory_bytes, peak_memory_bytes),
            reserved_memory_bytes=most(self.reserved_memory_bytes, reserved),
        )


class ScalingRow(msgspec.Struct, frozen=True, kw_only=True):
    """What a number of active ranks brought. `speedup` is over one rank at the same batch size.

    It is None if that never ran, or if either has only cold batches. Unlike a row of a sweep
    (`runner.sweep.scaling.Scaling`) it has no noise and is written to no file.
    """

    active_ranks: int
    batch_size: int
    batches: int
    tokens_per_second: float
    speedup: float | None
    peak_memory_bytes: int | None
    reserved_memory_bytes: int | None

    @property
    def efficiency(self) -> float | None:
        """Speedup per rank, as a share."""
        return None if self.speedup is None else efficiency(self.speedup, self.active_ranks)


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


def scaling(periods: Sequence[KnobPeriod], batch_size: int) -> list[ScalingRow]:
    """A row for each number of active ranks that was measured at `batch_size`, fewest first."""
    merged: dict[int, KnobPeriod] = {}
    for period in periods:
        if period.batch_size != batch_size or period.tokens_per_second is None:
            continue
        known = merged.get(period.active_ranks)
        merged[period.active_ranks] = period if known is None else _merge(known, period)
    rates = {ranks: period.tokens_per_second or 0.0 for ranks, period in merged.items()}
    warm = {ranks: period.warm_rate for ranks, period in merged.items()}
    alone = warm.get(1)
    return [
        ScalingRow(
            active_ranks=ranks,
            batch_size=batch_size,
            batches=merged[ranks].batches,
            tokens_per_second=rates[ranks],
            speedup=speedup(rate, alone) if alone and (rate := warm[ranks]) is not None else None,
            peak_memory_bytes=merged[ranks].peak_memory_bytes,
            reserved_memory_bytes=merged[ranks].reserved_memory_bytes,
        )
        for ranks in sorted(merged)
    ]


def _merge(one: KnobPeriod, other: KnobPeriod) -> KnobPeriod:
    shares = dict(one.shares)
    for rank, share in other.shares.items():
        shares[rank] = shares.get(rank, NOTHING).plus(share)
    return msgspec.structs.replace(
        one,
        shares=shares,
        peak_memory_bytes=most(one.peak_memory_bytes, other.peak_memory_bytes),
        reserved_memory_bytes=most(one.reserved_memory_bytes, other.reserved_memory_bytes),
    )


def most(*figures: int | None) -> int | None:
    """The largest figure that is known."""
    return max((figure for figure in figures if figure is not None), default=None)
