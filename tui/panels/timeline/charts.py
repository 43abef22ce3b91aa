"""How busy the devices were, and tokens/s, on the axis of the timeline. Pure."""

from collections.abc import Sequence

from rankdeck.runner.state import Mark, RunState
from rankdeck.runner.state.timeline import BusyPoint
from rankdeck.tui.panels.chart import columns, crossed, percent_cells, plot_rows, round_maximum, value_label
from rankdeck.tui.panels.marks import label_rows, mark_column
from rankdeck.tui.panels.timeline.window import Window
from rankdeck.tui.words.text import NOTHING, Line, pad, rate


def shown_marks(state: RunState, shown: Window) -> list[Mark]:
    """The marks inside the window, in seconds from its left edge."""
    found = []
    for mark in state.marks:
        at = state.timeline.of_work(mark.elapsed) - shown.left
        if 0 <= at <= shown.seconds:
            found.append(Mark(elapsed=at, kind=mark.kind, text=mark.text))
    return found


def mark_line(state: RunState, shown: Window, width: int) -> Line:
    marks = shown_marks(state, shown)
    return label_rows(marks, shown.seconds, width)[0] if marks else ((" " * width, ""),)


def busy_series(state: RunState, rows: int) -> list[tuple[str, list[tuple[float, float | None]]]]:
    """Label and (moment, percent) points: one series per GPU or rank if all fit in `rows`, else their mean."""
    timeline = state.timeline
    points = timeline.busy
    of = timeline.busy_of
    number = max((len(point.percents) for point in points), default=0)
    if of == "CPU" and 1 < number <= rows:
        # A mean would hide a rank that is starved of CPU.
        return [(f"CPU r{each}", _of_one(points, each)) for each in range(number)]
    if of == "GPU" and 1 < number <= rows:
        # NVML's index of each GPU, if it is known.
        names = [device.sample.index for device in state.devices]
        names = names if len(names) == number else list(range(number))
        return [(f"GPU {names[each]}", _of_one(points, each)) for each in range(number)]
    means = [(point.at, _mean(point.percents)) for point in points]
    return [("GPU busy" if of == "GPU" else "CPU used", means)]


def _of_one(points: Sequence[BusyPoint], device: int) -> list[tuple[float, float | None]]:
    return [(point.at, point.percents[device] if device < len(point.percents) else None) for point in points]


def _mean(percents: Sequence[int | None]) -> float | None:
    known = [percent for percent in percents if percent is not None]
    return sum(known) / len(known) if known else None


def busy_line(points: Sequence[tuple[float, float | None]], shown: Window, width: int) -> Line:
    """A row of exactly `width` cells from 0 to 100%, a little lower than the row; blank where nothing is known."""
    inside = [(at - shown.left, value) for at, value in points if value is not None and shown.left <= at <= shown.right]
    return ((percent_cells(columns(inside, width, shown.seconds)), "busy"),)


def mean_busy(points: Sequence[tuple[float, float | None]], shown: Window) -> str:
    """The mean over the window, in words."""
    known = [value for at, value in points if value is not None and shown.left <= at <= shown.right]
    return f"{sum(known) / len(known):.0f}%" if known else NOTHING


def rate_lines(state: RunState, shown: Window, width: int, height: int, label: int) -> list[Line]:
    """`height` rows of tokens/s, each a scale of `label` cells and `width` cells of plot."""
    history = [(state.timeline.of_work(one.elapsed), one.tokens_per_second) for one in state.history]
    inside = [(at - shown.left, value) for at, value in history if shown.left <= at <= shown.right]
    # The scale fits the whole run, so that zooming changes no height.
    maximum = round_maximum(max((value for _, value in history), default=0.0))
    values = columns(inside, width, shown.seconds)
    marked = {mark_column(mark, shown.seconds, width) for mark in shown_marks(state, shown)}
    lines: list[Line] = []
    for row, cells in enumerate(plot_rows(values, maximum, height)):
        lines.append((*_scale(row, height, maximum, label), *crossed(cells, marked)))
    return lines


def _scale(row: int, height: int, maximum: float, label: int) -> Line:
    if height == 1:
        return ((pad("tok/s", label), "dim"),)
    words = "tok/s" if row == height // 2 else ""
    value = value_label(maximum) if row == 0 else "0" if row == height - 1 and height > 2 else ""
    if height == 2:
        words, value = ("", value) if row == 0 else ("tok/s", "")
    tick = "┤" if value else "│"
    return ((f"{pad(words or value, label - 2, 'right' if not words else 'left')} {tick}", "axis"),)


def rate_words(state: RunState) -> str:
    """Tokens/s now, or over the whole run once it has ended."""
    if state.ended is not None:
        return rate(state.ended.summary.tokens_per_second)
    return rate(state.rate_now)
