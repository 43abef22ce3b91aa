"""What each setting of a run brought: a row per batch size and number of active ranks. Pure.

Every figure is of whole batches that began and ended under the setting, of all its periods together. Does not know how
a row is shown, nor what a setting that never ran would bring (`runner.forecast`).
"""

import math
from collections.abc import Sequence

import msgspec

from rankdeck.runner.protocol import RankReady
from rankdeck.runner.state.load import LoadMeans, known_mean, threads_in_use
from rankdeck.runner.state.periods import KnobPeriod, merged
from rankdeck.runner.state.run import RunState
from rankdeck.runner.state.votes import Circumstances
from rankdeck.runner.sweep.matrix_share import matrix_rates
from rankdeck.runner.sweep.mbu import mbu_of
from rankdeck.runner.sweep.peak_bandwidth import bandwidths
from rankdeck.runner.sweep.scaling import efficiency, speedup

CLOSE = 0.9
"""A setting with less than this share of the best one's tokens/s is not called tied with it."""

FULL = 0.9
"""Batches of less than this share of the batch size are not full: a rank ran out of memory, or a run near its end
evened out its rounds."""


class SettingRow(msgspec.Struct, frozen=True, kw_only=True):
    """One setting. `half_width` is that of the 95 % interval of `tokens_per_second`, None with too few batches.

    `speedup` is over one rank at the same batch size: None if that never ran, or if either has only cold batches.
    `mbu` (of decode steps) and `matrix_share` (of all that was computed) are shares of what the devices reach at most,
    0 to 1; so is `padding_waste`, of all token slots. Unlike a row of a sweep (`runner.sweep.scaling.Scaling`) it is
    written to no file. `rows` is the mean of its batches, None for a continuous engine.
    """

    batch_size: int
    active_ranks: int
    batches: int
    tokens_per_second: float
    half_width: float | None
    cold: bool
    speedup: float | None
    load: LoadMeans
    peak_memory_bytes: int | None
    reserved_memory_bytes: int | None
    mbu: float | None = None
    matrix_share: float | None = None
    padding_waste: float | None = None
    rows: float | None = None

    @property
    def setting(self) -> tuple[int, int]:
        """Batch size and active ranks."""
        return self.batch_size, self.active_ranks

    @property
    def full(self) -> bool:
        """Whether its batches had about as many rows as the batch size says."""
        return self.rows is None or self.rows >= FULL * self.batch_size

    @property
    def efficiency(self) -> float | None:
        """Speedup per rank, as a share."""
        return None if self.speedup is None else efficiency(self.speedup, self.active_ranks)

    @property
    def per_rank(self) -> float:
        """Output tokens/s per active rank."""
        return self.tokens_per_second / self.active_ranks

    @property
    def tokens_per_joule(self) -> float | None:
        """Output tokens per joule of the GPUs in use, including those that wait for others."""
        watts = self.load.watts.value
        return self.tokens_per_second / watts if watts else None


def settings(periods: Sequence[KnobPeriod], ready: Sequence[RankReady] = ()) -> list[SettingRow]:
    """A row for each setting that was measured, by batch size and then by active ranks.

    Without the trials of a sweep: they may cut answers short, and have a table of their own. `ready` are the ranks, for
    what their devices reach at most.
    """
    found: dict[tuple[int, int], KnobPeriod] = {}
    for period in periods:
        if period.tokens_per_second is not None and not period.trial:
            setting = period.batch_size, period.active_ranks
            found[setting] = merged(found[setting], period) if setting in found else period
    limits = _Limits(ready)
    return [_row(found[setting], found.get((setting[0], 1)), limits) for setting in sorted(found)]


def all_settings(state: RunState) -> list[SettingRow]:
    """The settings of a run."""
    return settings(state.periods, [rank.ready for rank in state.ranks if rank.ready is not None])


def current_setting(state: RunState) -> SettingRow | None:
    """The figures of the present setting, once measured."""
    return _setting(state, state.batch_size, state.active_ranks)


def _setting(state: RunState, *here: int) -> SettingRow | None:
    """The row of this batch size and number of active ranks."""
    same = [period for period in state.periods if (period.batch_size, period.active_ranks) == here]
    rows = settings(same, [rank.ready for rank in state.ranks if rank.ready is not None])
    return rows[0] if rows else None


