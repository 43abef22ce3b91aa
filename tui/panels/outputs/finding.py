"""The matches of a search, marked in the texts shown. Pure; knows patterns and lines, not what they are about.

Texts have been through tui.words.text.visible already: matches are found in what the user sees.
"""

import re
from collections.abc import Sequence

from rankdeck.tui.words.text import ELLIPSIS, Line, Piece, wrap

Finds = re.Pattern[str] | None
Span = tuple[int, int]

MARK, MARK_HERE = "match", "match-here"

SOUGHT_CHARACTERS = 50_000
"""`beginning` searches only this much of a text: a whole megabyte would cause a noticeable lag."""


def spans(text: str, finds: Finds) -> list[Span]:
    """Where the matches in `text` are."""
    return [found.span() for found in finds.finditer(text)] if finds is not None else []


def found_words(found: int, here: int | None, next_key: str) -> str:
    """How many matches there are, and which is the current one or the key that goes to the first."""
    if not found:
        return "no match in what is shown"
    matches = f"{found:,} match{'' if found == 1 else 'es'}"
    return f"{matches}, {next_key} goes there" if here is None else f"match {here + 1:,} of {found:,}"


def marked(text: str, style: str, found: Sequence[Span], *, start: int = 0, here: int | None = None) -> Line:
    """`text`, which begins at `start` of the text searched, with its spans marked; `here` is the current match."""
    pieces: list[Piece] = []
    at = 0
    for number, (first, last) in enumerate(found):
        first, last = max(0, first - start), min(len(text), last - start)
        if last <= at or first >= len(text):
            continue
        pieces.append((text[at:first], style))
        pieces.append((text[max(at, first) : last], MARK_HERE if number == here else MARK))
        at = last
    pieces.append((text[at:], style))
    return tuple(piece for piece in pieces if piece[0])


def marked_lines(
    text: str, width: int, style: str, found: Sequence[Span], here: int | None
) -> tuple[list[Line], list[int]]:
    """`text` wrapped and marked, and the line on which each span begins."""
    lines: list[Line] = []
    begins: list[int] = []
    at = number = 0
    for part in wrap(text, width):
        # Wrapping drops only spaces, so each part is found after the one before it.
        at = text.index(part, at)
        first = number
        while number < len(found) and found[number][0] < at + len(part):
            begins.append(len(lines))
            number += 1
        earlier = max(0, first - 1)
        near = found[earlier:number]
        lines.append(marked(part, style, near, start=at, here=None if here is None else here - earlier))
        at += len(part)
    begins.extend([max(0, len(lines) - 1)] * (len(found) - len(begins)))
    return lines, begins


def beginning(text: str, finds: Finds, width: int) -> str:
    """As much of `text` as a row of `width` cells needs, from its start or from a little before the first match."""
    found = finds.search(text, 0, SOUGHT_CHARACTERS) if finds is not None else None
    # If the text is longer than the row, the last cell is an ellipsis.
    if found is None or found.end() < width or len(text) <= width:
        return text[: 4 * width]
    room = max(0, width - 2 - (found.end() - found.start()))
    start = max(0, found.start() - min(width // 4, room))
    return (ELLIPSIS if start else "") + text[start : start + 4 * width]
