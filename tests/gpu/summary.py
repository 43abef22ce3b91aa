"""The results as a table in Markdown, to be read in a terminal or pasted into the README. Pure."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Line = Mapping[str, Any]


def number(digits: int, factor: float = 1.0) -> Callable[[float], str]:
    return lambda value: f"{value * factor:,.{digits}f}"


COLUMNS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("tok/s", "tokens_per_second", number(0)),
    ("busy %", "busy_percent", number(0)),
    ("DRAM %", "dram_percent", number(0)),
    ("tensor %", "tensor_percent", number(0)),
    ("MBU %", "mbu", number(0, 100)),
    ("tok/J", "tokens_per_joule", number(2)),
    ("GiB allocated", "peak_memory_bytes", number(1, 2**-30)),
    ("GiB reserved", "reserved_memory_bytes", number(1, 2**-30)),
    ("measured s", "seconds", number(1)),
)
"""Heading, field of a case's line, and how its figure is written; a figure that is not there is n/a."""


def summary(lines: Sequence[Line]) -> str:
    """All that a person wants to know at the end, from the lines of results.jsonl."""
    said = []
    for line in lines:
        if machine := line.get("machine"):
            said.append(", ".join(f"{name} {value}" for name, value in machine.items() if value not in (None, "")))
        if tests := line.get("tests"):
            said.append(f"tests marked gpu: {tests['outcome']}")
            said += [f"  {failure}" for failure in tests["failures"]]
    cases = ordered([line for line in lines if "case" in line])
    if cases:
        said += ["", *table(cases), ""]
    if any(case.get("nvml") for case in cases):
        said += [*witnesses(cases), ""]
    said += [f"{name}: not available: {why}" for name, why in not_available(cases).items()]
    for line in lines:
        if watching := line.get("watching"):
            said.append(watched(watching))
        for outcome in ("skipped", "error"):
            if outcome in line:
                said.append(f"{line['step']}: {outcome}: {cut(str(line[outcome]))}")
    return "\n".join(said) + "\n"


def ordered(cases: Sequence[Line]) -> list[Line]:
    """The steps in the order they were done, the settings of each by size: a sweep shuffles them."""
    steps = list(dict.fromkeys(case["step"] for case in cases))
    return sorted(cases, key=lambda case: (steps.index(case["step"]), case["ranks"], case["batch_size"]))


def table(cases: Sequence[Line]) -> list[str]:
    """A row for each case."""
    head = ["case", *(heading for heading, _, _ in COLUMNS)]
    rows = [[case["case"], *(_cell(case, name, written) for _, name, written in COLUMNS)] for case in cases]
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


BESIDE: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("busy %", "busy_percent", number(0)),
    ("W", "power_watts", number(0)),
    ("GiB used", "memory_used_bytes", number(1, 2**-30)),
    ("SM MHz", "sm_clock_mhz", number(0)),
)


def witnesses(cases: Sequence[Line]) -> list[str]:
    """What NVML said and what nvidia-smi said in the same seconds, and GPM's figures that no other has."""
    head = ["NVML / nvidia-smi", *(heading for heading, _, _ in BESIDE), "GPM SM %", "GPM occupancy %"]
    rows = [head, ["---"] * len(head)]
    for case in cases:
        if not (nvml := case.get("nvml")):
            continue
        both = [
            f"{_cell(nvml, name, written)} / {_cell(case['nvidia_smi'], name, written)}" for _, name, written in BESIDE
        ]
        gpm = [_cell(case["gpm"], name, number(0)) for name in ("sm_percent", "occupancy_percent")]
        rows.append([case["case"], *both, *gpm])
    return [f"| {' | '.join(row)} |" for row in rows]


def not_available(cases: Sequence[Line]) -> dict[str, str]:
    """Each figure that some GPU does not give, with its reason."""
    return {name: cut(why, 160) for case in cases for name, why in case.get("unavailable", {}).items()}


def _cell(case: Line, name: str, written: Callable[[float], str]) -> str:
    value = case.get(name)
    return "n/a" if value is None else written(value)


def watched(watching: Line) -> str:
    """What watching costs, in one sentence."""
    before, after = watching["ratios"]
    return (
        f"watched over unwatched tok/s: {watching['ratio']:.3f} (before {before:.3f}, after {after:.3f}); "
        f"the dashboard takes {watching['cpu_percent']:.1f} % of a core"
    )


def name_of(size: str, engine: str, batch_size: int, ranks: int, note: str = "") -> str:
    """A case's name."""
    if engine == "article":
        return f"{size} article's way, batch size {batch_size}"
    several = f", {ranks} ranks" if ranks > 1 else ""
    return f"{size} {engine}, batch size {batch_size}{several}{note}"


def cut(text: str, most: int = 400) -> str:
    """The end of a text, where the cause stands, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"… {line[-most:]}"
