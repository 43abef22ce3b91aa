"""The dashboard in 7-bit characters: everything drawn, as wide as before."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.segment import ControlType, Segment
from rich.style import Style
from textual.color import Color

from rankdeck.runner import protocol
from rankdeck.tui.app.app import RankdeckApp
from rankdeck.tui.settings.preferences import Preferences
from rankdeck.tui.terminal.ascii import _GLYPHS, AsciiFilter, to_ascii
from rankdeck.tui.words.text import visible
from tests import scripted, scripted_steering
from tests.dashboards import STATES, ScriptedLauncher, settled, until
from tests.scripted_source import ScriptedSource

ASCII = Preferences(ascii=True, theme="rankdeck-dark")


@given(st.text())
def test_any_text_becomes_7_bit_and_keeps_its_width(text: str) -> None:
    text = visible(text)
    shown = to_ascii(text)
    assert shown.isascii()
    assert cell_len(shown) == cell_len(text)


def test_every_sign_and_its_replacement_are_one_cell_wide() -> None:
    assert all(len(glyph) == cell_len(glyph) == len(shown) == 1 for glyph, shown in _GLYPHS.items())


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("│ ███▌░░ 50% │", "| ###=.. 50% |"),
        ("16 → 32", "16 ->32"),
        ("238 ±12", "238+-12"),
        ("≤8 ", "<=8"),
        ("61 °C", "61  C"),
        ("meta…8B", "meta~8B"),
        ("⟨U+202E⟩", "<U+202E>"),
        ("\u201cIt\u2019s\u201d \u2013 so", '"It\'s" - so'),
        ("naïve 日本", "na?ve ????"),
        ("⣀⠒⠉⣿", "_-':"),
        ("\U0001f468\u200d\U0001f469", "??"),
    ],
)
def test_signs_become_similar_ones_and_data_becomes_question_marks(text: str, shown: str) -> None:
    assert to_ascii(text) == shown


def test_a_strip_keeps_its_styles_and_its_control_codes() -> None:
    bold = Style(bold=True)
    plain, own, data = Segment("│", bold), Segment("ä", None, [(ControlType.BELL,)]), Segment("a", bold)
    found = AsciiFilter().apply([plain, own, data], Color(0, 0, 0))
    assert found == [Segment("|", bold), Segment("?", None, [(ControlType.BELL,)]), data]
    assert found[2] is data


def not_ascii(app: RankdeckApp) -> str:
    strips = app.screen._compositor.render_strips()
    return "".join({sign for strip in strips for segment in strip for sign in segment.text if not sign.isascii()})


SHOWN = {**STATES, **scripted_steering.STATES}


@pytest.mark.parametrize(
    ("state", "size"),
    [
        ("loading", (80, 24)),
        ("eight_gpus", (120, 40)),
        ("running", (60, 18)),
        ("completed", (80, 24)),
        ("failed", (120, 40)),
    ],
)
async def test_every_view_of_a_run_is_7_bit(state: str, size: tuple[int, int]) -> None:
    script = SHOWN[state]()
    if script.state.ended is None:
        script.add(
            protocol.Output(record=scripted.record(99, text="日本語 naïve — ★ \x1b[2J")),
            protocol.LogLine(source="rank 0", text="“töricht” ✓ 日本語 ┃"),
        )
    app = RankdeckApp(ScriptedSource(script.events), preferences=ASCII)
    async with app.run_test(size=size) as pilot:
        await settled(pilot)
        assert not_ascii(app) == ""
        app.say("The run stops → after … the batches", "Stöpping")
        for key in (
            "1",
            "2",
            "3",
            "4",
            "5",
            "question_mark",
            "escape",
            "b",
            "escape",
            "X",
            "escape",
            "i",
            "escape",
            "q",
        ):
            await pilot.press(key)
            await pilot.pause()
            assert not_ascii(app) == "", key
        await pilot.press("escape", "ctrl+p")
        await pilot.pause(0.3)
        assert not_ascii(app) == ""


async def test_the_start_screen_is_7_bit() -> None:
    app = RankdeckApp(None, launcher=ScriptedLauncher(), preferences=ASCII)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.focused is not None)
        await pilot.press(*"ö.txt")
        await pilot.pause()
        assert not_ascii(app) == ""


async def test_the_title_is_7_bit_too_and_arrows_have_names() -> None:
    from tests.tui.words.test_alerts import Heard

    heard = Heard()
    app = RankdeckApp(ScriptedSource(scripted.running().events), preferences=ASCII)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        heard.listen(app)
        await until(pilot, lambda: bool(heard.titles))
        assert all(title.isascii() for title in heard.titles)
        assert {app.get_key_display(b.binding) for b in app.screen.active_bindings.values()}.isdisjoint("↑↓←→⏎")
