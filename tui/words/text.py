"""Text for a terminal: without control characters, measured in cells, cut and formatted for people.

A *line* is a tuple of pieces, a piece is (text, style name); widgets turn style names into colours.
Knows nothing of widgets, of markup (there is none) or of what the texts mean.
"""

import json
import re
from collections.abc import Iterable, Sequence

from rich.cells import cell_len, chop_cells, set_cell_size

Piece = tuple[str, str]
"""Text and the name of its style; the empty name is the widget's own style."""

Line = tuple[Piece, ...]

ELLIPSIS = "…"
NEWLINE = "↵"
UNKNOWN = "n/a"
NOTHING = "-"
"""Shown for a value that does not exist now; `n/a` is for one that is not available."""

STEERING = (
    "\x00-\x1f\x7f-\x9f"  # C0, DEL, C1
    "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"  # direction marks, separators, bidi embeddings and isolates
    "\ud800-\udfff"  # lone surrogates
)
"""Characters that steer a terminal, or move the text around them, as in a regular expression's brackets."""

_UNSAFE = re.compile(
    f"[{STEERING}"
    "\u00ad\u115f\u1160\u17b4\u17b5\u180e"  # soft hyphen, invisible letters
    "\u200b-\u200d\u2060-\u2065\u206a-\u206f\u3164\ufeff\uffa0"  # zero width
    "\ufff9-\ufffb\U000e0000-\U000e007f"  # annotations, tags
    "\ufe0e\ufe0f]"  # variation selectors
)


def _show(match: re.Match[str]) -> str:
    code = ord(match[0])
    if match[0] in "\ufe0e\ufe0f":
        return ""  # It only asks for another look, and terminals disagree on its width.
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else f"⟨U+{code:04X}⟩"


def visible(text: str, *, keep_newlines: bool = False) -> str:
    """`text` with control and invisible characters replaced by visible ones, so that it cannot control the terminal.

    Newlines become `↵` unless `keep_newlines`; tabs become spaces.
    """
    text = text.replace("\r\n", "\n").replace("\t", "    " if keep_newlines else " ")
    if not keep_newlines:
        return _UNSAFE.sub(_show, text.replace("\n", NEWLINE))
    return "\n".join(_UNSAFE.sub(_show, part) for part in text.split("\n"))


def json_safe(text: str) -> str:
    """JSON with everything unsafe in its strings escaped: the same value, and nothing that can control a terminal."""
    return _UNSAFE.sub(lambda match: json.dumps(match[0])[1:-1], text)


def cut(text: str, width: int) -> str:
    """`text` in at most `width` cells; a longer one ends in an ellipsis."""
    if width <= 0:
        return ""
    # A text of a megabyte is shortened before it is measured.
    if len(text) > 4 * width:
        text = text[: 4 * width] + ELLIPSIS
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, width - 1).rstrip() + ELLIPSIS


