"""Measures one trial: batches and GPU samples go in, a TrialResult comes out.

Pure: times are arguments, on the run's clock. Does not decide when a trial is over.
"""

import statistics
from collections.abc import Mapping, Sequence

from rankdeck.runner.protocol import BatchResult, DeviceSample, RankReady
from rankdeck.runner.protocol.sweep_plan import TrialResult
from rankdeck.runner.state.rank_gpus import match_rank_to_gpus
from rankdeck.runner.sweep.mbu import mbu


class TrialMeter:
    """Collects the figures of the active ranks of one trial, from `started` on."""

    def __init__(self, ranks: Sequence[RankReady], started: float) -> None:
        self._ranks, self._started, self._ended = ranks, started, started
        self._batches: dict[int, list[tuple[float, BatchResult]]] = {rank.rank: [] for rank in ranks}
        self._samples: dict[str, list[tuple[float, DeviceSample]]] = {}
        self._with_samples: set[int] = set()

    def add_batch(self, rank: int, began: float, ended: float, result: BatchResult) -> None:
        """Add a batch of `rank` that was handed out at `began` and finished at `ended`."""
        self._batches[rank].append((ended - began, result))
        self._ended = max(self._ended, ended)

    def add_samples(self, at: float, samples: Sequence[DeviceSample]) -> None:
        """Add NVML's samples taken at `at`, of the GPUs of the trial's ranks."""
        found = {rank.rank: match_rank_to_gpus(rank, samples) for rank in self._ranks}
        wanted = {rank.rank: max(1, len(rank.device_uuids)) for rank in self._ranks}
        self._with_samples |= {rank for rank, positions in found.items() if len(positions) >= wanted[rank]}
        for position in {position for positions in found.values() for position in positions}:
            self._samples.setdefault(samples[position].uuid, []).append((at, samples[position]))

    def result(self, bandwidth: Mapping[int, float]) -> TrialResult:
        """The figures; `bandwidth` is the peak memory bandwidth of each rank's device in bytes/s, where known."""
        seconds = max(1e-9, self._ended - self._started)
        done = [result for batches in self._batches.values() for _, result in batches]
        output_tokens = sum(result.output_tokens for result in done)
        prompt_tokens = sum(result.prompt_tokens for result in done)
        padded = [(result.padded_slots, result.slots) for result in done if result.padded_slots is not None]
        slots = sum(whole for _, whole in padded)
        in_hand = sum(taken for batches in self._batches.values() for taken, _ in batches)
        steps = sorted(step for result in done for step in result.step_seconds or ())
        peaks = [self._peak(rank) for rank in self._batches]
        known = [peak for peak in peaks if peak is not None]
        reserves = [result.reserved_memory_bytes for result in done if result.reserved_memory_bytes is not None]
        watts = self._watts()
        return TrialResult(
            rounds=min(len(batches) for batches in self._batches.values()),
            batches=len(done),
            seconds=seconds,
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            tokens_per_second=output_tokens / seconds,
            total_tokens_per_second=(prompt_tokens + output_tokens) / seconds,
            rank_tokens_per_second=[
                sum(result.output_tokens for _, result in batches) / seconds for batches in self._batches.values()
            ],
            prefill_seconds=statistics.fmean(result.prefill_seconds for result in done),
            batch_seconds=in_hand / len(done),
            step_ms=(percentile(steps, 50) * 1000, percentile(steps, 90) * 1000, percentile(steps, 99) * 1000)
            if steps
            else None,
            padding_waste=sum(empty for empty, _ in padded) / slots if slots else None,
            idle=max(0.0, 1 - in_hand / (seconds * len(self._batches))),
            peak_memory_bytes=max(known) if known else None,
            rank_peak_memory_bytes=peaks,
            reserved_memory_bytes=max(reserves, default=None),
            busy_percent=self._mean("busy_percent"),
            dram_percent=self._mean("dram_percent"),
            tensor_percent=self._mean("tensor_percent"),
            power_watts=watts,
            tokens_per_joule=output_tokens / seconds / watts if watts else None,
            mbu=mbu(
                self._ranks, {rank: [result for _, result in self._batches[rank]] for rank in self._batches}, bandwidth
            ),
        )

    def _peak(self, rank: int) -> int | None:
        peaks = [result.peak_memory_bytes for _, result in self._batches[rank] if result.peak_memory_bytes is not None]
        return max(peaks) if peaks else None

    def _mean(self, figure: str) -> float | None:
        """The mean over time and GPUs."""
        means = []
        for samples in self._samples.values():
            values = [value for _, sample in samples if (value := getattr(sample, figure)) is not None]
            if values:
                means.append(statistics.fmean(values))
        return statistics.fmean(means) if means else None

    def _watts(self) -> float | None:
        """Mean power of all GPUs together, from the energy counters where they exist, else from sampled power.

        None where that of any rank's GPU is unknown: the tokens are those of all ranks.
        """
        if len(self._with_samples) < len(self._ranks):
            return None
        total = 0.0
        for samples in self._samples.values():
            counted = [(at, sample.energy_joules) for at, sample in samples if sample.energy_joules is not None]
            drawn = [sample.power_watts for _, sample in samples if sample.power_watts is not None]
            if len(counted) > 1 and counted[-1][0] > counted[0][0]:
                total += (counted[-1][1] - counted[0][1]) / (counted[-1][0] - counted[0][0])
            elif drawn:
                total += statistics.fmean(drawn)
            else:
                return None
        return total or None


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The `percent`-th percentile of `ordered` (ascending, not empty), interpolated linearly."""
    place = (len(ordered) - 1) * percent / 100
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)
