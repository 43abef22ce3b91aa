"""What the newest turn of a knob will bring, before it is measured: when it takes effect, and at what rate. Pure.

A turn takes effect with the batches that begin after it; its measured figure is that of whole batches
(`runner.state.periods`), which may take a minute. From the first decode steps of such a batch this module estimates
that figure. Knows no words and keeps nothing between calls; assumes that all ranks are equally fast.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec

from rankdeck.runner.forecast.answer_lengths import Answers
from rankdeck.runner.forecast.cost_model import CostModel
from rankdeck.runner.forecast.forecast import expected_answers, fitted
from rankdeck.runner.protocol.orders import ACCOUNT_SECONDS
from rankdeck.runner.state import RankState, RunState
from rankdeck.runner.state.batches import is_cold
from rankdeck.runner.state.periods import KnobPeriod

LEAST_SECONDS = 0.7
"""Between the first and the newest step reported: ticks come every 0.25 s, and say when a step is told of, not done."""


class Coming(msgspec.Struct, frozen=True, kw_only=True):
    """What a turn still waits for before it takes effect.

    `batch` is the number of the batch that has to end first, `seconds` how long that takes; None if unknown. `until` is
    what happens then: that batch ends, rows of a continuous rank do, it takes its next step, the run goes on, or a rank
    takes its next batch.
    """

    until: Literal["batch ends", "rows end", "next step", "run goes on", "next batch"]
    batch: int | None = None
    seconds: float | None = None


class Provisional(msgspec.Struct, frozen=True, kw_only=True):
    """What batches in flight say of the newest setting, before it is measured.

    `tokens_per_second` is for all `active` ranks, from the `ranks_with_steps` of them that have shown it; None before
    one has. `steps` are those that the rank with the fewest has done, 0 if none is at work or rows come and go.
    `batch` is the first batch under the setting. `seconds_left` is until every active rank has been measured; None if
    unknown, or if too few prompts are left for that.
    """

    tokens_per_second: float | None
    steps: int
    ranks_with_steps: int
    active: int
    batch: int | None = None
    seconds_left: float | None = None


def takes_effect(state: RunState) -> Coming | None:
    """What the newest turn waits for; None if there is no turn, or batches under it are in flight or over."""
    period = _newest_turn(state)
    if period is None or period.batches or _under_way(state, period):
        return None
    if state.paused is not None:
        return Coming(until="run goes on")
    if state.continuous:
        return Coming(until="next step" if state.stepwise and not _inactive_at_work(state) else "rows end")
    late = _inactive_at_work(state)
    in_hand = late or [rank for rank in state.ranks[: state.active_ranks] if rank.batch is not None]
    if not in_hand:
        return Coming(until="next batch")
    answers, model = expected_answers(state), fitted(state)
    ends = [(_seconds_left(state, rank, answers, model), rank.batch) for rank in in_hand]
    known = [(seconds, batch) for seconds, batch in ends if seconds is not None]
    if not known or (late and len(known) < len(late)):
        return Coming(until="batch ends", batch=in_hand[0].batch)
    # A new batch size begins on the rank that is free first; fewer ranks work alone once the last batch has ended.
    seconds, batch = max(known) if late else min(known)
    return Coming(until="batch ends", batch=batch, seconds=seconds)


def provisional(state: RunState) -> Provisional | None:
    """What the newest turn seems to bring; None before it takes effect, once it is measured, and if there is none."""
    period = _newest_turn(state)
    if period is None or period.warm_rate is not None:
        return None
    under_way = _under_way(state, period)
    if not under_way and not period.batches:
        return None
    active = max(1, state.active_ranks)
    if state.continuous:
        left = [rank.phase_since for rank in state.ranks[active:] if rank.phase == "waiting"]
        rate = _rate_since(state, max([_turned_at(state, period), *left]))
        return Provisional(
            tokens_per_second=rate,
            steps=0,
            ranks_with_steps=active if rate is not None else 0,
            active=active,
            seconds_left=_seconds_of_accounts(state, period),
        )
    answers, model = expected_answers(state), fitted(state)
    rates: dict[int, float] = {}
    for number, share in period.shares.items():
        if share.seconds > 0:
            rates[number] = share.tokens / share.seconds
    steps: list[int] = []
    for rank in under_way:
        measured = rank.rank in period.shares and not period.shares[rank.rank].cold
        if not measured and (rate := _batch_rate(rank, answers)) is not None:
            rates[rank.rank] = rate
            steps.append(rank.step)
    return Provisional(
        tokens_per_second=sum(rates.values()) / len(rates) * active if rates else None,
        steps=min(steps, default=0),
        ranks_with_steps=len(rates),
        active=active,
        batch=min((rank.batch for rank in under_way if rank.batch is not None), default=None),
        seconds_left=_seconds_to_measured(state, period, under_way, answers, model),
    )


def _newest_turn(state: RunState) -> KnobPeriod | None:
    """The period that the newest turn of a knob began; None if nobody turned one, or its effect cannot show now."""
    if len(state.periods) < 2 or state.config is None or state.first_batch_at is None or state.ended is not None:
        return None
    # A knob that was turned and turned back before any batch began has changed nothing.
    in_hand, after = {rank.batch_period for rank in state.ranks if rank.batch is not None}, state.periods[-1]
    worked = (one for one in reversed(state.periods[:-1]) if one.batches or one.number in in_hand)
    before = next(worked, state.periods[-2])
    same = (before.batch_size, before.active_ranks) == (after.batch_size, after.active_ranks)
    at_work = state.phase in ("running", "stopping") and not state.sweeping
    return None if same or after.trial or not at_work else after


def _turned_at(state: RunState, period: KnobPeriod) -> float:
    """When the period began, in unix seconds."""
    return (state.first_batch_at or 0.0) + period.began - state.seconds_before


def _inactive_at_work(state: RunState) -> list[RankState]:
    """Ranks that get no more batches, and still have one in hand: until it ends, as many work as before."""
    return [rank for rank in state.ranks[state.active_ranks :] if rank.batch is not None]


def _under_way(state: RunState, period: KnobPeriod) -> list[RankState]:
    """Ranks whose batch in flight shows what the period's setting brings.

    A batch that an active rank began while an inactive one was still at work is not measured, but it shows just as much
    once the inactive one is done.
    """
    others, turned = _inactive_at_work(state), _turned_at(state, period)
    if others and state.continuous:
        return []
    alone = not others and not state.continuous
    return [
        rank
        for rank in state.ranks[: state.active_ranks]
        if rank.batch is not None
        and (
            rank.batch_period == period.number
            or (alone and rank.batch_period is None and rank.batch_kept and rank.batch_started_at >= turned)
        )
    ]


def _step_seconds(rank: RankState) -> float | None:
    """Seconds of a decode step of the batch in hand; None before enough of them were reported."""
    first, last = rank.first_step, rank.last_step
    if first is None or last is None or last.step <= first.step or last.at - first.at < LEAST_SECONDS:
        return None
    return (last.at - first.at) / (last.step - first.step)


def _steps(rank: RankState, answers: Answers) -> float:
    """Expected steps of the batch in hand: the answers of its remaining rows are longer than the steps so far."""
    longer = tuple(one for one in answers.lengths if one[0] > rank.step)
    if answers.lengths and not answers.fixed:
        answers = msgspec.structs.replace(answers, lengths=longer, fixed=not longer)
    return max(float(rank.step), answers.steps(rank.rows))


def _batch_rate(rank: RankState, answers: Answers) -> float | None:
    """Output tokens/s of the whole batch in hand, prefill included, if its steps keep their pace."""
    step_seconds, first = _step_seconds(rank), rank.first_step
    if step_seconds is None or first is None:
        return None
    steps = _steps(rank, answers)
    # One-time work of a cold batch comes before its first step, and is no part of what the setting brings.
    before = first.step * step_seconds if is_cold(rank, rank.batch_rows) else first.at - rank.batch_started_at
    seconds = before + max(0.0, steps - first.step) * step_seconds
    tokens = rank.batch_rows * min(answers.tokens_per_row, steps)
    return tokens / seconds if seconds > 0 else None


def _seconds_left(state: RunState, rank: RankState, answers: Answers, model: CostModel | None) -> float | None:
    """Seconds until the batch in hand ends."""
    step_seconds, last = _step_seconds(rank), rank.last_step
    if step_seconds is not None and last is not None:
        return max(0.0, (_steps(rank, answers) - last.step) * step_seconds - (state.now - last.at))
    if model is None:
        return None
    whole = _whole_seconds(rank.batch_rows or rank.rows, max(1, state.active_ranks), answers, model)
    return max(0.0, whole - (state.now - rank.batch_started_at))


def _whole_seconds(rows: int, ranks: int, answers: Answers, model: CostModel) -> float:
    return model.seconds(rows, answers.steps(rows), ranks, tokens_per_row=answers.tokens_per_row)


def _seconds_to_measured(
    state: RunState, period: KnobPeriod, under_way: Sequence[RankState], answers: Answers, model: CostModel | None
) -> float | None:
    """Seconds until every active rank has ended a whole warm batch of the period, with what is left to hand out."""
    ranks, left = max(1, state.active_ranks), state.pending
    longest = 0.0
    for rank in state.ranks[: state.active_ranks]:
        share = period.shares.get(rank.rank)
        if share is not None and not share.cold:
            continue
        counts = rank in under_way and rank.batch_period == period.number
        more = 1 if not counts or is_cold(rank, rank.batch_rows) else 0
        seconds = 0.0
        if rank.batch is not None:
            own = _seconds_left(state, rank, answers, model)
            if own is None:
                return None
            seconds += own
        if more:
            rows = min(state.batch_size, -(-left // ranks))
            if left < ranks or model is None:
                return None
            # As long as the batch in hand, if that is one of the setting; else as long as such batches are predicted.
            whole = rank.batch_rows * answers.tokens_per_row
            rate = _batch_rate(rank, answers) if rank in under_way else None
            seconds += whole / rate if rate else _whole_seconds(rows, ranks, answers, model)
        longest = max(longest, seconds)
    return longest


def _seconds_of_accounts(state: RunState, period: KnobPeriod) -> float | None:
    """Seconds until every active rank, all continuous, has closed an account that began in the period."""
    longest = 0.0
    for rank in state.ranks[: state.active_ranks]:
        share, step_seconds = period.shares.get(rank.rank), _step_seconds(rank)
        if share is not None and not share.cold:
            continue
        if rank.batch is None or step_seconds is None or state.config is None:
            return None
        # An account takes as many steps as an answer may have, unless that is too long.
        account = min(ACCOUNT_SECONDS, state.config.new_tokens * step_seconds)
        accounts = 1 if rank.batch_period == period.number else 2
        longest = max(longest, accounts * account - (state.now - rank.account_started_at))
    return max(0.0, longest)


def _rate_since(state: RunState, at: float) -> float | None:
    """Output tokens/s of the last seconds since `at`, of all ranks; None before there is a second of them."""
    points = [point for point in state.window if point.at >= at]
    if len(points) < 2 or (span := points[-1].at - points[0].at) < 1.0:
        return None
    return max(0.0, (sum(points[-1].ranks) - sum(points[0].ranks)) / span)
