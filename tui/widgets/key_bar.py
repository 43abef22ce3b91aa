"""The line of keys at the bottom: those that matter most, as many as the width holds, never one cut in two.

The choice is a pure function of what can be pressed and of the width. Knows Textual's bindings; a click on a
key is that key.
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
"""The way out, the way to know everything and the way to the other views, by id: shown however narrow it is."""

STAND_INS = {"app.help_anywhere": "app.help"}
"""Keys, by id, that are shown in the place of another while that one is text to the field that has the focus."""

EXTRAS = ("run.sweep", "run.advice", "knob.auto", "knob.batch_size", "app.theme")
"""Keys not meant for the bar, by id, which are shown where it has room left, in this order."""

SHORT = {"Batch size": "Batch", "Auto batch size": "Auto", "Let run": "Run on"}
"""What keys are called where the room is short."""

GAP = 2


class Entry(NamedTuple):
    """A key, or several that belong together, and what they do in a word; `press` is the key for a click."""

    id: str
    keys: tuple[str, ...]
    label: str
    press: str
    enabled: bool = True
    extra: bool = False


def chosen(entries: Sequence[Entry], width: int) -> list[Entry]:
    """Those that fit, in their order: what is always shown, then the first ones, then the extras.

    Where not all fit that are meant for the bar, all have their short labels; else an extra that only so has room.
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
    """The line, and from which cell to which what key is pressed by a click."""
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
    """`1-5` for keys in a row, else each of them."""
    row = len(keys) > 2 and all(key.isdigit() for key in keys)
    if row and [int(key) for key in keys] == list(range(int(keys[0]), int(keys[0]) + len(keys))):
        return f"{keys[0]}-{keys[-1]}"
    return " ".join(keys)


def entries_of(screen: Screen[object], labels: Labels) -> list[Entry]:
    """What can be pressed now, grouped as the bindings say: the way out and help, then what only this view has."""
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
    """Shows the line for the screen it is on."""

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
