"""Which part of a run the timeline shows, where its cursor is, and the round ticks of its axis. Pure.

Times are on the timeline's clock; the axis counts from the first batch, so that loading is before 0.
"""

from typing import NamedTuple

from rankdeck.runner.advice.segments import Segment, end_of
from rankdeck.runner.state import RunState
from rankdeck.tui.panels.chart import round_span
from rankdeck.tui.words.text import Line

CLOSEST_SECONDS = 0.5
"""The shortest window to zoom in to."""

LOADING_SHARE = 0.25
"""Loading is shown by default if it takes no more than this share of the picture."""

PAGES = 4
"""A zoomed window that follows the run moves on by 1/PAGES of its width and stands still in between."""

_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 21600, 43200, 86400)


class Look(NamedTuple):
    """What the keys have chosen.

    `at` is the moment under the cursor (None: the newest), `left` the left edge of the window (None: it follows the
    run), `zoom` how often the whole was halved; with `loading` the whole begins with the launch.
    """

    rank: int = 0
    at: float | None = None
    left: float | None = None
    zoom: int = 0
    loading: bool = False


class Window(NamedTuple):
    """The `seconds` shown from `left` on, of a `whole` that begins at `first`; `zero` is where the axis has its 0."""

    left: float
    seconds: float
    first: float
    whole: float
    zero: float

    @property
    def right(self) -> float:
        return self.left + self.seconds

    def column(self, moment: float, width: int) -> int:
        """The column whose left edge is nearest to a moment, from 0 to `width`, which is the right edge."""
        return max(0, min(width, round((moment - self.left) / self.seconds * width)))


def window(state: RunState, look: Look) -> Window:
    zero = state.timeline.first_batch
    end = end_of(state)
    if zero is None:
        first, whole = 0.0, round_span(end)
    else:
        # A run that has ended fills the picture; until then a round span stands still while it fills.
        whole = max(1.0, end - zero) if state.ended is not None else round_span(end - zero)
        shown = look.loading or zero <= LOADING_SHARE * whole
        first, whole = (0.0, whole + zero) if shown else (zero, whole)
    seconds = max(min(whole, CLOSEST_SECONDS), whole / 2**look.zoom)
    left = look.left
    if look.zoom == 0 and left is None:
        left = first
    elif left is None:
        page = seconds / PAGES
        left = max(first, (end // page + 1) * page - seconds) if state.ended is None else max(first, end - seconds)
    return Window(left, seconds, first, whole, zero or 0.0)


def at_cursor(segments: list[Segment], at: float | None) -> int | None:
    """The position of the segment at a moment, or of the next one; of the newest if `at` is None."""
    if not segments:
        return None
    if at is None:
        return len(segments) - 1
    for position, segment in enumerate(segments):
        if at < segment.ended:
            return position
    return len(segments) - 1


def tick_step(seconds: float, width: int) -> float:
    """The smallest round step at which labels do not touch."""
    room = 9
    return next((step for step in _STEPS if step / seconds * width >= room), _STEPS[-1] * 7)


def tick_words(seconds: float) -> str:
    if abs(seconds) < 120 or seconds % 60:
        return f"{seconds:g} s"
    return f"{seconds / 60:g} min" if abs(seconds) < 7200 or seconds % 1800 else f"{seconds / 3600:g} h"


def axis(shown: Window, width: int, here: tuple[int, int] | None) -> Line:
    """A rule of `width` cells with round ticks; the columns from `here[0]` to `here[1]` are drawn heavy."""
    step = tick_step(shown.seconds, width)
    rule = ["─"] * width
    if here is not None:
        for column in range(here[0], min(width, max(here[1], here[0] + 1))):
            rule[column] = "━"
    number = int((shown.left - shown.zero) // step)
    free = 0
    while (seconds := round(number * step, 1)) + shown.zero <= shown.right:
        column = shown.column(seconds + shown.zero, width)
        words = f"┬{tick_words(seconds)} "
        if seconds + shown.zero >= shown.left and column >= free and column + len(words) <= width:
            rule[column : column + len(words)] = words
            free = column + len(words)
        number += 1
    cells = [(sign, "key" if sign == "━" else "axis") for sign in rule]
    return joined(cells)


def joined(cells: list[tuple[str, str]]) -> Line:
    """Cells as pieces: neighbours of the same style are merged."""
    pieces: list[tuple[str, str]] = []
    for sign, style in cells:
        if pieces and pieces[-1][1] == style:
            pieces[-1] = (pieces[-1][0] + sign, style)
        else:
            pieces.append((sign, style))
    return tuple(pieces)
