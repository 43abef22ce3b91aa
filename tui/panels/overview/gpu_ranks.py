"""A rank and what it runs on in one row, where they pair off and there is no room for two tables. Pure.

What it runs on is its GPU; without GPU figures its process stands there, with CPU and memory.
"""

from collections.abc import Sequence
from typing import NamedTuple

from rankdeck.runner.advice.slow_rank import slow_ranks
from rankdeck.runner.protocol import ProcessSample
from rankdeck.runner.state import DeviceState, RunState
from rankdeck.tui.panels.bars import Column, bar, heading, minute, row, widths
from rankdeck.tui.panels.overview.gpu_figures import (
    NEARLY_FULL,
    NOT_AVAILABLE,
    busy,
    busy_figure,
    busy_minute,
    figure,
    memory_share,
    short_throttle,
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
from rankdeck.tui.words.text import NOTHING, Line, fit, gib, percent

_WORK = (
    Column("state", 8),
    Column("batch", 7, "left", 10),
    Column("tok/s", 6, "right"),
    Column("prompts", 7, "right"),
    Column("waste", 5, "right"),
    Column("idle", 4, "right"),
)
_GPU = (
    Column("rank", 4, "right"),
    Column("gpu", 3, "right"),
    Column("busy", 4, "right", 20),
    Column("minute", 6, "left", 30),
    Column("mem", 4, "right"),
    Column("W", 3, "right"),
    Column("°C", 3, "right"),
    *_WORK,
)
_CPU = (
    Column("rank", 4, "right"),
    Column("CPU", 4, "right", 20),
    Column("minute", 5, "left", 30),
    Column("GiB", 5, "right"),
    *_WORK,
)
_CONTINUOUS = {"batch": Column("rows", 7, "left", 10), "waste": Column("cache", 5, "right")}
"""Where rows come and go there are no batches to pad, but a cache that fills."""

BARS_FROM = 9
"""Cells from which a column has a bar before its figure."""


def least_width(state: RunState) -> int:
    """The narrowest width that the table fits in; that of processes can leave out their last minute."""
    columns = _GPU if state.devices else [column for column in _CPU if column.title != "minute"]
    return sum(column.width + 1 for column in columns) - 1


def one_to_one(state: RunState) -> bool:
    """Whether every GPU has exactly one rank and every rank a GPU; without GPU figures, every rank has its process."""
    if not state.devices:
        return bool(state.processes) and state.telemetry_reason is not None
    owners = [device.ranks for device in state.devices]
    return bool(owners) and sorted(owners) == [(rank.rank,) for rank in state.ranks]


def gpu_rank_lines(state: RunState, width: int, order: Sequence[int] | None = None) -> list[Line]:
    if on_the_way(state):
        return rank_lines(state, width, order=order)
    if order is not None and not order:
        return [((NO_RANK, "dim"),)]
    most = max((len(f"{device.sample.power_limit_watts or 0:.0f}") for device in state.devices), default=0)
    all_columns: tuple[Column, ...] = _GPU if state.devices else _CPU
    if state.continuous:
        all_columns = tuple(_CONTINUOUS.get(column.title, column) for column in all_columns)
    columns = tuple(column._replace(width=max(3, most)) if column.title == "W" else column for column in all_columns)
    if sum(column.width + 1 for column in columns) - 1 > width:
        columns = tuple(column for column in columns if column.title != "minute")
    sizes, gap = widths(columns, width, most_gap=2)
    own = len(columns) - len(_WORK)
    lines = [heading(columns, sizes, gap)]
    slow, runs_on = slow_ranks(state), _RunsOn.of(state)
    room_of = {column.title: size for column, size in zip(columns, sizes, strict=True)}
    rooms = room_of.get("busy", room_of.get("CPU", 4)), room_of.get("minute", 0)
    for number in range(len(state.ranks)) if order is None else order:
        rank = state.ranks[number]
        cells: tuple[Line, ...] = (((str(number), rank_style(number)),), *runs_on.cells(state, number, *rooms))
        start = [cell for cell, column in zip(cells, all_columns, strict=False) if column.title in room_of]
        if rank.phase == "lost":
            line = (*row(start, columns[:own], sizes[:own], gap), (" " * gap, ""))
            room = width - sum(sizes[:own]) - own * gap
            lines.append((*line, *fit(((cause_words(rank, room), "bad"),), room)))
            continue
        share = rank.cache_used if state.continuous else rank.padding_waste
        work = doing(state, rank), batch_words(rank, sizes[own + 1]), *achieved(state, rank, share, slow=number in slow)
        lines.append(row((*start, *work), columns, sizes, gap))
    return lines


class _RunsOn(NamedTuple):
    """What each rank runs on: its GPU, or its process and where that stands in the samples."""

    gpus: dict[int, DeviceState]
    processes: dict[int, tuple[int, ProcessSample]]

    @classmethod
    def of(cls, state: RunState) -> "_RunsOn":
        gpus = {device.ranks[0]: device for device in state.devices if device.ranks}
        return cls(gpus, {process.rank: (place, process) for place, process in enumerate(state.processes)})

    def cells(self, state: RunState, rank: int, busy_room: int, room: int) -> tuple[Line, ...]:
        """The cells between a rank's number and its work."""
        if state.devices:
            return _gpu(self.gpus.get(rank), state.samples, busy_room, room)
        if rank not in self.processes:
            return (NOT_AVAILABLE,) * 3
        return _process(state, *self.processes[rank], busy_room, room)


def _gpu(device: DeviceState | None, samples: int, busy_room: int, room: int) -> tuple[Line, ...]:
    if device is None:  # which rank is on which GPU is known from the first sample after all are ready
        return (NOT_AVAILABLE,) * 6
    sample = device.sample
    lowered = bool(short_throttle(sample))
    index: Line = ((f"{'▾' if lowered else ''}{sample.index}", "warn" if lowered else "strong"),)
    if sample.lost:
        nothing: Line = ((NOTHING, "dim"),)
        return (index, (("lost", "bad"),), busy_minute(device, samples, room), nothing, nothing, nothing)
    share = memory_share(sample)
    return (
        index,
        busy(sample, busy_room) if busy_room >= BARS_FROM else busy_figure(sample),
        busy_minute(device, samples, room),
        NOT_AVAILABLE if share is None else ((percent(share), "warn" if share > NEARLY_FULL else ""),),
        figure(sample.power_watts, ""),
        temperature(sample, ""),
    )


def _process(state: RunState, place: int, process: ProcessSample, busy_room: int, room: int) -> tuple[Line, Line, Line]:
    """CPU and its last minute in percent of the cores that its threads could use, and resident memory."""
    threads = state.threads(process.rank) or 1
    history = state.cpu_history[place] if place < len(state.cpu_history) else ()
    shares = [None if value is None else min(100.0, value / threads) for value in history]
    share = None if process.cpu_percent is None else process.cpu_percent / threads
    drawn = share is not None and busy_room >= BARS_FROM
    return (
        (*bar((share or 0.0) / 100, busy_room - 5), *fit(figure(share, "%"), 5, "right"))
        if drawn
        else figure(share, "%"),
        ((minute(shares, state.samples, room), "busy"),),
        NOT_AVAILABLE if process.rss_bytes is None else ((gib(process.rss_bytes), ""),),
    )
