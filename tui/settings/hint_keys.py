"""How a hint names a key: `{run.pause} goes on` becomes `space goes on`, or names the user's key instead.

Pure: the user's keys come in as a mapping from a binding's id to its keys. Knows the default keys only of the bindings
that hints name; a test compares them with what the screens declare.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType

Keys = Mapping[str, str]
"""Binding id to its keys, as in config.toml."""

AS_THEY_COME: Keys = MappingProxyType({})

PALETTE = "the palette (ctrl+p)"
"""Where every action is listed, even one without a key."""

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
        "knob.larger_batches": "plus",
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
        "run.tour": "T",
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
"""The key that a hint names unless the user has set another."""

_WORDS = {"enter": "enter"}
"""Keys that read better as a word than as a sign in a sentence."""

_NAMED = re.compile(r"\{([a-z_]+\.[a-z_]+)\}")


def shown(key: str) -> str:
    """A key as a sentence names it: `space`, `esc`, `/`, `ctrl+o`."""
    from textual.keys import format_key  # imported late: lines in a log name no key, and need no Textual

    *modifiers, last = key.strip().split("+") if key.strip() != "+" else ["+"]
    return "+".join([*modifiers, _WORDS.get(last) or format_key(last)])


def key_of(name: str, keys: Keys = AS_THEY_COME) -> str:
    """The first key of a binding, as a sentence names it; the palette if it has none. Raises KeyError if unknown."""
    wanted = keys.get(name, HINTED[name])
    first = next((key for key in wanted.split(",") if key.strip()), None)
    return PALETTE if first is None else shown(first)


def named(hint: str, keys: Keys = AS_THEY_COME) -> str:
    """A hint with its keys filled in; never pass text from outside, whose braces would be replaced."""
    return _NAMED.sub(lambda found: key_of(found[1], keys), hint)
