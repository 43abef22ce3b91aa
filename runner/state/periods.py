"""What each setting of the knobs brought: tokens/s between two turns of a knob, measured over whole batches.

Pure. A *stretch* is the time during which batch size and active ranks stayed the same. A batch counts
for a stretch if it began and ended inside it, with only the active ranks at work; so a figure is never
a mixture of two settings. A stretch's tokens/s is the sum over its ranks of output tokens / seconds in
batches: what the setting yields while there is work, without the ragged end of a run.
"""

from collections.abc import Sequence

import msgspec

MAX_STRETCHES = 200


class RankShare(msgspec.Struct, frozen=True, array_like=True):
    """One rank's whole batches of a stretch."""

    batches: int = 0
    tokens: int = 0
    seconds: float = 0.0


class Stretch(msgspec.Struct, frozen=True, kw_only=True):
    """A time of unchanged knobs, perhaps a `trial`. `began` is in seconds since the first batch; bytes are per rank."""

    batch_size: int
    active_ranks: int
    number: int = 0
    began: float = 0.0
    auto: bool = False
    reason: str = ""
    trial: bool = False
    shares: dict[int, RankShare] = {}
    peak_memory_bytes: int | None = None

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

    def with_batch(self, rank: int, tokens: int, seconds: float, peak_memory_bytes: int | None) -> "Stretch":
        """The stretch with one more whole batch."""
        share = self.shares.get(rank, RankShare())
        peaks = [peak for peak in (self.peak_memory_bytes, peak_memory_bytes) if peak is not None]
        return msgspec.structs.replace(
            self,
            shares={**self.shares, rank: RankShare(share.batches + 1, share.tokens + tokens, share.seconds + seconds)},
            peak_memory_bytes=max(peaks) if peaks else None,
        )


class ScalingRow(msgspec.Struct, frozen=True, kw_only=True):
    """What so many active ranks brought. `speedup` is over one rank at the same batch size, where that was run."""

    active_ranks: int
    batch_size: int
    batches: int
    tokens_per_second: float
    speedup: float | None
    efficiency: float | None
    peak_memory_bytes: int | None


def turn(
    stretches: tuple[Stretch, ...],
    began: float,
    batch_size: int,
    active_ranks: int,
    *,
    auto: bool,
    reason: str,
    trial: bool,
) -> tuple[Stretch, ...]:
    """The stretches after a knob was turned. One that saw no whole batch and has the same knobs is not kept twice."""
    number = stretches[-1].number + 1 if stretches else 0
    new = Stretch(
        batch_size=batch_size,
        active_ranks=active_ranks,
        number=number,
        began=began,
        auto=auto,
        reason=reason,
        trial=trial,
    )
    if stretches and not stretches[-1].batches and stretches[-1].began == began:
        stretches = stretches[:-1]
    return (*stretches, new)[-MAX_STRETCHES:]


def scaling(stretches: Sequence[Stretch], batch_size: int) -> list[ScalingRow]:
    """A row per number of active ranks that was really run at `batch_size`, fewest first."""
    merged: dict[int, Stretch] = {}
    for stretch in stretches:
        if stretch.batch_size != batch_size or stretch.tokens_per_second is None:
            continue
        known = merged.get(stretch.active_ranks)
        merged[stretch.active_ranks] = stretch if known is None else _merge(known, stretch)
    rates = {ranks: stretch.tokens_per_second or 0.0 for ranks, stretch in merged.items()}
    alone = rates.get(1)
    return [
        ScalingRow(
            active_ranks=ranks,
            batch_size=batch_size,
            batches=merged[ranks].batches,
            tokens_per_second=rates[ranks],
            speedup=rates[ranks] / alone if alone else None,
            efficiency=rates[ranks] / alone / ranks if alone else None,
            peak_memory_bytes=merged[ranks].peak_memory_bytes,
        )
        for ranks in sorted(merged)
    ]


def _merge(one: Stretch, other: Stretch) -> Stretch:
    shares = dict(one.shares)
    for rank, share in other.shares.items():
        mine = shares.get(rank, RankShare())
        shares[rank] = RankShare(mine.batches + share.batches, mine.tokens + share.tokens, mine.seconds + share.seconds)
    peaks = [stretch.peak_memory_bytes for stretch in (one, other) if stretch.peak_memory_bytes is not None]
    return msgspec.structs.replace(one, shares=shares, peak_memory_bytes=max(peaks) if peaks else None)
