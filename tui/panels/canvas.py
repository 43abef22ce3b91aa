"""A small canvas of cells for charts: fine lines in braille dots, signs on top of them, and axes. Pure.

Knows cells, dots and styles, not what is drawn. Every row is exactly as wide as the canvas.
"""

from collections.abc import Mapping

from rankdeck.tui.panels.chart import value_label
from rankdeck.tui.words.text import Line, Piece

_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""The bits of a braille character, by row and column of the dot."""


class Canvas:
    """`width` x `height` cells of 2 x 4 dots; y grows upwards from the axis and is given as a share from 0 to 1."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = max(1, width), max(1, height)
        self._dots: dict[tuple[int, int], tuple[int, str]] = {}
        self._signs: dict[tuple[int, int], tuple[str, str]] = {}

    def row(self, share: float) -> int:
        """The row, counted from the top, that a share of the height falls in."""
        return self.height - 1 - max(0, min(self.height - 1, int(share * self.height)))

    def sign(self, column: int, row: int, character: str, style: str) -> None:
        """One character, on top of whatever is there."""
        if 0 <= column < self.width and 0 <= row < self.height:
            self._signs[column, row] = (character, style)

    def words(self, column: int, row: int, text: str, style: str) -> None:
        """Words that start at a column, cut at the edge."""
        for place, character in enumerate(text):
            self.sign(column + place, row, character, style)

    def free(self, column: int, row: int) -> bool:
        """Whether the cell is on the canvas and has no sign yet."""
        return 0 <= column < self.width and 0 <= row < self.height and (column, row) not in self._signs

    def line(self, start: tuple[float, float], stop: tuple[float, float], style: str, *, every: int = 1) -> None:
        """A line between two points (column, share of the height); only every `every`-th dot is drawn."""
        (x0, y0), (x1, y1) = ((column * 2, share * self.height * 4) for column, share in (start, stop))
        steps = max(1, round(max(abs(x1 - x0), abs(y1 - y0))))
        for step in range(0, steps + 1, every):
            self._dot(round(x0 + (x1 - x0) * step / steps), round(y0 + (y1 - y0) * step / steps), style)

    def _dot(self, x: int, y: int, style: str) -> None:
        if not (0 <= x < self.width * 2 and 0 <= y < self.height * 4):
            return
        from_top = self.height * 4 - 1 - y
        cell = (x // 2, from_top // 4)
        # A cell has one colour: where lines cross, the later one takes it over.
        bits, owner = self._dots.get(cell, (0, style))
        self._dots[cell] = ((bits if owner == style else 0) | _DOTS[from_top % 4][x % 2], style)

    def error_bar(self, column: int, low: float, high: float, style: str) -> None:
        """A bar from one share of the height to another, to half a cell; a shorter one leaves nothing to draw."""
        halves = [round(max(0.0, min(1.0, share)) * self.height * 2) for share in (low, high)]
        for row in range(self.height):
            floor = (self.height - 1 - row) * 2
            lower, upper = halves[0] <= floor < halves[1], halves[0] <= floor + 1 < halves[1]
            if lower or upper:
                self.sign(column, row, "│" if lower and upper else "╷" if lower else "╵", style)

    def rows(self) -> list[Line]:
        """The drawing, from top to bottom."""
        return [self._line(row) for row in range(self.height)]

    def _line(self, row: int) -> Line:
        pieces: list[Piece] = []
        for column in range(self.width):
            bits, style = self._dots.get((column, row), (0, ""))
            text = chr(0x2800 + bits) if bits else " "
            text, style = self._signs.get((column, row), (text, style))
            if pieces and pieces[-1][1] == style:
                pieces[-1] = (pieces[-1][0] + text, style)
            else:
                pieces.append((text, style))
        return tuple(pieces)


def axis_room(maximum: float) -> int:
    """Width of the labels of the y axis, without its rule."""
    return max(3, len(value_label(maximum)), len(value_label(maximum / 2)))


def with_axes(canvas: Canvas, maximum: float, ticks: Mapping[int, str]) -> list[Line]:
    """The canvas with a y axis from 0 to `maximum`, an x axis, and labels centred under the columns of `ticks`.

    A label that would touch another is left out, those at the ends last; its tick stays.
    """
    labels = {0: value_label(maximum)}
    if canvas.height >= 5 and canvas.height % 2 == 0:
        labels[canvas.height // 2] = value_label(maximum / 2)
    return framed(canvas, labels, "0", ticks, axis_room(maximum))


def framed(canvas: Canvas, labels: Mapping[int, str], foot: str, ticks: Mapping[int, str], room: int) -> list[Line]:
    """The canvas with `labels` by row beside it in `room` cells, `foot` beside the x axis, and `ticks` under it."""
    lines: list[Line] = []
    for row, drawn in enumerate(canvas.rows()):
        label = labels.get(row, "")
        lines.append(((f"{label:>{room}} {'┤' if label else '│'}", "axis"), *drawn))
    rule = "".join("┬" if column in ticks else "─" for column in range(canvas.width))
    lines.append(((f"{foot:>{room}} └{rule}", "axis"),))
    lines.append(((" " * (room + 2) + _labels(ticks, canvas.width), "axis"),))
    return lines


def _labels(ticks: Mapping[int, str], width: int) -> str:
    cells = [" "] * width
    columns = sorted(ticks)
    for column in (*columns[:1], *columns[-1:], *columns[1:-1]):
        label = ticks[column]
        start = min(max(0, column - (len(label) - 1) // 2), width - len(label))
        if start >= 0 and set(cells[max(0, start - 1) : start + len(label) + 1]) == {" "}:
            cells[start : start + len(label)] = label
    return "".join(cells)
