"""Which answers are listed, and which of them is selected.

A Listing holds the answers of an OutputBook that match a query: each is tested once, those of a new query in slices,
so that no key has to wait. A Selection is a place in a listing: order, cursor, following. Knows no widget and, apart
from the length of a slice, no clock.
"""

import time
from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from typing import Any

from rankdeck.runner.protocol import FinishReason, OutputRecord
from rankdeck.tui.panels.outputs.query import Language, Name, Query, choice, contains, exactly, numbers
from rankdeck.tui.settings.hint_keys import AS_THEY_COME, Keys, named
from rankdeck.tui.sources.outputs import ListOrder, OutputBook
from rankdeck.tui.words.text import Line, cut_middle, line_width, some, visible

AnswerQuery = Query[OutputRecord]

_REASONS: tuple[FinishReason, ...] = ("stop", "length", "error")


def _searched(record: OutputRecord) -> str:
    return "\n".join((record.id, record.prompt, record.text, record.error or ""))


ANSWERS: Language[OutputRecord] = Language(
    _searched,
    {
        "rank": Name(numbers(lambda record: record.rank), "rank:1 or rank:0-3"),
        "finish": Name(choice(lambda record: record.finish_reason, _REASONS), "finish:stop, length or error"),
        "tokens": Name(numbers(lambda record: record.output_tokens), "tokens:>40 or tokens:10-20"),
        "chars": Name(numbers(lambda record: len(record.text)), "chars:>500"),
        "batch": Name(numbers(lambda record: record.batch), "batch:7"),
        "index": Name(numbers(lambda record: record.index), "#17 or #10-20"),
        "id": Name(exactly(lambda record: record.id), "id:7"),
        "prompt": Name(contains(lambda record: record.prompt), "prompt:word", marks=True),
        "answer": Name(contains(lambda record: record.text), "answer:word", marks=True),
        "error": Name(contains(lambda record: record.error or ""), "error:memory", marks=True),
    },
    number_sign="index",
)
"""The names that a query for answers can use. `tokens` are output tokens, `chars` the characters of the answer."""

ERRORS = "finish:error"

SLICE_SECONDS = 0.005
"""How long the answers of a new query are tested at a time; a key waits for a few slices at most."""


class Listing:
    """The answers of a book that match a query, in order of arrival and in input order."""

    def __init__(self, book: OutputBook, query: AnswerQuery | None = None) -> None:
        self.book = book
        self.query: AnswerQuery = query if query is not None else Query()
        self._restart()

    def _restart(self) -> None:
        self._loads = self.book.loads
        self._first = self._next = self.book.first
        self._serials: list[int] = []
        self._ordered: list[int] = []

    def __len__(self) -> int:
        self._forget()
        return len(self._serials) if self.query else len(self.book)

    @property
    def complete(self) -> bool:
        """Whether every answer of the book has been tested."""
        return not self.query or (self._loads == self.book.loads and self._next == self.book.end)

    def catch_up(self, seconds: float = SLICE_SECONDS, clock: Callable[[], float] = time.perf_counter) -> bool:
        """Test the answers not tested yet, for this many seconds. Returns whether all are tested."""
        self._forget()
        if self.complete:
            return True
        book = self.book
        stop, found = clock() + seconds, []
        while self._next < book.end:
            record = book.by_serial(self._next)
            if self.query.matches(record):
                self._serials.append(self._next)
                found.append(record.index)
            self._next += 1
            if clock() > stop:
                break
        if len(found) > 8:
            self._ordered = sorted(self._ordered + found)
        else:
            for index in found:
                insort(self._ordered, index)
        return self.complete

    def _forget(self) -> None:
        """Drop the answers that the book has dropped since the last look."""
        if self._loads != self.book.loads:
            self._restart()
        if self._first == self.book.first:
            return
        self._first = self.book.first
        self._next = max(self._next, self._first)
        self._serials = self._serials[bisect_left(self._serials, self._first) :]
        self._ordered = [index for index in self._ordered if self.book.get(index) is not None]

    def key(self, position: int, order: ListOrder) -> int:
        """The prompt index at a position in the list."""
        self._forget()
        if not self.query:
            return self.book.key(position, order)
        return self.book.by_serial(self._serials[position]).index if order == "arrival" else self._ordered[position]

    def place(self, index: int, order: ListOrder) -> tuple[int, bool]:
        """The position of a prompt's answer, or where it would be, and whether it is listed; 0 if it is not kept."""
        self._forget()
        position = self.book.position(index, order)
        if position is None or not self.query:
            return position or 0, position is not None
        where = self._serials if order == "arrival" else self._ordered
        sought = self.book.serial(index) if order == "arrival" else index
        position = bisect_left(where, sought)
        return position, position < len(where) and where[position] == sought


