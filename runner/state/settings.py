"""What each setting of a run brought: a row per batch size and number of active ranks. Pure.

Every figure is of whole batches that began and ended under the setting, of all its periods together. Does not know how
a row is shown, nor what a setting that never ran would bring (`runner.forecast`).
"""

from collections.abc import Sequence

import msgspec

from rankdeck.runner.protocol import RankReady
from rankdeck.runner.state.load import LoadMeans, known_mean
from rankdeck.runner.state.periods import KnobPeriod, merged
from rankdeck.runner.state.run import RunState
from rankdeck.runner.sweep.matrix_share import matrix_rates
from rankdeck.runner.sweep.mbu import mbu_of
from rankdeck.runner.sweep.peak_bandwidth import bandwidths
from rankdeck.runner.sweep.scaling import efficiency, speedup


class SettingRow(msgspec.Struct, frozen=True, kw_only=True):
    """One setting. `half_width` is that of the 95 % interval of `tokens_per_second`, None with too few batches.

    `speedup` is over one rank at the same batch size: None if that never ran, or if either has only cold batches.
    `mbu` (of decode steps) and `matrix_share` (of all that was computed) are shares of what the devices reach at most,
    0 to 1. Unlike a row of a sweep (`runner.sweep.scaling.Scaling`) it is written to no file.
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

    @property
    def setting(self) -> tuple[int, int]:
        """Batch size and active ranks."""
        return self.batch_size, self.active_ranks

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
        """Output tokens per joule of the GPUs in use, those of them that wait for others included."""
        watts = self.load.watts.value
        return self.tokens_per_second / watts if watts else None


def settings(periods: Sequence[KnobPeriod], ready: Sequence[RankReady] = ()) -> list[SettingRow]:
    """A row for each setting that was measured, by batch size and then by active ranks.

    `ready` are the ranks, for what their devices reach at most.
    """
    found: dict[tuple[int, int], KnobPeriod] = {}
    for period in periods:
        if period.tokens_per_second is not None:
            setting = period.batch_size, period.active_ranks
            found[setting] = merged(found[setting], period) if setting in found else period
    limits = _Limits(ready)
    return [_row(found[setting], found.get((setting[0], 1)), limits) for setting in sorted(found)]


def all_settings(state: RunState) -> list[SettingRow]:
    """The settings of a run."""
    return settings(state.periods, [rank.ready for rank in state.ranks if rank.ready is not None])


def current_setting(state: RunState) -> SettingRow | None:
    """The figures of the present setting, once measured."""
    here = state.batch_size, state.active_ranks
    same = [period for period in state.periods if (period.batch_size, period.active_ranks) == here]
    rows = settings(same, [rank.ready for rank in state.ranks if rank.ready is not None])
    return rows[0] if rows else None


def best_setting(rows: Sequence[SettingRow]) -> SettingRow | None:
    """The setting with the most tokens/s; None unless two can be compared."""
    compared = [row for row in rows if not row.cold]
    return max(compared, key=lambda row: row.tokens_per_second) if len(compared) >= 2 else None


class _Limits:
    """What the devices of some ranks reach at most, and the shares of it that a period took."""

    def __init__(self, ready: Sequence[RankReady]) -> None:
        self._ready = {rank.rank: rank for rank in ready}
        self._bandwidths, self._rates = bandwidths(ready), matrix_rates(ready)

    def mbu(self, period: KnobPeriod) -> float | None:
        """Of the GPUs; on a CPU the mean over the ranks, each held against what its own threads copy."""
        ranks = self._ranks_of(period)
        read = {rank.rank: period.shares[rank.rank].read for rank in ranks}
        if any(rank.device != "cpu" for rank in ranks):
            return mbu_of(ranks, read, self._bandwidths)
        return known_mean(mbu_of([rank], read, self._bandwidths) for rank in ranks)

    def matrix_share(self, period: KnobPeriod) -> float | None:
        """The mean over the devices; ranks that share one add up, and each has its own threads of a CPU."""
        devices: dict[str, float] = {}
        for rank in self._ranks_of(period):
            share, rate = period.shares[rank.rank], self._rates.get(rank.rank)
            if not rate or not share.flops or share.seconds <= 0:
                return None
            alone = f"cpu of rank {rank.rank}" if rank.device == "cpu" else rank.device
            keys = rank.device_uuids or [rank.device_uuid or alone]
            for key in keys:
                devices[key] = devices.get(key, 0.0) + share.flops / share.seconds / rate / len(keys)
        return known_mean(devices.values())

    def _ranks_of(self, period: KnobPeriod) -> list[RankReady]:
        return [self._ready[rank] for rank in sorted(period.shares) if rank in self._ready]


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
    )
