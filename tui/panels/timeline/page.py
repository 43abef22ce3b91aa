"""The Timeline view as lines: what it shows in words, lanes, axis, charts, legend, and the batch under the cursor.

Pure: it depends on the state, what the keys have chosen, and the size. Everything between the names on the left and
the figures on the right shares one time axis.
"""

from itertools import pairwise
from typing import NamedTuple

from rankdeck.runner.advice.findings import Finding, Round, rounds
from rankdeck.runner.advice.segments import Segment, segments
from rankdeck.runner.state import RunState
from rankdeck.tui.panels.overview.advice import current_advice
from rankdeck.tui.panels.timeline.charts import busy_line, busy_series, mark_line, mean_busy, rate_lines, rate_words
from rankdeck.tui.panels.timeline.lanes import LEGEND, LOADING_LEGEND, lane_cells
from rankdeck.tui.panels.timeline.window import Look, Window, at_cursor, axis, joined, window
from rankdeck.tui.panels.timeline.words import explained
from rankdeck.tui.settings.hint_keys import AS_THEY_COME, Keys, key_of
from rankdeck.tui.words.styles import rank_style
from rankdeck.tui.words.text import Line, cut, fit, line_width, pad, percent, rate, visible, wrap

NAME = 9
"""Cells on the left: `▸rank 12 `, and the scale of the charts."""

WIDE, RIGHT, RIGHT_WIDE = 90, 6, 14
"""From `WIDE` cells on, tokens/s come before the idle time on the right; cells on the right without and with them."""

TALL, LOW = 20, 14
MOST_CHART, MOST_BUSY = 20, 8


class TimelineLayout(NamedTuple):
    """How many lines each part gets: `lanes` lanes of `each` lines are in sight, from rank `first` on."""

    findings: int
    header: int
    lanes: int
    each: int
    first: int
    busy: int
    chart: int
    words: int