def cut_middle(text: str, width: int) -> str:
    """`text` in at most `width` cells, with an ellipsis in its middle: the ends of a path matter most."""
    if cell_len(text) <= width:
        return text
    if width <= 1:
        return ELLIPSIS[:width]
    head = set_cell_size(text, (width - 1) // 2).rstrip()
    tail = set_cell_size(text[::-1], width - 1 - cell_len(head)).rstrip()[::-1]
    return head + ELLIPSIS + tail


def pad(text: str, width: int, align: str = "left") -> str:
    """`text` in exactly `width` cells."""
    text = cut(text, width)
    space = " " * (width - cell_len(text))
    return space + text if align == "right" else text + space


def wrap(text: str, width: int) -> list[str]:
    """`text` in lines of at most `width` cells, broken at spaces where there are any, else anywhere."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        lines.extend(_wrap_paragraph(paragraph, max(1, width)))
    return lines


def _wrap_paragraph(paragraph: str, width: int) -> list[str]:
    if cell_len(paragraph) <= width:
        return [paragraph]
    lines: list[str] = []
    line, used = "", 0
    for word in re.findall(r"\s*\S+|\s+$", paragraph):
        cells = cell_len(word)
        if used + cells <= width:
            line, used = line + word, used + cells
            continue
        if line:
            lines.append(line)
            word = word.lstrip()
        *full, line = chop_cells(word, width) or [""]
        lines.extend(full)
        used = cell_len(line)
    return [*lines, line]


def line_width(line: Line) -> int:
    return sum(cell_len(text) for text, _ in line)


def fit(line: Line, width: int, align: str = "left") -> Line:
    """`line` in exactly `width` cells: cut at its end or padded."""
    pieces: list[Piece] = []
    left = width
    for text, style in line:
        shown = cut(text, left)
        if shown:
            pieces.append((shown, style))
            left -= cell_len(shown)
        if shown != text:
            break
    if left <= 0:
        return tuple(pieces)
    space = (" " * left, "")
    return (space, *pieces) if align == "right" else (*pieces, space)


def between(left: Line, right: Line, width: int) -> Line:
    """`left` and `right` at the two ends of a line; `left` is cut if both do not fit."""
    room = max(0, width - line_width(right) - 1)
    return (*fit(left, room), (" ", ""), *right)


def flow(facts: Iterable[Line], width: int, gap: int = 3) -> list[Line]:
    """Facts side by side; one that does not fit begins the next line."""
    lines: list[Line] = []
    for fact in facts:
        if lines and line_width(lines[-1]) + gap + line_width(fact) <= width:
            lines[-1] = (*lines[-1], (" " * gap, ""), *fact)
        else:
            lines.append(fact)
    return lines


def as_many(parts: Iterable[str], width: int) -> str:
    """As many of the first parts as fit."""
    text = ""
    for part in parts:
        longer = f"{text}  {part}" if text else part
        if cell_len(longer) > width:
            break
        text = longer
    return text


def plain(lines: Sequence[Line]) -> str:
    """The text of the lines, without styles."""
    return "\n".join("".join(text for text, _ in line).rstrip() for line in lines)


def clock(seconds: float | None) -> str:
    """`00:42`, `1:02:03`, `2d 03:04`; `--:--` for None."""
    if seconds is None:
        return "--:--"
    whole = int(seconds)
    if whole < 3600:
        return f"{whole // 60:02}:{whole % 60:02}"
    if whole < 86400:
        return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
    return f"{whole // 86400}d {whole // 3600 % 24:02}:{whole // 60 % 60:02}"


def count(number: int) -> str:
    return f"{number:,}"


def rate(per_second: float) -> str:
    """Tokens/s: a whole number from 10 on, one decimal below."""
    return f"{per_second:.1f}" if 0 < per_second < 9.95 else f"{per_second:,.0f}"


def short_count(number: int) -> str:
    """At most 7 cells: `999,999`, `1.25M`."""
    return count(number) if number < 1_000_000 else f"{number / 1e6:.2f}M" if number < 1e9 else f"{number / 1e9:.2f}G"


def short_rate(per_second: float) -> str:
    """Tokens/s in at most 5 cells, for columns: `9,999`, `11.7k`."""
    return rate(per_second) if per_second < 9999.5 else f"{per_second / 1000:.1f}k"


def percent(share: float | None) -> str:
    return UNKNOWN if share is None else f"{share * 100:.0f}%"


def whole_percent(share: float) -> str:
    """A share in percent, rounded down, so that it is 100% only when all is done."""
    return f"{int(share * 100 + 1e-9)}%"


def gib(number: int) -> str:
    return f"{number / 2**30:.1f}"


def size(number: int) -> str:
    """Bytes with a unit."""
    if number < 2**20:
        return f"{number / 2**10:.0f} KiB"
    return f"{number / 2**20:.1f} MiB" if number < 2**30 else f"{number / 2**30:.1f} GiB"


def some(number: int, one: str, many: str | None = None) -> str:
    """`1 rank`, `2 ranks`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def model_name(model: str) -> str:
    """The last part of a hub id or a path."""
    return visible(model.rstrip("/").rsplit("/", 1)[-1] or model)
