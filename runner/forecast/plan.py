"""What a job will take by number of ranks and batch size: the real scheduler played against a cost model. Pure.

Knows how a job is cut into batches and what follows from that. Does not know what a batch costs
(`runner.forecast.cost_model`) nor how long answers get (`runner.forecast.answer_lengths`).

Assumes that a rank's next batch begins when its last one ends, that ranks are equally fast, and that a batch costs the
same to the end of the job (on a CPU the last ranks at work would be a little faster).
"""

import heapq
import itertools
from collections.abc import Callable, Sequence

import msgspec

from rankdeck.runner.forecast.answer_lengths import Answers
from rankdeck.runner.forecast.cost_model import CostModel
from rankdeck.runner.protocol.config import Dispatch
from rankdeck.runner.scheduling.rounds import batches_needed
from rankdeck.runner.scheduling.scheduler import Scheduler
from rankdeck.runner.sweep.scaling import efficiency

SIMULATED_BATCHES = 5000
SIMULATED_PROMPTS = 10_000
"""Larger jobs are computed in closed form: the same figures, as tests show, without handing out each batch."""

TIE = 0.01
"""Predictions that differ by less than this share count as equal."""

WORTH_SAYING = 0.05


class PlanRow(msgspec.Struct, frozen=True, kw_only=True):
    """One setting's prediction.

    `rounds` is the largest number of batches of any rank. Speedup is over one rank at the same batch size, efficiency
    is speedup / ranks, `idle` the share of the ranks' time without a batch in hand. `why` says what was not measured.
    """

    ranks: int
    batch_size: int
    rounds: int
    seconds: float
    tokens_per_second: float
    speedup: float
    efficiency: float
    idle: float
    extrapolated: bool = False
    why: str | None = None


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Predictions for a job, the best of them, and what follows in sentences. `residual` is the model's, a share."""

    prompts: int
    dispatch: Dispatch
    tokens_per_prompt: float
    rows: list[PlanRow]
    best: PlanRow
    reasons: list[str]
    residual: float | None = None
    basis: str = ""


class Outcome(msgspec.Struct, frozen=True):
    """A job's batches played through. `busy` is the sum of all batches' seconds."""

    rounds: int
    seconds: float
    busy: float


BatchCost = Callable[[int], float]
"""Seconds of a batch, by its rows."""


def play(prompts: int, ranks: int, batch_size: int, dispatch: Dispatch, cost: BatchCost) -> Outcome:
    """Have the scheduler hand out the whole job, batch by batch, to whichever rank is free first."""
    scheduler = Scheduler(bytes(prompts), order="input", batch_size=batch_size, active_ranks=ranks)
    if dispatch == "split":
        for rank, (start, stop) in enumerate(itertools.pairwise([0, *itertools.accumulate(shares(prompts, ranks))])):
            scheduler.use_share(rank, start, stop)
    free = [(0.0, rank) for rank in range(ranks)]
    batches = [0] * ranks
    busy = last = 0.0
    while free:
        now, rank = heapq.heappop(free)
        assignment = scheduler.next_batch(rank)
        if assignment is None:
            last = max(last, now)
            continue
        seconds = cost(len(assignment.indices))
        busy += seconds
        batches[rank] += 1
        heapq.heappush(free, (now + seconds, rank))
    return Outcome(max(batches), last, busy)


