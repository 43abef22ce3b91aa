"""How a hint names a key: `{run.pause} goes on` reads `space goes on`, or the key the user has put in its place.

Pure: what the user's configuration says comes in as a mapping from a binding's id to its keys. Knows the keys as they
come only of those bindings that a hint names; a test compares them with what the screens declare.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType

Keys = Mapping[str, str]
"""Binding id to its keys, as in config.toml."""

AS_THEY_COME: Keys = MappingProxyType({})

PALETTE = "the palette (ctrl+p)"
"""Every action is in it, those too that have no key."""

HINTED: Keys = MappingProxyType(
    {
        "advice.close": "escape",
        "answer.copy": "y",
        "answer.find_next": "n",
        "answer.pager": "p",
        "app.interrupt": "ctrl+c",
        "batch_size.close": "escape",
        "doctor.again": "r",
        "doctor.close": "escape",
        "export.close": "escape",
        "files.above": "backspace",
        "files.close": "escape",
        "files.filter": "slash",
        "files.hidden": "full_stop",
        "files.pick": "enter",
        "help.close": "escape",
        "leave.cancel": "escape",
        "leave.detach": "d",
        "leave.stop": "s",
        "log.before": "N",
        "log.clear": "escape",
        "log.find": "slash",
        "log.next": "n",
        "outputs.clear": "escape",
        "outputs.errors": "e",
        "outputs.export": "E",
        "outputs.filter": "slash",
        "outputs.follow": "f",
        "outputs.open": "v",
        "outputs.order": "o",
        "query.clear": "escape",
        "run.advice": "i",
        "run.pause": "space",
        "run.sweep": "s",
        "scroll.down": "j",
        "scroll.up": "k",
        "start.defaults": "f5",
        "start.file": "ctrl+o",
        "stop_now.stay": "escape",
        "stop_now.stop": "X",
        "sweep.close": "escape",
        "timeline.down": "j",
        "timeline.earlier": "h",
        "timeline.finding": "n",
        "timeline.follow": "f",
        "timeline.later": "l",
        "timeline.pan_left": "H",
        "timeline.pan_right": "L",
        "timeline.up": "k",
        "timeline.whole": "w",
        "timeline.zoom_in": "z",
        "timeline.zoom_out": "Z",
        "view.sweep": "4",
    }
)
"""The key that a hint names where the user has not said otherwise."""

_WORDS = {"enter": "enter"}
"""Keys that a sentence names better by a word than by a sign."""

_NAMED = re.compile(r"\{([a-z_]+\.[a-z_]+)\}")


def shown(key: str) -> str:
    """A key as a sentence names it: `space`, `esc`, `/`, `ctrl+o`."""
    from textual.keys import format_key  # lines in a log name no key: they need no Textual

    *modifiers, last = key.strip().split("+") if key.strip() != "+" else ["+"]
    return "+".join([*modifiers, _WORDS.get(last) or format_key(last)])


def key_of(name: str, keys: Keys = AS_THEY_COME) -> str:
    """The first key of a binding, as a sentence names it; the palette where it has none. Raises KeyError."""
    wanted = keys.get(name, HINTED[name])
    first = next((key for key in wanted.split(",") if key.strip()), None)
    return PALETTE if first is None else shown(first)


def named(hint: str, keys: Keys = AS_THEY_COME) -> str:
    """A hint of ours with its keys named; never give it a text that is data."""
    return _NAMED.sub(lambda found: key_of(found[1], keys), hint)
