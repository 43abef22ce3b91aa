"""The throughput panel: tokens/s now, mean and peak, the effect of the last turn of a knob, and the history. Pure."""

from rankdeck.runner.state import RunState
from rankdeck.tui.panels.chart import chart
from rankdeck.tui.panels.overview.knob_effect import turn_lines
from rankdeck.tui.panels.overview.notice import relaunching
from rankdeck.tui.words.text import NOTHING, Line, fit, line_width, pad, rate

CHART_NEEDS = 3
"""Lines: two rows of plot and the axis."""


def throughput_lines(state: RunState, width: int, height: int) -> list[Line]:
    if state.first_batch_at is None:
        return _empty(state, width, height)
    figures, effect = _figures(state, width), turn_lines(state, width)
    # In little room the chart wins, then the effect of a turn, then the rest of the figures.
    room = max(1, height - CHART_NEEDS)
    figures = figures[: max(1, room - len(effect))]
    lines = [*figures, *effect][:room]
    return [
        *lines,
        *chart(state.history, width, max(2, height - len(lines)), state.marks, over=state.ended is not None),
    ]


def rate_facts(state: RunState) -> list[Line]:
    """Tokens/s now, mean and peak; of a run that has ended, over the run and peak."""
    mean: Line = ((_figure(state.rate_mean), "strong"), (" mean", "dim"))
    peak: Line = ((_figure(state.rate_peak) if state.rate_peak else NOTHING.rjust(5), "strong"), (" peak", "dim"))
    if state.ended is not None:
        summary = state.ended.summary
        first: Line = ((_figure(summary.tokens_per_second), "key"), (" tok/s over the run", "dim"))
        return [first, peak]
    now = NOTHING.rjust(5) if relaunching(state) else _figure(state.rate_now)
    return [((now, "key"), (" tok/s now", "dim")), mean, peak]


def _figures(state: RunState, width: int) -> list[Line]:
    first, *rest = rate_facts(state)
    line = first
    for fact in rest:
        gap = 3 if width >= 50 else 1
        if line_width(line) + line_width(fact) + gap > width:
            return [first, fit((*rest[0], (" ", ""), *(rest[1] if len(rest) > 1 else ())), width)]
        line = (*line, (" " * gap, ""), *fact)
    return [line]


def _figure(tokens_per_second: float) -> str:
    """Right-aligned in 5 cells; a longer figure is not cut."""
    return rate(tokens_per_second).rjust(5)


def _empty(state: RunState, width: int, height: int) -> list[Line]:
    words = "no batch was started" if state.ended is not None else "tok/s from the first batch on"
    axes = chart((), width, height)
    middle = max(0, (height - 1) // 2)
    # Written into the empty plot, so that nothing moves when the first bar appears.
    label = axes[middle][0]
    axes[middle] = (label, (pad(" " * 2 + words, width - line_width((label,))), "dim"))
    return axes
