"""A sweep in words: its settings, its progress, what it found, how it was measured.

For screen, `--plain` and report alike. The figures are those of runner.sweep. Pure.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.protocol.sweep_plan import SweepPlan, SweepState, Trial
from rankdeck.runner.state import RunState
from rankdeck.runner.sweep.cells import Cell, cells, rate
from rankdeck.runner.sweep.intervals import Estimate, deviations
from rankdeck.runner.sweep.scaling import Scaling, scaling
from rankdeck.runner.sweep.verdict import SweepSummary, Verdict
from rankdeck.tui.words.status import ENDED_EARLY, eta_words
from rankdeck.tui.words.text import clock, percent, some


def shown_sweep(state: RunState) -> SweepState | None:
    """The sweep that runs or ran, or else the one that is planned; None where there is neither."""
    if state.sweep is not None:
        return state.sweep
    plan = state.config.sweep if state.config is not None else None
    return SweepState(plan=plan, trials=()) if plan is not None else None


def only_measures(state: RunState) -> bool:
    """Whether the run's work is, or was, to measure trials rather than to answer prompts."""
    sweep = shown_sweep(state)
    return sweep is not None and (state.sweeping or state.sweep is None or not sweep.plan.outputs)


def answers_thrown_away(state: RunState) -> bool:
    """Whether there is a sweep to show that discards the answers of its trials."""
    sweep = shown_sweep(state)
    return sweep is not None and not sweep.plan.outputs


def how_ended(state: RunState) -> str:
    """How the run ended, as a key of tui.words.status: a sweep that left trials out has not completed."""
    assert state.ended is not None
    early = state.sweep is not None and state.sweep.ended_early and only_measures(state)
    return ENDED_EARLY if early and state.ended.status == "completed" else state.ended.status


def planned(plan: SweepPlan) -> int:
    """How many trials the plan has."""
    return len(set(plan.batch_sizes)) * len(set(plan.ranks)) * plan.repeats


def fewest_prompts(plan: SweepPlan) -> int:
    """The fewest prompts that the trials need if their answers are kept."""
    return plan.least_rounds * plan.repeats * sum(set(plan.batch_sizes)) * sum(set(plan.ranks))


def current_trial_number(sweep: SweepState) -> int:
    """The number of the current trial; between two trials, the next one's."""
    if sweep.current is not None:
        return sweep.current.number
    return min(len(sweep.records) + 1, max(1, len(sweep.trials)))


def trial_of(sweep: SweepState) -> str:
    """`trial 7 of 18`"""
    return f"trial {current_trial_number(sweep):,} of {len(sweep.trials):,}"


def setting(active_ranks: int, batch_size: int) -> str:
    """`2 ranks x batch size 16`"""
    return f"{some(active_ranks, 'rank')} x batch size {batch_size}"


def short_setting(of: Trial | Cell) -> str:
    """`2 ranks x 16`"""
    return f"{some(of.active_ranks, 'rank')} x {of.batch_size}"


def what_happens(sweep: SweepState) -> str:
    """What is done with the current trial."""
    if sweep.current is None:
        return "between trials"
    return "measuring" if sweep.measuring else "warming up"


def how_measured(state: RunState, sweep: SweepState) -> str:
    """What a trial is, its repeats, what ± means, what MBU is relative to: as planned, or once over as it was done."""
    plan = sweep.plan
    over = sweep.settled is not None or state.ended is not None
    least, most = repeats_measured(cells(sweep)) if over else (plan.repeats, plan.repeats)
    shuffled = ", each in another order" if most > 1 else ""
    often = f"{repeats_words(plan, least, most)}{shuffled}; " if plan.repeats > 1 else ""
    cut = "" if plan.trial_tokens is None else f", answers cut at {some(plan.trial_tokens, 'token')}"
    length = f"; {state.config.length_mode}{cut}" if state.config is not None else ""
    words = (
        f"{often}whole rounds after a warm-up, at least {plan.least_rounds} and "
        f"{plan.least_seconds:g} s{length}; {_noise(least, most)}"
    )
    if sweep.no_mbu is not None:
        words += f"; MBU n/a: {sweep.no_mbu}"
    elif sweep.bandwidth_bytes_per_second is not None:
        words += f"; MBU of {bandwidth_words(sweep.bandwidth_bytes_per_second, sweep.bandwidth_source)}"
        words += "".join(f", {said}" for said in spread_words(state.config))
    return words


