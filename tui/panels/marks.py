"""Marks on a chart's time axis: the column of each, and the rows of labels above the plot.

Labels never overlap: the newest is placed first, and an older one that does not fit is reduced to its sign. Pure;
knows seconds and columns, not what is plotted.
"""

from collections.abc import Collection, Sequence

from rich.cells import cell_len

from rankdeck.runner.state import Mark
from rankdeck.tui.words.text import Line, Piece, visible

SIGN = "▼"
_STYLES = {"memory": "warn", "rank lost": "bad", "pause": "warn"}


def mark_column(mark: Mark, span: float, number: int) -> int:
    """The column of a mark, on an axis of `span` seconds and `number` columns."""
    return max(0, min(number - 1, int(mark.elapsed / span * number)))


def mark_style(mark: Mark) -> str:
    return _STYLES.get(mark.kind, "key")


def label_rows(marks: Sequence[Mark], span: float, number: int, rows: int = 1) -> list[Line]:
    """At most `rows` rows of exactly `number` cells: a sign at each mark, its text beside it if there is room."""
    free = [[True] * number for _ in range(rows)]
    columns = {mark_column(mark, span, number) for mark in marks}
    placed: list[tuple[int, int, str, str]] = []
    for mark in reversed(marks):
        column, text = mark_column(mark, span, number), visible(mark.text)
        width = cell_len(text) + 2
        beside = ((column, f"{SIGN} {text}"), (column - width + 1, f"{text} {SIGN}"))
        ways = [(row, *way) for row in reversed(range(rows)) for way in beside]
        # No text hides the sign of another mark, except that of the newest, which is always shown.
        others = columns - {column}
        found = [way for way in ways if _fits(free[way[0]], way[1], width, others if way[0] == rows - 1 else ())]
        if not placed and not found:
            found = [way for way in ways if _fits(free[way[0]], way[1], width, ())]
        if not _fits(free[-1], column, 1, ()):
            continue  # A sign that touches the words of another mark would look like theirs.
        row, start, words = found[0] if found else (rows - 1, column, SIGN)
        placed.append((row, start, words, mark_style(mark)))
        # A sign in an upper row has a line down to the plot.
        placed.extend((below, column, "│", "mark") for below in range(row + 1, rows))
        for used in range(row, rows):
            cells = range(start, start + cell_len(words)) if used == row else (column,)
            for cell in cells:
                free[used][cell] = False
    filled = [sorted(piece[1:] for piece in placed if piece[0] == row) for row in range(rows)]
    return [_line(pieces, number) for pieces in filled[_first_used(filled) :]]


def _first_used(rows: Sequence[Sequence[object]]) -> int:
    return next((position for position, pieces in enumerate(rows) if pieces), len(rows) - 1)


def _line(placed: Sequence[tuple[int, str, str]], number: int) -> Line:
    pieces: list[Piece] = []
    at = 0
    for start, words, style in placed:
        pieces.extend(((" " * (start - at), ""), (words, style)))
        at = start + cell_len(words)
    return (*pieces, (" " * (number - at), ""))


def _fits(free: Sequence[bool], start: int, width: int, others: Collection[int]) -> bool:
    """Whether `width` cells from `start` on are free of words and `others`, and the cells on both sides of words."""
    if start < 0 or start + width > len(free) or any(start <= other < start + width for other in others):
        return False
    return all(free[max(0, start - 1) : start + width + 1])
