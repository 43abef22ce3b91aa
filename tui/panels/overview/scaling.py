"""How more ranks scale at the current batch size: a table, and the same in one line. Pure.

Every figure is of whole batches that began and ended under one setting.
"""

from rankdeck.runner.state import RunState
from rankdeck.runner.state.periods import ScalingRow, scaling
from rankdeck.tui.panels.bars import Column, heading, row
from rankdeck.tui.words.sweep import only_measures
from rankdeck.tui.words.text import NOTHING, Line, between, count, percent, rate, some

_SCALING = (Column("ranks", 5, "right"), Column("tok/s", 7, "right"), Column("speedup", 7, "right"))
_EFFICIENCY = (Column("efficiency", 10, "right"), Column("effic.", 6, "right"))
_BATCHES = Column("batches", 7, "right")
"""How many batches a row rests on: all of the run's at that setting."""


def scaling_rows(state: RunState) -> list[ScalingRow]:
    """The numbers of ranks run at the current batch size, once there are two to compare or ranks are inactive.

    None while a sweep measures: it has its own view for this.
    """
    if only_measures(state):
        return []
    rows = scaling(state.periods, state.batch_size)
    steered = len(state.ranks) > 1 and state.active_ranks < len(state.ranks)
    return rows if len(rows) >= 2 or (rows and steered) else []


def scaling_table(state: RunState, width: int, *, titled: bool = True) -> list[Line]:
    """A row per number of active ranks, the current one marked."""
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
    """The same in one line: the current number of ranks, or the most that were run, against one."""
    rows = scaling_rows(state)
    if not rows:
        return []
    shown = next((each for each in rows if each.active_ranks == state.active_ranks > 1), rows[-1])
    if shown.speedup is None or shown.efficiency is None or shown.active_ranks == 1:
        words: Line = ((some(shown.active_ranks, "active rank"), "dim"),)
        return [between(words, ((f"{rate(shown.tokens_per_second)} tok/s", ""),), width)]
    label = f"{'scaling ' if width >= 32 else ''}1 → {shown.active_ranks} ranks"
    return [between(((label, "dim"),), ((f"{shown.speedup:.2f}x {percent(shown.efficiency)}", ""),), width)]
