"""Throughput over time as lines: a fixed scale from zero, round numbers on both axes.

The time axis starts at the first batch and is as long as the next round span, so that the picture
stands still while it fills; only when a span is full does it change to the next. Pure.
"""

from collections.abc import Sequence
from math import floor, log10

from runner.state import HistoryPoint
from tui.text import Line

_EIGHTHS = " ▁▂▃▄▅▆▇█"
_ROUND = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
_SPANS = (30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 28800, 43200, 86400)


def round_maximum(value: float) -> float:
    """The least round number that is not below `value`; 10 where there is nothing yet."""
    if value <= 0:
        return 10.0
    power = 10.0 ** floor(log10(value))
    return next(step * power for step in _ROUND if step * power >= value * (1 - 1e-9))


def round_span(seconds: float) -> float:
    """The least round number of seconds that is not below `seconds`, at least 30."""
    for span in _SPANS:
        if seconds <= span:
            return float(span)
    days = 2
    while seconds > days * 86400:
        days *= 2
    return float(days * 86400)


def time_label(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:g} s"
    if seconds < 7200:
        return f"{seconds / 60:g} min"
    return f"{seconds / 3600:g} h"


def value_label(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:g}"


def columns(history: Sequence[HistoryPoint], number: int, span: float) -> list[float | None]:
    """Mean tokens/s of each of `number` stretches of `span` seconds; None after the newest point.

    A stretch without a point of its own lies between two samples and holds the earlier one.
    """
    sums, counts = [0.0] * number, [0] * number
    newest = -1
    for point in history:
        position = min(number - 1, int(point.elapsed / span * number))
        sums[position] += point.tokens_per_second
        counts[position] += 1
        newest = max(newest, position)
    values: list[float | None] = []
    held = 0.0
    for position in range(number):
        if position > newest:
            values.append(None)
            continue
        if counts[position]:
            held = sums[position] / counts[position]
        values.append(held)
    return values


def chart(history: Sequence[HistoryPoint], width: int, height: int) -> list[Line]:
    """`height` lines of `width` cells: the plot, and under it the time axis."""
    maximum = round_maximum(max((point.tokens_per_second for point in history), default=0.0))
    span = round_span(history[-1].elapsed if history else 0.0)
    rows = max(1, height - 1)
    middle = rows // 2 if rows >= 5 and rows % 2 == 0 else None
    labels = {0: value_label(maximum)}
    if middle is not None:
        labels[middle] = value_label(maximum / 2)
    room = max(3, *(len(label) for label in labels.values()))
    plot = max(1, width - room - 2)
    # Heights in eighths of a cell; what is not zero is seen.
    tops = [0 if not value else max(1, round(value / maximum * rows * 8)) for value in columns(history, plot, span)]
    lines: list[Line] = []
    for line in range(rows):
        floor_eighths = (rows - 1 - line) * 8
        cells = "".join(_EIGHTHS[min(8, max(0, top - floor_eighths))] for top in tops)
        label, tick = labels.get(line, ""), "┤" if line in labels else "│"
        lines.append(((f"{label:>{room}} {tick}", "axis"), (cells, "chart")))
    lines.append(((f"{'0':>{room}} └" + _time_axis(plot, span), "axis"),))
    return lines


def _time_axis(width: int, span: float) -> str:
    """A rule with the span's middle and end written into it."""
    rule = ["─"] * width
    for share in (0.5, 1.0):
        label = f" {time_label(span * share)} "
        start = min(width - len(label), int(width * share) - len(label) // 2)
        if share == 1.0:
            label, start = label.rstrip(), width - len(label.rstrip())
        if start > 1 and width >= 24 * share:
            rule[start : start + len(label)] = label
    return "".join(rule)
