"""The lines of a log that match a query, laid out one below the other, with their matches. Pure.

Knows log lines, a width and a query, no widget. A log grows at its end and is trimmed at its start: the layout so far
is kept, and a line is drawn only when it is seen.
"""

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

from rankdeck.runner.state import LogEntry
from rankdeck.tui.panels.log.head import head_width, log_head, rank_of
from rankdeck.tui.panels.outputs.finding import Finds, marked_lines, spans
from rankdeck.tui.panels.outputs.listing import nothing_matches, query_title
from rankdeck.tui.panels.outputs.query import Language, Name, Query, contains, numbers
from rankdeck.tui.settings.hint_keys import AS_THEY_COME, Keys, named
from rankdeck.tui.words.text import Line, some, visible, wrap

LogQuery = Query[LogEntry]

LONGEST = 4000
"""Characters of a log line that are shown; runner.log has all of it."""

LOG: Language[LogEntry] = Language(
    lambda entry: entry.text,
    {
        "rank": Name(numbers(lambda entry: rank_of(entry.source)), "rank:1 or rank:0-3"),
        "source": Name(contains(lambda entry: entry.source), "source:launcher"),
        "text": Name(contains(lambda entry: entry.text), "text:word", marks=True),
    },
)
"""The names that a query for log lines can use."""


class Block(NamedTuple):
    """A log line that is listed: its number in the log, its height in lines, and how many matches it has."""

    number: int
    entry: LogEntry
    height: int
    found: int


class LogPage:
    """The log lines that match a query, wrapped to a width."""

    def __init__(self, query: LogQuery, width: int) -> None:
        self.query, self.width = query, width
        self.first_batch: float | None = None
        """The moment that the times of the lines count from."""
        self._log: Sequence[LogEntry] = ()
        self._first = 0
        self._blocks: list[Block] = []
        self._measured = lru_cache(maxsize=4096)(_measured)
        self._entry_lines = lru_cache(maxsize=512)(entry_lines)
        self._count()

    def _count(self) -> None:
        """Where each block begins, in lines and in matches."""
        self._starts = list(accumulate((block.height for block in self._blocks), initial=0))
        self._founds = list(accumulate((block.found for block in self._blocks), initial=0))

    def __len__(self) -> int:
        """The number of log lines listed."""
        return len(self._blocks)

    @property
    def total(self) -> int:
        return len(self._log)

    @property
    def height(self) -> int:
        return self._starts[-1]

    @property
    def found(self) -> int:
        return self._founds[-1]

    def take_in(self, log: Sequence[LogEntry]) -> int:
        """Lay out what is new in the log. Returns how many lines went at the top, as the log was trimmed.

        A log that does not continue the one before, as in a replay that was rewound, is laid out afresh.
        """
        new, kept = _added(self._log, log), 0
        if new is None:
            self._first += len(self._log)
            new, self._blocks = log, []
        else:
            kept = len(log) - len(new)
            self._first += len(self._log) - kept
        forgotten = bisect_right(self._blocks, self._first - 1, key=lambda block: block.number)
        gone = self._starts[forgotten] if self._blocks else 0
        self._log = log
        self._blocks = [*self._blocks[forgotten:], *self._laid_out(new, self._first + kept)]
        self._count()
        return gone

    def _laid_out(self, entries: Sequence[LogEntry], number: int) -> list[Block]:
        return [
            Block(position, entry, *self._measured(entry.text, self.width, self.query.finds))
            for position, entry in enumerate(entries, number)
            if self.query.matches(entry)
        ]

    def line(self, y: int, here: int | None) -> Line:
        """A line as it is drawn; `here` is the number of the current match."""
        if not 0 <= y < self.height:
            return ()
        position = bisect_right(self._starts, y) - 1
        number = y - self._starts[position]
        block, text = self._blocks[position], self._entry(position, here)[0][number]
        if number:
            return ((" " * head_width(self.width), ""), *text)
        return (*log_head(block.entry, self.first_batch, self.width), *text)

    def line_of(self, found: int) -> int:
        """The line on which a match begins."""
        position = bisect_right(self._founds, found) - 1
        return self._starts[position] + self._entry(position, None)[1][found - self._founds[position]]

    def _entry(self, position: int, here: int | None) -> tuple[list[Line], list[int]]:
        entry = self._blocks[position].entry
        inside = None if here is None else here - self._founds[position]
        if inside is not None and not 0 <= inside < self._blocks[position].found:
            inside = None
        return self._entry_lines(entry.text, self.width, self.query.finds, inside)

    def found_from(self, y: int) -> int:
        """How many matches there are in the log lines above the one at line `y`."""
        return self._founds[min(bisect_right(self._starts, y) - 1, len(self._blocks))] if self._blocks else 0

    def place(self, found: int) -> tuple[int, int]:
        """A match as the number of its log line and its place in it, which stay the same as lines come and go."""
        position = bisect_right(self._founds, found) - 1
        return self._blocks[position].number, found - self._founds[position]

    def found_at(self, place: tuple[int, int]) -> int | None:
        """The reverse of `place`; None if that log line is gone."""
        number, inside = place
        position = bisect_right(self._blocks, number - 1, key=lambda block: block.number)
        if position == len(self._blocks) or self._blocks[position].number != number:
            return None
        return self._founds[position] + inside

    def number_at(self, y: int) -> int:
        """The number of the log line at line `y`; past the end, the number of the next one to come."""
        position = bisect_right(self._starts, y) - 1
        return self._blocks[position].number if 0 <= position < len(self._blocks) else self._first + len(self._log)

    def start_of(self, number: int) -> int:
        """The line on which that log line begins, or the next one listed."""
        return self._starts[bisect_right(self._blocks, number - 1, key=lambda block: block.number)]

    def again(self, query: LogQuery, width: int) -> "LogPage":
        """The same log, with the same numbers, for another query or width."""
        page = LogPage(query, width)
        page._first, page.first_batch = self._first, self.first_batch
        page._measured, page._entry_lines = self._measured, self._entry_lines
        page.take_in(self._log)
        return page


