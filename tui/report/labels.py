"""Where the words of a chart go so that none lies over another. Pure arithmetic on pixels."""

from collections.abc import Sequence

import msgspec

CHARACTER = 6.7
"""Pixels a character of the chart's 12-pixel type takes, generously."""


def width_of(text: str) -> float:
    """Pixels the words take, at most; characters of other scripts may be twice as wide."""
    return sum(CHARACTER if ord(character) < 0x1100 else 2 * CHARACTER for character in text)


def apart(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places near the wanted ones, at least `gap` apart and within `low` to `high`, in the given order of items.

    Where there is no room for all, the gap shrinks.
    """
    if not wanted:
        return []
    gap = min(gap, (high - low) / max(1, len(wanted) - 1))
    order = sorted(range(len(wanted)), key=lambda item: wanted[item])
    placed = [0.0] * len(wanted)
    edge = low
    for item in order:
        placed[item] = max(edge, wanted[item])
        edge = placed[item] + gap
    edge = high
    for item in reversed(order):
        placed[item] = min(edge, placed[item])
        edge = placed[item] - gap
    return placed


class Placed(msgspec.Struct, frozen=True):
    """Words at `x`, reading to the right or (`left`) to the left of it, in a row from 0; no row: no room."""

    x: float
    row: int | None
    left: bool


def in_rows(items: Sequence[tuple[float, str]], rows: int, right: float, space: float = 8) -> list[Placed]:
    """A place for the words of each (x, text), x ascending; those that would lie over others get none."""
    ends = [-1e9] * rows
    placed = []
    for x, text in items:
        width = width_of(text)
        left = x + space + width > right
        start = x - width if left else x
        row = next((row for row in range(rows) if start >= ends[row] + space), None)
        if row is not None:
            ends[row] = max(ends[row], start + width)
        placed.append(Placed(x, row, left))
    return placed


def thinned(items: Sequence[tuple[float, str]], space: float = 8) -> list[bool]:
    """Which of the centred words of an axis are shown: each unless it would touch the one shown before."""
    shown, edge = [], -1e9
    for x, text in items:
        half = width_of(text) / 2
        fits = x - half >= edge + space
        if fits:
            edge = x + half
        shown.append(fits)
    return shown
