"""What each setting of the run brought: a row per batch size and active ranks, the best one starred. Pure.

Every measured figure is of whole batches that began and ended under one setting. What another setting would bring is a
forecast: it is dim, says so, and has no star.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from rankdeck.runner.forecast.turn_effect import provisional
from rankdeck.runner.state import RunState
from rankdeck.runner.state.settings import SettingRow, all_settings, best_setting, tied_with
from rankdeck.tui.panels.bars import Column, heading, row
from rankdeck.tui.panels.overview.knob_effect import what_ifs
from rankdeck.tui.words.settings import best_setting_words
from rankdeck.tui.words.sweep import times
from rankdeck.tui.words.text import NOTHING, Line, count, fit, gib, line_width, percent, rate, short_rate, some

MEASURING = "measuring…"
BEST = "★"
TIED = "≈"
"""A setting that cannot be told apart from the best."""

HERE = "▸"


class _Figure(NamedTuple):
    """A column: what it says of a measured setting, None if it does not know."""

    column: Column
    of: Callable[[SettingRow], str | None]


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{value:.0f}%"


def _busy(each: SettingRow) -> float | None:
    return each.load.busy.value


_KEYS = (Column("batch", 5, "right"), Column("ranks", 5, "right"), Column("tok/s", 6, "right"))
_FIGURES: dict[str, _Figure] = {
    "rows": _Figure(Column("rows", 4, "right"), lambda each: None if each.rows is None else count(round(each.rows))),
    "±": _Figure(
        Column("±", 3, "right"),
        lambda each: (
            None
            if each.half_width is None or not each.tokens_per_second
            else spread(each.half_width / each.tokens_per_second)
        ),
    ),
    "speedup": _Figure(
        Column("speedup", 7, "right"), lambda each: None if each.speedup is None else times(each.speedup)
    ),
    "per rank": _Figure(Column("per rank", 8, "right"), lambda each: short_rate(each.per_rank)),
    "busy": _Figure(Column("busy", 4, "right"), lambda each: _percent(_busy(each))),
    "CPU": _Figure(
        Column("CPU", 4, "right"), lambda each: None if _busy(each) is not None else _percent(each.load.cpu.value)
    ),
    "DRAM": _Figure(Column("DRAM", 4, "right"), lambda each: _percent(each.load.dram.value)),
    "MBU": _Figure(Column("MBU", 4, "right"), lambda each: None if each.mbu is None else percent(each.mbu)),
    "tok/J": _Figure(
        Column("tok/J", 5, "right"), lambda each: None if each.tokens_per_joule is None else per_joule(each)
    ),
    "GiB": _Figure(
        Column("GiB", 5, "right"), lambda each: None if each.peak_memory_bytes is None else gib(each.peak_memory_bytes)
    ),
    "batches": _Figure(Column("batches", 7, "right"), lambda each: count(each.batches)),
}
_FIRST = ("±", "busy", "CPU", "rows", "DRAM", "per rank", "tok/J", "GiB", "batches", "speedup", "MBU")
"""Which figures are shown where there is little room: the first ones."""


def spread(share: float) -> str:
    """A half-width as a share, in three cells: an interval as wide as its figure says nothing more."""
    return percent(share) if share < 0.995 else ">99"


def per_joule(each: SettingRow) -> str:
    """Tokens per joule in three digits."""
    return joules_words(each.tokens_per_joule or 0.0)


def joules_words(tokens_per_joule: float) -> str:
    return f"{tokens_per_joule:.2f}" if tokens_per_joule < 9.995 else f"{tokens_per_joule:.1f}"


def settings_lines(state: RunState, width: int, height: int = 0) -> list[Line]:
    """The table in at most `height` lines (0: as many as it takes); empty before the first batch.

    Figures that no setting has are left out, and those for which there is no room.
    """
    rows = all_settings(state)
    if not state.periods:
        return []
    keys = _keys(state)
    figures = _shown(rows, keys, width)
    columns = (*keys, *(figure.column for figure in figures))
    used = sum(column.width + 1 for column in columns) + 1
    gap = 2 if width - used >= len(columns) else 1
    sizes = [column.width for column in columns]
    head = (*heading(columns, sizes, gap), (" " * (gap + 1), ""))
    best = best_setting(rows)
    here = state.batch_size, state.active_ranks
    drawn = {each.setting: _measured(each, figures, columns, gap, state, best) for each in rows}
    if state.ended is None and here not in drawn:
        drawn[here] = _measuring(state, columns, gap, width)
    for setting, line in _predicted(state, columns, gap, width).items():
        drawn.setdefault(setting, line)
    if not drawn:
        return []
    shown = _fitting(list(drawn), here, best, len(drawn) if not height else height - 1)
    lines = [head, *(drawn[setting] for setting in shown)]
    return [fit(line, width) for line in lines]


def settings_plain(state: RunState) -> list[Line]:
    """The measured settings alone, with every figure known: for lines and at the end of a run."""
    rows = all_settings(state)
    if not rows:
        return []
    figures = _shown(rows, _KEYS, 1000)
    columns = (*_keys(state), *(figure.column for figure in figures))
    sizes = [column.width for column in columns]
    best = best_setting(rows)
    return [
        heading(columns, sizes, 2),
        *(_measured(each, figures, columns, 2, state, best, marked=False) for each in rows),
    ]


def _keys(state: RunState) -> tuple[Column, ...]:
    """The first columns, with room for the largest batch size, what it may become, and the sign of the present one."""
    largest = max(state.batch_size * 2, *(period.batch_size for period in state.periods))
    return (_KEYS[0]._replace(width=max(_KEYS[0].width, len(count(largest)) + len(f"{HERE} "))), *_KEYS[1:])


def _shown(rows: Sequence[SettingRow], keys: Sequence[Column], width: int) -> list[_Figure]:
    """The figures that some setting has, as many of the first ones as fit, in the order of the columns."""
    several = len({each.active_ranks for each in rows}) > 1
    left = width - sum(column.width + 1 for column in keys) - 1
    found = []
    for name in _FIRST:
        figure = _FIGURES[name]
        wanted = several if name in ("speedup", "per rank") else name != "rows" or not all(each.full for each in rows)
        if wanted and any(figure.of(each) is not None for each in rows) and figure.column.width + 1 <= left:
            left -= figure.column.width + 1
            found.append(name)
    return [figure for name, figure in _FIGURES.items() if name in found]


def _measured(
    each: SettingRow,
    figures: Sequence[_Figure],
    columns: Sequence[Column],
    gap: int,
    state: RunState,
    best: SettingRow | None,
    *,
    marked: bool = True,
) -> Line:
    here = marked and state.ended is None and each.setting == (state.batch_size, state.active_ranks)
    starred = best is not None and each.setting == best.setting
    style = "key" if here else "strong" if starred else ""
    cells: list[Line] = [
        ((f"{HERE} " if here else "", "key"), (count(each.batch_size), style)),
        ((str(each.active_ranks), style),),
        ((rate(each.tokens_per_second), style if style else "strong"),),
        *(((figure.of(each) or NOTHING, style),) for figure in figures),
    ]
    sizes = [column.width for column in columns]
    tied = best is not None and not each.cold and tied_with(best, each)
    return (*row(cells, columns, sizes, gap), (" " * gap + (BEST if starred else TIED if tied else " "), "good"))


def _measuring(state: RunState, columns: Sequence[Column], gap: int, width: int) -> Line:
    """The present setting before it is measured, with the rate that its first steps show."""
    seen = provisional(state)
    so_far = f"~{short_rate(seen.tokens_per_second)}" if seen is not None and seen.tokens_per_second else ""
    cells: list[Line] = [
        ((f"{HERE} ", "key"), (count(state.batch_size), "key")),
        ((str(state.active_ranks), "key"),),
        *([((so_far, "dim"),)] if so_far else []),
    ]
    start = row(cells, columns[: len(cells)], [column.width for column in columns[: len(cells)]], gap)
    return fit((*start, (" " * gap, ""), (MEASURING, "dim")), width)


def _predicted(state: RunState, columns: Sequence[Column], gap: int, width: int) -> dict[tuple[int, int], Line]:
    """Twice the batch size and one rank more, where they can be predicted: dim, and with a word for it."""
    found: dict[tuple[int, int], Line] = {}
    for change in what_ifs(state):
        if change.batch_size < state.batch_size or change.active_ranks < state.active_ranks:
            continue
        sizes = [column.width for column in columns[:3]]
        cells: list[Line] = [
            ((count(change.batch_size), "dim"),),
            ((str(change.active_ranks), "dim"),),
            ((f"~{short_rate(change.steady_tokens_per_second)}", "dim"),),
        ]
        start: Line = (*row(cells, columns[:3], sizes, gap), (" " * gap, ""))
        room = width - line_width(start)
        gain, word = f"{change.steady_percent:+.0f}%", "guess" if change.extrapolated else "predicted"
        words = (f"{word} {gain}", word, gain)
        said = next((word for word in words if len(word) <= room), "")
        found[change.batch_size, change.active_ranks] = fit((*start, (said, "dim")), width)
    return found


def _fitting(
    found: Sequence[tuple[int, int]], here: tuple[int, int], best: SettingRow | None, room: int
) -> list[tuple[int, int]]:
    """At most `room` of the settings in order; the present one, the best and those nearest to it come first."""
    ordered = sorted(found)
    if len(ordered) <= room:
        return ordered
    place = ordered.index(here) if here in ordered else len(ordered) - 1
    first = [here, *([best.setting] if best is not None else [])]
    near = sorted(ordered, key=lambda one: (one not in first, abs(ordered.index(one) - place)))
    return sorted(near[: max(1, room)])


def best_of(state: RunState) -> str:
    """The best of the settings in words; empty with fewer than two settings."""
    rows = all_settings(state)
    best = best_setting(rows)
    if best is None:
        return ""
    first = next((period for period in state.periods if period.warm_rate), None)
    began = next((each for each in rows if first and each.setting == (first.batch_size, first.active_ranks)), best)
    than = began.tokens_per_second if began.setting != best.setting else None
    said = best_setting_words(best.active_ranks, best.batch_size, best.tokens_per_second, than)
    tied = sum(tied_with(best, each) for each in rows if not each.cold)
    return f"{said} (within noise of {some(tied, 'other')})" if tied else said
