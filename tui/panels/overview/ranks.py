"""The table of ranks: what each is doing and has done; many ranks stand side by side. Pure."""

from collections.abc import Sequence
from typing import Literal

from rankdeck.runner.advice.segments import idle_lately
from rankdeck.runner.advice.slow_rank import slow_ranks
from rankdeck.runner.state import RankState, RunState
from rankdeck.runner.state.run import RankStage
from rankdeck.tui.panels.bars import Column, heading, row, widths
from rankdeck.tui.words.status import shown_phase
from rankdeck.tui.words.styles import rank_style
from rankdeck.tui.words.text import (
    NOTHING,
    UNKNOWN,
    Line,
    Piece,
    clock,
    cut_middle,
    fit,
    line_width,
    percent,
    short_count,
    short_rate,
    visible,
    whole_percent,
)

NO_RANK = "no rank is like that"

RankForm = Literal["table", "grid", "small grid"]

_COLUMNS = (
    Column("rank", 4, "right"),
    Column("device", 6, "left", 8),
    Column("state", 10),
    Column("batch", 8, "left", 10),
    Column("step", 7, "right", 9),
    Column("tok/s", 6, "right"),
    Column("prompts", 7, "right", 9),
    Column("waste", 5, "right"),
    Column("idle", 4, "right"),
)
_CAPPED = tuple(column._replace(width=11) if column.title == "batch" else column for column in _COLUMNS)
"""Leaves room beside a batch for the cap of a rank that ran out of memory."""

_CONTINUOUS = {
    "batch": Column("rows", 8, "left", 10),
    "step": Column("cache", 7, "right", 9),
}
"""A continuous rank has rows that come and go: how many there are, and how full its KV cache is."""

_HITS = Column("hits", 5, "right")
"""Instead of padding waste where that is not known, but which share of the prompts was in the cache already."""

_LOADING: tuple[RankStage, ...] = ("importing", "joining", "loading", "compiling", "warming up", "ready")
_STATE_STYLES = {
    "lost": "bad",
    "silent": "warn",
    "decoding": "good",
    "prefill": "key",
    "waiting": "dim",
    "paused": "dim",
    "ended": "dim",
    "inactive": "dim",
}


_GRID = (
    Column("rank", 4, "right"),
    Column("state", 8),
    Column("tok/s", 6, "right"),
    Column("idle", 4, "right"),
)
_LOADING_GRID = (Column("rank", 4, "right"), Column("state", 10), Column("time", 5, "right"))
_GRID_GAP = 3


def rank_lines(state: RunState, width: int, form: RankForm = "table", order: Sequence[int] | None = None) -> list[Line]:
    """The ranks in `order`; all of them by number if it is None."""
    if not state.ranks:
        words = "a row per rank, once they are launched" if state.ended is None else "no rank was launched"
        return [((words, "dim"),)]
    shown = [state.ranks[number] for number in (range(len(state.ranks)) if order is None else order)]
    if not shown:
        return [((NO_RANK, "dim"),)]
    if form != "table":
        return _grid(state, shown, width, with_idle=form == "grid")
    if on_the_way(state):
        return _loading(state, shown, width)
    slow = slow_ranks(state)
    narrow = width < 70
    full = _CAPPED if any(rank.cap is not None for rank in state.ranks) and not narrow else _COLUMNS
    if state.continuous:
        full = tuple(
            _CONTINUOUS[column.title]._replace(width=column.width) if column.title in _CONTINUOUS else column
            for column in full
        )
    if counts_hits(state):
        full = tuple(_HITS if column.title == "waste" else column for column in full)
    columns = tuple(column for column in full if column.title != "device") if narrow else full
    sizes, gap = widths(columns, width, most_gap=4)
    batch_room, step_room = sizes[2:4] if narrow else sizes[3:5]
    lines = [heading(columns, sizes, gap)]
    for rank in shown:
        all_cells = _cells(state, rank, batch_room, step_room, slow=rank.rank in slow)
        cells = [cell for column, cell in zip(full, all_cells, strict=True) if column in columns]
        if rank.phase == "lost":
            before = 2 if narrow else 3
            used = sum(sizes[:before]) + gap * before
            start = row(cells[:before], columns[:before], sizes[:before], gap)
            lines.append((*start, (" " * gap, ""), *fit(((cause_words(rank, width - used), "bad"),), width - used)))
        else:
            lines.append(row(cells, columns, sizes, gap))
    return lines


