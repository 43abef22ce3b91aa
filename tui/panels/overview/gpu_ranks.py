"""A rank and its GPU in one row, where they pair off and there is no room for two tables. Pure."""

from collections.abc import Sequence

from rankdeck.runner.advice.slow_rank import slow_ranks
from rankdeck.runner.state import DeviceState, RunState
from rankdeck.tui.panels.bars import Column, heading, row, widths
from rankdeck.tui.panels.overview.gpu_figures import (
    NOT_AVAILABLE,
    busy_figure,
    busy_minute,
    figure,
    memory_share,
    temperature,
)
from rankdeck.tui.panels.overview.ranks import (
    NO_RANK,
    achieved,
    batch_words,
    cause_words,
    doing,
    on_the_way,
    rank_lines,
)
from rankdeck.tui.words.styles import rank_style
from rankdeck.tui.words.text import NOTHING, Line, fit, percent

_COLUMNS = (
    Column("rank", 4, "right"),
    Column("gpu", 3, "right"),
    Column("busy", 4, "right"),
    Column("minute", 6, "left", 30),
    Column("mem", 4, "right"),
    Column("W", 3, "right"),
    Column("°C", 3, "right"),
    Column("state", 8),
    Column("batch", 7, "left", 10),
    Column("tok/s", 6, "right"),
    Column("prompts", 7, "right"),
    Column("waste", 5, "right"),
    Column("idle", 4, "right"),
)
LEAST = sum(column.width + 1 for column in _COLUMNS) - 1
"""The narrowest width that the table fits in."""


def one_to_one(state: RunState) -> bool:
    """Whether every GPU has exactly one rank and every rank a GPU."""
    owners = [device.ranks for device in state.devices]
    return bool(owners) and sorted(owners) == [(rank.rank,) for rank in state.ranks]


def gpu_rank_lines(state: RunState, width: int, order: Sequence[int] | None = None) -> list[Line]:
    if on_the_way(state):
        return rank_lines(state, width, order=order)
    if order is not None and not order:
        return [((NO_RANK, "dim"),)]
    most = max(len(f"{device.sample.power_limit_watts or 0:.0f}") for device in state.devices)
    columns = tuple(column._replace(width=max(3, most)) if column.title == "W" else column for column in _COLUMNS)
    sizes, gap = widths(columns, width, most_gap=2)
    lines = [heading(columns, sizes, gap)]
    slow = slow_ranks(state)
    gpus = {device.ranks[0]: device for device in state.devices if device.ranks}
    for number in range(len(state.ranks)) if order is None else order:
        rank = state.ranks[number]
        gpu_cells = _gpu(gpus.get(number), state.samples, sizes[3])
        start: tuple[Line, ...] = (((str(number), rank_style(number)),), *gpu_cells)
        if rank.phase == "lost":
            line = (*row(start, columns[:7], sizes[:7], gap), (" " * gap, ""))
            room = width - sum(sizes[:7]) - 7 * gap
            lines.append((*line, *fit(((cause_words(rank, room), "bad"),), room)))
            continue
        work = doing(state, rank), batch_words(rank, sizes[8]), *achieved(state, rank, slow=number in slow)
        lines.append(row((*start, *work), columns, sizes, gap))
    return lines


def _gpu(device: DeviceState | None, samples: int, room: int) -> tuple[Line, ...]:
    if device is None:  # which rank is on which GPU is known from the first sample after all are ready
        return (NOT_AVAILABLE,) * 6
    sample = device.sample
    index: Line = ((str(sample.index), "strong"),)
    if sample.lost:
        nothing: Line = ((NOTHING, "dim"),)
        return (index, (("lost", "bad"),), busy_minute(device, samples, room), nothing, nothing, nothing)
    share = memory_share(sample)
    return (
        index,
        busy_figure(sample),
        busy_minute(device, samples, room),
        NOT_AVAILABLE if share is None else ((percent(share), ""),),
        figure(sample.power_watts, ""),
        temperature(sample, ""),
    )