def compute(prompts: int, ranks: int, batch_size: int, dispatch: Dispatch, cost: BatchCost) -> Outcome:
    """The outcome of `play` in closed form: even rounds for `pull`, plain slices of each share for `split`."""
    if dispatch == "split":
        longest, busy, rounds = 0.0, 0.0, 0
        sizes = shares(prompts, ranks)
        for share in set(sizes):
            full, scrap = divmod(share, batch_size)
            seconds = full * cost(batch_size) + (cost(scrap) if scrap else 0.0)
            busy += sizes.count(share) * seconds
            longest, rounds = max(longest, seconds), max(rounds, full + bool(scrap))
        return Outcome(rounds, longest, busy)
    batches = batches_needed(prompts, ranks, batch_size)
    if not batches:
        return Outcome(0, 0.0, 0.0)
    rounds = batches // ranks
    # The first `larger` batches have one more prompt than the others.
    rows, larger = divmod(prompts, batches)
    large, small = cost(rows + 1) if larger else 0.0, cost(rows) if rows else 0.0
    larger_rounds = -(-larger // ranks)
    longest = larger_rounds * large + (rounds - larger_rounds) * small
    return Outcome(rounds if rows else larger_rounds, longest, larger * large + (batches - larger) * small)


def shares(prompts: int, ranks: int) -> list[int]:
    """Prompts of each rank for `split`, cut like accelerate's split_between_processes: the first ranks get one more."""
    each, extras = divmod(prompts, ranks)
    return [each + (rank < extras) for rank in range(ranks)]


def predict(
    model: CostModel,
    answers: Answers,
    *,
    prompts: int,
    ranks: Sequence[int],
    batch_sizes: Sequence[int],
    dispatch: Dispatch = "pull",
    basis: str = "",
) -> Plan:
    """A row for each batch size and number of ranks, with the best and the reasons; for at least one prompt."""
    rows = []
    for size in batch_sizes:
        alone = _outcome(model, answers, prompts, 1, size, dispatch)
        rows += [_row(model, answers, prompts, number, size, dispatch, alone.seconds) for number in ranks]
    best = best_row(rows)
    reasons = [
        *_plateaus(prompts, [row for row in rows if row.batch_size == best.batch_size]),
        *_sharing(model, answers, rows, best, _largest(prompts, best.ranks, best.batch_size, dispatch)),
        *_smaller(rows, best),
    ]
    if model.residual is not None:
        reasons += _measured_best(rows, best)
    return Plan(
        prompts=prompts,
        dispatch=dispatch,
        tokens_per_prompt=answers.tokens_per_row,
        rows=rows,
        best=best,
        reasons=reasons,
        residual=model.residual,
        basis=basis,
    )


def best_row(rows: Sequence[PlanRow]) -> PlanRow:
    """The fastest row; of those within 1 % of it, the fewest ranks, then the smallest batch. All are of one job."""
    least = min(row.seconds for row in rows)
    return min((row for row in rows if row.seconds * (1 - TIE) <= least), key=lambda row: (row.ranks, row.batch_size))


def _outcome(
    model: CostModel, answers: Answers, prompts: int, ranks: int, batch_size: int, dispatch: Dispatch
) -> Outcome:
    known: dict[int, float] = {}

    def cost(rows: int) -> float:
        if rows not in known:
            known[rows] = model.seconds(rows, answers.steps(rows), ranks, tokens_per_row=answers.tokens_per_row)
        return known[rows]

    few = prompts <= SIMULATED_PROMPTS and batches_needed(prompts, ranks, batch_size) <= SIMULATED_BATCHES
    return (play if few else compute)(prompts, ranks, batch_size, dispatch, cost)


def _largest(prompts: int, ranks: int, batch_size: int, dispatch: Dispatch) -> int:
    """Rows of the largest batch."""
    if dispatch == "split":
        return min(batch_size, -(-prompts // ranks))
    return -(-prompts // batches_needed(prompts, ranks, batch_size))


def _row(
    model: CostModel,
    answers: Answers,
    prompts: int,
    ranks: int,
    batch_size: int,
    dispatch: Dispatch,
    alone: float,
) -> PlanRow:
    outcome = _outcome(model, answers, prompts, ranks, batch_size, dispatch)
    largest = _largest(prompts, ranks, batch_size, dispatch)
    why = [reason for reason in (model.why_extrapolated(largest, ranks), answers.why_extrapolated) if reason]
    # A model fitted to very little may predict 0 seconds, and an infinite rate helps nobody.
    seconds = max(outcome.seconds, 1e-9)
    return PlanRow(
        ranks=ranks,
        batch_size=batch_size,
        rounds=outcome.rounds,
        seconds=round(seconds, 9),
        tokens_per_second=round(prompts * answers.tokens_per_row / seconds, 6),
        speedup=round(alone / seconds, 6),
        efficiency=round(efficiency(alone / seconds, ranks), 6),
        idle=round(max(0.0, 1 - outcome.busy / (ranks * seconds)), 6),
        extrapolated=bool(why),
        why="; ".join(why) or None,
    )


# --- reasons: sentences with figures, only where they are true -------------------------------------


def _plateaus(prompts: int, rows: Sequence[PlanRow]) -> list[str]:
    """Where more ranks bring nothing, or hardly anything, because the busiest rank has as many batches as before."""
    reasons = []
    ordered = sorted(rows, key=lambda row: row.ranks)
    for fewer, more in itertools.pairwise(ordered):
        gain = fewer.seconds / more.seconds - 1
        if fewer.rounds != more.rounds or gain > (more.ranks / fewer.ranks - 1) / 2:
            continue
        brings = "nothing" if abs(gain) < TIE else f"only {gain:+.0%}" if gain > 0 else f"{gain:+.0%}"
        each = [-(-prompts // row.ranks) for row in (fewer, more)]
        rounds, size = more.rounds, more.batch_size
        if each[0] == each[1]:
            both = f"the busiest rank has {each[0]:,} of the prompts either way"
        else:
            both = f"{each[0]:,} and {each[1]:,} prompts per rank both take {_rounds(rounds)} at batch size {size}"
        cure = ""
        if rounds > 1:
            larger = -(-each[1] // (rounds - 1))
            cure = f"; batch size {larger} would take {rounds - 1}"
        reasons.append(f"{fewer.ranks} -> {more.ranks} ranks brings {brings}: {both}{cure}")
    return reasons


def _rounds(rounds: int) -> str:
    return f"{rounds:,} round" if rounds == 1 else f"{rounds:,} rounds"


def _sharing(model: CostModel, answers: Answers, rows: Sequence[PlanRow], best: PlanRow, largest: int) -> list[str]:
    """What sharing cores and memory costs: the same batch on one rank and on several, if both were measured."""
    measured = [number for number in model.measured_ranks if number <= max(row.ranks for row in rows)]
    if len(measured) < 2:
        return []
    few, many = measured[0], best.ranks if best.ranks in measured[1:] else measured[-1]
    if any(model.why_extrapolated(largest, number) for number in (few, many)):
        return []
    steps, tokens = answers.steps(largest), answers.tokens_per_row
    one, other = (model.seconds(largest, steps, number, tokens_per_row=tokens) for number in (few, many))
    if one <= 0 or other / one - 1 <= WORTH_SAYING:
        return []
    some = "1 rank" if few == 1 else f"{few} ranks"
    longer = f"takes {other / one:.1f} times as long on {many} ranks as on {some}"
    return [f"a batch of {largest} {longer}: they slow each other down"]


def _smaller(rows: Sequence[PlanRow], best: PlanRow) -> list[str]:
    """A batch of at most half the size that is nearly as good."""
    for row in sorted(rows, key=lambda row: row.batch_size):
        share = best.seconds / row.seconds
        if row.ranks == best.ranks and row.batch_size <= best.batch_size / 2 and share >= 1 - WORTH_SAYING:
            return [f"batch size {row.batch_size} yields {share:.0%} of the best, with less memory and sooner answers"]
    return []


def _measured_best(rows: Sequence[PlanRow], best: PlanRow) -> list[str]:
    """The best setting inside what was measured, if the best of all lies outside."""
    inside = [row for row in rows if not row.extrapolated]
    if not best.extrapolated or not inside:
        return []
    known = best_row(inside)
    some = "1 rank" if known.ranks == 1 else f"{known.ranks} ranks"
    return [
        f"the best setting is outside what was measured ({best.why}); the best inside it is {some} at "
        f"batch size {known.batch_size}: {known.tokens_per_second:,.0f} tok/s"
    ]
