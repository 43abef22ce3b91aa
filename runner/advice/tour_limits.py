"""What a tour may try: where it cannot begin, and which settings the prompts and the memory left allow. Pure.

Knows the state, and nothing of where a tour stands (`runner.advice.tour`).
"""

from math import ceil
from typing import NamedTuple

from rankdeck.runner.protocol.config import MAX_BATCH_SIZE
from rankdeck.runner.scheduling.rounds import batches_needed
from rankdeck.runner.state import RunState
from rankdeck.runner.state.periods import KnobPeriod

LEAST_SECONDS = 2.0
"""A setting is measured for at least this long on each rank."""

LARGEST = 256
"""No batch size beyond this is tried."""

LEAST_ROUNDS = 2
"""A setting is tried only if at least this many of its rounds are left, besides the batches in hand."""

LEAST_FULL = 0.9
"""It is tried only while the even rounds of what is left have batches of at least this share of its size."""


class Setting(NamedTuple):
    """Where the two knobs stand."""

    active_ranks: int
    batch_size: int


def why_no_tour(state: RunState) -> str | None:
    """Why a tour cannot begin now, for people; None if it can."""
    if state.ended is not None or state.phase == "stopping":
        return "the run is over" if state.ended is not None else "the run is stopping"
    if state.ready_at is None or not state.periods or state.phase != "running":
        return "not all ranks are ready"
    if state.config is not None and state.config.dispatch == "split":
        return "with --dispatch split every rank has its share of the prompts from the start"
    if state.sweeping:
        return "a sweep is running, and turns the knobs itself"
    if state.auto:
        return "the search for the best batch size is running"
    if state.paused is not None:
        return "the run is paused"
    if state.continuous and not state.stepwise and len(state.ranks) == 1:
        return "there is only one rank, and the continuous engine uses batch size differently"
    for rank in state.ranks:
        if rank.cap is not None and rank.cap < state.batch_size:
            return f"rank {rank.rank} ran out of memory, and takes batches of at most {rank.cap:,}"
    if not state.pending:
        return "every prompt is answered or in flight"
    if state.pending < _prompts_of_the_walk(state):
        steps = "1 rank" if len(state.ranks) == 1 else f"1 to {len(state.ranks)} ranks"
        return f"too few prompts are left to measure {steps} at batch size {state.batch_size:,}"
    return None


def steps_of_ranks(ranks: int) -> list[int]:
    """The walk of active ranks: 1, 2, 4 … all."""
    steps = [1]
    while steps[-1] < ranks:
        steps.append(min(2 * steps[-1], ranks))
    return steps


def enough(state: RunState, setting: Setting) -> bool:
    """Whether the prompts that no rank has in hand yet are enough for a setting."""
    return state.pending >= LEAST_ROUNDS * setting.active_ranks * setting.batch_size


def full(state: RunState, setting: Setting) -> bool:
    """Whether its batches would be full now, or nearly: even rounds cut the rest into smaller ones."""
    ranks, size = setting
    return state.continuous or state.pending >= LEAST_FULL * size * batches_needed(state.pending, ranks, size)


def too_large(state: RunState, setting: Setting) -> bool:
    """Whether a rank of the setting has run out of memory at less."""
    return any((rank.cap or MAX_BATCH_SIZE) < setting.batch_size for rank in state.ranks[: setting.active_ranks])


def fits(state: RunState, setting: Setting) -> bool:
    """Whether twice the rows fit in memory, judging by what the current rows take besides the weights."""
    if too_large(state, setting):
        return False
    for device in state.devices:
        free, more = device.sample.memory_free_bytes, 0
        for rank in state.ranks[: setting.active_ranks]:
            if rank.rank not in device.ranks or rank.peak_memory_bytes is None:
                continue
            weights = (rank.ready.parameter_bytes if rank.ready is not None else None) or 0
            kept_back = max(0, (rank.reserved_memory_bytes or 0) - rank.peak_memory_bytes)
            more += max(0, rank.peak_memory_bytes - weights) - kept_back
        if free is not None and more > free:
            return False
    return True


def is_measured(period: KnobPeriod, setting: Setting) -> bool:
    """Whether the period is of this setting, and long enough on each rank."""
    if (period.active_ranks, period.batch_size) != setting or period.warm_rate is None:
        return False
    return all(share.seconds >= LEAST_SECONDS for share in period.shares.values())


def _prompts_of_the_walk(state: RunState) -> int:
    """What it takes at least to measure each number of ranks, at the present batch size."""
    shares = [share for share in state.periods[-1].shares.values() if share.seconds > 0]
    shortest = min((share.seconds / share.batches for share in shares), default=LEAST_SECONDS)
    rounds = max(LEAST_ROUNDS, ceil(LEAST_SECONDS / shortest))
    return rounds * state.batch_size * sum(steps_of_ranks(len(state.ranks)))
