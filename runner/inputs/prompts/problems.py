"""What is wrong with a prompt file, said to people: with its place, all at once, bounded. Reads nothing."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

PRINTED_PROBLEMS = 20
KEPT_PROBLEMS = 1000
SHOWN_CHARACTERS = 40


@dataclass(frozen=True)
class PromptProblem:
    """One thing that is wrong with a prompt file; `place` counts lines (or `unit`s) from 1."""

    file: str
    message: str
    place: int | None = None
    unit: str = "line"

    def __str__(self) -> str:
        if self.place is None:
            return f"{self.file}: {self.message}"
        where = f"{self.place}" if self.unit == "line" else f" {self.unit} {self.place}"
        return f"{self.file}:{where}: {self.message}"


class PromptError(Exception):
    """A prompt file that cannot be used. `problems` has the first thousand, `count` counts all."""

    def __init__(self, problems: Sequence[PromptProblem], count: int | None = None) -> None:
        self.problems = list(problems)
        self.count = len(self.problems) if count is None else count
        super().__init__(self.problems, self.count)

    def __str__(self) -> str:
        lines = [str(problem) for problem in self.problems[:PRINTED_PROBLEMS]]
        if self.count > len(lines):
            lines.append(f"and {self.count - len(lines)} more")
        return "\n".join(lines)


class Problems:
    """Collects what is wrong with a file until all of it has been read."""

    def __init__(self, file: str) -> None:
        self.file, self.unit, self.count = file, "line", 0
        self.kept: list[PromptProblem] = []
        self._doubts: list[PromptProblem] = []

    def doubt(self, message: str, place: int) -> None:
        """Note what can be read, and was perhaps not meant so."""
        self._doubts.append(PromptProblem(self.file, message, place, self.unit))

    def doubts(self) -> list[str]:
        """The first doubt, and how many more there are."""
        if not self._doubts:
            return []
        more = len(self._doubts) - 1
        return [f"{self._doubts[0]}" + (f"; {more:,} more like it" if more else "")]

    def add(self, message: str, place: int | None = None) -> None:
        self.count += 1
        if len(self.kept) < KEPT_PROBLEMS:
            self.kept.append(PromptProblem(self.file, message, place, self.unit))

    def stop(self, message: str, place: int | None = None) -> PromptError:
        """The error to raise if nothing more can be read, with the problems found before."""
        self.add(message, place)
        return PromptError(self.kept, self.count)

    def check(self) -> None:
        if self.count:
            raise PromptError(sorted(self.kept, key=lambda problem: problem.place or 0), self.count)


def kind(value: object) -> str:
    """What kind of value it is, in the terms of JSON."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    names = {str: "a string", int: "a number", float: "a number", list: "a list", dict: "an object", bytes: "bytes"}
    name = names.get(type(value), type(value).__name__)
    return name.replace("a", "an empty", 1) if value in ("", [], {}) and name.startswith("a ") else name


def shown(name: str) -> str:
    """A name out of a file, as a message shows it: cut, and with control characters as escapes."""
    cut = name if len(name) <= SHOWN_CHARACTERS else name[: SHOWN_CHARACTERS - 1] + "…"
    return cut if cut.isprintable() else json.dumps(cut)[1:-1]
