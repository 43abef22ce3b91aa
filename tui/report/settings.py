"""The report's sections on a run's settings and its environment, and how the value of a setting reads. Pure."""

from typing import Any

import msgspec

from rankdeck.runner.run_directory.run_file import RunFile
from rankdeck.tui.report import document
from rankdeck.tui.report.document import Block, Item, Prose, Section, Table, words
from rankdeck.tui.report.document import Column as Col
from rankdeck.tui.report.source import ReportSource


def config(source: ReportSource) -> Section:
    """Every setting, including those of a sweep."""
    values: dict[str, Any] = msgspec.to_builtins(source.run.config)
    plan = values.pop("sweep") or {}
    rows = [[words(name), setting(name, value)] for name, value in values.items()]
    rows += [[words(f"sweep {name}"), setting(name, value)] for name, value in plan.items()]
    columns = [Col("setting", number=False), Col("value", number=False)]
    return Section("config", "Settings", [Table(title="As the run was started", columns=columns, rows=rows)])


def setting(name: str, value: Any) -> Item:
    """The value of a setting as text."""
    if value is None:
        return Item(None, "auto" if name == "batch_size" else "not set", look="dim")
    if isinstance(value, bool):
        return words("yes" if value else "no")
    if isinstance(value, list):
        return words(", ".join(str(one) for one in value))
    return words(str(value))


def environment_values(run: RunFile) -> dict[str, str]:
    """The environment of a run as a flat mapping of names to values."""
    environment = run.environment
    if environment is None:
        return {}
    flat = {name: str(getattr(environment, name)) for name in ("rankdeck", "python", "host", "platform", "cores")}
    flat |= {"cpu": environment.cpu} if environment.cpu else {}
    flat |= {f"device {place}": name for place, name in enumerate(environment.devices)}
    return flat | dict(sorted(environment.packages.items()))


def environment(source: ReportSource) -> Section:
    """Host, versions and devices, and what each rank loaded."""
    blocks: list[Block] = []
    values = environment_values(source.run)
    if values:
        columns = [Col("what", number=False), Col("which", number=False)]
        rows = [[words(name), words(value)] for name, value in values.items()]
        blocks.append(Table(title="Host, versions, devices", columns=columns, rows=rows))
    else:
        blocks.append(Prose(["run.json says nothing of the environment."]))
    ready = [rank.ready for rank in source.state.ranks if rank.ready is not None] if source.state is not None else []
    if ready:
        columns = [
            Col("rank"), Col("device", number=False), Col("name", number=False), Col("dtype", number=False),
            Col("engine", number=False), Col("loading", "s"), Col("parameters"), Col("threads"),
        ]  # fmt: skip
        rows = [
            [
                document.whole(one.rank), words(one.device), words(one.device_name), words(one.dtype),
                words(one.engine), document.decimals(one.seconds, 1), document.whole(one.parameters),
                document.whole(one.threads),
            ]
            for one in ready
        ]  # fmt: skip
        note = "Loading is not in the run's seconds."
        table = Table(title="What each rank loaded", columns=columns, rows=rows, note=note)
        blocks.append(document.without_empty(table))
        generation = ready[0].generation
        if generation:
            listed = ", ".join(f"{name} {value}" for name, value in sorted(generation.items()))
            blocks.append(Prose([f"The model's generation config: {listed}."]))
    return Section("environment", "Environment", blocks)
