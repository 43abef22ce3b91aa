"""The GPUs, in the form the Overview has room for; without NVML a row per rank, from the operating system. Pure.

A log gets the same figures without bars and history.
"""

from collections.abc import Sequence
from typing import Literal

from rankdeck.runner.protocol import ProcessSample, RankReady
from rankdeck.runner.state import DeviceState, RunState
from rankdeck.tui.panels.bars import Column, bar, heading, minute, row, snug, widths
from rankdeck.tui.panels.overview.gpu_cells import cell_lines, tiny_lines
from rankdeck.tui.panels.overview.gpu_figures import (
    NOT_AVAILABLE,
    busy,
    busy_figure,
    busy_minute,
    clock,
    common_name,
    figure,
    lost_line,
    memory,
    memory_figure,
    memory_room,
    power,
    power_room,
    ranks_on,
    short_name,
    temperature,
    throttle,
)
from rankdeck.tui.words.styles import rank_style
from rankdeck.tui.words.text import Line, cut, cut_middle, fit, size, visible, wrap

DeviceForm = Literal["cells", "grid", "rows", "tiny"]
"""Two lines per GPU, the same in two columns, one line per GPU, several GPUs on a line."""

_WIDE = (
    Column("gpu", 3, "right"),
    Column("name", 14, "left", 18),
    Column("busy", 13, "left", 21),
    Column("last minute", 12, "left", 60),
    Column("memory", 22, "left", 30),
    Column("power", 9, "right"),
    Column("temp", 6, "right"),
    Column("SM clock", 13, "right"),
    Column("throttle", 9, "left", 20),
    Column("rank", 8, "left"),
)
_DENSE = (
    Column("gpu", 3, "right"),
    Column("name", 8, "left", 14),
    Column("busy", 4, "right"),
    Column("last minute", 11, "left", 30),
    Column("memory", 14, "right"),
    Column("power", 9, "right"),
    Column("temp", 6, "right"),
    Column("throttle", 9, "left", 14),
    Column("rank", 5, "left"),
)
_SPARED = ("throttle", "name")
"""Columns a very narrow line drops, in this order."""

_PROCESSES = (
    Column("rank", 4, "right"),
    Column("device", 7, "left", 30),
    Column("CPU", 14, "left", 24),
    Column("last minute", 11, "left", 30),
    Column("threads", 7, "right"),
    Column("memory", 9, "right"),
)

_BARRED = ("busy", "CPU", "memory")
"""Columns with a bar before the figure."""


def devices_title(state: RunState, form: DeviceForm = "cells") -> str:
    """Plain text, with the name of the GPUs if all have the same."""
    if not state.devices:
        if state.telemetry_reason is None:
            return "GPUs"
        return "Processes" if explains(state) else "Processes  no GPU figures"
    name, count = common_name(state.devices), len(state.devices)
    title = "GPUs" if name is None else f"GPUs  {f'{count} x ' if count > 1 else ''}{cut_middle(name, 30)}"
    return f"{title}  busy, its last minute, memory" if form == "tiny" else title


def explains(state: RunState) -> bool:
    """Whether to say at length why there are no GPU figures: until work begins, or without figures of processes."""
    return state.first_batch_at is None or not state.processes


def device_lines(state: RunState, width: int, form: DeviceForm = "cells") -> list[Line]:
    if state.devices and form == "rows":
        return _rows(state.devices, state.samples, width)
    if state.devices and form == "tiny":
        return tiny_lines(state.devices, state.samples, width)
    if state.devices:
        return cell_lines(state.devices, state.samples, width, columns=2 if form == "grid" else 1)
    if state.telemetry_reason is not None:
        why = f"no GPU figures: {visible(state.telemetry_reason)}"
        # A narrow terminal is usually short, too: the advice, the log and `rankdeck doctor` give the whole reason.
        said = wrap(why, width)[:2] if width >= 70 else [cut(why, width)]
        return [*(((text, "dim"),) for text in said if explains(state)), *_processes(state, width)]
    return [(("busy, memory, power, temperature: with the first sample", "dim"),)]


def device_figures(state: RunState) -> list[Line]:
    """A table without bars, as narrow as its figures; a lost GPU below it. Empty before the first sample."""
    rows = [_gpu(device) for device in state.devices if not device.sample.lost]
    if not state.devices:
        rows = [_process(state, process) for process in state.processes]
    lost: list[Line] = [
        (("GPU ", ""), *lost_line(device), ("  rank ", ""), *ranks_on(device))
        for device in state.devices
        if device.sample.lost
    ]
    if not rows:
        return lost
    columns = tuple(
        column._replace(align="right") if column.title in _BARRED else column
        for column in (_WIDE if state.devices else _PROCESSES)
        if column.title != "last minute"
    )
    cells = [[figures[column.title] for column in columns] for figures in rows]
    columns = snug(columns, cells)
    sizes = [column.width for column in columns]
    return [heading(columns, sizes, 2), *(row(line, columns, sizes, 2) for line in cells), *lost]


