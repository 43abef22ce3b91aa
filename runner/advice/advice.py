"""What the figures of a run suggest: one sentence each, with its reason and its figure. Pure functions of the state.

No rule speaks without evidence: each needs whole batches or a minute of samples, and says the figure it rests on.
"""

from collections.abc import Callable, Iterator

import msgspec

from rankdeck.runner.advice.cpu_share import starved_words
from rankdeck.runner.advice.slow_rank import SIMILAR_ROWS, slow_rank, slow_rank_words
from rankdeck.runner.forecast.forecast import what_if
from rankdeck.runner.scheduling.rounds import batches_needed
from rankdeck.runner.state import RunState
from rankdeck.runner.state.periods import KnobPeriod, whole_setting
from rankdeck.runner.state.settings import all_settings, best_setting

LEAST_BATCHES_A_RANK = 2
LEAST_SECONDS = 20.0
PADDING_WASTE = 0.35
IDLE = 0.15
BUSY_LOW_PERCENT = 60.0
BUSY_SAMPLES = 15
MEMORY_FREE = 0.5
MEMORY_FULL = 0.92
FOREIGN_BYTES = 512 * 2**20

FULL_CLOCK = 0.98
WORTH_PERCENT = 10.0
"""A smaller predicted gain is within the difference between one batch and the next."""

WORTH_ROUNDS = 2.0
"""Of a setting, below which the uneven end of the run decides what it brings."""

HARMLESS_THROTTLES = {"idle", "application clocks", "sync boost", "display clocks"}
"""Those words of runner.machine.gpu_metrics.throttle_words that are no reason for concern."""


class Advice(msgspec.Struct, frozen=True, kw_only=True):
    """One suggestion. `kind` names the rule, `text` is for people."""

    kind: str
    text: str


def advise(state: RunState) -> list[Advice]:
    """Everything worth saying now, the most useful first; empty before there is evidence.

    Nothing in a sweep: its trials turn the knobs on purpose.
    """
    if state.sweep is not None and (state.sweeping or not state.sweep.plan.outputs):
        return []
    return [advice for rule in RULES for advice in rule(state)]


