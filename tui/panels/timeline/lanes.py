"""A lane of the timeline: what a rank did, as cells. Pure; knows segments and columns.

Each kind of segment has its own sign, so that they can be told apart without colour. A batch begins with at least one
cell of prefill, as high as a full batch, so that it stands out from the batch before. The rest of it is as high as it
has rows: a batch that is not full is lower.
"""

from rankdeck.runner.advice.segments import Segment
from rankdeck.runner.state.timeline import LOADING
from rankdeck.tui.panels.timeline.window import Window

Cell = tuple[str, str]

PREFILL, DECODE, IDLE, WAITING, LOAD, LOST = "▓", "█", "·", "░", "▒", "✗"
_HEIGHTS = " ▁▂▃▄▅▆▇█"

LEGEND: tuple[tuple[str, str, str], ...] = (
    (PREFILL, "prefill", "prefill"),
    (DECODE, "decode", "decode"),
    (IDLE, "dim", "idle"),
    ("▃", "decode", "few rows"),
    (LOST, "bad", "lost"),
    (LOAD, "loading", "loading"),
    (WAITING, "waiting", "waiting"),
)
"""Sign, style and word of each kind, the most important first."""

LOADING_LEGEND: tuple[tuple[str, str, str], ...] = (
    (LOAD, "loading", "loading"),
    (WAITING, "waiting", "waiting for the other ranks"),
)

FROM_CELLS = 3
"""A batch with fewer cells shows no prefill: it would be all there is to see."""


def sign_of(segment: Segment) -> Cell:
    """The sign and style of a segment's cells, other than prefill."""
    match segment.kind:
        case "batch" | "stint":
            return DECODE, "decode"
        case "idle":
            return IDLE, "dim"
        case "paused" | "inactive" | "ready":
            return WAITING, "waiting"
        case "failed" | "lost" | "stopped" | "down":
            return LOST, "bad"
    again = segment.span is not None and segment.span.attempt > 1
    return LOAD, "bad" if again else "loading"


def lane_cells(
    segments: list[Segment], shown: Window, width: int, height: int, here: int | None, most_rows: int
) -> list[list[Cell]]:
    """`height` rows of exactly `width` cells; `here` is the position of the segment under the cursor.

    A batch of `most_rows` is as high as the lane.
    """
    rows: list[list[Cell]] = [[(" ", "")] * width for _ in range(height)]
    # In a long run most segments fill no column: skip them as cheaply as possible.
    left, right, scale = shown.left, shown.right, width / shown.seconds
    for position, segment in enumerate(segments):
        began, ended = segment.began, segment.ended
        if ended <= left or began >= right:
            continue
        start = round((began - left) * scale) if began > left else 0
        stop = round((ended - left) * scale) if ended < right else width
        if segment.kind in ("lost", "failed", "down") or position == here:
            start, stop = _seen(start, stop, width)
        if start < stop:
            _fill(rows, segment, shown, (start, stop), position == here, most_rows)
    return rows


def _seen(start: int, stop: int, width: int) -> tuple[int, int]:
    """The columns, widened to at least one cell."""
    start = min(start, width - 1)
    return start, max(stop, start + 1)


def _fill(
    rows: list[list[Cell]], segment: Segment, shown: Window, columns: tuple[int, int], here: bool, most_rows: int
) -> None:
    (start, stop), width = columns, len(rows[0])
    sign, style = sign_of(segment)
    work = segment.kind in ("batch", "stint")
    if here:
        style = "decode-here" if work else "cursor"
    glyphs = _heights(segment, most_rows, len(rows)) if work else [sign] * len(rows)
    for glyph, row in zip(glyphs, rows, strict=True):
        row[start:stop] = [(glyph, style)] * (stop - start)
    begins_here = segment.began >= shown.left
    if segment.kind in LOADING and begins_here and stop - start >= FROM_CELLS:
        # Sets one phase of loading off from the next.
        for row in rows:
            row[start] = ("│", style)
    if segment.kind == "batch" and begins_here and stop - start >= FROM_CELLS:
        until = shown.column(segment.began + segment.prefill, width)
        # A batch in progress may be all prefill so far; otherwise decoding takes most of it.
        until = min(stop, max(start + 1, until))
        for row in rows:
            row[start:until] = [(PREFILL, "prefill")] * (until - start)
        start = until
    _label(rows[0 if glyphs[0] != sign else (len(rows) - 1) // 2], segment, start, stop, style)


def _heights(segment: Segment, most_rows: int, height: int) -> list[str]:
    """The signs of a bar from top to bottom: as high as it has rows at once, in eighths of a cell."""
    span = segment.span
    rows = 0.0
    if span is not None and segment.kind == "stint" and span.work is not None and span.work.steps:
        rows = span.work.row_steps / span.work.steps
    elif span is not None:
        rows = span.rows / span.joined
    share = min(1.0, rows / most_rows) if most_rows and rows else 1.0
    eighths = max(1, round(share * height * 8))
    return [_HEIGHTS[max(0, min(8, eighths - floor * 8))] for floor in reversed(range(height))]


_ON_A_BAR = {"decode": "decode-label", "decode-here": "decode-here-label"}
_ABOVE_A_BAR = {"decode": ""}
"""The colour of a bar suits areas; words in it would be hard to read."""


def _label(row: list[Cell], segment: Segment, start: int, stop: int, style: str) -> None:
    """Write what the segment is into the bar, if it fits with a margin."""
    for words in labels(segment):
        text = f" {words} "
        if len(text) + 2 <= stop - start:
            filled = row[stop - 1][0] == DECODE
            written = _ON_A_BAR if filled else _ABOVE_A_BAR
            looks = written.get(style, style)
            at = start + (stop - start - len(text)) // 2 if segment.span is None else start + 1
            row[at : at + len(text)] = [(letter, looks) for letter in text]
            return


def labels(segment: Segment) -> tuple[str, ...]:
    """What to call a segment, from the fullest form to the shortest."""
    span = segment.span
    seconds = f"{segment.seconds:.1f} s" if segment.seconds < 100 else f"{segment.seconds:.0f} s"
    if span is None:
        return f"{segment.kind} {seconds}", seconds
    if segment.kind == "stint":
        return ()
    if segment.kind == "batch":
        if span.joined > 1:
            return (f"{span.joined} batches",)
        numbers = f"#{span.batch} x{span.rows}", f"#{span.batch}"
        return numbers if segment.live else (f"#{span.batch} x{span.rows}  {seconds}", *numbers)
    if segment.kind == "ready":
        return f"waiting for the others {seconds}", f"waiting {seconds}"
    if segment.kind in LOADING:
        return f"{segment.kind} {seconds}", segment.kind
    return f"{segment.kind} {seconds}", segment.kind