def spread_words(config: RunConfig | None) -> list[str]:
    """What MBU can be at most where a rank has several GPUs; empty where it has one.

    `on each of a rank's 2 GPUs, which work one after the other: 50% at most`
    """
    gpus = config.gpus_per_rank if config is not None else 1
    each = f"on each of a rank's {gpus} GPUs, which work one after the other"
    return [f"{each}: {percent(1 / gpus)} at most"] if gpus > 1 else []


def bandwidth_words(bytes_per_second: float, source: str | None) -> str:
    """`3,350 GB/s (table of known GPUs)`: a device's peak memory bandwidth, and where the figure is from."""
    return f"{bytes_per_second / 1e9:,.0f} GB/s" + (f" ({source})" if source else "")


def repeats_measured(found: Sequence[Cell]) -> tuple[int, int]:
    """The fewest and the most trials measured of any setting that neither failed nor ran out of memory."""
    counts = [
        cell.tokens_per_second.count if cell.tokens_per_second is not None else 0
        for cell in found
        if cell.outcome in ("measured", None)
    ]
    return min(counts, default=0), max(counts, default=0)


def repeats_words(plan: SweepPlan, least: int, most: int) -> str:
    """`3 repeats`, or `1 to 2 of 3 repeats` where some settings were measured less often."""
    if least == most == plan.repeats:
        return some(plan.repeats, "repeat")
    return f"{least if least == most else f'{least} to {most}'} of {some(plan.repeats, 'repeat')}"


def _noise(least: int, most: int) -> str:
    if most < 2:
        return "one repeat, so how far a figure varies is not known"
    wide = f" (with 2 repeats {_wide(2)})" if least <= 2 else ""
    return f"± 95 % interval{' where there are 2 repeats or more' if least < 2 else ''}{wide}"


def plan_words(plan: SweepPlan) -> str:
    """`18 trials: 3 batch sizes x 2 numbers of ranks x 3 repeats`"""
    sizes, ranks = len(set(plan.batch_sizes)), len(set(plan.ranks))
    return (
        f"{some(planned(plan), 'trial')}: {some(sizes, 'batch size')} x "
        f"{some(ranks, 'number of ranks', 'numbers of ranks')} x {some(plan.repeats, 'repeat')}"
    )


def rate_places(found: Sequence[Cell]) -> int:
    """Digits after the point of tokens/s, the same for a whole table so that the points line up."""
    rates = [cell.tokens_per_second.mean for cell in found if cell.tokens_per_second is not None]
    return 0 if max(rates, default=0.0) >= 10_000 else 1


class Value(NamedTuple):
    """A figure, how it reads, and how the half-width of its 95 % interval reads: empty where none is known."""

    exact: float
    text: str
    noise: str = ""


def value_of(exact: float, half_width: float | None, reads: Callable[[float], str]) -> Value:
    """A figure whose noise reads as it does itself."""
    return Value(exact, reads(exact), "" if half_width is None else reads(half_width))


def estimate_value(estimate: Estimate, places: int) -> Value:
    """Tokens/s with `places` digits after the point."""
    return value_of(estimate.mean, estimate.half_width, lambda value: f"{value:,.{places}f}")


def estimate_words(estimate: Estimate, places: int = 1) -> str:
    """`143.2 ± 3.1`, or the mean alone where its noise is not known."""
    value = estimate_value(estimate, places)
    return f"{value.text} ± {value.noise}" if value.noise else value.text


def best_words(best: Cell, places: int = 1) -> str:
    """`2 ranks x batch size 16: 143.2 ± 3.1 tok/s`"""
    assert best.tokens_per_second is not None
    return f"{setting(best.active_ranks, best.batch_size)}: {estimate_words(best.tokens_per_second, places)} tok/s"


def best_sentence(summary: SweepSummary) -> str:
    """The best setting and how sure that is; empty where none was measured.

    `2 ranks x batch size 16: 143.2 ± 3.1 tok/s; faster than every other setting, beyond the noise`
    """
    if summary.best is None:
        return ""
    words = best_words(summary.best, rate_places(summary.cells))
    return f"{words}; {summary.verdict.sentence}" if summary.verdict and summary.verdict.sentence else words


def tied_words(verdict: Verdict | None) -> str:
    """How certain the best is, in few words: `tied with 2 others`, `measured once`, or nothing."""
    if verdict is None or not verdict.sentence:
        return ""
    if not verdict.noise_known:
        return "measured once"
    return f"tied with {some(len(verdict.tied), 'other')}" if verdict.tied else ""


