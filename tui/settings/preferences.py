"""The user's preferences for the dashboard: `$XDG_CONFIG_HOME/rankdeck/config.toml`, and flags, which win.

    theme = "rankdeck-light"    # rankdeck-dark, rankdeck-light, or any that the palette lists
    ascii = true                # draw with 7-bit characters; by default the locale decides
    notify = "bell"             # off, bell or osc9: when a run ends or needs attention
    title = true                # percent and tokens/s in the window's title

    [keys]                      # a binding's id, and the keys to give it instead of its own
    "run.pause" = "p"
    "knob.larger_batches" = "plus,ctrl+up"

Strict: anything invalid is refused, with what to do, before anything starts. What the dashboard remembers by itself is
in `remembered`. Knows no widget, nor which keys there are: the caller passes in a check for them. Themes and keys are
checked only if the user has set any.
"""

import os
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec
import platformdirs

from rankdeck.runner.protocol.choices import near

Notify = Literal["off", "bell", "osc9"]

FILE = "config.toml"

KeyCheck = Callable[[Mapping[str, Any]], Iterable[str]]
"""What is wrong with keys by binding id: a line for each problem."""


class PreferenceError(ValueError):
    """Preferences are invalid; the text says what is wrong and where, a line for each problem."""


class Preferences(msgspec.Struct, frozen=True):
    """The preferences, with defaults filled in."""

    theme: str | None = None
    """None: rankdeck's dark theme, or the terminal's own colours if it has only sixteen."""
    ascii: bool = False
    notify: Notify = "bell"
    title: bool = True
    keys: dict[str, str] = msgspec.field(default_factory=dict)


def path() -> Path:
    return platformdirs.user_config_path("rankdeck", appauthor=False) / FILE


def load(check_keys: KeyCheck, *, theme: str | None = None, ascii: bool | None = None) -> Preferences:
    """The preferences of the file, overridden by the flags. Raises PreferenceError."""
    file = path()
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        text = ""
    except (OSError, UnicodeDecodeError) as error:
        raise PreferenceError(f"{file}: cannot be read: {error}") from None
    try:
        preferences = read(text, check_keys)
    except PreferenceError as error:
        raise PreferenceError("\n".join(f"{file}: {line}" for line in str(error).splitlines())) from None
    if theme is not None:
        if said := theme_problem(theme):
            raise PreferenceError(f"--theme: {said}")
        preferences = msgspec.structs.replace(preferences, theme=theme)
    if ascii is not None:
        preferences = msgspec.structs.replace(preferences, ascii=ascii)
    return preferences


def read(text: str, check_keys: KeyCheck, environ: Mapping[str, str] = os.environ) -> Preferences:
    """The preferences in the text of a file. Raises PreferenceError with everything that is wrong."""
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PreferenceError(f"is no TOML: {error}") from None
    problems = [
        f"{name}: there is no such setting{near(name, Preferences.__struct_fields__)}"
        for name in found
        if name not in Preferences.__struct_fields__
    ]
    problems.extend(
        f"{name}: must be true or false, not {found[name]!r}"
        for name in ("ascii", "title")
        if not isinstance(found.get(name, False), bool)
    )
    if found.get("notify", "off") not in get_args(Notify):
        problems.append(f'notify: must be "off", "bell" or "osc9", not {found["notify"]!r}')
    theme = found.get("theme")
    if theme is not None and (said := theme_problem(theme)):
        problems.append(f"theme: {said}")
    keys = found.get("keys", {})
    if not isinstance(keys, dict):
        problems.append('keys: must be a table: a line [keys], and under it lines as "run.pause" = "p"')
    elif keys:
        problems.extend(f"[keys] {line}" for line in check_keys(keys))
    if problems:
        raise PreferenceError("\n".join(problems))
    found.setdefault("ascii", only_ascii(environ))
    return msgspec.convert(found, Preferences)


def only_ascii(environ: Mapping[str, str]) -> bool:
    """Whether the locale says that the terminal cannot show UTF-8; False if it says nothing.

    Python itself sets LC_CTYPE to C.UTF-8 in a C locale; that says nothing about the terminal.
    """
    for name in ("LC_ALL", "LC_CTYPE", "LANG"):
        value = environ.get(name, "")
        if value and not (name == "LC_CTYPE" and value in ("C.UTF-8", "C.utf8", "UTF-8")):
            return "utf8" not in value.lower().replace("-", "")
    return False


def theme_problem(theme: object) -> str:
    """What is wrong with the name of a theme; nothing if there is one called so."""
    from textual.theme import BUILTIN_THEMES

    from rankdeck.tui.settings.theme import THEMES

    names = [each.name for each in THEMES] + sorted(BUILTIN_THEMES)
    if theme in names:
        return ""
    return f"there is no theme {theme!r}{near(str(theme), names)}; there are {', '.join(names)}"