def on_the_way(state: RunState) -> bool:
    """Whether the ranks are loading: then their loading is shown, not their work."""
    return state.ended is None and (state.ready_at is None or state.phase in ("launching", "loading"))


def _grid(state: RunState, ranks: Sequence[RankState], width: int, *, with_idle: bool) -> list[Line]:
    """Filled column by column, in as many columns as fit."""
    loading = on_the_way(state)
    columns = _LOADING_GRID if loading else _GRID if with_idle else _GRID[:-1]
    cell = sum(column.width + 1 for column in columns) - 1
    across = max(1, (width + _GRID_GAP) // (cell + _GRID_GAP))
    down = -(-len(ranks) // across)
    across = -(-len(ranks) // down)
    slow = slow_ranks(state)
    sizes = [column.width for column in columns]
    gap: Piece = (" " * _GRID_GAP, "")
    head = heading(columns, sizes, 1)
    lines: list[Line] = [tuple(piece for place in range(across) for piece in (*((gap,) if place else ()), *head))]
    for at in range(down):
        pieces: list[Piece] = []
        for rank in ranks[at::down]:
            number: Line = ((str(rank.rank), rank_style(rank.rank)),)
            if loading:
                since: Line = ((clock(max(0.0, state.now - rank.phase_since)), "strong"),)
                cells: tuple[Line, ...] = (number, phase_words(state, rank), since)
            else:
                idle: Line = ((percent(idle_lately(state, rank.rank)), ""),)
                cells = (number, doing(state, rank), speed(state, rank, slow=rank.rank in slow), idle)
            pieces += [*([gap] if pieces else []), *row(cells[: len(columns)], columns, sizes, 1)]
        lines.append(tuple(pieces))
    return lines


def doing(state: RunState, rank: RankState) -> Line:
    """What a rank is doing, in a word; how far it is if it decodes."""
    if shown_phase(state, rank) == "decoding" and not rank.continuous:
        return _step(rank, state.config.new_tokens if state.config else 0, room=8)
    return phase_words(state, rank)


def phase_words(state: RunState, rank: RankState) -> Line:
    phase = shown_phase(state, rank)
    return ((("✗ " if phase == "lost" else "") + phase, _STATE_STYLES.get(phase, "")),)


def speed(state: RunState, rank: RankState, *, slow: bool) -> Line:
    """A rank's tokens/s, marked if it is slow."""
    figure: Piece = (short_rate(state.rank_rate(rank)), "warn" if slow else "strong")
    return (("!", "warn"), figure) if slow else (figure,)


def cause_words(rank: RankState, width: int) -> str:
    return cut_middle(visible(rank.cause or "no cause is known; see its log"), width)


def _cells(state: RunState, rank: RankState, batch_room: int, step_room: int, *, slow: bool) -> tuple[Line, ...]:
    most = state.config.new_tokens if state.config else 0
    return (
        ((str(rank.rank), rank_style(rank.rank)),),
        ((visible(rank.device), ""),),
        phase_words(state, rank),
        batch_words(rank, batch_room),
        _step(rank, most, step_room),
        *achieved(state, rank, rank.prefix_hits if counts_hits(state) else rank.padding_waste, slow=slow),
    )


def counts_hits(state: RunState) -> bool:
    """Whether ranks tell how much of their prompts was in the cache already."""
    return any(rank.prefix_hits is not None for rank in state.ranks)


def achieved(state: RunState, rank: RankState, share: float | None, *, slow: bool) -> tuple[Line, ...]:
    """A rank's tokens/s, prompts, a share between these and its idle time."""
    return (
        speed(state, rank, slow=slow),
        ((short_count(rank.prompts), ""),),
        ((percent(share), "dim" if share is None else ""),),
        ((percent(idle_lately(state, rank.rank)), ""),),
    )


def _step(rank: RankState, most: int, room: int) -> Line:
    """How far the batch is, as a share if steps do not fit in `room` cells; how full a continuous rank's cache is."""
    if rank.batch is None:
        return ((NOTHING, "dim"),)
    if rank.continuous:
        return ((UNKNOWN, "dim"),) if rank.cache_used is None else ((percent(rank.cache_used), ""),)
    # A batch keeps the same form from its first step to its last.
    return ((f"{rank.step}/{most}" if 2 * len(str(most)) < room else whole_percent(rank.step / most), ""),)


def batch_words(rank: RankState, room: int) -> Line:
    """Number and prompts of the batch in hand, and the rank's cap if it has one; as much as fits in `room` cells.

    A capped rank drops its prompts first, as they say no more than the cap; any other drops the number.
    """
    cap: Line = ((f"≤{rank.cap}", "warn"),) if rank.cap is not None else ()
    if rank.batch is None:
        return cap or ((NOTHING, "dim"),)
    if rank.continuous:
        rows = rank.rows if rank.rows_at_once is None else rank.rows_at_once
        return ((f"{rows}{' ' if cap else ''}", ""), *cap)
    number, prompts = f"#{rank.batch}", f"x{rank.batch_rows or rank.rows}"
    for words in (f"{number} {prompts}", number if cap else prompts):
        line: Line = ((words + (" " if cap else ""), ""), *cap)
        if line_width(line) <= room:
            return line
    return cap or ((prompts, ""),)


def _loading(state: RunState, ranks: Sequence[RankState], width: int) -> list[Line]:
    """How far each rank is on its way to being ready, and how long it has been in its phase."""
    track = width >= 72
    titles: Line = ((f"rank  {'time':>5}  ", "dim"), ("on its way to its first batch" if track else "state", "dim"))
    lines = [titles]
    phases = _loading_phases(state)
    for rank in ranks:
        since = clock(max(0.0, state.now - rank.phase_since))
        start: Line = ((f"{rank.rank:>4}", rank_style(rank.rank)), (f"  {since:>5}  ", "strong"))
        if rank.phase == "lost":
            lines.append(fit((*start, ("✗ lost ", "bad"), (cause_words(rank, width - 20), "bad")), width))
        else:
            lines.append(fit((*start, *(_track(rank, phases) if track else ((rank.phase, "strong"),))), width))
    return lines


def _loading_phases(state: RunState) -> tuple[RankStage, ...]:
    """The phases of loading; compiling is one where any rank has come to it."""
    compiles = any(rank.phase == "compiling" for rank in state.ranks)
    compiles = compiles or any(span.kind == "compiling" for lane in state.timeline.lanes for span in lane.spans)
    return tuple(phase for phase in _LOADING if compiles or phase != "compiling")


def _track(rank: RankState, phases: Sequence[RankStage]) -> tuple[Piece, ...]:
    # A rank not heard from yet is in the first place, under the name of its own phase.
    here = phases.index(rank.phase) if rank.phase in phases else 0
    pieces: list[Piece] = []
    for position, phase in enumerate(phases):
        name = "starting ".ljust(len(phase)) if position == 0 and rank.phase == "starting" else phase
        reached = position < here or rank.phase == "ready"
        mark, style = ("✓", "good") if reached else ("▸", "strong") if position == here else ("·", "dim")
        pieces.append((f"{mark} ", style))
        pieces.append((f"{name}{'  ' if position + 1 < len(phases) else ''}", style if position == here else "dim"))
    return tuple(pieces)