class Selection:
    """The selected answer of a listing: the newest while following, then the one moved to."""

    def __init__(self) -> None:
        self.listing = Listing(OutputBook())
        self.order: ListOrder = "arrival"
        self.following = True
        self.cursor: int | None = None
        """The prompt index of the selected answer."""

    def __len__(self) -> int:
        return len(self.listing)

    @property
    def query(self) -> AnswerQuery:
        return self.listing.query

    def open(self, book: OutputBook, query: AnswerQuery) -> None:
        """List the answers of a book that match a query."""
        self.listing = Listing(book, query)

    def settle(self) -> None:
        """Move the cursor to an answer that is listed now."""
        if not len(self):
            if self.listing.complete:
                self.cursor = None
            return
        if self.following or self.cursor is None:
            self.cursor = self.listing.key(len(self) - 1, "arrival")
        elif self.listing.complete:
            position, listed = self.listing.place(self.cursor, self.order)
            if not listed:
                self.cursor = self.listing.key(min(position, len(self) - 1), self.order)

    @property
    def record(self) -> OutputRecord | None:
        return self.listing.book.get(self.cursor) if self.cursor is not None else None

    @property
    def position(self) -> int | None:
        """Where the cursor is in the list; None if its answer is not listed."""
        if self.cursor is None:
            return None
        position, listed = self.listing.place(self.cursor, self.order)
        return position if listed else None

    def at(self, position: int) -> OutputRecord:
        record = self.listing.book.get(self.listing.key(position, self.order))
        assert record is not None
        return record

    def go(self, position: int) -> bool:
        """Select the answer there, or at the nearest end; returns whether the selection changed."""
        if not len(self):
            return False
        was, self.following = self.cursor, False
        self.cursor = self.listing.key(max(0, min(len(self) - 1, position)), self.order)
        return self.cursor != was

    def step(self, by: int) -> bool:
        return self.go((self.position or 0) + by)

    def turn_order(self) -> None:
        self.order = "input" if self.order == "arrival" else "arrival"

    def follow(self) -> None:
        self.following = True
        self.settle()


# --- words ----------------------------------------------------------------------------------------


def listing_title(selection: Selection, width: int) -> Line:
    """How many answers there are and are shown, for which query, in what order; the least important goes first."""
    book, query = selection.listing.book, selection.query
    total = some(len(book), "answer")
    order = "as they came" if selection.order == "arrival" else "in input order"
    shown = f", {len(selection):,} shown" if query else ""
    if query and not selection.listing.complete:
        shown += " so far"
    tails = [f"{'; ' if query else ', '}{order}", ""]
    if selection.following:
        tails = [f"{tails[0]}, following the newest", f"{tails[0]}, following", *tails]
    return query_title(total + shown, query, tails, width)


def query_title(start: str, query: Query[Any], tails: Sequence[str], width: int) -> Line:
    """`start`, the query, and the first of the tails that leaves room for it, or the last."""
    asked = visible(query.text)
    least = min(len(asked), 12)
    for tail in tails:
        room = width - len(start + tail) - (2 if query else 0)
        if room >= least or tail == tails[-1]:
            line: Line = ((start, ""),)
            if query and room > 0:
                line = (*line, (": ", ""), (cut_middle(asked, room), "key"))
            return (*line, (tail, ""))
    raise AssertionError("there is no tail")


def nothing_listed(selection: Selection, width: int, keys: Keys = AS_THEY_COME, *, thrown_away: bool = False) -> str:
    """What an empty list says; `thrown_away` if the trials of a sweep keep no answers."""
    if not len(selection.listing.book):
        if thrown_away:
            return named("trials throw answers away; {view.sweep} shows what they measured", keys)
        return "answers are listed here as they arrive"
    if not selection.listing.complete:
        return f"looking through {some(len(selection.listing.book), 'answer')}"
    return nothing_matches("answer", selection.query, width, named("; {outputs.clear} clears", keys))


def nothing_matches(what: str, query: Query[Any], width: int, after: str) -> str:
    before = f"no {what} matches "
    room = max(8, width - line_width(((before + after, ""),)))
    return before + cut_middle(visible(query.text), room) + after
