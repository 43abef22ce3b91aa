"""The keys of a screen as the help and the command palette list them.

Knows Textual's bindings: those with an id are ours. What they do is their screens' business.
"""

from collections.abc import Iterator
from typing import Any

from textual.app import App, SystemCommand
from textual.screen import Screen


def described(app: App[Any], screen: Screen[Any]) -> list[tuple[str, str]]:
    """Every key that does something now, with what it does."""
    found: dict[str, tuple[list[str], str]] = {}
    for active in screen.active_bindings.values():
        binding = active.binding
        if binding.id and active.enabled:
            displays, _ = found.setdefault(binding.id, ([], binding.tooltip or binding.description))
            displays.append(app.get_key_display(binding))
    # The application's own keys come first in Textual's order, and are asked for least.
    ordered = sorted(found, key=lambda name: name.startswith("app."))
    return [(" ".join(found[name][0]), found[name][1]) for name in ordered]


def commands(app: App[Any], screen: Screen[Any]) -> Iterator[SystemCommand]:
    """A command for every action that has a key."""
    seen: set[str] = set()
    for active in screen.active_bindings.values():
        binding = active.binding
        if binding.id and active.enabled and binding.id not in seen:
            seen.add(binding.id)

            async def run(action: str = binding.action, node: Any = active.node) -> None:
                await app.run_action(action, node)

            yield SystemCommand(binding.description, binding.tooltip or binding.action, run)
