"""From the events of a run to the figures of its cases. Pure: a journal's events go in, lines of results come out.

A *stretch* is the time in which one setting was at work, without its warm-up batches. A sweep says
itself when its trials were; of a run whose knobs were turned, or that was watched for a while, the batches tell.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from rankdeck.runner.protocol import (
    AnyEvent,
    BatchFinished,
    BatchResult,
    BatchSizeChanged,
    BatchStarted,
    DeviceSample,
    RankReady,
    SweepStarted,
    Tick,
    TrialFinished,
    TrialWarm,
)
from rankdeck.runner.protocol.sweep_plan import TrialResult
from rankdeck.runner.state.rank_gpus import match_rank_to_gpus
from rankdeck.runner.supervisor.trial_meter import TrialMeter
from rankdeck.runner.sweep.peak_bandwidth import peak_bandwidth
from tests.benchmarks import nvidia_smi

NVML_FIGURES = ("busy_percent", "memory_used_bytes", "power_watts", "sm_clock_mhz")
GPM_FIGURES = ("sm_percent", "occupancy_percent", "tensor_percent", "dram_percent")


@dataclass(frozen=True)
class Batch:
    """A finished batch, with the times at which a rank began and ended it."""

    rank: int
    began: float
    ended: float
    result: BatchResult


@dataclass(frozen=True)
class Stretch:
    """A setting at work from `first` to `last`, and what it did in that time; `rows` of a full batch."""

    ranks: int
    rows: int
    first: float
    last: float
    result: TrialResult


@dataclass(frozen=True)
class TrialOver:
    """A trial that is over; without a stretch if it measured nothing."""

    event: TrialFinished
    stretch: Stretch | None


@dataclass(frozen=True)
class Told:
    """What a journal says, sorted by what it is about."""

    ready: dict[int, RankReady]
    batches: list[Batch]
    samples: list[tuple[float, list[DeviceSample]]]
    turned: dict[int, float]
    """When each batch size was set."""

    trials: list[TrialOver]

    source: str | None
    """Where a sweep's peak bandwidth comes from."""


def told(events: Iterable[AnyEvent]) -> Told:
    """Sort the events of a journal. What is cut off at its end is left out."""
    ready: dict[int, RankReady] = {}
    begun: dict[int, BatchStarted] = {}
    batches: list[Batch] = []
    samples: list[tuple[float, list[DeviceSample]]] = []
    turned: dict[int, float] = {}
    trials: list[TrialOver] = []
    warm, source = 0.0, None
    for event in events:
        if isinstance(event, RankReady):
            ready[event.rank] = event
        elif isinstance(event, BatchStarted):
            begun[event.batch] = event
        elif isinstance(event, BatchFinished):
            batches.append(Batch(event.rank, begun[event.batch].at, event.at, event.result))
        elif isinstance(event, BatchSizeChanged):
            turned[event.batch_size] = event.at
        elif isinstance(event, Tick) and event.devices:
            samples.append((event.at, event.devices))
        elif isinstance(event, SweepStarted):
            source = event.bandwidth_source
        elif isinstance(event, TrialWarm):
            warm = event.at
        elif isinstance(event, TrialFinished):
            trials.append(TrialOver(event, _of_trial(event, warm)))
    return Told(ready, batches, samples, turned, trials, source)


def _of_trial(event: TrialFinished, warm: float) -> Stretch | None:
    trial, result = event.record.trial, event.record.result
    return None if result is None else Stretch(trial.active_ranks, trial.batch_size, warm, event.at, result)


def of_setting(journal: Told, ranks: int, batch_size: int, copied: float) -> Stretch | None:
    """A batch size that was set while the run went on: from each rank's second batch after that to the run's end."""
    since = journal.turned.get(batch_size)
    if since is None:
        return None
    after = [batch for batch in journal.batches if batch.began >= since]
    kept = [batch for rank in range(ranks) for batch in _of_rank(after, rank)[1:]]
    return _measured(journal, ranks, batch_size, kept, copied)


def between(journal: Told, batch_size: int, first: float, last: float, copied: float) -> Stretch | None:
    """The whole batches of rank 0 between two times, without the first of them."""
    inside = [batch for batch in _of_rank(journal.batches, 0) if first <= batch.began and batch.ended <= last]
    return _measured(journal, 1, batch_size, inside[1:], copied)


def _of_rank(batches: Sequence[Batch], rank: int) -> list[Batch]:
    return sorted((batch for batch in batches if batch.rank == rank), key=lambda batch: batch.began)


def _measured(journal: Told, ranks: int, rows: int, batches: Sequence[Batch], copied: float) -> Stretch | None:
    """As a sweep measures a trial; `copied` is the bandwidth of a copy, for a device that is in no table."""
    ready = [journal.ready[rank] for rank in range(ranks) if rank in journal.ready]
    if len(ready) < ranks or {batch.rank for batch in batches} != set(range(ranks)):
        return None
    first, last = min(batch.began for batch in batches), max(batch.ended for batch in batches)
    meter = TrialMeter(ready, first)
    for batch in batches:
        meter.add_batch(batch.rank, batch.began, batch.ended, batch.result)
    for at, devices in journal.samples:
        if first <= at <= last:
            meter.add_samples(at, devices)
    peak = peak_bandwidth(ready)[0] or copied
    return Stretch(ranks, rows, first, last, meter.result({rank.rank: peak for rank in ready}))


def figures(journal: Told, stretch: Stretch, smi: Sequence[nvidia_smi.Sample]) -> dict[str, Any]:
    """A case's line: what was done, and what NVML, GPM and nvidia-smi say of the GPUs meanwhile."""
    devices = seen(journal, stretch)
    ready = list(journal.ready.values())
    own = nvidia_smi.means(smi, stretch.first, stretch.last)
    on_one_gpu = len({device.uuid for device in devices}) == 1  # the one that nvidia-smi looks at
    return {
        **msgspec.to_builtins(stretch.result),
        "bandwidth_source": journal.source or peak_bandwidth(ready)[1] or "measured by a copy",
        "device_name": ready[0].device_name if ready else None,
        "nvml": means(devices, NVML_FIGURES),
        "gpm": means(devices, GPM_FIGURES),
        "unavailable": devices[-1].unavailable if devices else {},
        "nvidia_smi": own | (per_joule(stretch.result.tokens_per_second, own) if on_one_gpu else {}),
    }


def seen(journal: Told, stretch: Stretch) -> list[DeviceSample]:
    """The samples of the GPUs at work in that time."""
    ranks = [journal.ready[rank] for rank in range(stretch.ranks) if rank in journal.ready]
    return [
        devices[place]
        for at, devices in journal.samples
        if stretch.first <= at <= stretch.last
        for place in sorted({place for rank in ranks for place in match_rank_to_gpus(rank, devices)})
    ]


def means(samples: Sequence[DeviceSample], names: Sequence[str]) -> dict[str, float]:
    """The mean of each figure that is available, and the number of samples."""
    found: dict[str, float] = {}
    for name in names:
        values = [value for sample in samples if (value := getattr(sample, name)) is not None]
        if values:
            found[name] = round(statistics.fmean(values), 1)
    return found | ({"samples": len(samples)} if found else {})


def per_joule(tokens_per_second: float, means_of_smi: dict[str, float]) -> dict[str, float]:
    """Output tokens per joule by nvidia-smi's power, where it has one."""
    watts = means_of_smi.get("power_watts")
    return {"tokens_per_joule": round(tokens_per_second / watts, 4)} if watts else {}