def scaling_shown(summary: SweepSummary) -> list[Scaling]:
    """Scaling at the batch size that is run, or else at that of the next best setting with two numbers of ranks."""
    by_rate = sorted((cell for cell in summary.cells if cell.tokens_per_second is not None), key=rate, reverse=True)
    sizes = [cell.batch_size for cell in (summary.chosen, *by_rate) if cell is not None]
    return next((rows for size in sizes if (rows := scaling(summary.cells, size))), [])


def scaling_words(summary: SweepSummary) -> str:
    """`scaling at batch size 16, over 1 rank: 2 ranks 1.93x, 4 ranks 3.71x`; empty with one number of ranks.

    With two, at every batch size measured with both: `2 ranks over 1: 1.27x at batch size 32, 1.99x at 8`.
    """
    rows = scaling_shown(summary)
    if not rows:
        return ""
    base = rows[0]
    if len({cell.active_ranks for cell in summary.cells}) > 2:
        said = ", ".join(f"{some(row.active_ranks, 'rank')} {_over(base, row)}" for row in rows[1:])
        return f"scaling at batch size {base.batch_size}, over {some(base.active_ranks, 'rank')}: {said}"
    others = sorted({cell.batch_size for cell in summary.cells} - {base.batch_size}, reverse=True)
    pairs = [pair for pair in (rows, *(scaling(summary.cells, size) for size in others)) if pair]
    said = ", ".join(
        f"{_over(*pair)} at {'' if number else 'batch size '}{pair[0].batch_size}" for number, pair in enumerate(pairs)
    )
    return f"scaling, {some(rows[1].active_ranks, 'rank')} over {base.active_ranks}: {said}"


def _over(base: Scaling, row: Scaling) -> str:
    return times(row.speedup / base.speedup)


def speedup_places(speedup: float) -> int:
    """Digits after the point of a speedup and of its noise: as many as tell something."""
    return 2 if speedup < 10 else 1 if speedup < 100 else 0


def times(speedup: float) -> str:
    """`1.93x`"""
    return f"{speedup:.{speedup_places(speedup)}f}x"


def repeats_warning(repeats: int) -> str:
    """A warning before a sweep with too few repeats; empty where they are enough."""
    if repeats == 1:
        return "1 repeat is a first look: its noise is not known; 3 show it, 5 show it well"
    if repeats == 2:
        more = f"3 have ± {deviations(3):.1f}, 5 ± {deviations(5):.1f}"
        return f"2 repeats have {_wide(2)} at 95 %, next to useless; {more}"
    return ""


def _wide(repeats: int) -> str:
    return f"± {deviations(repeats):.1f} standard deviations"


def true_knees(summary: SweepSummary) -> list[tuple[int, int]]:
    """The (active ranks, batch size) of knees after which a larger batch was measured and gained too little."""
    return [(knee.active_ranks, knee.batch_size) for knee in summary.knees if knee.ended]


def standing(state: RunState, sweep: SweepState) -> str:
    """Where the sweep stands, in words."""
    done, of = len(sweep.records), len(sweep.trials)
    if sweep.settled is not None:
        return f"{ENDED_EARLY if sweep.ended_early else 'settled'}: {sweep.settled}"
    if state.ended is not None:
        return f"{state.ended.status} after {done:,} of {some(of or planned(sweep.plan), 'trial')}"
    if state.sweep is None:
        return f"{some(planned(sweep.plan), 'trial')} planned, from the moment all ranks are ready"
    if sweep.current is None:
        return trial_of(sweep)
    return f"{trial_of(sweep)}: {setting(sweep.current.active_ranks, sweep.current.batch_size)}"


def sweep_progress_line(state: RunState, sweep: SweepState) -> str:
    """The progress of a sweep as one line of a log."""
    repeat = f", repeat {sweep.current.repeat} of {sweep.plan.repeats}" if sweep.current is not None else ""
    eta = f", ETA {words}" if (words := eta_words(state)) != clock(None) else ""
    return f"{standing(state, sweep)}{repeat}, {what_happens(sweep)}; {state.rate_now:.0f} tok/s now{eta}"


def with_plan(config: RunConfig, plan: SweepPlan) -> RunConfig:
    """The run's settings with this plan in place of their own."""
    changed: dict[str, Any] = {"sweep": plan}
    return msgspec.structs.replace(config, **changed)
