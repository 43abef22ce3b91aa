"""Widgets that show lines, and send to the terminal only the cells that changed.

Repainting whole panels four times a second makes a dashboard slow over SSH: here new lines are compared with those
shown, and only the part of each line that differs is painted. Knows lines and style names, not what they mean.
"""

from collections.abc import Callable
from itertools import zip_longest

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual.app import RenderResult
from textual.content import Content
from textual.geometry import Region, Size
from textual.strip import Strip
from textual.style import Style as VisualStyle
from textual.widget import Widget

from rankdeck.tui.words.styles import STYLES
from rankdeck.tui.words.text import Line, Piece, visible


class Painter(Widget):
    """Turns lines into strips in the widget's styles."""

    _looks: dict[tuple[str, str], Style] | None = None

    def notify_style_update(self) -> None:
        self._looks = None
        super().notify_style_update()

    def style_of(self, name: str) -> Style:
        """The terminal style of a style name, looked up once per theme.

        Textual's component classes are matched again for every widget, and would take half of the first paint.
        """
        if self._looks is None:
            self._looks = {}
        key = (self.app.theme, name)
        if key not in self._looks:
            style = self.visual_style
            if name:
                style = style + VisualStyle.parse(STYLES[name], self.app.theme_variables)
            self._looks[key] = style.rich_style
        return self._looks[key]

    def paint(self, line: Line, width: int, over: Style | None = None) -> Strip:
        """A line as a strip of exactly `width` cells; `over` is added to its styles."""
        # Lines have been made harmless already; this catches one that was forgotten, which could steer the terminal.
        line = tuple((text if text.isprintable() else visible(text), name) for text, name in merged(line))
        if over is None:
            strip = Strip([Segment(text, self.style_of(name)) for text, name in line])
            return strip.adjust_cell_length(width, self.style_of(""))
        strip = Strip([Segment(text, self.style_of(name) + over) for text, name in line])
        return strip.adjust_cell_length(width, self.style_of("") + over)


class Lines(Painter):
    """Shows the lines it is given."""

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._lines: list[Line] = []

    @property
    def lines(self) -> list[Line]:
        return self._lines

    def show(self, lines: list[Line]) -> None:
        """Show `lines`, and paint what differs from the lines before."""
        before, self._lines = self._lines, lines
        if lines == before:
            return
        if len(lines) != len(before) and self.styles.is_auto_height:
            self.refresh(layout=True)
            return
        width = self.content_size.width
        regions = []
        for y, (old, new) in enumerate(zip_longest(before, lines, fillvalue=())):
            if old != new:
                start, stop = changed_cells(old, new, width)
                regions.append(Region(start, y, stop - start, 1))
        self.refresh(*regions)

    def render(self) -> RenderResult:
        return ""

    def render_line(self, y: int) -> Strip:
        line = self._lines[y] if y < len(self._lines) else ()
        return self.paint(line, self.content_size.width)

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return len(self._lines)


class Panel(Lines):
    """Lines made by a pure function of (width, height), which is called again when the size changes.

    In a panel of automatic height, `height` is 0 and the function decides how many lines there are.
    """

    def __init__(self, title: str, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._title = title
        self.border_title = Content(title)
        self._make: Callable[[int, int], list[Line]] | None = None

    def draw(self, make: Callable[[int, int], list[Line]], title: str | None = None) -> None:
        """Show the lines that `make` returns for the panel's size."""
        self._make = make
        if title is not None and title != self._title:
            self._title = title
            self.border_title = Content(title)  # not markup: a title may contain a name from outside
        if self.content_size.width:
            self._redraw()

    def on_resize(self) -> None:
        self._redraw()

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return len(self._make(width, 0)) if self._make is not None else 0

    def _redraw(self) -> None:
        if self._make is not None:
            height = 0 if self.styles.is_auto_height else self.content_size.height
            self.show(self._make(self.content_size.width, height))


_FILLED = {name for name, look in STYLES.items() if " on " in look or "reverse" in look}


def merged(line: Line) -> Line:
    """The line in as few pieces as possible that look the same; each piece costs about forty bytes on the wire.

    Spaces show no foreground colour, so they join the piece before them, or at the start the piece after them, unless
    that has a background.
    """
    pieces: list[Piece] = []
    for text, name in line:
        if not text:
            continue
        blank = not text.strip(" ") and name not in _FILLED
        if pieces and (name == pieces[-1][1] or (blank and pieces[-1][1] not in _FILLED)):
            pieces[-1] = (pieces[-1][0] + text, pieces[-1][1])
        elif pieces and not pieces[-1][0].strip(" ") and not {name, pieces[-1][1]} & _FILLED:
            pieces[-1] = (pieces[-1][0] + text, name)
        else:
            pieces.append((text, name))
    return tuple(pieces)


def changed_cells(old: Line, new: Line, width: int) -> tuple[int, int]:
    """The range of cells, start and stop, outside of which two lines look the same."""
    old_cells, new_cells = _characters(old), _characters(new)
    start = 0
    for before, after in zip(old_cells, new_cells, strict=False):
        if before != after:
            break
        start += 1
    first = cell_len("".join(character for character, _ in new_cells[:start]))
    same_end = 0
    if _width(old_cells) == _width(new_cells):
        limit = min(len(old_cells), len(new_cells)) - start
        while same_end < limit and old_cells[-1 - same_end] == new_cells[-1 - same_end]:
            same_end += 1
        last = _width(new_cells[: len(new_cells) - same_end])
    else:
        last = width
    return min(first, width), max(min(first, width), min(last, width))


def _characters(line: Line) -> list[tuple[str, str]]:
    return [(character, style) for text, style in line for character in text]


def _width(cells: list[tuple[str, str]]) -> int:
    return cell_len("".join(character for character, _ in cells))


class Titles:
    """The two titles of a box, above and below; one below that begins with a cross, for a mistake, is red."""

    def __init__(self, box: Widget) -> None:
        self._box = box
        self._above = self._below = ""

    def show(self, above: str, below: str) -> None:
        if above != self._above:
            self._above = above
            self._box.border_title = Content(above)
        if below != self._below:
            self._below = below
            self._box.border_subtitle = Content.styled(below, "$error" if below.startswith("✗") else "")
