"""A row per GPU: how busy, how full, how hot, whose. Without NVML, a row per rank from the operating system. Pure."""

from runner.protocol import DeviceSample, ProcessSample
from runner.state import DeviceState, RunState
from tui.text import NOTHING, UNKNOWN, Line, Piece, between, cut, cut_middle, fit, gib, size, visible, wrap
from tui.theme import rank_style
from tui.widgets.bars import Column, bar, heading, row, widths

NOT_AVAILABLE: Line = ((UNKNOWN, "dim"),)
TWO_LINES_UP_TO = 2
"""On a narrow terminal so many GPUs have two lines each; more of them have one dense line each."""

MOST_RANKS_NAMED = 4
"""Where more ranks share a GPU, the first ones are named and the others counted."""

_WIDE = (
    Column("gpu", 3, "right"),
    Column("name", 14, "left", 24),
    Column("busy", 13, "left", 25),
    Column("memory", 22, "left", 36),
    Column("power", 9, "right"),
    Column("temp", 6, "right"),
    Column("SM clock", 13, "right"),
    Column("throttle", 8, "left", 20),
    Column("rank", 8, "left", 12),
)
_DENSE = (
    Column("gpu", 3, "right"),
    Column("name", 6, "left", 12),
    Column("busy", 4, "right"),
    Column("memory", 15, "right"),
    Column("power", 9, "right"),
    Column("temp", 5, "right"),
    Column("MHz", 4, "right"),
    Column("throttle", 9, "left", 14),
    Column("rank", 4, "left", 8),
)
_PROCESSES = (
    Column("rank", 4, "right"),
    Column("device", 7, "left", 30),
    Column("CPU", 14, "left", 36),
    Column("threads", 7, "right"),
    Column("memory", 9, "right"),
)


def devices_title(state: RunState) -> str:
    return "GPUs" if state.devices or state.telemetry_reason is None else "Processes"


def device_lines(state: RunState, width: int) -> list[Line]:
    if state.devices:
        return _gpus(state.devices, width)
    if state.telemetry_reason is not None:
        reason = [((text, "dim"),) for text in wrap(f"no GPU figures: {visible(state.telemetry_reason)}", width)[:2]]
        return [*reason, *_processes(state, width)]
    return [(("busy, memory, power, temperature: with the first sample", "dim"),)]


def _gpus(devices: tuple[DeviceState, ...], width: int) -> list[Line]:
    if width < 100 and len(devices) <= TWO_LINES_UP_TO:
        room = _memory_room(devices)
        return [line for device in devices for line in _two_lines(device, width, room)]
    columns: tuple[Column, ...] = _WIDE if width >= 100 else _DENSE
    # What a very narrow line can spare best: GPUs side by side mostly have one name and one clock.
    shown = [position for position, column in enumerate(columns) if width >= 68 or column.title not in ("name", "MHz")]
    columns = tuple(columns[position] for position in shown)
    sizes, gap = widths(columns, width)
    lines = [heading(columns, sizes, gap)]
    room = _memory_room(devices)
    for device in devices:
        sample = device.sample
        if sample.lost:
            lines.append(fit(_lost(device), width))
            continue
        wide = width >= 100
        busy = _busy(sample, sizes[2]) if wide else _busy_figure(sample)
        memory = _memory(sample, sizes[3], room) if wide else _memory_figure(sample)
        clock = _clock(sample) if wide else _figure(sample.sm_clock_mhz, "")
        cells: tuple[Line, ...] = (
            ((str(sample.index), "strong"),),
            ((cut_middle(_short_name(sample.name), sizes[1]), ""),),
            busy,
            memory,
            _power(sample),
            _temperature(sample),
            clock,
            _throttle(sample),
            _ranks(device),
        )
        lines.append(row([cells[position] for position in shown], columns, sizes, gap))
    return lines