def _rows(devices: Sequence[DeviceState], samples: int, width: int) -> list[Line]:
    wide = width >= 100
    watts = power_room(devices)
    columns = tuple(
        column._replace(width=watts) if column.title == "power" else column
        for column in _shown(_WIDE if wide else _DENSE, width, named=common_name(devices) is None)
    )
    sizes, gap = widths(columns, width, most_gap=3)
    room_of = {column.title: room for column, room in zip(columns, sizes, strict=True)}
    room = memory_room(devices)
    lines = [heading(columns, sizes, gap)]
    for device in devices:
        sample = device.sample
        if sample.lost:
            lines.append(fit(((" " * 2, ""), *lost_line(device)), width))
            continue
        cells = _gpu(device)
        cells["name"] = ((cut_middle(short_name(sample.name), room_of.get("name", 0)), ""),)
        cells["last minute"] = busy_minute(device, samples, room_of["last minute"])
        if wide:
            cells["busy"] = busy(sample, room_of["busy"])
            cells["memory"] = memory(sample, room_of["memory"], room)
        lines.append(row([cells[column.title] for column in columns], columns, sizes, gap))
    return lines


def _gpu(device: DeviceState) -> dict[str, Line]:
    """The figures of a GPU by column title."""
    sample = device.sample
    return {
        "gpu": ((str(sample.index), "strong"),),
        "name": ((short_name(sample.name), ""),),
        "busy": busy_figure(sample),
        "memory": memory_figure(sample),
        "power": power(sample),
        "temp": temperature(sample),
        "SM clock": clock(sample),
        "throttle": throttle(sample),
        "rank": ranks_on(device),
    }


def _shown(columns: tuple[Column, ...], width: int, *, named: bool) -> tuple[Column, ...]:
    shown = tuple(column for column in columns if named or column.title != "name")
    for spared in _SPARED:
        if sum(column.width + 1 for column in shown) - 1 > width:
            shown = tuple(column for column in shown if column.title != spared)
    return shown


def _processes(state: RunState, width: int) -> list[Line]:
    if not state.processes:
        return [(("CPU and memory of each rank, once there are ranks", "dim"),)]
    columns = tuple(column for column in _PROCESSES if width >= 68 or column.title != "device")
    sizes, gap = widths(columns, min(width, 120))
    room_of = {column.title: room for column, room in zip(columns, sizes, strict=True)}
    lines = [heading(columns, sizes, gap)]
    for place, process in enumerate(state.processes):
        threads = state.threads(process.rank)
        history = state.cpu_history[place] if place < len(state.cpu_history) else ()
        shares = [None if value is None else min(100.0, value / (threads or 1)) for value in history]
        cells = _process(state, process)
        cells["device"] = fit(cells["device"], room_of.get("device", 0))
        cells["CPU"] = _cpu(process, threads, room_of["CPU"])
        cells["last minute"] = ((minute(shares, state.samples, room_of["last minute"]), "busy"),)
        lines.append(row([cells[column.title] for column in columns], columns, sizes, gap))
    return lines


def _process(state: RunState, process: ProcessSample) -> dict[str, Line]:
    """The figures of a rank's process by column title."""
    ready, threads = _ready(state, process), state.threads(process.rank)
    return {
        "rank": ((str(process.rank), rank_style(process.rank)),),
        "device": ((short_name(ready.device_name) if ready else "?", ""),),
        "CPU": figure(process.cpu_percent, "%"),
        "threads": ((str(threads), ""),) if threads else NOT_AVAILABLE,
        "memory": ((size(process.rss_bytes), ""),) if process.rss_bytes is not None else NOT_AVAILABLE,
    }


def _ready(state: RunState, process: ProcessSample) -> RankReady | None:
    return state.ranks[process.rank].ready if 0 <= process.rank < len(state.ranks) else None


def _cpu(process: ProcessSample, threads: int | None, width: int) -> Line:
    """The bar is full when each thread of the rank keeps a core busy; the figure is 100% per core."""
    if process.cpu_percent is None:
        return fit(NOT_AVAILABLE, width)
    percent = fit(figure(process.cpu_percent, "%"), 6, "right")
    return (*bar(process.cpu_percent / 100 / (threads or 1), width - 6), *percent)
