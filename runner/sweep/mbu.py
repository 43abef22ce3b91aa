"""Memory bandwidth utilisation (MBU) of decode steps: bytes they must read / their time / peak bandwidth. Pure.

A step reads the weights once, and the keys and values of the rows that are in it (Databricks, "LLM Inference
Performance Engineering", 2023). Of a mixture of experts it reads those that its rows were routed to.

Bytes and seconds are sums over batches (`Reading`), which a period or a trial keeps instead of its batches.

It is a figure of GPUs, as busy and DRAM are: ranks that share one read side by side, so their rates add up; a rank that
is spread over several reads from each its part. Layers come one after another, so only one of those several is at work
at a time, and each gets to 1 / their number at most. All ranks on a CPU share one memory, and are held against what one
of them copied with its threads before the run, an equal share of the cores. Where that does not use the memory fully,
several ranks together can come to more than 1, and so can one that is at work alone with more threads.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from rankdeck.runner.protocol import BatchResult, Experts, RankReady
from rankdeck.runner.protocol.config import CONTINUOUS_ENGINES


class Reading(msgspec.Struct, frozen=True, array_like=True):
    """What decode steps of one rank had to read, in bytes, and their time in seconds; sums over its batches."""

    bytes: float = 0.0
    seconds: float = 0.0

    def plus(self, other: "Reading") -> "Reading":
        """Both together."""
        return Reading(self.bytes + other.bytes, self.seconds + other.seconds)


def reading_of(rank: RankReady, result: BatchResult) -> Reading | None:
    """What a batch's decode steps had to read of the memory of `rank`; None where that is not known."""
    if _why_no_reading(rank) is not None:
        return None
    return Reading(_read_bytes(rank, result), result.decode_seconds)


def why_no_mbu(ranks: Sequence[RankReady], bandwidth: Mapping[int, float]) -> str | None:
    """Why these ranks have no MBU, for people; None if they have. `bandwidth` is as in `mbu`."""
    for rank in ranks:
        if why := _why_no_reading(rank):
            return why
        if not bandwidth.get(rank.rank):
            return f"the memory bandwidth of {rank.device_name} is not known"
    return None


def _why_no_reading(rank: RankReady) -> str | None:
    if rank.engine in CONTINUOUS_ENGINES:
        return f"decode steps of the {rank.engine} engine hold prefills of other rows"
    if not rank.weight_read_bytes or rank.kv_bytes_per_token is None:
        return "how many bytes a decode step of this model reads is not known"
    if rank.experts is not None and not (rank.experts.count and rank.experts.per_token):
        return "how many of this model's experts a token uses is not known"
    return None


def mbu(
    ranks: Sequence[RankReady], batches: Mapping[int, Sequence[BatchResult]], bandwidth: Mapping[int, float]
) -> float | None:
    """`mbu_of` these batches, by rank."""
    read = {rank.rank: _sum(reading_of(rank, result) for result in batches[rank.rank]) for rank in ranks}
    return mbu_of(ranks, {number: reading for number, reading in read.items() if reading is not None}, bandwidth)


def mbu_of(ranks: Sequence[RankReady], readings: Mapping[int, Reading], bandwidth: Mapping[int, float]) -> float | None:
    """The mean over the devices of these ranks, 0 to 1; None where it is not known, or a rank has no reading.

    `readings` has each rank's, and `bandwidth` the peak of its device, or of one of its devices, in bytes/s
    (`bandwidths`).
    """
    if not ranks or why_no_mbu(ranks, bandwidth) is not None:
        return None
    devices: dict[str, float] = {}
    for rank in ranks:
        reading = readings.get(rank.rank)
        if reading is None or reading.seconds <= 0:
            return None
        rate = reading.bytes / reading.seconds
        keys = rank.device_uuids or [rank.device_uuid or rank.device]
        for key in keys:
            devices[key] = devices.get(key, 0.0) + rate / len(keys) / bandwidth[rank.rank]
    return statistics.fmean(devices.values())


def _sum(readings: Iterable[Reading | None]) -> Reading | None:
    """All of them together; None if one is not known."""
    total = Reading()
    for reading in readings:
        if reading is None:
            return None
        total = total.plus(reading)
    return total


def _read_bytes(rank: RankReady, result: BatchResult) -> float:
    """Bytes that the decode steps of a batch must read: all but the first step, which is the prefill."""
    steps = max(0, result.steps - 1)
    if not steps:
        return 0.0
    rows = (result.decode_slots - result.rows) / steps
    weights = (rank.weight_read_bytes or 0) - unread_expert_bytes(rank.experts, rows)
    return steps * weights + (rank.kv_bytes_per_token or 0) * result.cache_slots


def unread_expert_bytes(experts: Experts | None, rows: float) -> float:
    """Bytes of routed experts that a step of so many rows leaves out.

    A token leaves an expert out with probability 1 - per_token / count if routing is uniform, and all rows do with that
    to the power of `rows`. Routers favour some experts, so a real step reads fewer: MBU is on the high side.
    """
    if experts is None or not experts.count or not experts.per_token:
        return 0.0
    left_out: float = max(0.0, 1 - experts.per_token / experts.count) ** rows
    return experts.bytes * left_out
