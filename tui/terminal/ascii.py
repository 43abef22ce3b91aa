"""The dashboard in 7-bit characters, for terminals that show nothing else. Knows no widget.

One table for everything drawn, by rankdeck and by Textual, applied to the strips that widgets paint, so that no widget
has to know about it. Characters that are not in the table come from data, and become a question mark per cell.
"""

import re
from functools import lru_cache

from rich.cells import cell_len
from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

_GLYPHS = {
    # bars, small charts: fuller is darker
    **dict(zip("▁▂▃▄▅▆▇█", "_.:-=+*#", strict=True)),
    **dict(zip("▉▊▋▌▍▎▏▐", "#===--||", strict=True)),
    **dict(zip("░▒▓▔▀", ".:%-^", strict=True)),
    # rules and frames
    **dict.fromkeys("─━═╌┄╴╶", "-"),
    **dict.fromkeys("│┃║╎┆╷╵├┤┠┨▕", "|"),
    **dict.fromkeys("┌┐└┘╭╮╰╯┬┴┼╔╗╚╝┏┓┗┛▛▜▙▟▖▗▘▝", "+"),
    # signs
    **dict(zip("→←↑↓▶▸»▾▼▲▴⏎↵", "-<^v>>>vvA^</", strict=True)),
    **dict(zip("✓✗●○■□◆◇△★·‖°•", "+x@o#%$&^*-| *", strict=True)),
    **dict(zip("…⟨⟩≤≥±⌫␡", "~<><>~<?", strict=True)),
    # frequent in answers: quotation marks, dashes, the multiplication sign
    **dict(zip("\u2018\u2019\u201c\u201d\u2013\u2014\u00d7", "''\"\"--x", strict=True)),
}
"""Each of these is one cell wide, and so is what replaces it."""

_TOP, _MIDDLE, _BOTTOM = 0x09, 0x12 | 0x24, 0xC0
"""The dots of a braille character's first, two middle and last rows."""

# Signs that read better as two characters, if a space beside them leaves room for the second.
_WIDER = (
    (re.compile(" → "), " ->"),
    (re.compile(" ±"), "+-"),
    (re.compile(" ≤"), "<="),
    (re.compile("≤([0-9]+) "), r"<=\1"),
)


class _Table(dict[int, str]):
    def __missing__(self, code: int) -> str:
        if code < 0x80:
            shown = chr(code)
        elif 0x2800 <= code < 0x2900:
            shown = _dots(code - 0x2800)
        else:
            shown = "?" * cell_len(chr(code))
        self[code] = shown
        return shown


def _dots(bits: int) -> str:
    """A coarser sign for a braille cell: where in the cell's height its dots are."""
    above, between, below = bits & (_TOP | 0x12), bits & _MIDDLE, bits & (0x24 | _BOTTOM)
    if not bits:
        return " "
    if above and below:
        return "-" if bits == between else ":"
    if above:
        return "'" if bits & _TOP else "-"
    return "_" if bits & _BOTTOM and not between else "."


_TABLE = _Table({ord(glyph): shown for glyph, shown in _GLYPHS.items()})


@lru_cache(maxsize=4096)
def to_ascii(text: str) -> str:
    """`text` in 7-bit characters, as wide as before."""
    if text.isascii():
        return text
    shown = text
    for sign, better in _WIDER:
        shown = sign.sub(better, shown)
    shown = shown.translate(_TABLE)
    cells = cell_len(text)
    # The parts of a joined character were replaced one by one, so it may have become wider.
    return shown if len(shown) == cells else shown[:cells].ljust(cells)


class AsciiFilter(LineFilter):
    """Applies `to_ascii` to every strip of every widget."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        return [
            segment if segment.text.isascii() else Segment(to_ascii(segment.text), segment.style, segment.control)
            for segment in segments
        ]


KEYS = {"up": "up", "down": "down", "left": "left", "right": "right", "enter": "enter", "backspace": "bksp"}
"""Names of keys that are usually shown as signs."""
