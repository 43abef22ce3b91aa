"""The settings of a run along a chart's time axis: where each began and ended, and what it brought. Pure.

Knows seconds, columns and words, not what is plotted below.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from rankdeck.runner.state import RunState
from rankdeck.runner.state.periods import KnobPeriod, whole_setting
from rankdeck.tui.words.text import Line, Piece, count, fit, rate

Setting = tuple[int, int]
"""Batch size and active ranks."""


class Band(NamedTuple):
    """When a setting was in force, in seconds since the first batch; its name, long and short; and its tokens/s.

    The figure is empty while nothing was measured.
    """

    began: float
    ended: float
    names: tuple[str, str]
    figure: str
    current: bool = False

    @property
    def ways(self) -> tuple[str, ...]:
        """What may stand above the band, the longest first."""
        return (f"{self.names[0]}: {self.figure}", self.figure) if self.figure else self.names


def bands(state: RunState) -> list[Band]:
    """The settings in order of time; neighbours of one setting are one band. Empty before a second setting."""
    periods = state.periods
    if len({_setting(period) for period in periods}) < 2:
        return []
    same = [list(group) for _, group in groupby(periods, _setting)]
    ends = [*(group[0].began for group in same[1:]), max(state.seconds, same[-1][0].began)]
    return [
        Band(
            group[0].began,
            ended,
            _names(group[0], periods),
            _figure(group[0], periods),
            group is same[-1] and not state.ended,
        )
        for group, ended in zip(same, ends, strict=True)
    ]


def band_row(found: Sequence[Band], span: float, number: int) -> Line:
    """A row of exactly `number` cells, for an axis of `span` seconds: the words of each band above its columns.

    A band begins with a rule, but for the first.
    """
    pieces: list[Piece] = []
    for place, (band, start, stop) in enumerate(_columns(found, span, number)):
        room = stop - start - 1
        words = next((way for way in band.ways if len(way) <= room), "")
        style = "key" if band.current else "strong" if band.figure else "dim"
        if room < 0:
            continue
        pieces.append(("▏" if place else " ", "mark"))
        pieces.extend(fit(((words, style),), room))
    used = sum(len(text) for text, _ in pieces)
    return (*pieces, (" " * (number - used), ""))


def edges(found: Sequence[Band], span: float, number: int) -> list[int]:
    """The columns at which the bands begin, but for the first."""
    return [start for _, start, stop in _columns(found, span, number)[1:] if stop > start]


def _columns(found: Sequence[Band], span: float, number: int) -> list[tuple[Band, int, int]]:
    """Each band with its first column and the one after its last; the last reaches to the end of the axis."""
    if not found:
        return []
    starts = [max(0, min(number - 1, int(band.began / span * number))) for band in found]
    stops = [*starts[1:], number]
    return list(zip(found, [0, *starts[1:]], stops, strict=True))


def _setting(period: KnobPeriod) -> Setting:
    return period.batch_size, period.active_ranks


def _figure(period: KnobPeriod, periods: Sequence[KnobPeriod]) -> str:
    """What the setting brought, whenever it was in force: the figure of the table of settings."""
    found = whole_setting(periods, period).warm_rate
    return "" if found is None else rate(found)


def _names(period: KnobPeriod, periods: Sequence[KnobPeriod]) -> tuple[str, str]:
    """A setting by what differs between the settings of this run, in a long and a short form."""
    size, ranks = count(period.batch_size), count(period.active_ranks)
    if len({each.active_ranks for each in periods}) == 1:
        return f"batch {size}", size
    if len({each.batch_size for each in periods}) == 1:
        return f"{ranks} {'rank' if period.active_ranks == 1 else 'ranks'}", ranks
    return f"{size} x {ranks}", f"{size}x{ranks}"
