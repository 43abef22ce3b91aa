"""The line of the tour: what to look at now, or what it has found, in the place of the advice. Pure."""

from rankdeck.tui.settings.hint_keys import AS_THEY_COME, Keys, key_of
from rankdeck.tui.words.text import Line, between, line_width
from rankdeck.tui.words.tour import Captions


def tour_lines(captions: Captions, width: int, keys: Keys = AS_THEY_COME, *, under_way: bool = False) -> list[Line]:
    """The longest caption that fits, with the key that ends the tour while it is `under_way`."""
    end: Line = ((f"{key_of('run.tour', keys)} ends it", "dim"),) if under_way else ()
    for caption in captions:
        line: Line = (("▸ tour  ", "key"), (caption, "strong"))
        if line_width(line) + (line_width(end) + 2 if end else 0) <= width:
            return [between(line, end, width) if end else line]
    return [between((("▸ tour  ", "key"), (captions[-1], "strong")), (), width)] if captions else []
