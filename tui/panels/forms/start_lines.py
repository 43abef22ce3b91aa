"""The lines that the start screen shows beside its form: recent runs, the machine, an estimate of memory.

Pure. Does not know where the figures come from.
"""

from collections.abc import Sequence

from rankdeck.runner.inputs.memory_estimate import MemoryEstimate
from rankdeck.runner.machine.facts import Machine
from rankdeck.runner.protocol import DeviceSample
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.tui.panels.bars import bar
from rankdeck.tui.sources.runs import RecentRun
from rankdeck.tui.words.status import STATUS
from rankdeck.tui.words.text import (
    Line,
    between,
    cut,
    cut_middle,
    fit,
    gib,
    line_width,
    model_name,
    some,
    visible,
    wrap,
)

WIDE = 64
ROWS_PER_RUN = 2
RATE_WIDTH = 11
MOST_GPUS = 8
LEAST_SETTINGS = 8
"""Cells: with less room than this the settings are left out."""

NARROW = 40
TIGHT = 0.85

NO_RUNS = (
    "No runs yet: they will be listed here, to watch, to resume, to replay, to report on.",
    "",
    "The form has the sample prompts and the demo model, which fit any machine. Press enter to launch.",
)


def age(seconds: float) -> str:
    """`12 s ago`, `3 min ago`, `5 h ago`, `2 d ago`; `just now` also if the run starts in the future."""
    if seconds < 5:
        return "just now"
    for most, length, unit in ((100, 1, "s"), (100 * 60, 60, "min"), (48 * 3600, 3600, "h")):
        if seconds < most:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{min(seconds / 86400, 9999):.0f} d ago"


def run_rows(run: RecentRun, width: int, now: float, *, here: bool = False) -> list[Line]:
    """A run in two lines: name and age; status, progress, speed, and the model if there is room."""
    mark, style = STATUS.get(run.status, ("?", "warn"))
    when: Line = ((age(now - run.started_at), "dim"),)
    room = max(0, width - line_width(when) - 3)
    name: Line = (("▸ " if here else "  ", "key"), (cut_middle(visible(run.name), room), "strong" if here else ""))
    words = f"{mark} {run.status}"
    if run.config is None:
        return [between(name, when, width), fit((("  ", ""), (words, style), (f": {_problem(run)}", "dim")), width)]
    done: Line = (("  ", ""), (words, style), (f" {run.done}" if run.done else "", ""))
    rate: Line = ((run.rate, ""),) if line_width(done) + len(run.rate) < width else ()
    spare = width - line_width(done) - max(RATE_WIDTH, line_width(rate)) - 4
    if spare >= 16:
        done = (*done, ("   ", ""), (cut_middle(_model(run.config), spare), "dim"))
    return [between(name, when, width), between(done, rate, width)]


def _model(config: RunConfig) -> str:
    return f"{model_name(config.model)}, {some(config.ranks, 'rank')}"


def _problem(run: RecentRun) -> str:
    return visible(run.problem or "nobody knows why")


def run_subtitle(run: RecentRun | None) -> str:
    """Model and ranks of the run under the cursor, which a narrow list has no room for."""
    if run is None or run.config is None:
        return ""
    return f"{cut_middle(_model(run.config), 26)}"


def taken_words(name: str, settings: Sequence[str], key: str, room: int) -> str:
    """Which settings came from which run, and the key that puts the defaults back, in at most `room` cells.

    If there is little room, the settings are dropped first, then the run.
    """
    head = f"from {cut_middle(visible(name), max(12, room // 4))}"
    tail = f"{key} puts back the defaults" if room >= 90 else f"{key}: defaults"
    short = f"{head}; {tail}"
    left = room - line_width(((f"{short}: ", ""),))
    if left >= LEAST_SETTINGS:
        return f"{head}: {cut(', '.join(settings), left)}; {tail}"
    return short if left >= -2 else cut(tail, room)


def no_runs_lines(width: int) -> list[Line]:
    return [((part, "dim"),) for line in NO_RUNS for part in wrap(line, max(10, width))]


# --- the machine ------------------------------------------------------------------------------------


