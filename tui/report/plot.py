"""What a chart shows, as values: axes, lines with their noise, bars, marks and walls.

Knows no pixels and no colours: `tui.report.chart` draws it, and `description` stands in where nothing can be drawn.
"""

from typing import Literal

import msgspec

MOST_LINES = 8
"""With more lines, markers and dashes no longer tell them apart, and their ends have no room for labels."""


class Axis(msgspec.Struct, frozen=True):
    """An axis from zero, or, if `fitted`, one that spans the points of all lines but reference lines.

    Given `values` are its only labels: placed by their logarithm on a `log2` axis, evenly on a fitted one. `unit` may
    be empty.
    """

    title: str
    unit: str = ""
    scale: Literal["linear", "log2"] = "linear"
    values: list[int] = []
    whole: bool = False
    fitted: bool = False

    @property
    def label(self) -> str:
        return f"{self.title} ({self.unit})" if self.unit else self.title


class Point(msgspec.Struct, frozen=True):
    """A point; `half_width` is that of its 95 % interval."""

    x: float
    y: float
    half_width: float | None = None


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A line and the name at its end. `reference` lines, such as a mean or an ideal, are grey and thin."""

    name: str
    points: list[Point]
    reference: bool = False
    markers: bool = True
    filled: bool = False


class Bar(msgspec.Struct, frozen=True):
    """A bar from `low` to `high` on the x axis."""

    low: float
    high: float
    height: float


class Mark(msgspec.Struct, frozen=True):
    """Something that happened at `x`."""

    x: float
    text: str


class Wall(msgspec.Struct, frozen=True):
    """Where lines end, as out of memory at `x`: all of them, or with `height` the one that ends at that height."""

    x: float
    text: str
    height: float | None = None


class Plot(msgspec.Struct, frozen=True, kw_only=True):
    """A chart. `key` is unique in a report; `description` says in words what the chart shows."""

    key: str
    title: str
    description: str
    x: Axis
    y: Axis
    lines: list[Line] = []
    bars: list[Bar] = []
    marks: list[Mark] = []
    walls: list[Wall] = []

    @property
    def highest(self) -> float:
        """The largest value on the y axis, noise included."""
        points = [point for line in self.lines for point in line.points]
        tops = [point.y + (point.half_width or 0.0) for point in points] + [bar.height for bar in self.bars]
        return max(tops, default=1.0)

    @property
    def farthest(self) -> float:
        """The largest value on the x axis; 1 where there is none above 0."""
        ends = [point.x for line in self.lines for point in line.points]
        ends += [bar.high for bar in self.bars] + [wall.x for wall in self.walls] + [mark.x for mark in self.marks]
        top = max(ends, default=1.0)
        return top if top > 0 else 1.0

    @property
    def span(self) -> tuple[float, float]:
        """The least and the largest value of all lines but reference lines, noise included."""
        points = [point for line in self.lines if not line.reference for point in line.points]
        ends = [point.y + sign * (point.half_width or 0.0) for point in points for sign in (-1, 1)]
        return max(0.0, min(ends, default=0.0)), max(ends, default=1.0)


def spread(names: list[int], most: int = MOST_LINES, keep: int | None = None) -> list[int]:
    """At most `most` of the sorted values, always including the first, the last and `keep`."""
    if len(names) <= most:
        return names
    chosen = {names[round(place * (len(names) - 1) / (most - 1))] for place in range(most)}
    if keep is not None and keep in names and keep not in chosen:
        inner = min(chosen - {names[0], names[-1]}, key=lambda name: abs(name - keep))
        chosen = (chosen - {inner}) | {keep}
    return sorted(chosen)
