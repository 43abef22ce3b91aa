"""Parses numbers typed into a field, with error messages for the user. Pure."""

import re

from rankdeck.runner.protocol.config import MAX_BATCH_SIZE
from rankdeck.tui.words.text import count


def read_batch_size(text: str) -> int | None:
    """A batch size as typed; None for `auto`.

    Raises:
        ValueError: it is neither; the message is for the user.
    """
    text = text.strip()
    if text.lower() == "auto":
        return None
    if re.fullmatch("[+-]?[0-9]{1,20}", text) is None:
        raise ValueError("needs a whole number, or auto" if not text else "must be a whole number, or auto")
    number = int(text)
    if not 1 <= number <= MAX_BATCH_SIZE:
        raise ValueError(f"must be from 1 to {MAX_BATCH_SIZE}, or auto")
    return number


MOST_NUMBERS = 1000
"""More numbers than this in one field, as in a long range, are a typing error."""


def read_numbers(text: str, *, most: int) -> list[int]:
    """Whole numbers from 1 to `most` as typed: `1,2,4`, `1 2 4`, `1-8`; sorted, without duplicates.

    Raises:
        ValueError: they are not; the message is for the user.
    """
    if not text.strip():
        raise ValueError("needs whole numbers, as in 1,2,4")
    words = [word for part in text.split(",") for word in part.split() or [""]]
    numbers: set[int] = set()
    for word in words:
        found = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", word)
        if found is None:
            wrong = repr(word) if word else "an empty item"
            raise ValueError(f"must be whole numbers, as in 1,2,4 or 1-4, not {wrong}")
        first, last = int(found[1]), int(found[2] or found[1])
        if not 1 <= first <= last <= most:
            raise ValueError(f"must be numbers from 1 to {count(most)}, not {word}")
        if len(numbers) + last - first >= MOST_NUMBERS:
            raise ValueError(f"has more than {count(MOST_NUMBERS)} numbers")
        numbers.update(range(first, last + 1))
    return sorted(numbers)
