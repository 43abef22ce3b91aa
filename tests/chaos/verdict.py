"""What is wrong with a run's outputs: every prompt must have exactly one whole record, in input order."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from itertools import pairwise
from pathlib import Path

import msgspec

from rankdeck.runner import run_directory
from rankdeck.runner.protocol import OutputRecord


@dataclass(frozen=True)
class Verdict:
    """Which prompts have no record, more than one, or another answer; which lines are no record; why it is no end."""

    lost: list[int] = field(default_factory=list)
    doubled: list[int] = field(default_factory=list)
    wrong: list[int] = field(default_factory=list)
    torn: list[int] = field(default_factory=list)
    unordered: list[int] = field(default_factory=list)
    left_behind: list[str] = field(default_factory=list)
    no_end: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        """Whether all is well."""
        return not any(getattr(self, kind.name) for kind in fields(self))

    def counts(self) -> Counter[str]:
        return Counter({kind.name: len(getattr(self, kind.name)) for kind in fields(self)})

    def __str__(self) -> str:
        found = ((kind.name.replace("_", " "), getattr(self, kind.name)) for kind in fields(self))
        return "; ".join(f"{len(what)} {name}: {_some(what)}" for name, what in found if what) or "all is well"


def _some(what: list[int] | list[str]) -> str:
    return ", ".join(str(one) for one in what[:8]) + (", …" if len(what) > 8 else "")


def judge(directory: Path, prompts: list[str], expected: Callable[[int, str], str]) -> Verdict:
    """Compare the outputs with the prompts, byte by byte as they lie there, without the code that wrote them."""
    path = directory / run_directory.OUTPUTS_FILE
    lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
    torn = [len(lines)] if lines.pop() else []
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(msgspec.json.decode(line, type=OutputRecord))
        except (msgspec.MsgspecError, UnicodeDecodeError):
            torn.append(number)
    indexes = [record.index for record in records]
    times = Counter(indexes)
    return Verdict(
        lost=[index for index in range(len(prompts)) if not times[index]],
        doubled=[index for index, count in times.items() if count > 1],
        wrong=[record.index for record in records if not _is_right(record, prompts, expected)],
        torn=torn,
        unordered=[later for earlier, later in pairwise(indexes) if later < earlier],
    )


def _is_right(record: OutputRecord, prompts: list[str], expected: Callable[[int, str], str]) -> bool:
    return (
        0 <= record.index < len(prompts)
        and record.prompt == prompts[record.index]
        and record.text == expected(record.index, prompts[record.index])
        and record.error is None
    )
