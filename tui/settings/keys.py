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

_SECTIONS = (
    ("run.", "The run"),
    ("knob.", "Knobs"),
    ("replay.", "The replay"),
    ("view.", "Views"),
    ("app.", "The application"),
)
"""A prefix of ids, and its section in the help; all other ids belong to the view."""


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
    """Every key that works now, and what it does, by sections; those of the view first."""
    found: dict[str, tuple[list[str], str, str]] = {}
    for active in _ours(screen, labels):
        binding = active.binding
        if active.enabled and binding.id:
            text = binding.tooltip or binding.description
            displays, _, _ = found.setdefault(binding.id, ([], text, _section(binding.id)))
            displays.append(screen.app.get_key_display(binding))
    sections = ["This view", *(heading for _, heading in _SECTIONS)]
    listed = [
        (heading, [(" ".join(displays), text) for displays, text, section in found.values() if section == heading])
        for heading in sections
    ]
    return [(heading, keys) for heading, keys in listed if keys]


def _section(name: str) -> str:
    return next((heading for start, heading in _SECTIONS if name.startswith(start)), "This view")


def commands(screen: Screen[Any], labels: Labels) -> Iterator[SystemCommand]:
    """A command for every action that has a binding, those of the focused widget included."""
    for active in one_by_one(screen, labels):
        binding = active.binding
        if active.enabled:

            async def run(action: str = binding.action, node: Any = active.node) -> None:
                await screen.app.run_action(action, node)

            yield SystemCommand(binding.description, binding.tooltip or binding.action, run)
