"""How long a running job or sweep will still take, and what another setting of its knobs would bring. Pure.

Predicts from the batches measured so far (`runner.forecast.cost_model`), in closed form, in a few milliseconds at most.
Assumes that all ranks are equally fast. Keeps nothing between calls.
"""

import functools
import statistics
from collections.abc import Sequence
from math import ceil

import msgspec

from rankdeck.runner.forecast.answer_lengths import Answers, answers
from rankdeck.runner.forecast.compute_floor import compute_floor
from rankdeck.runner.forecast.cost_model import CostModel, fit
from rankdeck.runner.forecast.plan import PlanRow, predict, shares
from rankdeck.runner.protocol.config import MAX_BATCH_SIZE
from rankdeck.runner.protocol.sweep_plan import SweepPlan, SweepState, warm_up_tokens
from rankdeck.runner.scheduling.rounds import EvenRounds
from rankdeck.runner.state import RankState, RunState
from rankdeck.runner.state.settings import all_settings
from rankdeck.runner.state.silence import waits_for


class WhatIf(msgspec.Struct, frozen=True, kw_only=True):
    """The rest of the job with one knob turned. `change_percent` is in tokens/s, against the present setting.

    Both settings are predicted, so that an error of the model does not look like a gain. Both count only prompts that
    no rank has in hand: no knob acts on batches in flight, and the figure does not move with each of their steps.
    `steady_tokens_per_second` and `steady_percent` are of full batches, side by side on all ranks, whatever is left to
    do: they change when a batch has been measured, not with each prompt that is done. They never contradict what the
    settings have brought: if the present one ran, they start from that, and if the other one did too, they are what was
    `measured`. `extrapolated`: batches of one of the two settings were not measured.
    """

    active_ranks: int
    batch_size: int
    tokens_per_second: float
    change_percent: float
    steady_tokens_per_second: float
    steady_percent: float
    seconds_left: float
    extrapolated: bool
    measured: bool = False


def eta_seconds(state: RunState) -> float | None:
    """Seconds to the end of the run with the knobs as they are; of a sweep, to the end of its trials.

    Predicted once a whole batch was measured; before that, at the pace so far. None before there is a pace, while no
    batches are handed out, while a rank says nothing (nobody knows when it goes on), and after the end.
    """
    if state.phase not in ("running", "stopping") or state.ended is not None or waits_for(state) is not None:
        return None
    if (job := _job(state)) is not None:
        return job.seconds(state.active_ranks, state.batch_size)
    if state.sweep is not None and state.sweeping and state.phase == "running":
        return _trials_seconds(state.sweep, state.now)
    return _seconds_at_this_pace(state)


def _seconds_at_this_pace(state: RunState) -> float | None:
    if not 0.02 <= state.progress < 1 or state.seconds < 1:
        return None
    return state.seconds * (1 - state.progress) / state.progress


def _trials_seconds(sweep: SweepState, now: float) -> float | None:
    """Seconds until all trials are over: each takes the mean of its setting, or of all settings if none has run.

    None before the first trial is over.
    """
    known: dict[tuple[int, int], list[float]] = {}
    for trial in sweep.trials:
        if trial.number in sweep.took:
            known.setdefault((trial.active_ranks, trial.batch_size), []).append(sweep.took[trial.number])
    if not known:
        return None
    means = {setting: statistics.fmean(values) for setting, values in known.items()}
    usual = statistics.fmean(means.values())
    over = {record.trial.number for record in sweep.records}
    left = [trial for trial in sweep.trials if trial.number not in over]
    expected = sum(means.get((trial.active_ranks, trial.batch_size), usual) for trial in left)
    return max(0.0, expected - (now - sweep.since if sweep.current is not None else 0.0))


