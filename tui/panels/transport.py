"""The line that says where a replay is. Pure."""

from rankdeck.tui.panels.bars import bar
from rankdeck.tui.sources.replay import Transport
from rankdeck.tui.words.text import Line, clock, line_width

LEAST_BAR = 8


def transport_line(transport: Transport, width: int, stops: str = "") -> Line:
    """Playing or paused, speed, position and length, a bar, and, if there is room, how much waiting was left out.

    At the end of a journal that stops before the run did, `stops` says why in place of the bar.
    """
    words, style = _status(transport)
    position = min(transport.position, transport.length)
    figures = f"{clock(position)} / {clock(transport.length)}"
    head: Line = (("replay", "key"), ("  ", ""), (f"{words:<9}", style), (f" {f'{transport.speed:g}x':>5}  ", "strong"))
    start: Line = (*head, (figures, "strong"), ("  ", ""))
    if stops and transport.ended:
        return (*start, (stops, "warn-strong"))
    left_out = f"  {clock(transport.left_out)} of waiting left out" if transport.left_out >= 1 else ""
    room = width - line_width(start)
    if room - len(left_out) < 3 * LEAST_BAR:
        left_out = ""
    share = position / transport.length if transport.length else 1.0
    return (*start, *(bar(share, room - len(left_out)) if room >= LEAST_BAR else ()), (left_out, "dim"))


def _status(transport: Transport) -> tuple[str, str]:
    if transport.seeking:
        return "» seeking", "warn"
    if transport.ended:
        return "■ at end", "good"
    return ("▶ playing", "good") if transport.playing else ("‖ paused", "warn-strong")