def machine_lines(machine: Machine | None, width: int) -> list[Line]:
    """A line for each GPU, or why there is none; then cores and memory."""
    if machine is None:
        return [(("looking at the machine", "dim"),)]
    lines: list[Line] = []
    gpus = machine.gpus
    if len(gpus) > (MOST_GPUS if width >= NARROW else MOST_GPUS // 2):
        lines.extend(_kinds(gpus, width))
    else:
        lines.extend(_gpu_line(gpu, f"GPU {gpu.index}", width) for gpu in gpus)
    if machine.no_gpu is not None:
        lines.append((("no NVIDIA GPU: runs on the CPU" if width >= NARROW else "no GPU: runs on the CPU", ""),))
        why = visible(machine.no_gpu.removeprefix("no NVIDIA driver: "))
        lines.extend(((part, "dim"),) for part in wrap(why, max(10, width))[:3])
    elif machine.visible < len(gpus):
        lines.append(((f"a run sees {some(machine.visible, 'GPU')} of {len(gpus)}", "dim"),))
    lines.append(
        between((("CPU ", "dim"), (some(machine.cores, "core"), "")), ((_host_memory(machine, width), ""),), width)
    )
    return lines


def _gpu_line(gpu: DeviceSample, label: str, width: int) -> Line:
    first = (f"{label} ", "dim")
    if gpu.lost:
        return (first, ("lost", "bad"))
    free, total = gpu.memory_free_bytes, gpu.memory_total_bytes
    memory = "memory n/a" if free is None or total is None else _free(free, total, width)
    name = cut(visible(gpu.name.removeprefix("NVIDIA ")), max(4, width - len(memory) - len(label) - 2))
    return between((first, (name, "")), ((memory, ""),), width)


def _kinds(gpus: Sequence[DeviceSample], width: int) -> list[Line]:
    """Many GPUs: a line for each model, with the memory of the fullest, and a line for each lost GPU."""
    lines = []
    for name in dict.fromkeys(gpu.name for gpu in gpus if not gpu.lost):
        alike = [gpu for gpu in gpus if gpu.name == name and not gpu.lost]
        fullest = max(alike, key=lambda gpu: gpu.memory_used_bytes or 0)
        lines.append(_gpu_line(fullest, f"{len(alike)} x", width))
    lines.extend(_gpu_line(gpu, f"GPU {gpu.index}", width) for gpu in gpus if gpu.lost)
    return lines


def _host_memory(machine: Machine, width: int) -> str:
    free, total = machine.memory_free_bytes, machine.memory_total_bytes
    return "memory n/a" if free is None or total is None else _free(free, total, width)


def _free(free: int, total: int, width: int) -> str:
    """In whole GiB if the panel is narrow."""
    if width < NARROW:
        return f"{free / 2**30:.0f}/{total / 2**30:.0f} GiB free"
    return f"{gib(free)} of {gib(total)} GiB free"


def title_line(machine: Machine | None, width: int, version: str) -> Line:
    """The line at the top: version and machine."""
    left: Line = (("rankdeck", "key"), (f" {version}", "dim"))
    if machine is None:
        return fit(left, width)
    gpus = f"{machine.visible} GPUs" if machine.visible > 1 else "1 GPU" if machine.visible else "no GPU"
    words = f"{cut(visible(machine.host), 24)}   {gpus}   {some(machine.cores, 'core')}"
    return between(left, ((words, "dim"),), width)


# --- memory -----------------------------------------------------------------------------------------


def memory_lines(found: MemoryEstimate | str | None, width: int) -> list[Line]:
    """The memory that the run needs, a bar of it against what is free, and its parts. Always three lines."""
    if found is None:
        return [((cut("Memory  is said once all is right", width), "dim"),), (), ()]
    if isinstance(found, str):
        return [(("Memory  ", "dim"), (visible(found), "")), (), ()]
    rest = found.working + found.process
    if width >= WIDE:
        words = f"about {gib(found.per_rank)} GiB per rank, {_where(found)}"
        both = f" ({gib(found.shared)} shared)" if found.shared and found.ranks > 1 else ""
        made = f"{gib(found.weights)} weights{both}, {gib(found.cache)} KV cache, {gib(rest)} rest"
    else:
        words = f"about {gib(found.per_rank)} GiB per rank, {found.ranks} {'per GPU' if found.on_gpu else 'on CPU'}"
        made = f"{gib(found.weights)} weights + {gib(found.cache)} cache + {gib(rest)} rest"
    if found.auto and width >= WIDE:
        made += f", at batch size {found.batch_size}"
    if found.takes_the_rest:
        of_gpu = "the GPU" if found.gpu_share is None else f"{found.gpu_share:.0%} of the GPU"
        made = f"the cache takes what is left of {of_gpu}"
    title: Line = (("Memory  ", "dim"), (words, ""))
    detail: Line = ((cut(made, width), "dim"),)
    if found.free is None:
        return [title, (("how much is free is not known", "dim"),), detail]
    figures = f"  {gib(found.needed)} of {gib(found.free)} GiB free"
    share = found.needed / max(1, found.free)
    style = "memory" if share < TIGHT else "warn" if found.fits else "bad"
    cells = max(8, width - len(figures))
    return [title, (*bar(share, cells, style), (figures, "" if found.fits else "bad")), detail]


def _where(found: MemoryEstimate) -> str:
    ranks = some(found.ranks, "rank")
    if not found.on_gpu:
        return f"{ranks} on the CPU"
    if found.devices == 1:
        return f"{ranks} on the GPU"
    return f"{ranks} on each of {found.devices} GPUs"