def plan(state: RunState, look: Look, width: int, height: int, has_rounds: bool) -> TimelineLayout:
    """The lanes get their lines first, then what explains them, then the charts."""
    findings = 1 if height < LOW - 2 else 2 if height < TALL - 2 else 3
    words = 1 if height < LOW - 2 else 2 if width >= 100 or height < TALL else 3
    header = 1 + (has_rounds and bool(state.marks) and height >= TALL)
    ranks = max(1, len(state.timeline.lanes))
    rest = max(1, height - findings - header - words - 2)  # axis and legend
    charts = 2 if rest >= 4 else 0
    wanted = charts if rest < 12 else 6 if rest < 24 else 10
    each = next((each for each in (5, 4, 3, 2) if ranks * each + wanted <= rest), 1)
    lanes = max(1, min(ranks, (rest - min(wanted, max(charts, rest - ranks))) // each))
    left = rest - lanes * each
    series = len(busy_series(state, max(1, min(MOST_BUSY, left - 5))))
    busy = min(series, left)
    chart = max(0, min(MOST_CHART, left - busy))
    first = max(0, min(look.rank - lanes // 2, ranks - lanes))
    return TimelineLayout(findings, header, lanes, each, first, busy, chart, words)


def timeline_lines(
    state: RunState,
    found: tuple[Finding, ...],
    look: Look,
    width: int,
    height: int,
    keys: Keys = AS_THEY_COME,
) -> list[Line]:
    """`height` lines of exactly `width` cells."""
    shown = window(state, look)
    right = RIGHT_WIDE if width >= WIDE else RIGHT
    plot = max(1, width - NAME - right)
    all_rounds = shown_rounds(state)
    parts = plan(state, look, width, height, bool(all_rounds))
    lines = finding_lines(state, found, width, parts.findings)
    titles: Line = ((pad(f"{'tok/s':>8}  idle" if width >= WIDE else "idle", right, "right"), "dim"),)
    marks = _row((), mark_line(state, shown, plot), titles)
    if all_rounds:
        brackets = round_cells(all_rounds, shown, plot)
        if parts.header == 2:
            lines.append(_row((), mark_line(state, shown, plot), ()))
        lines.append(_row((), joined(brackets), titles) if parts.header == 2 or not state.marks else marks)
    else:
        lines.append(marks)
    under: Segment | None = None
    most = most_rows(state)
    for rank in range(parts.first, min(parts.first + parts.lanes, len(state.timeline.lanes))):
        mine = segments(state, rank)
        here = at_cursor(mine, look.at) if rank == look.rank else None
        if here is not None:
            under = mine[here]
        lines.extend(_lane(state, rank, mine, shown, plot, parts.each, here, width, most))
    if not state.timeline.lanes:
        lines.append(_row((), (("a lane per rank, once they are launched", "dim"),), ()))
    columns = (shown.column(under.began, plot), shown.column(under.ended, plot)) if under is not None else None
    seen = under is not None and under.ended > shown.left and under.began < shown.right
    lines.append(_row(((" " * (NAME - 1) + "└", "axis"),), axis(shown, plot, columns if seen else None), ()))
    series = busy_series(state, parts.busy)
    for name, points in series[: parts.busy]:
        figure: Line = ((pad(mean_busy(points, shown), right, "right"), "strong"),)
        lines.append(_row(((pad(name, NAME), "dim"),), busy_line(points, shown, plot), figure))
    if parts.chart:
        chart = rate_lines(state, shown, plot, parts.chart, NAME)
        middle = parts.chart // 2
        figure = ((pad(rate_words(state), right, "right"), "strong"),) if state.first_batch_at is not None else ()
        lines.extend(fit((*line, *(figure if row == middle else ())), width) for row, line in enumerate(chart))
    rest = height - len(lines) - 1 - parts.words
    lines.extend([((" " * width, ""),)] * max(0, rest))
    lines.append(legend(state, shown, width, keys))
    text = visible(explained(state, look.rank, under))
    lines.extend(_wrapped("▸ ", text, "", width, parts.words))
    return [fit(line, width) for line in lines[:height]]


def most_rows(state: RunState) -> int:
    """Rows of the fullest batch so far or possible now: the height of a bar is relative to it."""
    fullest = (span.rows // span.joined for lane in state.timeline.lanes for span in lane.spans if span.kind == "batch")
    return max(state.batch_size, max(fullest, default=0))


def spot(state: RunState, look: Look, width: int, height: int, x: int, y: int) -> tuple[int, float] | None:
    """The rank and the moment drawn at a cell; None outside the lanes."""
    parts = plan(state, look, width, height, bool(shown_rounds(state)))
    line, column = y - parts.findings - parts.header, x - NAME
    plot = width - NAME - (RIGHT_WIDE if width >= WIDE else RIGHT)
    if not 0 <= line < parts.lanes * parts.each or not 0 <= column < plot:
        return None
    shown = window(state, look)
    return parts.first + line // parts.each, shown.left + (column + 0.5) / plot * shown.seconds


def _row(left: Line, middle: Line, right: Line) -> Line:
    return (*fit(left, NAME), *middle, *right)


def _lane(
    state: RunState,
    rank: int,
    mine: list[Segment],
    shown: Window,
    plot: int,
    each: int,
    here: int | None,
    width: int,
    most: int,
) -> list[Line]:
    """One lane; if it has two lines or more, the last is left blank."""
    bars = max(1, each - 1)
    rows = lane_cells(mine, shown, plot, bars, here, most)
    lines: list[Line] = []
    for number, row in enumerate(rows):
        name, figures = "", ""
        if number == (bars - 1) // 2:
            name = f"{'▸' if here is not None else ' '}rank {rank:<2} "
            figures = _figures(state, rank, width)
        lines.append(_row(((name, rank_style(rank)),), joined(row), ((figures, "strong"),)))
    return [*lines, *([()] * (each - bars))]


def _figures(state: RunState, rank: int, width: int) -> str:
    """Tokens/s and idle time of a rank, once there are any."""
    right = RIGHT_WIDE if width >= WIDE else RIGHT
    if rank >= len(state.ranks) or state.first_batch_at is None:
        return " " * right
    one = state.ranks[rank]
    idle = percent(state.idle(one))
    return f"{rate(state.rank_rate(one)):>8} {idle:>5}" if width >= WIDE else f"{idle:>{right}}"


# --- sentences ----------------------------------------------------------------------------------


def finding_lines(state: RunState, found: tuple[Finding, ...], width: int, height: int) -> list[Line]:
    """What the lanes show, in words: always `height` lines, so that nothing below moves."""
    texts = [one.text for one in found]
    style, start = ("", "▸ ")
    told = {"rounds", *({"slow rank", "idle"} if texts else ())}
    room = max(10, width - len(start))
    for advice in current_advice(state):
        used = sum(len(wrap(visible(text), room)) for text in (*texts, advice.text))
        if advice.kind not in told and (used <= height or not texts):
            texts.append(advice.text)
    if not texts:
        style, start = ("dim", "  ")
        texts = [_nothing(state)]
    if height < len(texts):
        return _wrapped(start, " ".join(map(visible, texts)), style, width, height)
    # Each text begins a new line and may take more if lines are left.
    lines: list[Line] = []
    for number, text in enumerate(texts):
        left = height - len(lines) - (len(texts) - number - 1)
        lines.extend(line for line in _wrapped(start, visible(text), style, width, left) if line)
    return [*lines, *([()] * (height - len(lines)))][:height]


def _nothing(state: RunState) -> str:
    if state.first_batch_at is None:
        return "a bar per batch from the first batch on; until then, what the ranks do on their way to it"
    if state.sweep is not None and (state.sweeping or not state.sweep.plan.outputs):
        return "a sweep: its trials turn batch size and ranks; the Sweep view has what they measured"
    if len(state.timeline.lanes) < 2:
        return "one rank alone: there is none to compare it with"
    if state.ended is not None:
        active = " that was active" if state.active_ranks < len(state.timeline.lanes) else ""
        return f"no rank was slower than the others, and none{active} sat idle at the end"
    return "so far no rank is slower than the others"


def _wrapped(start: str, text: str, style: str, width: int, height: int) -> list[Line]:
    """Exactly `height` lines; text that does not fit ends in an ellipsis."""
    room = max(10, width - len(start))
    parts = wrap(text, room)
    if len(parts) > height:
        parts = [*parts[: height - 1], cut(" ".join(parts[height - 1 :]), room)]
    lines: list[Line] = [
        ((start if number == 0 else " " * len(start), "key"), (part, style)) for number, part in enumerate(parts)
    ]
    return [*lines, *([()] * (height - len(lines)))]


# --- rounds, legend -----------------------------------------------------------------------------


def shown_rounds(state: RunState) -> list[Round]:
    """The rounds, if they follow one another on all ranks; otherwise a bracket over them would be wrong."""
    found = rounds(state)
    if len(found) < 1 or len(state.timeline.lanes) < 2:
        return []
    apart = all(after.began >= before.ended - 0.35 * (before.ended - before.began) for before, after in pairwise(found))
    return found if apart else []


def round_cells(found: list[Round], shown: Window, width: int) -> list[tuple[str, str]]:
    """A bracket over each round, with its number and how full it was."""
    cells = [(" ", "")] * width
    edges = [shown.column(one.began, width) for one in found] + [shown.column(found[-1].ended, width)]
    forms = [
        (
            f" round {one.number}: {one.rows} prompts in {one.places} places, {one.full:.0%} full ",
            f" round {one.number}: {one.full:.0%} full ",
            f" round {one.number} ",
            f" {one.number} ",
            "",
        )
        for one in found
    ]
    rooms = [stop - start - 4 for start, stop in pairwise(edges)]
    # All use the form that fits the narrowest round that is over.
    form = max(
        (_form(words, room) for words, room, one in zip(forms, rooms, found, strict=True) if one.over), default=0
    )
    for words, room, one, start in zip(forms, rooms, found, edges, strict=False):
        if room < -1:
            continue
        stop = start + room + 4
        cells[start:stop] = [(sign, "axis") for sign in "├" + "─" * (stop - start - 2) + "┤"]
        text = words[max(form, _form(words, room))]
        at = start + (stop - start - len(text)) // 2
        cells[at : at + len(text)] = [(letter, "warn" if one.over and one.full < 0.5 else "strong") for letter in text]
    return cells


def _form(words: tuple[str, ...], room: int) -> int:
    """The index of the fullest form that fits; the last form is empty."""
    return next((number for number, text in enumerate(words) if len(text) <= room), len(words) - 1)


def legend(state: RunState, shown: Window, width: int, keys: Keys = AS_THEY_COME) -> Line:
    """The signs and, if there is room, what the axis counts from."""
    kinds, since = LEGEND, "seconds since the first batch"
    if state.timeline.first_batch is None:
        kinds, since = LOADING_LEGEND, "seconds since the start"
    elif shown.first == shown.zero >= 0.5:
        since = f"{key_of('timeline.whole', keys)} shows {shown.zero:.1f} s of loading"
    narrow = width < 80
    pieces: list[tuple[str, str]] = [(" " * (2 if narrow else NAME), "")]
    for sign, style, word in kinds:
        piece = ((sign if narrow else sign * 2, style), (f" {word}{' ' if narrow else '  '}", "dim"))
        if line_width((*pieces, *piece)) <= width:
            pieces.extend(piece)
    if line_width(tuple(pieces)) + len(since) > width:
        since = ""
    return (*fit(tuple(pieces), width - len(since)), (since, "dim"))
