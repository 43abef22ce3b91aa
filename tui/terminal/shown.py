"""The edge of a dashboard: no character on its way to the screen can steer the terminal. Knows no widget.

Widgets make text from outside visible themselves, and better. This covers what they, or Textual's own widgets, let
through: a strip keeps its width, and what is unsafe in it becomes a question mark, or nothing where it has no cell.
"""

import re

from rich.cells import cell_len
from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

from rankdeck.tui.words.text import STEERING

_STEERING = re.compile(f"[{STEERING}]")


def harmless(text: str) -> str:
    """`text` as wide as before, without anything that steers a terminal."""
    return _STEERING.sub(lambda match: "?" * cell_len(match[0]), text)


class HarmlessFilter(LineFilter):
    """Applies `harmless` to every strip of every widget."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        return [
            segment
            if segment.control or _STEERING.search(segment.text) is None
            else Segment(harmless(segment.text), segment.style)
            for segment in segments
        ]
