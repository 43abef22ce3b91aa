"""What turning the knobs brought: the last turn in a line, and the scaling table. Pure.

Every figure is of whole batches that began and ended under one setting; a turn is `measuring…` until
every active rank has ended one.
"""

from rankdeck.runner.advice.advice import KnobEffect, early_turn, last_turn
from rankdeck.runner.state import RunState
from rankdeck.runner.state.periods import ScalingRow, scaling
from rankdeck.tui.panels.bars import Column, heading, row
from rankdeck.tui.words.text import (
    NOTHING,
    UNKNOWN,
    Line,
    between,
    count,
    fit,
    flow,
    gib,
    line_width,
    percent,
    rate,
    some,
)

_SCALING = (Column("ranks", 5, "right"), Column("tok/s", 7, "right"), Column("speedup", 7, "right"))
_EFFICIENCY = (Column("efficiency", 10, "right"), Column("effic.", 6, "right"))
_BATCHES = Column("batches", 7, "right")
"""What a row rests on: all of the run's at that setting, where the line of a turn has those since the turn."""


def turn_lines(state: RunState, width: int) -> list[Line]:
    """The knob that was turned last, tokens/s and memory before and after; nothing where none was."""
    turned = last_turn(state)
    if turned is None:
        return _unmeasured(state, width)
    if not _knobs(turned, ("", ""), ""):
        return []
    if state.ended is not None and turned.after.tokens_per_second is None:
        return []  # what has no figure by the end gets none any more
    ways = [flow(_turn_facts(turned, short=short), width, gap=2) for short in (False, True)]
    if width < DENSE_BELOW:
        ways.append([_dense(turned)])
    return [fit(line, width) for line in min(ways, key=len)]


def _unmeasured(state: RunState, width: int) -> list[Line]:
    """A knob that was turned before anything was measured: why there is no before and after."""
    turned = early_turn(state)
    if turned is None or not _knobs(turned, ("", ""), ""):
        return []
    ways: list[Line] = [
        ((" and ".join(_knobs(turned, names, arrow)), "strong"), (f"  {said}", "dim"))
        for names, arrow in ((("batch size", "active ranks"), " → "), (("batch", "ranks"), "→"))
        for said in (EARLY, EARLY.partition(": ")[2])
    ]
    fitting = (line for line in ways if line_width(line) <= width)
    return [next(fitting, fit(ways[-1], width))]


EARLY = "turned before a batch was whole: nothing to compare with"

DENSE_BELOW = 36
"""In fewer cells than these only the figures themselves are said: a chart that low has no second line to spare."""


def _dense(turned: KnobEffect) -> Line:
    before, after = turned.before, turned.after
    knob = ", ".join(_knobs(turned, ("batch", "ranks"), "→"))
    was, now = before.tokens_per_second or 0.0, after.tokens_per_second
    figures = f"{rate(was)}→{'measuring…' if now is None else rate(now)}"
    gain = f" {now / was - 1:+.0%}" if now is not None and was > 0 else ""
    return ((f"{knob} ", "strong"), (figures, ""), (gain, "good" if (now or 0) >= was else "warn"))


def _knobs(turned: KnobEffect, names: tuple[str, str], arrow: str) -> list[str]:
    """What was turned, from what to what."""
    before, after = turned.before, turned.after
    pairs = ((before.batch_size, after.batch_size), (before.active_ranks, after.active_ranks))
    return [f"{name} {was}{arrow}{now}" for name, (was, now) in zip(names, pairs, strict=True) if was != now]


def _turn_facts(turned: KnobEffect, *, short: bool) -> list[Line]:
    before, after = turned.before, turned.after
    knobs = _knobs(turned, ("batch", "ranks") if short else ("batch size", "active ranks"), " → ")
    # Two that were turned before either was measured have one figure together.
    facts: list[Line] = [((" and ".join(knobs), "strong"),)]
    was, now = before.tokens_per_second or 0.0, after.tokens_per_second
    if now is None:
        return [*facts, ((f"{rate(was)} tok/s → ", ""), ("measuring…", "dim"))]
    gain: Line = ((f" ({now / was - 1:+.0%})", "good" if now >= was else "warn"),) if was > 0 else ()
    facts.append(((f"{rate(was)} → ", ""), (rate(now), "strong"), (" tok/s", ""), *gain))
    peaks = before.peak_memory_bytes, after.peak_memory_bytes
    if any(peak is not None for peak in peaks):
        shown = " → ".join(UNKNOWN if peak is None else gib(peak) for peak in peaks)
        facts.append((("memory ", "dim"), (f"{shown} GiB", "")))
    return facts


def scaling_rows(state: RunState) -> list[ScalingRow]:
    """What was run at the batch size of now, once there is something to compare."""
    rows = scaling(state.periods, state.batch_size)
    steered = len(state.ranks) > 1 and state.active_ranks < len(state.ranks)
    return rows if len(rows) >= 2 or (rows and steered) else []


def scaling_table(state: RunState, width: int, *, titled: bool = True) -> list[Line]:
    """A row per number of active ranks, the one of now marked."""
    rows = scaling_rows(state)
    if not rows:
        return []
    wide = width >= 34
    counted = width >= 38
    columns = (
        *_SCALING[:1],
        _SCALING[1] if wide else Column("tok/s", 6, "right"),
        _SCALING[2],
        _EFFICIENCY[not wide or (counted and width < 42)],
        *((_BATCHES,) if counted else ()),
    )
    sizes = [column.width for column in columns]
    gaps = len(sizes) - 1
    gap = 1 + max(0, min(3, (width - sum(sizes) - gaps) // gaps))
    lines = [heading(columns, sizes, gap)]
    if titled:
        lines.insert(0, ((f"Scaling at batch size {state.batch_size}", "strong"),))
    for each in rows:
        here = each.active_ranks == state.active_ranks
        cells: tuple[Line, ...] = (
            ((f"{'▸ ' if here else ''}{each.active_ranks}", "strong" if here else ""),),
            ((rate(each.tokens_per_second), "strong" if here else ""),),
            ((NOTHING if each.speedup is None else f"{each.speedup:.2f}x", ""),),
            ((NOTHING if each.efficiency is None else percent(each.efficiency), ""),),
            *((((count(each.batches), "dim"),),) if counted else ()),
        )
        lines.append(row(cells, columns, sizes, gap))
    return lines


def scaling_line(state: RunState, width: int) -> list[Line]:
    """The same in one line: the ranks of now, or the most that were run, against one."""
    rows = scaling_rows(state)
    if not rows:
        return []
    shown = next((each for each in rows if each.active_ranks == state.active_ranks > 1), rows[-1])
    if shown.speedup is None or shown.efficiency is None or shown.active_ranks == 1:
        words: Line = ((some(shown.active_ranks, "active rank"), "dim"),)
        return [between(words, ((f"{rate(shown.tokens_per_second)} tok/s", ""),), width)]
    label = f"{'scaling ' if width >= 32 else ''}1 → {shown.active_ranks} ranks"
    return [between(((label, "dim"),), ((f"{shown.speedup:.2f}x {percent(shown.efficiency)}", ""),), width)]
