"""Checks the user's own keys: every id exists, every key is valid, no two actions have the same key.

Knows where bindings are declared: in the classes of the application, its screens and widgets. It imports all of them,
so it is used only if there are keys to check.
"""

import difflib
import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from textual.binding import Binding
from textual.dom import DOMNode
from textual.keys import _character_to_key
from textual.screen import ModalScreen, Screen


class Declared(NamedTuple):
    """A binding, the class that declares it, and its keys one by one."""

    owner: type[DOMNode]
    binding: Binding
    keys: tuple[str, ...]


def declared() -> list[Declared]:
    """Every binding that rankdeck declares."""
    return [
        Declared(owner, binding, _keys(binding.key))
        for owner in _owners()
        for binding in owner.__dict__["BINDINGS"]
        if isinstance(binding, Binding) and binding not in _base_bindings(owner)
    ]


def problems(wanted: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with `wanted`, the user's keys by binding id: a line for each problem."""
    found = declared()
    ids = {one.binding.id for one in found if one.binding.id}
    good: dict[str, tuple[str, ...]] = {}
    for name, keys in wanted.items():
        if name not in ids:
            near = difflib.get_close_matches(name, ids, n=3, cutoff=0.4)
            yield f'"{name}": there is no such id' + (f"; did you mean {' or '.join(near)}?" if near else "")
        elif not isinstance(keys, str) or not all(key.strip() for key in keys.split(",")):
            yield f'"{name}": must be a key or several, as in "p" or "p,ctrl+up", not {keys!r}'
        else:
            good[name] = _keys(keys)
    said: set[tuple[str, ...]] = set()
    for one in found:
        for other in found:
            first, second = one.binding.id or "", other.binding.id or ""
            if first not in good or first == second or not _together(one.owner, other.owner):
                continue
            for key in set(good[first]) & set(good.get(second, other.keys)):
                pair = (key, *sorted((first, second)))
                if pair not in said:
                    said.add(pair)
                    yield f'"{first}": {key} is the key of "{second}" already; give one of them another'


def _owners() -> Iterator[type[DOMNode]]:
    """rankdeck's classes that declare bindings."""
    from rankdeck.tui import app, screens, start, widgets

    names: list[str] = []
    for package in (app, screens, start, widgets):
        names.extend(module.name for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."))
    for name in names:
        for value in vars(importlib.import_module(name)).values():
            of_this_module = isinstance(value, type) and value.__module__ == name
            if of_this_module and issubclass(value, DOMNode) and "BINDINGS" in value.__dict__:
                yield value


def _base_bindings(owner: type[DOMNode]) -> list[Any]:
    """Textual's bindings that a class repeats."""
    return [
        binding
        for base in owner.__mro__[1:]
        if base.__module__.startswith("textual.")
        for binding in base.__dict__.get("BINDINGS", ())
    ]


def _keys(keys: str) -> tuple[str, ...]:
    return tuple(_character_to_key(key) if len(key) == 1 else key for key in (part.strip() for part in keys.split(",")))


def _together(one: type[DOMNode], other: type[DOMNode]) -> bool:
    """Whether the keys of two classes can be active at the same time."""
    from textual.app import App

    if one is other or issubclass(one, App) or issubclass(other, App):
        return True
    if issubclass(one, Screen) and issubclass(other, Screen):
        return False
    dialogs = [owner for owner in (one, other) if issubclass(owner, ModalScreen)]
    screens = [owner for owner in (one, other) if issubclass(owner, Screen)]
    return bool(screens) and not dialogs
