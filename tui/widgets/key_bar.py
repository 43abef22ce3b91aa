"""The line of keys at the bottom: those that matter most, as many as fit, none cut off.

Which keys are shown is a pure function of the available keys and the width. Knows Textual's bindings; a click on a key
presses it.
"""

from collections.abc import Sequence
from typing import NamedTuple

from textual import events
from textual.binding import Binding
from textual.screen import Screen

from rankdeck.tui.settings.keys import one_by_one
from rankdeck.tui.settings.labels import Labels
from rankdeck.tui.widgets.deck import Deck
from rankdeck.tui.widgets.lines import Lines
from rankdeck.tui.words.text import Line, Piece, line_width

ALWAYS = ("app.leave", "start.runs", "app.help", "app.help_anywhere", "view.overview")
"""The ids of keys shown at any width: the way out, help, and the way to the other views."""

STAND_INS = {"app.help_anywhere": "app.help"}
"""The id of a key, and that of the key it replaces while the focused field would take the latter as text."""

EXTRAS = ("run.sweep", "run.tour", "run.advice", "knob.auto", "knob.batch_size", "app.theme")
"""The ids of keys that are shown only if there is room left, in this order."""

SHORT = {"Batch size": "Batch", "Auto batch size": "Auto", "Let run": "Run on"}
"""Shorter labels for narrow terminals."""

GAP = 2


class Entry(NamedTuple):
    """One or several keys that belong together, and their label; `press` is the key that a click presses."""

    id: str
    keys: tuple[str, ...]
    label: str
    press: str
    enabled: bool = True
    extra: bool = False


def chosen(entries: Sequence[Entry], width: int) -> list[Entry]:
    """The entries that fit, in their order; those in ALWAYS are chosen first, then the others, then the extras.

    If not all entries but the extras fit, all get their short labels; else only an extra that fits no other way.
    """
    tight = sum(_cells(entry) for entry in entries if not entry.extra) > width + GAP
    ranked = {name: place for place, name in enumerate(EXTRAS)}
    room = width + GAP
    taken: dict[int, Entry] = {}
    for place, entry in sorted(
        enumerate(entries), key=lambda each: (each[1].id not in ALWAYS, each[1].extra * (1 + ranked.get(each[1].id, 0)))
    ):
        short = entry._replace(label=SHORT.get(entry.label, entry.label))
        shown = short if tight or _cells(entry) > room else entry
        if _cells(shown) > room:
            break
        room -= _cells(shown)
        taken[place] = shown
    return [taken[place] for place in sorted(taken)]


def _cells(entry: Entry) -> int:
    return line_width(_pieces(entry)) + GAP


def key_line(entries: Sequence[Entry], width: int) -> tuple[Line, list[tuple[int, int, str]]]:
    """The line, and for clicks the first cell, the end cell and the key of each entry."""
    pieces: list[Piece] = []
    places: list[tuple[int, int, str]] = []
    at = 0
    for entry in chosen(entries, width):
        if pieces:
            pieces.append((" " * GAP, ""))
            at += GAP
        shown = _pieces(entry)
        places.append((at, at + line_width(shown), entry.press))
        at += line_width(shown)
        pieces.extend(shown)
    return tuple(pieces), places


def _pieces(entry: Entry) -> Line:
    style, label = ("bar-key", "bar-label") if entry.enabled else ("bar-off", "bar-off")
    return ((key_range(entry.keys), style), (f" {entry.label}", label))


def key_range(keys: Sequence[str]) -> str:
    """`1-5` for consecutive digits, else every key."""
    row = len(keys) > 2 and all(key.isdigit() for key in keys)
    if row and [int(key) for key in keys] == list(range(int(keys[0]), int(keys[0]) + len(keys))):
        return f"{keys[0]}-{keys[-1]}"
    return " ".join(keys)


def entries_of(screen: Screen[object], labels: Labels) -> list[Entry]:
    """The keys that work now, grouped as the bindings say: the way out and help, then those of this view."""
    app = screen.app
    found: list[Entry] = []
    groups: dict[Binding.Group, int] = {}
    listed = sorted(one_by_one(screen, labels), key=lambda active: active.binding.id not in ALWAYS)
    names = {active.binding.id for active in listed}
    for active in listed:
        binding = active.binding
        stands_in = STAND_INS.get(binding.id or "", binding.id) not in names
        extra = not binding.show and not stands_in
        if not binding.id or (extra and binding.id not in EXTRAS):
            continue
        display = app.get_key_display(binding)
        if binding.group is not None and binding.group in groups:
            place = groups[binding.group]
            found[place] = found[place]._replace(keys=(*found[place].keys, display))
            continue
        label = binding.group.description if binding.group is not None else binding.description
        if binding.group is not None:
            groups[binding.group] = len(found)
        found.append(Entry(binding.id, (display,), label, binding.key, active.enabled, extra))
    return found


class KeyBar(Lines):
    """Shows the keys of its screen."""

    app: Deck

    DEFAULT_CSS = """
    KeyBar {
        dock: bottom;
        height: 1;
        padding: 0 1;
        background: $footer-background;
    }
    """

    def on_mount(self) -> None:
        self._entries: list[Entry] = []
        self._places: list[tuple[int, int, str]] = []
        self.screen.bindings_updated_signal.subscribe(self, self._changed)

    def on_resize(self) -> None:
        self._draw()

    def _changed(self, screen: Screen[object]) -> None:
        if screen is self.screen and self.is_attached:
            self._entries = entries_of(screen, self.app.reworded)
            self._draw()

    def _draw(self) -> None:
        line, self._places = key_line(self._entries, self.content_size.width)
        self.show([line])

    def on_click(self, event: events.Click) -> None:
        for start, stop, key in self._places:
            if start <= event.x - 1 < stop:
                self.app.simulate_key(key)
