"""The throughput panel: tokens/s now, how loaded the devices are, the last turn of a knob, and the history. Pure."""

from rankdeck.runner.state import RunState
from rankdeck.runner.state.load import recent
from rankdeck.runner.state.settings import current_setting
from rankdeck.tui.panels.bands import bands
from rankdeck.tui.panels.chart import LoadRow, chart
from rankdeck.tui.panels.digits import ROWS, large
from rankdeck.tui.panels.overview.knob_effect import turn_lines
from rankdeck.tui.panels.overview.notice import relaunching
from rankdeck.tui.panels.overview.settings_table import joules_words
from rankdeck.tui.words.text import NOTHING, Line, fit, flow, line_width, pad, rate

CHART_NEEDS = 5
"""Lines: two rows of plot, the axis, and two of the load."""

LARGE_FROM = 12
"""Lines of the panel from which tokens/s stand in large digits."""


def throughput_lines(state: RunState, width: int, height: int) -> list[Line]:
    if state.first_batch_at is None:
        return _empty(state, width, height)
    head, effect = _head(state, width, height), turn_lines(state, width)
    # In little room the chart wins, then the effect of a turn, then the rest of the figures.
    room = max(1, height - CHART_NEEDS)
    head = head[: max(1, room - len(effect))]
    lines = [*head, *effect][:room]
    over = state.ended is not None
    left = max(2, height - len(lines))
    turned = bands(state)
    # A turn of a knob stands above its band; what else happened has a mark of its own.
    marks = [mark for mark in state.marks if not turned or mark.kind not in ("batch size", "active ranks", "trial")]
    return [*lines, *chart(state.history, width, left, marks, turned, load_rows(state), over=over)]


def load_rows(state: RunState) -> list[LoadRow]:
    """Busy and DRAM of the GPUs in use, or the processors' load, for the chart."""
    points = state.history
    busy = [(point.elapsed, point.busy) for point in points if point.busy is not None]
    dram = [(point.elapsed, point.dram) for point in points if point.dram is not None]
    now = recent(state.loads, state.now)
    over = state.ended is not None
    on_gpus = bool(state.devices) or any(load.busy is not None for load in state.loads)
    rows = []
    if busy:
        figure = now.busy.value if on_gpus else now.cpu.value
        rows.append(LoadRow("busy" if on_gpus else "CPU", None if over else figure, busy))
    if dram:
        rows.append(LoadRow("DRAM", None if over else now.dram.value, dram, "dram"))
    return rows


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


def device_facts(state: RunState) -> list[Line]:
    """How loaded the devices in use are, mean of the last seconds; empty where not known, and after the end."""
    if state.ended is not None:
        return []
    now = recent(state.loads, state.now)
    watts = now.watts.value
    known = [("busy", now.busy.value), ("DRAM", now.dram.value), ("tensor", now.tensor.value)]
    if now.busy.value is None:
        known = [("CPU", now.cpu.value)]
    facts: list[Line] = [
        ((f"{name} ", "dim"), (f"{value:.0f}%", "strong")) for name, value in known if value is not None
    ]
    setting = current_setting(state)
    if setting is not None and setting.mbu is not None:
        facts.append((("MBU ", "dim"), (f"{setting.mbu:.0%}", "strong")))
    if watts:
        facts.append(((joules_words(state.rate_now / watts), "strong"), (" tok/J", "dim")))
        facts.append(((f"{watts:,.0f}", "strong"), (" W", "dim")))
    return facts


def _head(state: RunState, width: int, height: int) -> list[Line]:
    if height >= LARGE_FROM:
        return _large_head(state, width)
    return _figures(state, width)


def _large_head(state: RunState, width: int) -> list[Line]:
    """Tokens/s in large digits, with the other figures beside them."""
    over = state.ended is not None
    first = state.ended.summary.tokens_per_second if state.ended is not None else state.rate_now
    digits = large(NOTHING if relaunching(state) else rate(first))
    room = max(11, len(digits[0]))
    unit: Line = (("tok/s over the run" if over else "tok/s now", "dim"),)
    rest = rate_facts(state)[1:]
    beside = width - room - 3
    facts = [_trimmed(fact) for fact in rest]
    lines = [*flow([unit, *facts], beside)[:1], *flow(device_facts(state), beside)]
    if len(flow([unit, *facts], beside)) > 1:
        lines = [unit, *flow(facts, beside)[:1], *flow(device_facts(state), beside)]
    lines = lines[:ROWS]
    lines = [*lines, *[()] * (ROWS - len(lines))]
    return [
        fit(((digit.ljust(room), "key"), ("   ", ""), *line), width) for digit, line in zip(digits, lines, strict=True)
    ]


def _trimmed(fact: Line) -> Line:
    return tuple((text.strip() if place == 0 else text, style) for place, (text, style) in enumerate(fact))


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