def what_if(state: RunState) -> list[WhatIf]:
    """Those of these that are possible, in order: one more rank, one fewer, twice and half the batch size.

    Empty before a whole batch was measured, and once every prompt has been handed out.
    """
    job = _job(state)
    if job is None or job.pending <= 0:
        return []
    ranks, size = state.active_ranks, state.batch_size
    settings = [
        *([(ranks + 1, size)] if ranks < len(state.ranks) else []),
        *([(ranks - 1, size)] if ranks > 1 else []),
        *([(ranks, size * 2)] if size * 2 <= MAX_BATCH_SIZE else []),
        *([(ranks, size // 2)] if size > 1 else []),
    ]
    now, steady, guessed = job.pending_seconds(ranks, size), job.steady_rate(ranks, size), job.extrapolates(ranks, size)
    brought = _full_rates(state)
    here = brought.get((ranks, size), steady)
    found = []
    for number, rows in settings:
        seconds, pending = job.seconds(number, rows), job.pending_seconds(number, rows)
        measured = (ranks, size) in brought and (number, rows) in brought
        rate = brought[number, rows] if measured else job.steady_rate(number, rows) * (here / steady if steady else 1)
        if now > 0 and pending > 0 and seconds > 0 and steady > 0:
            found.append(
                WhatIf(
                    active_ranks=number,
                    batch_size=rows,
                    tokens_per_second=job.tokens_left / seconds,
                    change_percent=100 * (now / pending - 1),
                    steady_tokens_per_second=rate,
                    steady_percent=100 * (rate / here - 1),
                    seconds_left=seconds,
                    extrapolated=not measured and (guessed or job.extrapolates(number, rows)),
                    measured=measured,
                )
            )
    return found


def _full_rates(state: RunState) -> dict[tuple[int, int], float]:
    """Output tokens/s that active ranks and batch size brought, with full batches that were not cold."""
    return {
        (row.active_ranks, row.batch_size): row.tokens_per_second
        for row in all_settings(state)
        if row.full and not row.cold and row.tokens_per_second > 0
    }


def whole_file(state: RunState, ranks: int, batch_size: int) -> PlanRow | None:
    """All prompts of the run at one setting, from the first: what a sweep's best cell means for the whole file.

    The cell is measured on full batches only; a file seldom fills its last round. None if nothing was measured.
    """
    model = fitted(state)
    if model is None or state.config is None or not state.prompts:
        return None
    length = expected_answers(state)
    return predict(model, length, prompts=state.prompts, ranks=[ranks], batch_sizes=[batch_size]).rows[0]


class _Job:
    """What is left of a run: prompts that no rank has in hand, and batches in flight."""

    def __init__(self, state: RunState, model: CostModel, length: Answers) -> None:
        self.model, self._state = model, state
        self._steps, self._tokens_per_row = functools.cache(length.steps), length.tokens_per_row
        self._measured_length = expected_answers(state, state.measured_lengths)
        self.pending = state.pending
        self._split = state.config is not None and state.config.dispatch == "split" and state.ranks
        # When each rank is next free does not depend on the knobs: a batch in hand goes on as it is.
        self._busy = [self._in_flight(rank) for rank in state.ranks]
        unfinished = sum(rank.rows * self._share_left(rank) for rank in state.ranks if rank.batch is not None)
        self.tokens_left = (self.pending + unfinished) * self._tokens_per_row

    def seconds(self, active_ranks: int, batch_size: int) -> float:
        """Seconds to the last result, with these knobs from each rank's next batch on."""
        return self._seconds(active_ranks, batch_size, self._busy)

    def pending_seconds(self, active_ranks: int, batch_size: int) -> float:
        """Seconds for the prompts that no rank has in hand, as if all ranks were free."""
        return self._seconds(active_ranks, batch_size, [0.0] * len(self._busy))

    def _seconds(self, active_ranks: int, batch_size: int, busy: list[float]) -> float:
        ranks = max(1, active_ranks)
        free = (busy + [0.0] * ranks)[:ranks]
        last = max(busy, default=0.0)
        if not self.pending:
            return last
        if self._split:
            return max(last, self._split_seconds(ranks, self._size(ranks, batch_size), free))
        batches = self._batches(ranks, batch_size)
        return max(last, finish(free, batches, self._cost(self.pending / batches, ranks)))

    def steady_rate(self, active_ranks: int, batch_size: int) -> float:
        """Output tokens/s of full batches side by side on all ranks, by the answers in measured batches alone."""
        rows, length = self._size(active_ranks, batch_size), self._measured_length
        tokens = length.tokens_per_row
        cost = self.model.seconds(rows, length.steps(rows), active_ranks, tokens_per_row=tokens)
        return active_ranks * rows * tokens / cost if cost > 0 else 0.0

    def extrapolates(self, active_ranks: int, batch_size: int) -> bool:
        """Whether batches of this setting were not measured."""
        return self.model.why_extrapolated(self.rows(active_ranks, batch_size), active_ranks) is not None

    def rows(self, active_ranks: int, batch_size: int) -> float:
        """Rows of a coming batch."""
        if self._split:
            return self._size(active_ranks, batch_size)
        return self.pending / max(1, self._batches(active_ranks, batch_size))

    def _batches(self, ranks: int, batch_size: int) -> int:
        """Batches still to come, as the scheduler will cut them: in the middle of a round, what is left of its plan."""
        size = self._size(ranks, batch_size)
        capped = size != batch_size
        rounds = EvenRounds() if capped or self._state.continuous else self._state.rounds
        return min(self.pending, rounds.planned(self.pending, size, ranks))

    def _size(self, ranks: int, batch_size: int) -> int:
        """The mean batch size: ranks that ran out of memory count with their cap."""
        caps = [min(batch_size, rank.cap) for rank in self._state.ranks[:ranks] if rank.cap is not None]
        return max(1, round((sum(caps) + (ranks - len(caps)) * batch_size) / ranks)) if caps else batch_size

    def _cost(self, rows: float, ranks: int) -> float:
        return self.model.seconds(rows, self._steps(rows), ranks, tokens_per_row=self._tokens_per_row)

    def _in_flight(self, rank: RankState) -> float:
        if rank.batch is None or rank.rows <= 0:
            return 0.0
        ranks = max(1, self._state.active_ranks)
        whole = self._cost(rank.rows, ranks)
        if rank.step > 0:
            return whole * self._share_left(rank)
        return max(0.0, whole - max(0.0, self._state.now - rank.batch_started_at))

    def _share_left(self, rank: RankState) -> float:
        if rank.continuous:
            tokens = rank.rows * self._tokens_per_row
            return max(0.0, 1 - rank.in_flight_tokens / tokens) if tokens > 0 else 0.0
        steps = self._steps(rank.rows)
        return max(0.0, 1 - rank.step / steps) if steps > 0 else 0.0

    def _split_seconds(self, ranks: int, size: int, free: list[float]) -> float:
        """Each rank does its own share in plain slices; shares of inactive ranks go to whichever rank is free."""
        state = self._state
        left = [
            max(0.0, share - rank.prompts - (rank.rows if rank.batch is not None else 0))
            for share, rank in zip(shares(state.prompts, len(state.ranks)), state.ranks, strict=True)
        ]
        # After a resumed run or a relaunch the parts are not known: they are scaled to fit.
        factor = self.pending / sum(left) if sum(left) else 0.0
        own = [part * factor for part in left[:ranks]]
        orphans = max(0.0, self.pending - sum(own))
        whole = self._cost(size, ranks)
        for rank, part in enumerate(own):
            full = int(part // size)
            free[rank] += full * whole + self._cost(part - full * size, ranks)
        return max(*free, finish(free, int(-(-orphans // size)), self._cost(min(size, orphans), ranks)))


def _job(state: RunState) -> _Job | None:
    """None before a whole batch was measured, and while a sweep measures: its trials decide how long that takes."""
    if state.config is None or state.sweeping or (model := fitted(state)) is None:
        return None
    return _Job(state, model, expected_answers(state))


def fitted(state: RunState) -> CostModel | None:
    """What the batches of a run cost, by those measured; None before one was."""
    return fit(state.costs, compute_floor([rank.ready for rank in state.ranks if rank.ready is not None]))


def expected_answers(state: RunState, lengths: Sequence[int] | None = None) -> Answers:
    """How long the run's own answers get, wherever its trials cut theirs; by `lengths`, if given, not by all so far."""
    config = state.config
    assert config is not None
    return answers(
        state.costs,
        state.lengths if lengths is None else lengths,
        measured_tokens=config.new_tokens,
        fixed=config.ignore_eos,
        max_new_tokens=config.max_new_tokens,
    )


def finish(free: Sequence[float], batches: int, cost: float) -> float:
    """When the last of `batches` ends, each `cost` seconds long and taken by whichever rank is free first.

    `free` is when each rank is free, in seconds. A batch ends at free + j x cost (j = 1, 2, …) of some rank, and the
    earliest of these ends are the ones taken. `low` is when all would be done if batches could be cut. Whole batches
    that end by then are counted; of those still missing, each rank adds at most one.
    """
    if batches <= 0 or cost <= 0:
        return max(free)
    ordered = sorted(free)
    low = total = 0.0
    for count, moment in enumerate(ordered, 1):
        # Ranks that become free only after all is done take none.
        if count > 1 and moment >= low:
            break
        total += moment
        low = (total + batches * cost) / count
    done = [max(0, int((low - moment) / cost + 1e-9)) for moment in ordered]
    missing = batches - sum(done)
    ends = sorted(moment + (whole + 1) * cost for moment, whole in zip(ordered, done, strict=True))
    if missing > 0:
        return ends[missing - 1]
    return max(moment + whole * cost for moment, whole in zip(ordered, done, strict=True) if whole)


def sweep_seconds(plan: SweepPlan, model: CostModel, new_tokens: int) -> float:
    """Seconds of all trials if every answer has `new_tokens` output tokens: warm-ups included, loading not.

    Warm-ups are taken to be short: on a GPU those at a larger batch size than any before take a whole batch.
    """
    return plan.repeats * sum(
        _trial_seconds(plan, model, ranks, size, new_tokens)
        for ranks in set(plan.ranks)
        for size in set(plan.batch_sizes)
    )


def _trial_seconds(plan: SweepPlan, model: CostModel, ranks: int, size: int, new_tokens: int) -> float:
    batch = model.seconds(size, new_tokens, ranks)
    rounds = max(plan.least_rounds, ceil(plan.least_seconds / batch) if batch > 0 else 0)
    return model.seconds(size, warm_up_tokens(new_tokens), ranks) + rounds * batch
