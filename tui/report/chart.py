"""Draw a plot as SVG that can be read without colours and by a screen reader.

Knows pixels and shapes; the style sheet scales the drawing and has its colours and type: elements carry classes only.
Every text goes through ElementTree, so nothing in it can become markup.
"""

import math
from collections.abc import Callable, Sequence
from itertools import count
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import msgspec

from rankdeck.tui.panels.ticks import fitted_ticks, nice_ticks
from rankdeck.tui.report.plot import Bar, Line, Plot, Point, Wall
from rankdeck.tui.words import text

WIDTH, HEIGHT, BARS_HEIGHT = 600, 330, 210
"""Pixels of a drawing: few enough that its words can be read when a phone shrinks it. Bars need less height."""

MOST_X_STEPS, MOST_Y_STEPS = 8, 5

LINE_HEIGHT = 16
MARK_ROWS = 3
DASHES = ("", "7 4", "2 3", "9 3 2 3", "12 4", "4 2 1 2", "1 4", "6 2 2 2 2 2")
MARKERS = (
    "M-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0 -7 0Z",  # circle
    "M-3.3 -3.3H3.3V3.3H-3.3Z",  # square
    "M0 -4.4L4.2 3H-4.2Z",  # triangle
    "M0 -4.8L4.2 0L0 4.8L-4.2 0Z",  # diamond
    "M0 4.4L4.2 -3H-4.2Z",  # triangle, point down
    "M-4 -1.3H-1.3V-4H1.3V-1.3H4V1.3H1.3V4H-1.3V1.3H-4Z",  # plus
    "M-1.9 -4.2H1.9L4.2 0L1.9 4.2H-1.9L-4.2 0Z",  # hexagon
    "M0 -4.6L4.4 -1.4L2.7 3.7H-2.7L-4.4 -1.4Z",  # pentagon
)


def draw(plot: Plot) -> str:
    """The plot as an `svg` element."""
    return _Drawing(plot).drawn()


