"""The last minute of a percentage as bars in one line. Pure; knows samples, one a second, not what they measure."""

from collections.abc import Sequence

SECONDS = 60
_LEVELS = "▁▂▃▄▅▆▇█"


def minute(history: Sequence[float | None], samples: int, width: int) -> str:
    """The newest samples of `history` (percent, None where one is missing) in `width` cells, on a scale of 0 to 100.

    A cell is the mean of as many seconds as make a minute of all cells. Which seconds share a cell goes by the number
    of the sample, of which the last was number `samples`: so a bar that is whole never changes its height, it only
    moves. What is missing is blank.
    """
    if width <= 0:
        return ""
    per_cell = -(-SECONDS // width)
    cells = min(width, SECONDS // per_cell)
    samples = max(samples, len(history))
    groups: dict[int, list[float]] = {}
    for number, value in enumerate(history, samples - len(history)):
        if value is not None:
            groups.setdefault(number // per_cell, []).append(value)
    last = max(0, samples - 1) // per_cell
    bars = (_bar(groups.get(group)) for group in range(last - cells + 1, last + 1))
    return "".join(bars).rjust(width)


def _bar(values: list[float] | None) -> str:
    if not values:
        return " "
    mean = sum(values) / len(values)
    return _LEVELS[max(0, min(len(_LEVELS) - 1, int(mean / 100 * len(_LEVELS))))]