def circumstances(state: RunState, number: int | None) -> Circumstances:
    """What the votes need beside samples of the load in the period of this number, or in none.

    It is the figures of that period's setting; the ranks are taken as they are now.
    """
    period = next((one for one in reversed(state.periods) if one.number == number), None)
    row = _setting(state, period.batch_size, period.active_ranks) if period is not None else None
    active = [rank.ready for rank in state.ranks[: state.active_ranks] if rank.ready]
    return Circumstances(
        on_gpu=any(rank.device != "cpu" for rank in active),
        gpus_per_rank=known_mean(max(1, len(rank.device_uuids)) for rank in active) or 1.0,
        no_tensor_cores=any(rank.dtype.startswith(("float32", "float64")) for rank in active),
        measured=row is not None,
        mbu=row.mbu if row is not None else None,
        matrix_share=row.matrix_share if row is not None else None,
        padding_waste=row.padding_waste if row is not None else None,
        held=state.held.kind,
    )


def best_setting(rows: Sequence[SettingRow]) -> SettingRow | None:
    """The setting with the most tokens/s; None unless two can be compared."""
    compared = [row for row in rows if not row.cold]
    return max(compared, key=lambda row: row.tokens_per_second) if len(compared) >= 2 else None


class _Limits:
    """What the devices of some ranks reach at most, and the shares of it that a period took.

    On a CPU rank 0 measured both limits with its threads of that time, one of all ranks. With fewer ranks at work each
    has k times the threads, and is held against k times the limits. Matrix products come close to that; memory gives
    less to k threads than k times what it gives to one, so that MBU is then at least the figure given.
    """

    def __init__(self, ready: Sequence[RankReady]) -> None:
        self._ready = {rank.rank: rank for rank in ready}
        self._bandwidths, self._rates = bandwidths(ready), matrix_rates(ready)

    def mbu(self, period: KnobPeriod) -> float | None:
        """Of the GPUs; on a CPU the mean over the ranks, each held against what its own threads copy."""
        ranks = self._ranks_of(period)
        read = {rank.rank: period.shares[rank.rank].read for rank in ranks}
        if any(rank.device != "cpu" for rank in ranks):
            return mbu_of(ranks, read, self._bandwidths)
        limits = {
            rank.rank: self._more_threads(rank, period) * bandwidth
            for rank in ranks
            if (bandwidth := self._bandwidths.get(rank.rank)) is not None
        }
        return known_mean(mbu_of([rank], read, limits) for rank in ranks)

    def matrix_share(self, period: KnobPeriod) -> float | None:
        """The mean over the devices; ranks that share one add up, and each has its own threads of a CPU."""
        devices: dict[str, float] = {}
        for rank in self._ranks_of(period):
            share, rate = period.shares[rank.rank], self._rates.get(rank.rank)
            if not rate or not share.flops or share.seconds <= 0:
                return None
            rate *= self._more_threads(rank, period)
            alone = f"cpu of rank {rank.rank}" if rank.device == "cpu" else rank.device
            keys = rank.device_uuids or [rank.device_uuid or alone]
            for key in keys:
                devices[key] = devices.get(key, 0.0) + share.flops / share.seconds / rate / len(keys)
        return known_mean(devices.values())

    def _more_threads(self, rank: RankReady, period: KnobPeriod) -> float:
        """How many times the threads a rank has in this period that it had when the limits were measured."""
        used = threads_in_use(rank.threads, rank.cores, len(self._ready), period.active_ranks)
        return used / rank.threads if used and rank.threads else 1.0

    def _ranks_of(self, period: KnobPeriod) -> list[RankReady]:
        return [self._ready[rank] for rank in sorted(period.shares) if rank in self._ready]


def tied_with(best: SettingRow, other: SettingRow) -> bool:
    """Whether the noise of their batches hides which of two settings is better; False where it is not known.

    Two batches have an interval so wide that nearly everything lies within it: only close settings are called tied.
    """
    if best.half_width is None or other.half_width is None or best.setting == other.setting:
        return False
    if other.tokens_per_second < CLOSE * best.tokens_per_second:
        return False
    return abs(best.tokens_per_second - other.tokens_per_second) <= math.hypot(best.half_width, other.half_width)


def _row(period: KnobPeriod, alone: KnobPeriod | None, limits: _Limits) -> SettingRow:
    rate, one = period.warm_rate, alone.warm_rate if alone is not None else None
    return SettingRow(
        batch_size=period.batch_size,
        active_ranks=period.active_ranks,
        batches=period.batches,
        tokens_per_second=period.tokens_per_second or 0.0,
        half_width=period.half_width,
        cold=period.cold,
        speedup=speedup(rate, one) if one and rate is not None else None,
        load=period.load,
        peak_memory_bytes=period.peak_memory_bytes,
        reserved_memory_bytes=period.reserved_memory_bytes,
        mbu=limits.mbu(period),
        matrix_share=limits.matrix_share(period),
        padding_waste=period.padding_waste,
        rows=period.mean_rows,
    )
