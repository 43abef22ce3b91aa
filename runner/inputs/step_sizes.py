"""How many rows and slots a decode step on a GPU is made for: few sizes, so that a step is captured seldom.

On a CPU nothing is captured, and a step has the size that its rows need. Pure.
"""

ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Rows by doubling: a step of a GPU takes about as long with a few unused rows. Beyond these, multiples of the last."""

SLOTS = 128
"""Slots of the cache that a row reads come in multiples of this; of more for long texts."""

PARTS = 4
"""A multiple is at most this part of what is asked for, so that long texts do not need a graph every 128 tokens."""


def row_bucket(rows: int) -> int:
    """The least bucket for so many rows."""
    return next((size for size in ROWS if size >= rows), -(-rows // ROWS[-1]) * ROWS[-1])


def full_bucket(rows: int) -> int:
    """The largest bucket that so many rows fill."""
    return rows // ROWS[-1] * ROWS[-1] or max((size for size in ROWS if size <= rows), default=0)


def slot_bucket(slots: int) -> int:
    """The least bucket for so many slots: at most a quarter more, and at most `SLOTS` more for short texts."""
    multiple = SLOTS
    while multiple * 2 * PARTS <= slots:
        multiple *= 2
    return -(-slots // multiple) * multiple
