"""The ranks table: what each rank is doing, and what it has done. Pure."""

from runner.state import RankState, RunState
from tui.text import NOTHING, UNKNOWN, Line, Piece, clock, count, cut_middle, fit, percent, rate, visible
from tui.theme import rank_style
from tui.widgets.bars import Column, heading, row, widths

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
_LOADING = ("importing", "joining", "loading", "warming up", "ready")
_STATE_STYLES = {"lost": "bad", "decoding": "good", "prefill": "key", "waiting": "dim", "left": "dim"}


def rank_lines(state: RunState, width: int) -> list[Line]:
    if not state.ranks:
        words = "a row per rank, once they are launched" if state.ended is None else "no rank was launched"
        return [((words, "dim"),)]
    if state.ready_at is None and state.ended is None:
        return _loading(state, width)
    columns = _COLUMNS if width >= 70 else tuple(column for column in _COLUMNS if column.title != "device")
    sizes, gap = widths(columns, width, most_gap=4)
    lines = [heading(columns, sizes, gap)]
    for rank in state.ranks:
        cells = [cell for column, cell in zip(_COLUMNS, _cells(state, rank), strict=True) if column in columns]
        if rank.phase == "lost":
            before = 3 if columns is _COLUMNS else 2
            used = sum(sizes[:before]) + gap * before
            start = row(cells[:before], columns[:before], sizes[:before], gap)
            lines.append((*start, (" " * gap, ""), *fit(((_cause(rank, width - used), "bad"),), width - used)))
        else:
            lines.append(row(cells, columns, sizes, gap))
    return lines


def _cause(rank: RankState, width: int) -> str:
    return cut_middle(visible(rank.cause or "no cause is known; see its log"), width)


def _cells(state: RunState, rank: RankState) -> tuple[Line, ...]:
    most = state.config.max_new_tokens if state.config else 0
    batch = f"#{rank.batch} x{rank.rows}" if rank.batch is not None else NOTHING
    return (
        ((str(rank.rank), rank_style(rank.rank)),),
        ((visible(rank.device), ""),),
        ((("✗ " if rank.phase == "lost" else "") + rank.phase, _STATE_STYLES.get(rank.phase, "")),),
        ((batch, "" if rank.batch is not None else "dim"),),
        ((f"{rank.step}/{most}" if rank.batch is not None else NOTHING, "" if rank.batch is not None else "dim"),),
        ((rate(state.rank_rate(rank)), "strong"),),
        ((count(rank.prompts), ""),),
        ((percent(rank.padding_waste) if rank.slots else UNKNOWN, "" if rank.slots else "dim"),),
        ((percent(state.idle(rank)), ""),),
    )


def _loading(state: RunState, width: int) -> list[Line]:
    """The way of each rank to being ready, and how long it has been where it is."""
    track = width >= 72
    titles: Line = ((f"rank  {'time':>5}  ", "dim"), ("on its way to its first batch" if track else "state", "dim"))
    lines = [titles]
    for rank in state.ranks:
        since = clock(max(0.0, state.now - rank.phase_since))
        start: Line = ((f"{rank.rank:>4}", rank_style(rank.rank)), (f"  {since:>5}  ", "strong"))
        if rank.phase == "lost":
            lines.append(fit((*start, ("✗ lost ", "bad"), (_cause(rank, width - 20), "bad")), width))
        else:
            lines.append(fit((*start, *(_track(rank) if track else ((rank.phase, "strong"),))), width))
    return lines


def _track(rank: RankState) -> tuple[Piece, ...]:
    # A rank that has not said anything yet stands before the first one, under its own name.
    here = _LOADING.index(rank.phase) if rank.phase in _LOADING else 0
    pieces: list[Piece] = []
    for position, phase in enumerate(_LOADING):
        name = "starting ".ljust(len(phase)) if position == 0 and rank.phase == "starting" else phase
        reached = position < here or rank.phase == "ready"
        mark, style = ("✓", "good") if reached else ("▸", "strong") if position == here else ("·", "dim")
        pieces.append((f"{mark} ", style))
        pieces.append((f"{name}{'  ' if position + 1 < len(_LOADING) else ''}", style if position == here else "dim"))
    return tuple(pieces)