class _Drawing:
    def __init__(self, plot: Plot) -> None:
        self.plot = plot
        self.height = BARS_HEIGHT if plot.bars else HEIGHT
        title, words = f"{plot.key}-title", f"{plot.key}-words"
        frame = {"viewBox": f"0 0 {WIDTH} {self.height}", "role": "img", "aria-labelledby": f"{title} {words}"}
        self.svg = Element("svg", frame)
        self._text(self.svg, "title", plot.title, id=title)
        self._text(self.svg, "desc", plot.description, id=words)
        if plot.y.fitted:
            self.y_ticks = fitted_ticks(*plot.span, MOST_Y_STEPS)
        else:
            self.y_ticks = nice_ticks(plot.highest, MOST_Y_STEPS, whole=plot.y.whole)
        self.x_top = plot.farthest
        self.x_ticks = nice_ticks(self.x_top, MOST_X_STEPS, whole=plot.x.whole)
        self._lay_out()

    # --- places --------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        plot = self.plot
        ends = [width_of(text.visible(line.name)) for line in plot.lines if line.points]
        tick_width = max(width_of(self.y_ticks.label(value)) for value in self.y_ticks.values)
        self.left = round(tick_width + 10)
        self.right = WIDTH - round(min(0.36 * WIDTH, max(ends) + 26) if ends else 14)
        self.bottom = self.height - 2 * LINE_HEIGHT - 8
        self.x = self._x_scale()
        above = sorted([(self.x(mark.x), text.visible(mark.text)) for mark in plot.marks], key=lambda item: item[0])
        above += [(self.x(wall.x), text.visible(wall.text)) for wall in plot.walls if wall.height is None]
        self.notes = list(zip(above, in_rows(above, MARK_ROWS, WIDTH - 4), strict=True))
        rows = max((place.row + 1 for _, place in self.notes if place.row is not None), default=0)
        self.top = LINE_HEIGHT + 10 + rows * LINE_HEIGHT + (6 if rows else 0)

    def _x_scale(self) -> Callable[[float], float]:
        axis, room = self.plot.x, self.right - self.left
        if not axis.values or not (axis.scale == "log2" or axis.fitted):
            return lambda value: self.left + value / self.x_top * room
        place = math.log2 if axis.scale == "log2" else float
        low, high = place(axis.values[0]), place(axis.values[-1])
        if low == high:
            return lambda value: self.left + room / 2
        margin = 0.06 * room
        unit = (room - 2 * margin) / (high - low)
        return lambda value: self.left + margin + (place(value) - low) * unit

    def y(self, value: float) -> float:
        low, high = self.y_ticks.values[0], self.y_ticks.values[-1]
        return self.bottom - (value - low) / (high - low) * (self.bottom - self.top)

    # --- drawing --------------------------------------------------------------------------------

    def drawn(self) -> str:
        self._axes()
        for bar in self.plot.bars:
            self._bar(bar)
        counter = count()
        numbers = [None if line.reference else next(counter) for line in self.plot.lines]
        for line, number in zip(self.plot.lines, numbers, strict=True):
            self._line(line, number)
        self._end_labels(numbers)
        self._notes()
        for wall in self.plot.walls:
            self._piece_of_wall(wall)
        return ElementTree.tostring(self.svg, encoding="unicode")

    def _axes(self) -> None:
        self._text(self.svg, "text", self.plot.y.label, "axis-title", x=0, y=12)
        for value in self.y_ticks.values:
            y = self.y(value)
            self._stroke(f"M{self.left} {_px(y)}H{self.right}", "base" if value == self.y_ticks.values[0] else "grid")
            self._text(self.svg, "text", self.y_ticks.label(value), "tick end", x=self.left - 7, y=y + 4)
        for x, label, shown in self._x_labels():
            self._stroke(f"M{_px(x)} {self.bottom}v4", "base")
            if shown:
                self._text(self.svg, "text", label, "tick middle", x=x, y=self.bottom + LINE_HEIGHT + 3)
        middle = (self.left + self.right) / 2
        self._text(self.svg, "text", self.plot.x.label, "axis-title middle", x=middle, y=self.height - 5)

    def _x_labels(self) -> list[tuple[float, str, bool]]:
        if self.plot.x.scale == "log2" or self.plot.x.fitted:
            items = [(self.x(value), f"{value:,}") for value in self.plot.x.values]
        else:
            items = [(self.x(value), self.x_ticks.label(value)) for value in self.x_ticks.values if value <= self.x_top]
        return [(x, label, shown) for (x, label), shown in zip(items, thinned(items), strict=True)]

    def _notes(self) -> None:
        walls = {self.x(wall.x) for wall in self.plot.walls if wall.height is None}
        for (x, words), place in self.notes:
            top = self.top if place.row is None else LINE_HEIGHT + 10 + place.row * LINE_HEIGHT
            kind = "wall" if x in walls else "mark"
            group = ElementTree.SubElement(self.svg, "g", {"class": kind})
            self._text(group, "title", words)
            self._stroke(f"M{_px(x)} {_px(top)}V{self.bottom}", "", parent=group)
            if place.row is not None:
                side = "end" if place.left else "start"
                self._text(group, "text", words, side, x=x + (-4 if place.left else 4), y=top + 11)

    def _piece_of_wall(self, wall: Wall) -> None:
        if wall.height is None:
            return
        x, y = self.x(wall.x), self.y(wall.height)
        words = text.visible(wall.text)
        group = ElementTree.SubElement(self.svg, "g", {"class": "wall"})
        low = min(y + 14, self.bottom)
        self._stroke(f"M{_px(x)} {_px(low - 28)}V{_px(low)}", "", parent=group)
        left = x + 6 + width_of(words) > self.right
        self._text(group, "text", words, "end" if left else "start", x=x + (-6 if left else 6), y=low - 20)

    def _bar(self, bar: Bar) -> None:
        left, right = self.x(bar.low), self.x(bar.high)
        inset = min(1.0, (right - left) * 0.1)
        top = self.y(bar.height)
        path = f"M{_px(left + inset)} {self.bottom}V{_px(top)}H{_px(right - inset)}V{self.bottom}Z"
        self._stroke(path, "bar s0")

    def _line(self, line: Line, number: int | None) -> None:
        if not line.points:
            return
        style = "reference" if number is None else f"s{number % len(MARKERS)}"
        group = ElementTree.SubElement(self.svg, "g", {"class": style})
        places = [(self.x(point.x), self.y(point.y)) for point in line.points]
        path = "M" + "L".join(f"{_px(x)} {_px(y)}" for x, y in places)
        if line.filled:
            area = f"{path}L{_px(places[-1][0])} {self.bottom}L{_px(places[0][0])} {self.bottom}Z"
            ElementTree.SubElement(group, "path", {"class": "area", "d": area})
        dash = "4 4" if number is None else DASHES[number % len(DASHES)]
        self._stroke(path, "line", parent=group, dash=dash)
        for point in line.points:
            self._error_bar(group, point)
        if line.markers and number is not None:
            for (x, y), point in zip(places, line.points, strict=True):
                marker = self._marker(group, x, y, number)
                self._text(marker, "title", f"{line.name}: {point.x:,.6g}, {_with_noise(point)}")

    def _error_bar(self, group: Element, point: Point) -> None:
        if point.half_width is None:
            return
        x = self.x(point.x)
        low, high = self.y(max(0.0, point.y - point.half_width)), self.y(point.y + point.half_width)
        path = f"M{_px(x - 4)} {_px(high)}h8M{_px(x)} {_px(high)}V{_px(low)}M{_px(x - 4)} {_px(low)}h8"
        self._stroke(path, "error", parent=group)

    def _end_labels(self, numbers: list[int | None]) -> None:
        """The name and the marker of each line beside its end, spread so that they do not overlap."""
        ending = [(line, number) for line, number in zip(self.plot.lines, numbers, strict=True) if line.points]
        wanted = [self.y(line.points[-1].y) for line, _ in ending]
        for (line, number), y, ideal in zip(ending, apart(wanted, 15, self.top, self.bottom), wanted, strict=True):
            style = "reference" if number is None else f"s{number % len(MARKERS)}"
            group = ElementTree.SubElement(self.svg, "g", {"class": style})
            end = self.x(line.points[-1].x)
            if self.right - end > 12 or abs(y - ideal) > 4:
                self._stroke(f"M{_px(end + 6)} {_px(ideal)}L{_px(self.right + 5)} {_px(y)}", "leader", parent=group)
            if number is not None:
                self._marker(group, self.right + 12, y, number)
            room = int((WIDTH - self.right - 20) / 6.2)
            x = self.right + (8 if number is None else 20)
            self._text(group, "text", text.cut(text.visible(line.name), room), "name", x=x, y=y + 4)

    def _marker(self, group: Element, x: float, y: float, number: int) -> Element:
        return ElementTree.SubElement(
            group,
            "path",
            {"class": "marker", "transform": f"translate({_px(x)} {_px(y)})", "d": MARKERS[number % len(MARKERS)]},
        )

    # --- elements -------------------------------------------------------------------------------

    def _stroke(self, path: str, style: str, *, parent: Element | None = None, dash: str = "") -> None:
        attributes = {"d": path}
        if style:
            attributes["class"] = style
        if dash:
            attributes["stroke-dasharray"] = dash
        ElementTree.SubElement(self.svg if parent is None else parent, "path", attributes)

    def _text(self, parent: Element, tag: str, words: str, style: str = "", **attributes: float | str) -> None:
        element = ElementTree.SubElement(
            parent, tag, {name: value if isinstance(value, str) else _px(value) for name, value in attributes.items()}
        )
        if style:
            element.set("class", style)
        element.text = text.visible(words)  # all words of a chart come through here