def _added(before: Sequence[LogEntry], now: Sequence[LogEntry]) -> Sequence[LogEntry] | None:
    """What is new at the end; None if `now` does not continue `before`."""
    if not before:
        return now
    for kept in range(min(len(before), len(now)), 0, -1):
        if now[kept - 1] == before[-1] and now[:kept] == before[-kept:]:
            return now[kept:]
    return None


def _shown(text: str) -> str:
    return visible(text[:LONGEST]) + ("…" if len(text) > LONGEST else "")


def _room(width: int) -> int:
    return max(10, width - head_width(width))


def _measured(text: str, width: int, finds: Finds) -> tuple[int, int]:
    """How many lines a text takes, and how many matches it has."""
    shown = _shown(text)
    return len(wrap(shown, _room(width))), len(spans(shown, finds))


def entry_lines(text: str, width: int, finds: Finds, here: int | None) -> tuple[list[Line], list[int]]:
    """A text, wrapped and marked, and the line on which each match begins."""
    shown = _shown(text)
    return marked_lines(shown, _room(width), "", spans(shown, finds), here)


def log_title(page: LogPage, *, following: bool, width: int) -> Line:
    """How many lines there are and are shown, for which query; the least important is dropped first."""
    shown = f", {len(page):,} shown" if page.query else ""
    separator = "; " if page.query else ", "
    tails = [f"{separator}following the newest", f"{separator}following", ""] if following else [""]
    return query_title(some(page.total, "line") + shown, page.query, tails, width)


def nothing_logged(page: LogPage, width: int, keys: Keys = AS_THEY_COME) -> str:
    """What an empty list says."""
    if not page.total:
        return "what the supervisor and the ranks say"
    return nothing_matches("line", page.query, width, named("; {log.clear} clears", keys))
