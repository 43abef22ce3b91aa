"""The edge of a dashboard: no control code in a text reaches the terminal by strip, title or alert."""

import re
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.segment import ControlType, Segment
from rich.style import Style
from textual.color import Color
from textual.widget import Widget
from textual.widgets import Input

from rankdeck.tui.app.app import RankdeckApp
from rankdeck.tui.terminal.driver import TerminalDriver
from rankdeck.tui.terminal.shown import HarmlessFilter, harmless
from rankdeck.tui.words import alerts
from tests import scripted
from tests.dashboards import dashboard, settled, until, whole_screen
from tests.hostile import PAYLOAD, UNSAFE, hostile_events
from tests.scripted_source import ScriptedSource


def steering(app: RankdeckApp) -> set[str]:
    strips = app.screen._compositor.render_strips()
    texts = (segment.text for strip in strips for segment in strip if not segment.control)
    return {sign for text in texts for sign in UNSAFE.findall(text)}


@given(st.text())
def test_any_text_keeps_its_width_and_loses_what_steers(text: str) -> None:
    shown = harmless(text)
    assert not UNSAFE.search(shown.replace("\n", "\t"))
    assert cell_len(shown) == sum(cell_len(sign) for sign in text) or cell_len(shown) == cell_len(text)


def test_a_strip_keeps_its_styles_and_the_codes_of_our_own() -> None:
    bold = Style(bold=True)
    own = Segment("\x1b[2J", None, [(ControlType.CLEAR,)])
    plain, evil = Segment("as it is", bold), Segment("a\x1b\u202eb", bold)
    found = HarmlessFilter().apply([own, plain, evil], Color(0, 0, 0))
    assert found == [own, plain, Segment("a" + harmless("\x1b\u202e") + "b", bold)]
    assert found[0] is own
    assert found[1] is plain


@pytest.mark.parametrize("view", ["1", "2", "3", "4", "5"])
async def test_no_view_of_a_hostile_run_sends_anything_that_steers(view: str) -> None:
    app = RankdeckApp(ScriptedSource(hostile_events()))
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press(view)
        await pilot.pause()
        assert "evil" in whole_screen(app) or view in "45"
        assert not steering(app)
        ElementTree.fromstring(app.export_screenshot(title=PAYLOAD.partition("\x1b")[0]))


class Raw(Widget):
    """A widget that makes nothing visible itself."""

    def render(self) -> Any:
        return PAYLOAD


async def test_not_even_a_widget_that_forgot_about_it_or_one_of_textuals_own_lets_it_through() -> None:
    app = dashboard(scripted.running())
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await settled(pilot)
        await app.screen.mount(Raw(), Input(PAYLOAD))
        app.say(PAYLOAD, f"title {PAYLOAD}")
        await until(pilot, lambda: whole_screen(app).count("evil") >= 2)
        assert not steering(app)
        ElementTree.fromstring(app.export_screenshot())


def test_title_and_alert_are_made_harmless_where_they_are_sent() -> None:
    written: list[str] = []

    class Driver(TerminalDriver):
        titled = True

        def __init__(self) -> None:
            self._title = None

        def write(self, data: str) -> None:
            written.append(data)

    Driver().set_title(PAYLOAD)
    written.append(alerts.signal_of("osc9", PAYLOAD))
    for sent, begins in zip(written, ("\x1b]2;", "\x1b]9;"), strict=True):
        body = re.fullmatch(re.escape(begins) + "(.*)\x07", sent)
        assert body is not None
        assert not UNSAFE.search(body[1])
    assert alerts.signal_of("bell", PAYLOAD) == "\x07"