def _with_noise(point: Point) -> str:
    return f"{point.y:,.6g}" + (f" ± {point.half_width:,.3g}" if point.half_width is not None else "")


def _px(value: float) -> str:
    """A pixel coordinate: one digit after the point is finer than any screen."""
    return f"{value:.1f}".removesuffix(".0")


CHARACTER = 6.7
"""Pixels that a character of the chart's 12-pixel type takes at most."""


def width_of(text: str) -> float:
    """Pixels the words take at most; characters of other scripts may be twice as wide."""
    return sum(CHARACTER if ord(character) < 0x1100 else 2 * CHARACTER for character in text)


def apart(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """A place near each wanted one, at least `gap` apart, within `low` to `high`; the gap shrinks if all don't fit."""
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
    """The row of a label, counted from 0 (None: no room), and whether it reads to the left of its x."""

    row: int | None
    left: bool


def in_rows(items: Sequence[tuple[float, str]], rows: int, right: float, space: float = 8) -> list[Placed]:
    """A place for the label of each (x, text), x ascending; none for a label that would overlap others."""
    ends = [-1e9] * rows
    placed = []
    for x, words in items:
        width = width_of(words)
        left = x + space + width > right
        start = x - width if left else x
        row = next((row for row in range(rows) if start >= ends[row] + space), None)
        if row is not None:
            ends[row] = max(ends[row], start + width)
        placed.append(Placed(row, left))
    return placed


def thinned(items: Sequence[tuple[float, str]], space: float = 8) -> list[bool]:
    """Which centred labels of an axis are shown: each one that keeps clear of the label shown before it."""
    shown, edge = [], -1e9
    for x, words in items:
        half = width_of(words) / 2
        fits = x - half >= edge + space
        if fits:
            edge = x + half
        shown.append(fits)
    return shown
