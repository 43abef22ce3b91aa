"""Keys: every one is explained, can be changed, is listed where it works, and is never cut off."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankdeck.runner import protocol
from rankdeck.runner.state.knobs import SOURCE
from rankdeck.tui.app import declared_keys
from rankdeck.tui.app.app import RankdeckApp
from rankdeck.tui.panels.overview.settings_table import _FIGURES, BEST, HERE, TIED
from rankdeck.tui.panels.sweep.chart import EACH
from rankdeck.tui.screens.glossary import words_of
from rankdeck.tui.screens.help import HelpScreen
from rankdeck.tui.screens.run import RunScreen
from rankdeck.tui.settings import keys
from rankdeck.tui.settings.preferences import Preferences
from rankdeck.tui.widgets.key_bar import ALWAYS, Entry, KeyBar, chosen, key_line, key_range
from rankdeck.tui.widgets.lines import Panel
from rankdeck.tui.widgets.log import LogLines
from rankdeck.tui.words.text import line_width, plain
from tests import scripted, scripted_steering
from tests.dashboards import ScriptedLauncher, dashboard, settled, until, whole_screen
from tests.scripted_source import ScriptedSource


def test_every_binding_has_an_id_a_label_and_a_tooltip() -> None:
    assert {"run.pause", "run.stop", "app.leave"} <= {found.binding.id for found in declared_keys.declared()}
    for found in declared_keys.declared():
        assert found.binding.id, found
        assert found.binding.description, found
        assert found.binding.tooltip, found


def test_no_id_is_used_for_two_different_things() -> None:
    actions: dict[str, str] = {}
    for _, binding, _ in declared_keys.declared():
        action = binding.action.removeprefix("app.")
        assert actions.setdefault(binding.id or "", action) == action, binding.id


def test_an_invalid_keymap_is_refused_in_words_that_help() -> None:
    said = list(declared_keys.problems({"run.paus": "p", "run.stop": "d", "run.detach": 3, "app.theme": "p,"}))
    assert said[0].startswith('"run.paus": there is no such id; did you mean run.pause or ')
    assert said[1:] == [
        '"run.detach": must be a key or several, as in "p" or "p,ctrl+up", not 3',
        '"app.theme": must be a key or several, as in "p" or "p,ctrl+up", not \'p,\'',
        '"run.stop": d is the key of "run.detach" already; give one of them another',
    ]


def test_two_actions_may_swap_their_keys_and_a_dialog_may_have_the_same_keys_as_the_run() -> None:
    assert list(declared_keys.problems({"run.stop": "d", "run.detach": "x"})) == []
    assert list(declared_keys.problems({"leave.stop": "f6", "run.pause": "f6"})) == []


async def test_a_key_can_be_changed_and_is_listed_as_changed() -> None:
    preferences = Preferences(keys={"run.detach": "p,f9", "app.help": "h"})
    app = RankdeckApp(ScriptedSource(scripted.running().events), preferences=preferences)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        assert "h Help" in plain(app.query_one(KeyBar).lines)
        await pilot.press("d")
        assert app.is_running
        await pilot.press("h")
        assert isinstance(app.screen, HelpScreen)
        assert "p f9" in plain(app.screen.query_one(Panel).lines)
        await pilot.press("escape", "p")
    assert app.return_value == "detached"


async def test_help_lists_the_keys_that_steer_then_the_views_and_theirs_then_scrolling_then_words() -> None:
    app = dashboard(scripted.running())
    async with app.run_test(size=(120, 60)) as pilot:
        await settled(pilot)
        await pilot.press("2", "question_mark")
        assert isinstance(app.screen, HelpScreen)
        lines = plain(app.screen.query_one(Panel).lines).split("\n")
        headings = [line for before, line in zip(["", *lines], lines, strict=False) if not before]
        assert headings == ["Steering", "Views", "This view", "Other keys", "Scrolling", "Words"]
        starts = [line.split()[0] for line in lines[1 : lines.index("")]]
        assert starts == ["+", "-", "b", "a", "]", "[", "space", "T", "s", "x", "X", "d"]
        others = [line.split()[0] for line in lines[lines.index("Other keys") + 1 :][:3]]
        assert others == ["i", "t", "?"]
        assert lines[lines.index("Scrolling") + 1].endswith("The answer above")
        shown = "\n".join(lines)
        assert "In the order they came, or in input order" in shown
        assert "why an answer ended" in shown
        assert "MBU" not in shown


async def test_what_the_overview_abbreviates_can_be_read_in_the_help_of_80_by_24() -> None:
    app = dashboard(scripted_steering.scaled())
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("question_mark")
        box = app.screen.query_one("#help")
        lines = app.screen.query_one(Panel)
        words = plain(lines.lines).split("\nWords\n")[1]
        explained = {word for entry in re.findall(r"^(\S.*?)  +", words, re.MULTILINE) for word in entry.split(", ")}
        assert {*_FIGURES, *STANDING} - explained == WITHIN_ANOTHER.keys()
        assert all(meaning in " ".join(words.split()) for meaning in WITHIN_ANOTHER.values())
        await pilot.press("G")
        await until(pilot, lambda: box.scroll_offset.y == box.max_scroll_y > 0)
        assert plain(lines.lines[-1:]).strip() in whole_screen(app)


STANDING = ("tok/s", "mean", "peak", "tensor", "MBU", "DRAM", "pull", "split", "static", "continuous", "natural length")
STANDING += (BEST, TIED, HERE, "~", "ETA", "SM", "tok/J", "idle")
"""What stands in the Overview beside the figures of the settings."""

WITHIN_ANOTHER = {"batches": "and how many", "peak": "peak: the most"}
"""What is explained with another word."""


async def test_the_palette_has_the_keys_of_the_focused_view_too() -> None:
    app = dashboard(scripted.running())
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("2")
        await pilot.pause()
        titles = {command.title for command in app.get_system_commands(app.screen)}
        with_keys = {
            active.binding.description for active in keys.one_by_one(app.screen, app.reworded) if active.enabled
        }
        assert titles == with_keys | {"Choose a theme"}
        assert {"Follow", "Order"} <= titles


def test_the_words_of_a_view_come_first() -> None:
    assert words_of("sweep")[0][0] == "speedup"
    assert "tok/s" in dict(words_of("log"))


def test_words_used_in_a_view_are_among_its_words() -> None:
    log, sweep = dict(words_of("log")), dict(words_of("sweep"))
    assert SOURCE in log["source"]
    assert {"tied", "chosen", f"{EACH} best of each"} <= set(sweep)
    assert EACH in sweep["speedup"], "that of the best of each is not at the same batch size"


async def test_the_log_scrolls_by_vims_keys_and_by_arrows() -> None:
    script = scripted.running()
    script.add(*(protocol.LogLine(source="rank 0", text=f"line {number}") for number in range(200)))
    app = dashboard(script)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("5")
        await pilot.pause()
        log = app.query_one(LogLines)

        async def after(*pressed: str) -> int:
            await pilot.press(*pressed)
            await pilot.pause()
            return round(log.scroll_target_y)

        end, page = log.max_scroll_y, log.scrollable_content_region.height
        assert await after("g") == 0
        assert await after("j", "down", "k") == 1
        assert await after("ctrl+d") == 1 + page // 2
        assert await after("ctrl+u", "up") == 0
        assert await after("pagedown") == page
        assert await after("pageup") == 0
        assert await after("G") == end
        assert await after("home") == 0
        assert await after("end") == end


# --- the line of keys ---------------------------------------------------------------------------

ENTRIES = st.lists(
    st.builds(
        Entry,
        id=st.sampled_from([*ALWAYS, "run.pause", "run.detach"]),
        keys=st.lists(st.sampled_from(["q", "space", "^c", "1", "2"]), min_size=1, max_size=4).map(tuple),
        label=st.text("abcdef ", min_size=1, max_size=12),
        press=st.just("q"),
    ),
    max_size=8,
)


@given(ENTRIES, st.integers(0, 200))
def test_the_line_of_keys_is_never_wider_than_its_room(entries: list[Entry], width: int) -> None:
    line, places = key_line(entries, width)
    assert line_width(line) <= width
    assert all(0 <= start < stop <= width for start, stop, _ in places)


def test_in_little_room_the_way_out_and_help_are_kept_and_extras_are_the_first_to_go() -> None:
    entries = [
        Entry("run.pause", ("space",), "Pause", "space"),
        Entry("app.help", ("?",), "Help", "question_mark"),
        Entry("run.stop", ("x",), "Stop", "x", extra=True),
        Entry("run.detach", ("d",), "Detach", "d"),
    ]
    assert [entry.label for entry in chosen(entries, 8)] == ["Help"]
    assert [entry.label for entry in chosen(entries, 30)] == ["Pause", "Help", "Detach"]
    assert [entry.label for entry in chosen(entries, 60)] == ["Pause", "Help", "Stop", "Detach"]
    assert key_range(["1", "2", "3", "4", "5"]) == "1-5"
    assert key_range(["1", "2", "4", "5"]) == "1 2 4 5"


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (60, "q Quit  ? Help  1-5 Views  space Pause  x Stop  - + Batch"),
        (80, "q Quit  ? Help  1-5 Views  space Pause  x Stop  - + Batch  [ ] Ranks  d Detach"),
        (
            120,
            "q Quit  ? Help  1-5 Views  space Pause  x Stop  - + Batch size  [ ] Ranks  d Detach"
            "  a Auto  i Advice  s Sweep  T Tour",
        ),
    ],
)
async def test_a_run_can_be_stopped_and_left_by_a_key_in_the_line_of_80_cells(width: int, shown: str) -> None:
    app = dashboard(scripted.running())
    async with app.run_test(size=(width, 24)) as pilot:
        await settled(pilot)
        for key in "1235":
            await pilot.press(key)
            await pilot.pause()
            assert plain(app.query_one(KeyBar).lines) == shown


async def test_a_run_opened_from_the_start_screen_has_the_same_keys() -> None:
    app = RankdeckApp(None, launcher=ScriptedLauncher())
    async with app.run_test(size=(80, 24)) as pilot:
        app.open_run(ScriptedSource(scripted.running().events))
        await settled(pilot)
        bar = "q Back  ? Help  1-5 Views  space Pause  x Stop  - + Batch  [ ] Ranks  d Run on"
        await until(pilot, lambda: plain(app.screen.query_one(KeyBar).lines) == bar)
        await pilot.resize_terminal(100, 24)
        await until(pilot, lambda: "- + Batch size  [ ] Ranks  d Let run" in plain(app.screen.query_one(KeyBar).lines))


@pytest.mark.parametrize("size", [(60, 18), (80, 24), (120, 40)])
async def test_a_click_on_a_key_presses_it(size: tuple[int, int]) -> None:
    app = dashboard(scripted.running())
    async with app.run_test(size=size) as pilot:
        await settled(pilot)
        bar = app.query_one(KeyBar)
        at = plain(bar.lines).index("Help")
        await pilot.click(bar, offset=(at + 1, 0))
        await pilot.pause()
        assert isinstance(app.screen, HelpScreen)
        await pilot.press("escape")
        assert isinstance(app.screen, RunScreen)
