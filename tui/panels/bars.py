"""Bars and tables as lines. Pure; knows shares, widths and columns, not what they measure."""

from collections.abc import Sequence
from typing import NamedTuple

from rankdeck.tui.words.text import Line, fit, line_width, pad

_EIGHTHS = " ▏▎▍▌▋▊▉"


def bar(share: float, width: int, style: str = "bar") -> Line:
    """A bar of `width` cells, to an eighth of a cell; any share above 0 shows, and only 1 fills it."""
    share = min(1.0, max(0.0, share))
    eighths = round(share * width * 8)
    if 0 < share < 1:
        eighths = min(width * 8 - 1, max(1, eighths))
    full, part = divmod(eighths, 8)
    filled = "█" * full + (_EIGHTHS[part] if part else "")
    return ((filled, style), ("░" * (width - len(filled)), "track"))


def bar_with_begun(share: float, begun: float, width: int) -> Line:
    """A bar whose filled part is followed by what has begun: up to the share `begun`, in whole cells."""
    if begun <= share:
        return bar(share, width)
    ends = [0 if each <= 0 else max(1, min(width - (each < 1), round(each * width))) for each in (share, begun)]
    done, under_way = ends[0], max(0, ends[1] - ends[0])
    return (("█" * done, "bar"), ("▓" * under_way, "busy"), ("░" * (width - done - under_way), "track"))


class Column(NamedTuple):
    """A column: its heading, its width in cells, and the width it may grow to."""

    title: str
    width: int
    align: str = "left"
    grows_to: int = 0


def widths(columns: Sequence[Column], width: int, most_gap: int = 4) -> tuple[list[int], int]:
    """The widths of the columns in `width` cells, and the gap between them.

    The gap becomes two first, then columns grow, then the gap widens up to `most_gap`; so a wide terminal
    spaces the table out and does not stretch one column.
    """
    sizes = [column.width for column in columns]
    gaps = max(1, len(columns) - 1)
    gap = max(1, min(2, (width - sum(sizes)) // gaps))
    spare = width - sum(sizes) - gap * (len(columns) - 1)
    growing = [position for position, column in enumerate(columns) if column.grows_to > column.width]
    while spare > 0 and growing:
        for position in list(growing):
            if spare > 0:
                sizes[position] += 1
                spare -= 1
            if sizes[position] >= columns[position].grows_to:
                growing.remove(position)
    if spare > 0:
        gap = min(most_gap, gap + spare // gaps)
    return sizes, gap


def heading(columns: Sequence[Column], sizes: Sequence[int], gap: int) -> Line:
    titles = (pad(column.title, size, column.align) for column, size in zip(columns, sizes, strict=True))
    return (((" " * gap).join(titles), "dim"),)


def snug(columns: Sequence[Column], rows: Sequence[Sequence[Line]]) -> tuple[Column, ...]:
    """The columns, each as wide as its longest cell."""
    cells = zip(*rows, strict=True)
    return tuple(
        column._replace(width=max(len(column.title), *map(line_width, below)))
        for column, below in zip(columns, cells, strict=True)
    )


def row(cells: Sequence[Line], columns: Sequence[Column], sizes: Sequence[int], gap: int) -> Line:
    pieces: list[tuple[str, str]] = []
    for position, (cell, column, size) in enumerate(zip(cells, columns, sizes, strict=True)):
        if position:
            pieces.append((" " * gap, ""))
        pieces.extend(fit(cell, size, column.align))
    return tuple(pieces)


MINUTE_SECONDS = 60


_LEVELS = "▁▂▃▄▅▆▇█"


def minute(history: Sequence[float | None], samples: int, width: int) -> str:
    """The newest samples of `history` (percent, None where one is missing) in `width` cells, on a scale of 0 to 100.

    Each cell is the mean of the same number of seconds, so that all of them make a minute. `samples` is the number of
    the last sample; which samples share a cell depends on their numbers, so that a complete bar keeps its height and
    only moves. Missing samples are blank.
    """
    if width <= 0:
        return ""
    per_cell = -(-MINUTE_SECONDS // width)
    cells = min(width, MINUTE_SECONDS // per_cell)
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
