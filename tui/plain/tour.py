"""The tour as lines of a log. Pure."""

from collections.abc import Sequence


def tour_lines(said: Sequence[str]) -> list[str]:
    """What the tour has just said, a line each."""
    return [f"tour: {line}" for line in said]
