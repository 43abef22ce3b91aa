"""GPUs as cells side by side: two lines each with bars and a minute of history, or tiny ones. Pure."""

from collections.abc import Sequence
from typing import NamedTuple

from rankdeck.runner.state import DeviceState
from rankdeck.tui.panels.bars import MINUTE_SECONDS
from rankdeck.tui.panels.overview.gpu_figures import (
    NOT_AVAILABLE,
    busy,
    busy_figure,
    busy_minute,
    clock,
    common_name,
    lost_line,
    lost_reason,
    memory,
    memory_room,
    memory_share,
    power,
    power_room,
    ranks_on,
    saturation,
    short_name,
    short_throttle,
    temperature,
    throttle,
)
from rankdeck.tui.words.text import Line, cut_middle, fit, line_width, percent

GAP = 4
LEAST_CELL = 54
"""Width of a cell of two lines: bars, 20 cells of history, figures, ranks."""

_TINY = 21
_TINY_GAP = 3


def cell_lines(devices: Sequence[DeviceState], samples: int, width: int, columns: int = 1) -> list[Line]:
    """Two lines per GPU, in `columns`, down the first column and then the next."""
    cell = (width - GAP * (columns - 1)) // columns
    name_room = 0 if common_name(devices) is not None or cell < 72 else 14 if cell < 100 else 18
    rooms = _Rooms(
        len(str(max(device.sample.index for device in devices))),
        name_room,
        memory_room(devices),
        max(line_width(ranks_on(device)) for device in devices) + len("rank "),
        power_room(devices),
    )
    cells = [_cell(device, samples, cell, rooms) for device in devices]
    down = -(-len(cells) // columns)
    lines: list[Line] = []
    for row in range(down):
        beside = [cells[place] for place in range(row, len(cells), down)]
        for half in (0, 1):
            line: Line = beside[0][half]
            for other in beside[1:]:
                line = (*fit(line, cell), (" " * GAP, ""), *other[half])
            lines.append(line)
    return lines


class _Rooms(NamedTuple):
    """Widths that are the same in every GPU's cell."""

    number: int
    name: int
    memory: int
    ranks: int
    power: int


def _cell(device: DeviceState, samples: int, width: int, rooms: _Rooms) -> tuple[Line, Line]:
    sample = device.sample
    index_room, name_room, room, rank_room, watts_room = rooms
    if sample.lost:
        why: Line = ((" " * (index_room + 2) + lost_reason(sample), "dim"),)
        return fit(lost_line(device, why=False), width), fit(why, width)
    indent = index_room + 2 + (name_room + 2 if name_room else 0)
    # The bar takes half of the free room, the history the rest; each cell of it stands for whole seconds.
    free = width - indent - 5 - 5 - 1 - 2 - rank_room
    # Power and temperature must fit beside that of the memory.
    beside = width - indent - 5 - 1 - room - (2 + watts_room) - (2 + 6) - (2 + 7)
    bar_width = max(6, min(30, free // 2, beside))
    history = min(MINUTE_SECONDS, free - bar_width)
    name: Line = (
        (*fit(((cut_middle(short_name(sample.name), name_room), ""),), name_room), ("  ", "")) if name_room else ()
    )
    first: Line = (
        (f"{sample.index:>{index_room}}  ", "strong"),
        *name,
        ("busy ", "dim"),
        *busy(sample, bar_width + 5),
        (" ", ""),
        *busy_minute(device, samples, history),
        ("  ", ""),
        *fit((("rank ", "dim"), *ranks_on(device)), max(rank_room, width - indent - bar_width - history - 13), "right"),
    )
    second: Line = ((" " * indent, ""), ("mem  ", "dim"), *memory(sample, bar_width + 1 + room, room))
    facts: tuple[Line, ...] = (
        fit(power(sample), watts_room, "right"),
        fit(temperature(sample), 6, "right"),
        (("SM ", "dim"), *fit(clock(sample), 13, "right")),
        saturation(sample),
    )
    last = short_throttle(sample)
    for fact in facts:
        if fact and line_width(second) + 2 + line_width(fact) + 2 + max(line_width(last), 7) <= width:
            second = (*second, ("  ", ""), *fact)
    long: Line = (("throttle ", "dim"), *throttle(sample))
    if line_width(second) + 3 + line_width(long) <= width:
        last = long
    return fit(first, width), (*fit(second, width - line_width(last)), *last)


def tiny_lines(devices: Sequence[DeviceState], samples: int, width: int) -> list[Line]:
    """Number, busy %, its last minute and share of memory in use, several GPUs on a line."""
    columns = max(1, (width + _TINY_GAP) // (_TINY + _TINY_GAP))
    down = -(-len(devices) // columns)
    columns = -(-len(devices) // down)
    rows = [[devices[place] for place in range(row, len(devices), down)] for row in range(down)]
    return [
        tuple(
            piece
            for place, device in enumerate(row)
            for piece in (*(((" " * _TINY_GAP, ""),) if place else ()), *_tiny(device, samples))
        )
        for row in rows
    ]


def _tiny(device: DeviceState, samples: int) -> Line:
    sample = device.sample
    index: Line = ((f"{sample.index:>2} ", "strong"),)
    if sample.lost:
        return fit((*index, ("✗ lost", "bad")), _TINY)
    share = memory_share(sample)
    held: Line = NOT_AVAILABLE if share is None else ((percent(share), ""),)
    return fit(
        (
            *index,
            *fit(busy_figure(sample), 4, "right"),
            (" ", ""),
            *busy_minute(device, samples, 6),
            ("  ", ""),
            *fit(held, 4, "right"),
        ),
        _TINY,
    )
