"""Each figure of a GPU as pieces of a line, and the names of GPUs. Pure; knows nothing of tables and layouts."""

from collections.abc import Sequence

from rankdeck.runner.advice.advice import HARMLESS_THROTTLES
from rankdeck.runner.protocol import DeviceSample
from rankdeck.runner.state import DeviceState
from rankdeck.tui.panels.bars import bar, minute
from rankdeck.tui.words.styles import rank_style
from rankdeck.tui.words.text import NOTHING, UNKNOWN, Line, Piece, fit, gib, visible

NOT_AVAILABLE: Line = ((UNKNOWN, "dim"),)

RESTS = 10.0
"""Percent: the bar of a GPU less busy than this is dim."""

NEARLY_FULL = 0.9
"""Share of a GPU's memory in use, above which its figure is amber."""

MOST_RANKS_NAMED = 4
"""If more ranks share a GPU, the first ones are named and the others counted."""

_SHORT_THROTTLES = {
    "hardware slowdown": "slow",
    "thermal slowdown (software)": "heat",
    "thermal slowdown (hardware)": "heat",
    "power cap": "power",
    "power brake": "power",
    "board limit": "board",
}


def short_name(name: str) -> str:
    return visible(name).removeprefix("NVIDIA ").removeprefix("GeForce ")


def common_name(devices: Sequence[DeviceState]) -> str | None:
    """The name that all GPUs share, if they do."""
    names = {short_name(device.sample.name) for device in devices}
    return names.pop() if len(names) == 1 else None


def lost_reason(sample: DeviceSample) -> str:
    return visible(sample.unavailable.get("lost", "it no longer answers; the others go on"))


def lost_line(device: DeviceState, *, why: bool = True) -> Line:
    sample = device.sample
    return (
        (f"{sample.index} ", "strong"),
        (f"{short_name(sample.name)}  ", ""),
        ("✗ lost", "bad"),
        *(((f"  {lost_reason(sample)}", "dim"),) if why else ()),
    )


def figure(value: float | None, unit: str) -> Line:
    return NOT_AVAILABLE if value is None else ((f"{value:.0f}{unit}", ""),)


def busy_figure(sample: DeviceSample) -> Line:
    return figure(sample.busy_percent, "%")


def busy(sample: DeviceSample, width: int) -> Line:
    """Bar and figure."""
    if sample.busy_percent is None:
        return fit(NOT_AVAILABLE, width)
    style = "quiet-bar" if sample.busy_percent < RESTS else "bar"
    return (*bar(sample.busy_percent / 100, width - 5, style), *fit(busy_figure(sample), 5, "right"))


def busy_minute(device: DeviceState, samples: int, width: int) -> Line:
    return ((minute(device.busy_history, samples, width), "busy"),)


def memory_share(sample: DeviceSample) -> float | None:
    if sample.memory_used_bytes is None or not sample.memory_total_bytes:
        return None
    return sample.memory_used_bytes / sample.memory_total_bytes


def memory(sample: DeviceSample, width: int, room: int) -> Line:
    """Bar and figure, the figure in `room` cells."""
    share = memory_share(sample)
    if share is None:
        return fit(memory_figure(sample), width)
    style = "warn" if share > NEARLY_FULL else "memory"
    return (*bar(share, max(1, width - room - 1), style), *fit(memory_figure(sample), room + 1, "right"))


def memory_room(devices: Sequence[DeviceState]) -> int:
    """Width of the longest possible memory figure, so that bars keep their length as memory fills."""
    totals = [gib(device.sample.memory_total_bytes or 0) for device in devices]
    return max(len(f"{total}/{total} GiB") for total in totals)


def memory_figure(sample: DeviceSample) -> Line:
    used, total = sample.memory_used_bytes, sample.memory_total_bytes
    if used is None:
        return NOT_AVAILABLE
    full = total is not None and used > NEARLY_FULL * total
    return ((f"{gib(used)}/{gib(total)} GiB" if total else f"{gib(used)} GiB", "warn" if full else ""),)


def power(sample: DeviceSample) -> Line:
    watts, limit = sample.power_watts, sample.power_limit_watts
    if watts is None:
        return NOT_AVAILABLE
    return ((f"{watts:.0f}/{limit:.0f} W" if limit else f"{watts:.0f} W", ""),)


def power_room(devices: Sequence[DeviceState]) -> int:
    """Width of the longest power figure, so that none is cut and no column moves."""
    limits = [device.sample.power_limit_watts or 0.0 for device in devices]
    return max(9, *(len(f"{limit:.0f}/{limit:.0f} W") for limit in limits))


def temperature(sample: DeviceSample, unit: str = " °C") -> Line:
    celsius, slowdown = sample.temperature_celsius, sample.slowdown_celsius
    if celsius is None:
        return NOT_AVAILABLE
    near = slowdown is not None and celsius >= slowdown - 3
    return ((f"{celsius}{unit}" + ("!" if near else ""), "warn" if near else ""),)


def clock(sample: DeviceSample) -> Line:
    if sample.sm_clock_mhz is None:
        return NOT_AVAILABLE
    most = f"/{sample.sm_clock_max_mhz}" if sample.sm_clock_max_mhz else ""
    return ((f"{sample.sm_clock_mhz}{most} MHz", ""),)


def throttle(sample: DeviceSample) -> Line:
    if sample.throttle_reasons is None:
        return NOT_AVAILABLE
    if not sample.throttle_reasons:
        return (("none", "dim"),)
    harmless = HARMLESS_THROTTLES.issuperset(sample.throttle_reasons)
    return ((visible(", ".join(sample.throttle_reasons)), "dim" if harmless else "warn"),)


def short_throttle(sample: DeviceSample) -> Line:
    """`▾ power`: what lowers the clocks, in a word; empty if only harmless reasons do."""
    reasons = [reason for reason in sample.throttle_reasons or () if reason not in HARMLESS_THROTTLES]
    return ((f"▾ {_SHORT_THROTTLES.get(reasons[0], visible(reasons[0]))}", "warn"),) if reasons else ()


def saturation(sample: DeviceSample) -> Line:
    """How saturated the GPU is, according to GPM (GPU performance monitoring); empty where it gives no figures."""
    figures = (
        ("SM", sample.sm_percent),
        ("occupancy", sample.occupancy_percent),
        ("tensor", sample.tensor_percent),
        ("DRAM", sample.dram_percent),
    )
    pieces: list[Piece] = []
    for name, value in figures:
        if value is not None:
            pieces += [(f"{'   ' if pieces else ''}{name} ", "dim"), (f"{value:3.0f}%", "")]
    return tuple(pieces)


def ranks_on(device: DeviceState) -> Line:
    """The numbers of the ranks on a GPU."""
    if not device.ranks:
        return ((NOTHING, "dim"),)
    pieces: list[Piece] = []
    shown = device.ranks if len(device.ranks) <= MOST_RANKS_NAMED else device.ranks[: MOST_RANKS_NAMED - 2]
    for rank in shown:
        pieces.extend(((("," if pieces else ""), "dim"), (str(rank), rank_style(rank))))
    if len(shown) < len(device.ranks):
        pieces.append((f" +{len(device.ranks) - len(shown)}", "dim"))
    return tuple(pieces)
