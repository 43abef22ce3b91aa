"""Keys that come together act in the order in which they were pressed."""

from typing import ClassVar

import pytest
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.events import Key

from rankdeck.tui.app.base import BaseApp
from rankdeck.tui.settings.keys import steps
from rankdeck.tui.settings.preferences import Preferences
from rankdeck.tui.widgets.fields import Choice, TextField
from tests.dashboards import until


class Form(BaseApp):
    """Two fields, with the keys that go from field to field."""

    BINDINGS: ClassVar[list[BindingType]] = [*steps("form", "tab", "shift+tab", "next", "previous", at_once=True)]

    def compose(self) -> ComposeResult:
        yield TextField("100")
        yield Choice(("auto", "static", "continuous"), "auto")

    def together(self, *keys: str) -> None:
        """Keys that arrive in one chunk, as over a slow line or by pasting."""
        for key in keys:
            self.post_message(Key(key, key if len(key) == 1 else None))


@pytest.mark.parametrize(
    ("keys", "left"),
    [
        (("ctrl+u", "8"), "8"),
        (("end", "backspace", "backspace", "6", "4"), "164"),
        (("home", "7", "end", "9"), "71009"),
        (("end", "left", "5"), "1050"),
        (("ctrl+u", "a", "b", "ctrl+w", "c"), "c"),
    ],
)
async def test_characters_act_after_the_keys_pressed_before_them(keys: tuple[str, ...], left: str) -> None:
    app = Form()
    async with app.run_test() as pilot:
        app.query_one(TextField).focus()
        await pilot.pause()
        app.together(*keys)
        await until(pilot, lambda: app.query_one(TextField).value == left)


async def test_an_arrow_changes_the_choice_that_had_the_focus_when_it_was_pressed() -> None:
    app = Form()
    async with app.run_test() as pilot:
        app.query_one(Choice).focus()
        await pilot.pause()
        app.together("right", "right", "left", "tab", "8")
        await until(pilot, lambda: app.query_one(TextField).value == "8")  # the old value was selected, and is replaced
        assert app.query_one(Choice).value == "static"


@pytest.mark.parametrize(
    ("own", "keys", "left"),
    [
        ({"choice.next": "n"}, ("n", "n"), "continuous"),
        ({"choice.next": "n"}, ("space", "right"), "auto"),
        ({"choice.next": "left", "choice.previous": "right"}, ("left", "left", "right"), "static"),
    ],
)
async def test_the_users_keys_change_a_choice_and_the_replaced_ones_do_not(
    own: dict[str, str], keys: tuple[str, ...], left: str
) -> None:
    app = Form(Preferences(keys=own))
    async with app.run_test() as pilot:
        app.query_one(Choice).focus()
        await pilot.pause()
        app.together(*keys, "tab", "8")
        await until(pilot, lambda: app.query_one(TextField).value == "8")
        assert app.query_one(Choice).value == left
