"""What a report is made of: sections of prose, tables and charts, and how figures read. Pure.

Every figure is an `Item`: the exact value and the text that is shown. Texts from runs are unsafe here; the modules that
write a format escape them.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import ClassVar, Literal, TypeVar

import msgspec

from rankdeck.tui.report.plot import Plot
from rankdeck.tui.words.sweep import Value
from rankdeck.tui.words.text import NOTHING, UNKNOWN

Number = TypeVar("Number", int, float)

Raw = str | int | float | None
Emphasis = Literal["", "best", "wall", "beyond", "dim"]


class Item(msgspec.Struct, frozen=True):
    """A value and its text, a short `note` after it, and a `look` that repeats what some word says."""

    raw: Raw
    text: str
    note: str = ""
    look: Emphasis = ""

    @property
    def number(self) -> bool:
        return isinstance(self.raw, int | float)


class Column(msgspec.Struct, frozen=True):
    """The heading of a column with its `unit`; `number` columns are right-aligned."""

    title: str
    unit: str = ""
    number: bool = True


class Prose(msgspec.Struct, frozen=True):
    """Paragraphs."""

    kind: ClassVar[str] = "prose"
    paragraphs: list[str]


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """A table. The first item of a row names the row; `strong` lists the indexes of emphasized rows."""

    kind: ClassVar[str] = "table"
    title: str
    columns: list[Column]
    rows: list[list[Item]]
    strong: list[int] = []
    note: str = ""

    @property
    def width(self) -> Literal["", "compact", "dense"]:
        """How closely the columns stand: closer for few short columns, to read across, and for many, to fit."""
        words = max((len(item.text) for row in self.rows for item in row), default=0)
        if len(self.columns) > 7:
            return "dense"
        return "compact" if len(self.columns) <= 5 and words <= 45 else ""


class Chart(msgspec.Struct, frozen=True):
    """A plot: drawn in HTML, described in words elsewhere."""

    kind: ClassVar[str] = "chart"
    plot: Plot


Block = Prose | Table | Chart


class Section(msgspec.Struct, frozen=True):
    """A part of the report under a heading."""

    key: str
    title: str
    blocks: list[Block]


class Notice(msgspec.Struct, frozen=True):
    """Something to know before reading the figures: that the run failed, that something is missing."""

    kind: Literal["bad", "warn", "info"]
    title: str
    text: str = ""


class Fact(msgspec.Struct, frozen=True):
    """A headline figure."""

    label: str
    item: Item
    unit: str = ""


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """A whole report. Each of the `facts` below the title is a few words."""

    title: str
    facts: list[str]
    notices: list[Notice]
    headline: list[Fact]
    sections: list[Section]
    version: str


NOT_AVAILABLE = Item(None, UNKNOWN, look="dim")
NOT_THERE = Item(None, NOTHING, look="dim")


def words(text: str, *, note: str = "", look: Emphasis = "") -> Item:
    return Item(text, text, note, look)


def whole(number: int | None) -> Item:
    """A count."""
    return NOT_AVAILABLE if number is None else Item(number, f"{number:,}")


def decimals(value: float | None, digits: int) -> Item:
    """A figure with `digits` after the point."""
    return reading(value, lambda known: f"{known:,.{digits}f}")


def share(value: float | None, digits: int = 2) -> Item:
    """A share from 0 to 1 as a percentage."""
    return reading(value, lambda known: f"{known * 100:.{digits}f}%")


def reading(value: Number | None, reads: Callable[[Number], str]) -> Item:
    """A figure and the text that `reads` makes of it."""
    return NOT_AVAILABLE if value is None else Item(value, reads(value))


def figure(value: Value | None, look: Emphasis = "") -> Item:
    """A figure of a sweep, with the half-width of its 95 % interval where that is known."""
    return NOT_AVAILABLE if value is None else Item(value.exact, value.text, value.noise and f"± {value.noise}", look)


def moment(unix_seconds: float) -> str:
    """Date and time of day in UTC, so that they mean the same to every reader."""
    try:
        return f"{datetime.fromtimestamp(unix_seconds, UTC):%Y-%m-%d %H:%M} UTC"
    except (OverflowError, OSError, ValueError):
        return UNKNOWN


def without_empty(table: Table) -> Table:
    """The table without columns that have no value in any row; the first stays."""
    kept = [
        place
        for place, _ in enumerate(table.columns)
        if place == 0 or any(row[place].raw is not None for row in table.rows)
    ]
    return msgspec.structs.replace(
        table,
        columns=[table.columns[place] for place in kept],
        rows=[[row[place] for place in kept] for row in table.rows],
    )
