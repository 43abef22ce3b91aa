"""What precedes the text of a log line: its time and its source. Pure.

Times are on the timeline's clock and count from the first batch, as the header's clock and the Timeline's axis do:
a line from before it has a time like `-00:08`. Until there is a first batch they count from the start.
"""

from math import floor

from rankdeck.runner.state import LogEntry
from rankdeck.tui.words.styles import rank_style
from rankdeck.tui.words.text import Line, clock, cut, visible

SOURCE_WIDTH = 10
GAP = "  "

TIME_WIDTH = 8
"""`-1:02:03` and `2d 03:04` are the longest."""

LEAST_TEXT = 40
"""If a text would get fewer cells than this beside the time, the time is left out."""


def log_head(entry: LogEntry, first_batch: float | None, width: int) -> Line:
    """Time and source of a line, in `head_width(width)` cells; a narrow line has no time."""
    source = cut(visible(entry.source), SOURCE_WIDTH)
    said: Line = ((f"{source:<{SOURCE_WIDTH}}{GAP}", source_style(entry.source)),)
    if not _with_time(width):
        return said
    return ((f"{said_at(entry, first_batch):>{TIME_WIDTH}}{GAP}", "dim"), *said)


def head_width(width: int) -> int:
    """Width of the head in a line of `width` cells."""
    return _SOURCE + (_TIME if _with_time(width) else 0)


_SOURCE, _TIME = SOURCE_WIDTH + len(GAP), TIME_WIDTH + len(GAP)


def _with_time(width: int) -> bool:
    return width - _SOURCE - _TIME >= LEAST_TEXT


def said_at(entry: LogEntry, first_batch: float | None) -> str:
    """`00:42`, or `-00:08` before the first batch; empty if the time is not known."""
    if entry.moment is None:
        return ""
    seconds = floor(entry.moment - (first_batch or 0.0))
    return f"-{clock(-seconds)}" if seconds < 0 else clock(seconds)


def source_style(source: str) -> str:
    """The colour of the rank, for lines from a rank."""
    return rank_style(rank_of(source))


def rank_of(source: str) -> int | None:
    """The rank that a line came from; None if it was not a rank."""
    number = source.removeprefix("rank ")
    return int(number) if number != source and number.isdecimal() else None
