"""What a chart shows, as values: axes, lines with their noise, bars, marks and walls. Pure shapes.

Knows no pixels and no colours; `tui.report.chart` draws it, where nothing can be drawn `description` says it.
"""

from typing import Literal

import msgspec

MOST_LINES = 8
"""More lines than these cannot be told apart by marker and dash, nor labelled at their ends."""


class Axis(msgspec.Struct, frozen=True):
    """An axis from zero; `fitted` is one that spans its points instead, those of reference lines left out.

    The given `values` are labelled each, and nothing else: placed by their logarithm with `log2`, on a fitted axis
    evenly. `unit` may be empty.
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
    """A line and the words at its end. `reference` lines are grey and thin: a mean, an ideal."""

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
    """Where it does not go on: out of memory at `x`. With `height` it stops the line of that height alone."""

    x: float
    text: str
    height: float | None = None


class Plot(msgspec.Struct, frozen=True, kw_only=True):
    """A chart. `key` is unique in a report; `description` says in words what is to be seen."""

    key: str
    title: str
    description: str
    x: Axis
    y: Axis
    lines: list[Line] = []
    bars: list[Bar] = []
    marks: list[Mark] = []
    walls: list[Wall] = []


def spread(names: list[int], most: int = MOST_LINES, keep: int | None = None) -> list[int]:
    """At most `most` of the sorted values, the first and the last and `keep` among them."""
    if len(names) <= most:
        return names
    chosen = {names[round(place * (len(names) - 1) / (most - 1))] for place in range(most)}
    if keep is not None and keep in names and keep not in chosen:
        inner = min(chosen - {names[0], names[-1]}, key=lambda name: abs(name - keep))
        chosen = (chosen - {inner}) | {keep}
    return sorted(chosen)