def _two_lines(device: DeviceState, width: int, room: int) -> list[Line]:
    sample = device.sample
    if sample.lost:
        return [fit(_lost(device), width), ()]
    memory_width = max(18, (width - 12) * 2 // 5)
    busy_width = max(11, (width - 12) // 5)
    name_width = width - memory_width - busy_width - 2 - 6 - 8
    first: Line = (
        (f"{sample.index} ", "strong"),
        *fit(((cut_middle(_short_name(sample.name), name_width - 1), ""),), name_width),
        (" busy ", "dim"),
        *_busy(sample, busy_width),
        (" memory ", "dim"),
        *_memory(sample, memory_width, room),
    )
    facts: list[Piece] = [("  ", "")]
    for fact in (_power(sample), _temperature(sample), (("SM ", "dim"), *_clock(sample))):
        facts.extend((*fact, ("   " if width >= 70 else "  ", "")))
    throttle: Line = (("throttle ", "dim"), *_throttle(sample))
    ranks = _ranks(device)
    named: Line = (("rank ", "dim"), *ranks)
    if width < 70:
        throttle = _throttle(sample) if sample.throttle_reasons else ()
    return [first, between((*facts, *throttle), named, width)]


def _lost(device: DeviceState) -> Line:
    sample = device.sample
    why = sample.unavailable.get("lost", "it no longer answers; the others go on")
    return (
        (f"{sample.index} ", "strong"),
        (f"{_short_name(sample.name)}  ", ""),
        ("✗ lost", "bad"),
        (f"  {visible(why)}", "dim"),
    )


def _short_name(name: str) -> str:
    return visible(name).removeprefix("NVIDIA ").removeprefix("GeForce ")


def _busy(sample: DeviceSample, width: int) -> Line:
    if sample.busy_percent is None:
        return fit(NOT_AVAILABLE, width)
    return (*bar(sample.busy_percent / 100, width - 5), *fit(_busy_figure(sample), 5, "right"))


def _busy_figure(sample: DeviceSample) -> Line:
    return _figure(sample.busy_percent, "%")


def _memory(sample: DeviceSample, width: int, room: int) -> Line:
    if sample.memory_used_bytes is None or not sample.memory_total_bytes:
        return fit(_memory_figure(sample), width)
    figure = _memory_figure(sample)
    share = sample.memory_used_bytes / sample.memory_total_bytes
    return (*bar(share, max(1, width - room - 1), "memory"), *fit(figure, room + 1, "right"))


def _memory_room(devices: tuple[DeviceState, ...]) -> int:
    """Cells for the longest memory figure there can be, so that bars keep their length as memory fills."""
    totals = [gib(device.sample.memory_total_bytes or 0) for device in devices]
    return max(len(f"{total}/{total} GiB") for total in totals)


def _memory_figure(sample: DeviceSample) -> Line:
    used, total = sample.memory_used_bytes, sample.memory_total_bytes
    if used is None:
        return NOT_AVAILABLE
    return ((f"{gib(used)}/{gib(total)} GiB" if total else f"{gib(used)} GiB", ""),)


def _figure(value: float | None, unit: str) -> Line:
    return NOT_AVAILABLE if value is None else ((f"{value:.0f}{unit}", ""),)


def _power(sample: DeviceSample) -> Line:
    watts, limit = sample.power_watts, sample.power_limit_watts
    if watts is None:
        return NOT_AVAILABLE
    return ((f"{watts:.0f}/{limit:.0f} W" if limit else f"{watts:.0f} W", ""),)


def _temperature(sample: DeviceSample) -> Line:
    celsius, slowdown = sample.temperature_celsius, sample.slowdown_celsius
    if celsius is None:
        return NOT_AVAILABLE
    near = slowdown is not None and celsius >= slowdown - 3
    return ((f"{celsius} °C" + ("!" if near else ""), "warn" if near else ""),)


def _clock(sample: DeviceSample) -> Line:
    if sample.sm_clock_mhz is None:
        return NOT_AVAILABLE
    most = f"/{sample.sm_clock_max_mhz}" if sample.sm_clock_max_mhz else ""
    return ((f"{sample.sm_clock_mhz}{most} MHz", ""),)


def _throttle(sample: DeviceSample) -> Line:
    if sample.throttle_reasons is None:
        return NOT_AVAILABLE
    if not sample.throttle_reasons:
        return (("none", "dim"),)
    return ((visible(", ".join(sample.throttle_reasons)), "warn"),)


def _ranks(device: DeviceState) -> Line:
    if not device.ranks:
        return ((NOTHING, "dim"),)
    pieces: list[Piece] = []
    shown = device.ranks if len(device.ranks) <= MOST_RANKS_NAMED else device.ranks[: MOST_RANKS_NAMED - 2]
    for rank in shown:
        pieces.extend(((("," if pieces else ""), "dim"), (str(rank), rank_style(rank))))
    if len(shown) < len(device.ranks):
        pieces.append((f" +{len(device.ranks) - len(shown)}", "dim"))
    return tuple(pieces)


def _processes(state: RunState, width: int) -> list[Line]:
    if not state.processes:
        return [(("CPU and memory of each rank, once there are ranks", "dim"),)]
    sizes, gap = widths(_PROCESSES, min(width, 110))
    lines = [heading(_PROCESSES, sizes, gap)]
    for process in state.processes:
        ready = state.ranks[process.rank].ready if 0 <= process.rank < len(state.ranks) else None
        name = _short_name(ready.device_name) if ready else "?"
        cells: tuple[Line, ...] = (
            ((str(process.rank), rank_style(process.rank)),),
            ((cut(name, sizes[1]), ""),),
            _cpu(process, ready.threads if ready else None, sizes[2]),
            ((str(ready.threads), ""),) if ready and ready.threads else NOT_AVAILABLE,
            ((size(process.rss_bytes), ""),) if process.rss_bytes is not None else NOT_AVAILABLE,
        )
        lines.append(row(cells, _PROCESSES, sizes, gap))
    return lines


def _cpu(process: ProcessSample, threads: int | None, width: int) -> Line:
    """The bar is full when every thread of the rank has a core to itself; the figure counts cores in percent."""
    if process.cpu_percent is None:
        return fit(NOT_AVAILABLE, width)
    figure = fit(_figure(process.cpu_percent, "%"), 6, "right")
    return (*bar(process.cpu_percent / 100 / (threads or 1), width - 6), *figure)