def uneven_rounds(state: RunState) -> Iterator[Advice]:
    """Advice if a somewhat larger batch size would save a whole round."""
    if state.config is None or state.ready_at is None or state.prompts <= 0 or state.auto or state.continuous:
        return
    ranks, size = state.active_ranks, state.batch_size
    rounds = batches_needed(state.prompts, ranks, size) // ranks if ranks else 0
    if not 2 <= rounds <= 4:
        return
    better = -(-state.prompts // (ranks * (rounds - 1)))
    if better <= size * 1.6:
        some = "1 rank" if ranks == 1 else f"{ranks} ranks"
        need = "needs" if ranks == 1 else "need"
        yield Advice(
            kind="rounds",
            text=f"{some} at batch size {size} {need} {rounds} rounds for {state.prompts:,} prompts; "
            f"batch size {better} needs {rounds - 1}.",
        )


def _turn(state: RunState) -> Iterator[Advice]:
    """The turn of one knob that is predicted to bring the most.

    With less than a round left no turn is worth it. Another number of ranks is advised only if it was measured, and
    another batch size only if batches of two sizes were: anything else is a guess, and the table of settings calls it
    one.
    """
    late = state.pending < state.active_ranks * state.batch_size
    if late or state.auto or state.phase != "running" or state.paused is not None or not _measured(state):
        return
    wall = any(_memory(state))
    sizes = [point.rows for point in state.costs if point.active_ranks == state.active_ranks]
    one_size = not sizes or max(sizes) < SIMILAR_ROWS * min(sizes)
    turns = [
        turn
        for turn in what_if(state)
        if not (wall and turn.batch_size > state.batch_size)
        and not (turn.extrapolated and (one_size or turn.active_ranks != state.active_ranks))
    ]
    best = max(turns, key=lambda turn: turn.steady_percent, default=None)
    # Full rounds must be left for it: then it does not come and go with each prompt that is done.
    left = 0.0 if best is None else state.pending / (best.active_ranks * best.batch_size)
    if best is None or best.steady_percent < WORTH_PERCENT or left < WORTH_ROUNDS:
        return
    knob = f"Batch size {best.batch_size}"
    if best.active_ranks != state.active_ranks:
        knob = "1 rank" if best.active_ranks == 1 else f"{best.active_ranks} ranks"
    gain = f"{best.steady_percent:.0f}% more tok/s"
    if best.measured:
        text = f"{knob} brought {gain} (measured)."
    else:
        text = f"{knob} would bring {f'about {gain} (a guess)' if best.extrapolated else f'{gain} (predicted)'}."
    yield Advice(kind="turn", text=text)


def _still_rising(state: RunState) -> Iterator[Advice]:
    """After the end: the largest batch size that ran still brought clearly more, so a larger one may, too."""
    if state.ended is None or state.continuous or any(rank.cap is not None for rank in state.ranks):
        return
    rows = [row for row in all_settings(state) if not row.cold]
    best = best_setting(rows)
    if best is None:
        return
    smaller = [row for row in rows if row.active_ranks == best.active_ranks and row.batch_size < best.batch_size]
    if not smaller or any(row.batch_size > best.batch_size for row in rows):
        return
    below = smaller[-1]
    gain = best.tokens_per_second / below.tokens_per_second - 1 if below.tokens_per_second > 0 else 0.0
    if 100 * gain >= WORTH_PERCENT:
        risen = f"Batch size {below.batch_size} → {best.batch_size} still brought {gain:+.0%}"
        yield Advice(kind="still rising", text=f"{risen}: try a larger one next time.")


def _padding(state: RunState) -> Iterator[Advice]:
    if _measured(state) and (state.padding_waste or 0.0) > PADDING_WASTE:
        cure = "a smaller batch size wastes less"
        if state.config is not None and state.config.order == "input":
            cure = "--order length puts like lengths together"
        yield Advice(kind="padding", text=f"Padding waste is {state.padding_waste:.0%} of all token slots; {cure}.")


def _idle(state: RunState) -> Iterator[Advice]:
    # A pause, an inactive rank or a relaunch leaves idle time that needs no advice.
    explained = state.attempt > 1 or any(
        mark.kind in ("pause", "active ranks", "taken up", "trial") for mark in state.marks
    )
    if explained or state.paused or state.seconds < LEAST_SECONDS or state.phase != "running":
        return
    for rank in state.ranks[: state.active_ranks]:
        if state.idle(rank) > IDLE and rank.batches >= LEAST_BATCHES_A_RANK:
            yield Advice(
                kind="idle", text=f"Rank {rank.rank} had no batch in hand for {state.idle(rank):.0%} of its time."
            )
            return


def _slow_rank(state: RunState) -> Iterator[Advice]:
    if (slow := slow_rank(state)) is not None:
        yield Advice(kind="slow rank", text=slow_rank_words(state, slow))


def _starved(state: RunState) -> Iterator[Advice]:
    if state.phase == "running" and not state.paused and (words := starved_words(state)):
        yield Advice(kind="cpu", text=words)


def _busy(state: RunState) -> Iterator[Advice]:
    for device in state.devices:
        sample = device.sample
        recent = [busy for busy in device.busy_history[-BUSY_SAMPLES:] if busy is not None]
        if state.phase != "running" or state.paused or not device.ranks or len(recent) < BUSY_SAMPLES:
            continue
        mean, share = sum(recent) / len(recent), _memory_share(sample.memory_used_bytes, sample.memory_total_bytes)
        if mean < BUSY_LOW_PERCENT and share is not None and share < MEMORY_FREE:
            figures = f"GPU {sample.index} is busy {mean:.0f}% and {1 - share:.0%} of its memory is free"
            yield Advice(kind="busy low", text=f"{figures}: try a larger batch size.")
            return


def _memory(state: RunState) -> Iterator[Advice]:
    for device in state.devices:
        share = _memory_share(device.sample.memory_used_bytes, device.sample.memory_total_bytes)
        if device.ranks and share is not None and share > MEMORY_FULL:
            yield Advice(
                kind="memory", text=f"GPU {device.sample.index} has {share:.0%} of its memory in use: near the wall."
            )
            return
    capped = [rank for rank in state.ranks if rank.cap is not None]
    if capped:
        yield Advice(
            kind="memory",
            text=f"Rank {capped[0].rank} ran out of memory and gets at most {capped[0].cap} prompts per batch.",
        )


def _throttling(state: RunState) -> Iterator[Advice]:
    for device in state.devices:
        reasons = [reason for reason in device.sample.throttle_reasons or () if reason not in HARMLESS_THROTTLES]
        if device.ranks and reasons:
            clock = ""
            if device.sample.sm_clock_mhz and device.sample.sm_clock_max_mhz:
                if device.sample.sm_clock_mhz >= FULL_CLOCK * device.sample.sm_clock_max_mhz:
                    continue  # the reason holds, but costs nothing
                clock = f" at {device.sample.sm_clock_mhz} of {device.sample.sm_clock_max_mhz} MHz"
            yield Advice(
                kind="throttling", text=f"GPU {device.sample.index} is throttled ({', '.join(reasons)}){clock}."
            )
            return


def _foreign(state: RunState) -> Iterator[Advice]:
    """Memory in use beside the ranks' models, by what was free for the first rank after it had loaded."""
    for device in state.devices:
        used = device.sample.memory_used_bytes
        # Devices and ranks arrive in different events: a device may name a rank that the state does not have yet.
        ready = [rank.ready for rank in state.ranks if rank.rank in device.ranks and rank.ready is not None]
        if used is None or not ready or len(ready) < len(device.ranks):
            continue
        held = [one.memory_total_bytes - one.memory_free_bytes for one in ready
                if one.memory_total_bytes is not None and one.memory_free_bytes is not None]  # fmt: skip
        own = sum(one.parameter_bytes or 0 for one in ready)
        if held and max(held) - own > max(FOREIGN_BYTES * 4 * len(ready), own):
            beside = f"{(max(held) - own) / 2**30:.1f} GiB in use beside the model"
            yield Advice(kind="foreign process", text=f"GPU {device.sample.index} had {beside}: another process?")
            return


def _memory_share(used: int | None, total: int | None) -> float | None:
    return used / total if used is not None and total else None


def _measured(state: RunState) -> bool:
    return sum(rank.batches for rank in state.ranks) >= LEAST_BATCHES_A_RANK * max(1, state.active_ranks)


RULES: tuple[Callable[[RunState], Iterator[Advice]], ...] = (
    _memory,
    _slow_rank,
    _starved,
    _throttling,
    _foreign,
    uneven_rounds,
    _turn,
    _still_rising,
    _busy,
    _idle,
    _padding,
)


class KnobEffect(msgspec.Struct, frozen=True, kw_only=True):
    """What turning a knob brought: the setting before and the one after, to be compared by their `warm_rate`."""

    before: KnobPeriod
    after: KnobPeriod


def last_turn(state: RunState) -> KnobEffect | None:
    """The newest period and the last one before it that was measured warm; None if there is no such pair.

    Each has all periods of its setting, as the table of settings does; the newest alone, as long as that is not
    measured. Trials are not turns of a knob: the effect of a sweep is shown against the setting before it.
    """
    if len(state.periods) < 2 or state.periods[-1].trial:
        return None
    after = state.periods[-1]
    for before in reversed(state.periods[:-1]):
        if before.warm_rate is not None and not before.trial:
            now = after if after.warm_rate is None else whole_setting(state.periods, after)
            return KnobEffect(before=whole_setting(state.periods, before), after=now)
    return None


def early_turn(state: RunState) -> KnobEffect | None:
    """The newest turn if it came before any batch to compare with; else None."""
    if len(state.periods) < 2 or state.auto or state.ended is not None or last_turn(state) is not None:
        return None
    before, after = state.periods[-2:]
    by_hand = not (before.auto or before.trial or after.trial)
    return KnobEffect(before=before, after=after) if by_hand else None
