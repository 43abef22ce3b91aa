"""A screen's keys as the help, the command palette and the line of keys list them.

Knows Textual's bindings: those with an id are rankdeck's. What they do is their screens' business; labels that differ
from the declared ones are passed in.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from textual.app import SystemCommand
from textual.binding import ActiveBinding, Binding
from textual.keys import _character_to_key
from textual.screen import Screen
from textual.widgets import Input

from rankdeck.tui.settings.labels import Labels

_SECTIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "Steering",
        (
            "knob.larger_batches",
            "knob.smaller_batches",
            "knob.batch_size",
            "knob.auto",
            "knob.more_ranks",
            "knob.fewer_ranks",
            "run.pause",
            "run.tour",
            "run.sweep",
            "run.stop",
            "run.detach",
            "knob.",
        ),
    ),
    ("The replay", ("replay.",)),
    ("Views", ("view.",)),
    ("This view", ("",)),
    ("Other keys", ("run.advice", "app.theme", "app.help", "app.leave", "app.", "run.")),
    ("Scrolling", ("scroll.", "outputs.up", "outputs.down", "outputs.page_", "outputs.first", "outputs.last")),
)
"""The sections of the help, what is wanted most often first, and how the ids in each begin, in the order of its lines.

An id belongs where its longest beginning is; those of the view, which are of many kinds, where the empty one is.
"""


def steps(form: str, on: str, back: str, next_one: str, one_before: str, *, at_once: bool = False) -> list[Binding]:
    """Keys from field to field. `at_once` gives them priority, so that text typed right after one, or arriving
    together with it over a slow line, goes into the next field: other keys reach the current field first."""
    return [
        Binding(key, f"app.focus_{way}", words, id=f"{form}.{name}", tooltip=tooltip, show=False, priority=at_once)
        for key, way, words, name, tooltip in (
            (on, "next", "Next field", next_one, "To the next field"),
            (back, "previous", "Field before", one_before, "To the field before"),
        )
    ]


def one_by_one(screen: Screen[Any], labels: Labels) -> Iterator[ActiveBinding]:
    """Each of rankdeck's bindings once, by its first key: the focused view's first, the application's last."""
    seen: set[str] = set()
    for active in sorted(
        _ours(screen, labels), key=lambda active: (active.node is screen) + 2 * (active.node is screen.app)
    ):
        if active.binding.id not in seen:
            seen.add(str(active.binding.id))
            yield active


_LETTERS = {_character_to_key(chr(code)) for code in range(0x20, 0x7F)}
"""The keys that a text field takes as text, although Textual lists them as bindings."""


def _ours(screen: Screen[Any], labels: Labels) -> list[ActiveBinding]:
    typing = isinstance(screen.focused, Input)
    return [
        _reworded(active, labels)
        for active in screen.active_bindings.values()
        if active.binding.id and not (typing and active.binding.key in _LETTERS and not active.binding.priority)
    ]


def _reworded(active: ActiveBinding, labels: Labels) -> ActiveBinding:
    label, tooltip = labels.get(active.binding.id or "", (active.binding.description, active.binding.tooltip))
    return active._replace(binding=replace(active.binding, description=label, tooltip=tooltip), tooltip=tooltip)


def described(screen: Screen[Any], labels: Labels) -> list[tuple[str, list[tuple[str, str]]]]:
    """Every key that works now, and what it does, by sections; the keys that steer a run first, scrolling last."""
    found: dict[str, tuple[list[str], str]] = {}
    for active in _ours(screen, labels):
        binding = active.binding
        if active.enabled and binding.id:
            displays, _ = found.setdefault(binding.id, ([], binding.tooltip or binding.description))
            displays.append(screen.app.get_key_display(binding))
    names = sorted(found, key=_place)
    sections = [
        (heading, [(" ".join(found[name][0]), found[name][1]) for name in names if _place(name)[0] == section])
        for section, (heading, _) in enumerate(_SECTIONS)
    ]
    return [(heading, keys) for heading, keys in sections if keys]


def _place(name: str) -> tuple[int, int]:
    """The number of the section of an id, and its place there; ids with the same place stay as they were declared."""
    _, section, place = max(
        (len(start), section, place)
        for section, (_, starts) in enumerate(_SECTIONS)
        for place, start in enumerate(starts)
        if name.startswith(start)
    )
    return section, place


def commands(screen: Screen[Any], labels: Labels) -> Iterator[SystemCommand]:
    """A command for every action that has a binding, those of the focused widget included."""
    for active in one_by_one(screen, labels):
        binding = active.binding
        if active.enabled:

            async def run(action: str = binding.action, node: Any = active.node) -> None:
                await screen.app.run_action(action, node)

            yield SystemCommand(binding.description, binding.tooltip or binding.action, run)
