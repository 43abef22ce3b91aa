"""The dashboard in use: events coming in, every key, and what is never imported."""

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from rankdeck.runner import protocol
from rankdeck.runner.state import Snapshot
from rankdeck.tui.app.app import RankdeckApp
from rankdeck.tui.screens.help import HelpScreen
from rankdeck.tui.screens.questions import EndSweepScreen, LeaveScreen, StopNowScreen
from rankdeck.tui.screens.run import RunScreen
from rankdeck.tui.sources.client import SourceError
from rankdeck.tui.widgets.answer_list import AnswerList
from rankdeck.tui.widgets.key_bar import KeyBar
from rankdeck.tui.widgets.lines import Lines, Panel
from rankdeck.tui.words.text import plain
from tests import ROOT, scripted, scripted_sweep
from tests.dashboards import dashboard, panel, settled, until, whole_screen
from tests.scripted_source import ScriptedSource

# --- one direction ----------------------------------------------------------------------------


async def test_the_screen_is_there_before_the_first_event() -> None:
    app = RankdeckApp(ScriptedSource([]))
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        assert "Throughput" in whole_screen(app)
    assert app.followed.final_state is None


async def test_events_change_the_screen_and_a_snapshot_replaces_the_state() -> None:
    source = ScriptedSource(scripted.starting().events)
    app = RankdeckApp(source)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        source.say(Snapshot(state=scripted.running().state))
        await until(pilot, lambda: "64 / 100 prompts" in panel(app, "progress"))
    assert app.followed.final_state is not None
    assert app.followed.final_state.done == 64


async def test_a_state_that_looks_the_same_paints_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    script = scripted.running()
    source = ScriptedSource(script.events)
    app = RankdeckApp(source)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        painted: list[str | None] = []
        refresh = Lines.refresh

        def note(self: Lines, *regions: Any, **kinds: Any) -> Any:
            painted.append(self.id)
            return refresh(self, *regions, **kinds)

        monkeypatch.setattr(Lines, "refresh", note)
        source.say(protocol.LogLine(at=script.at, source="rank 0", text="nothing that the overview shows"))
        await settled(pilot)
        assert painted == []
        source.say(protocol.Output(at=script.at, record=scripted.record(99)))
        await settled(pilot)
        assert "progress" in painted
        assert "devices" not in painted


async def test_a_viewer_that_comes_late_lists_the_earlier_answers() -> None:
    read: list[Path] = []

    def earlier(directory: Path) -> Iterable[protocol.OutputRecord]:
        read.append(directory)
        return [scripted.record(index) for index in range(64)]

    app = RankdeckApp(ScriptedSource([scripted.running().snapshot()]), earlier=earlier)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: len(app.followed.book) == 64)
    assert read == [Path(scripted.DIRECTORY)]


async def test_a_lost_supervisor_is_reported_in_place_of_the_summary() -> None:
    events = scripted.running().events
    app = RankdeckApp(ScriptedSource(events, error=SourceError("lost the supervisor (ConnectionResetError)")))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "lost the supervisor" in whole_screen(app))
        await pilot.press("q")
    assert app.followed.lost is not None
    assert app.return_value == "detached"


async def test_the_end_stays_on_the_screen_until_the_user_leaves() -> None:
    app = dashboard(scripted.completed())
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        assert "✓ completed" in panel(app, "summary")
        assert app.is_running
        await pilot.press("q")
    assert app.return_value == "ended"


# --- keys -------------------------------------------------------------------------------------


async def test_the_number_keys_change_the_view() -> None:
    app = dashboard(scripted.running())
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        screen = app.screen
        assert isinstance(screen, RunScreen)
        for key, view in (
            ("2", "outputs"),
            ("3", "timeline"),
            ("4", "sweep"),
            ("5", "log"),
            ("1", "overview"),
            ("2", "outputs"),
        ):
            await pilot.press(key)
            await pilot.pause()
            assert screen.view == view
            assert [child.id for child in screen.query_one("#views").children if child.display] == [view]


async def test_q_asks_first_and_each_answer_does_what_it_says() -> None:
    for key, left, sent in (("d", "detached", []), ("s", "stopped", [protocol.Stop(now=False)])):
        script = scripted.running()
        source = ScriptedSource(script.events)
        app = RankdeckApp(source)
        async with app.run_test(size=(80, 24)) as pilot:
            await settled(pilot)
            await pilot.press("q")
            assert isinstance(app.screen, LeaveScreen)
            await pilot.press("escape")
            assert isinstance(app.screen, RunScreen)
            await pilot.press("q", key)
            if key == "s":
                await until(pilot, lambda source=source: bool(source.sent))  # type: ignore[misc]
                assert app.is_running
                source.say(script.ended(status="stopped").events[-1])
            await until(pilot, lambda app=app: app.return_value is not None)  # type: ignore[misc]
        assert app.return_value == left
        assert source.sent == sent


async def test_a_question_about_a_run_that_ends_meanwhile_is_closed() -> None:
    for key, screen in (("q", LeaveScreen), ("X", StopNowScreen)):
        script = scripted.running()
        source = ScriptedSource(script.events)
        app = RankdeckApp(source)
        async with app.run_test(size=(80, 24)) as pilot:
            await settled(pilot)
            await pilot.press(key)
            assert isinstance(app.screen, screen)
            source.say(script.ended().events[-1])
            await until(pilot, lambda app=app: isinstance(app.screen, RunScreen))  # type: ignore[misc]
            assert app.is_running
            assert source.sent == []


async def test_a_sweep_is_ended_by_its_key_after_a_question() -> None:
    source = ScriptedSource(scripted_sweep.running_on_gpus().events)
    app = RankdeckApp(source)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        bar = app.screen.query_one(KeyBar)
        await until(pilot, lambda: "s End sweep" in plain(bar.lines))
        await pilot.press("s")
        assert isinstance(app.screen, EndSweepScreen)
        await pilot.press("escape")
        assert source.sent == []
        await pilot.press("s", "y")
        await until(pilot, lambda: source.sent == [protocol.StartSweep(plan=None)])


async def test_d_detaches_and_sends_the_run_no_command() -> None:
    source = ScriptedSource(scripted.running().events)
    app = RankdeckApp(source)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("d")
    assert app.return_value == "detached"
    assert source.sent == []


async def test_x_stops_the_run_after_the_batches_in_flight_and_stays() -> None:
    script = scripted.running()
    source = ScriptedSource(script.events)
    app = RankdeckApp(source)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("x")
        await until(pilot, lambda: source.sent == [protocol.Stop(now=False)])
        source.say(script.add(protocol.Stopping(now=False)).ended(status="stopped").events[-1])
        await settled(pilot)
        assert "■ stopped" in panel(app, "summary")
        await pilot.press("x")
        assert len(source.sent) == 1
        assert app.is_running


async def test_ctrl_c_asks_the_run_to_stop_a_second_ends_it_a_third_leaves() -> None:
    source = ScriptedSource(scripted.running().events)
    app = RankdeckApp(source)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("ctrl+c")
        await until(pilot, lambda: source.sent == [protocol.Stop(now=False)])
        await pilot.press("ctrl+c")
        await until(pilot, lambda: source.sent == [protocol.Stop(now=False), protocol.Stop(now=True)])
        assert app.is_running
        await pilot.press("ctrl+c")
    assert app.return_value == "stopped"


async def test_t_changes_between_dark_and_light() -> None:
    app = dashboard(scripted.running())
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("t")
        assert app.theme == "rankdeck-light"
        await pilot.press("t")
        assert app.theme == "rankdeck-dark"


async def test_the_help_and_the_palette_have_every_key() -> None:
    app = dashboard(scripted.running())
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        commands = {command.title for command in app.get_system_commands(app.screen)}
        assert commands >= {"Overview", "Outputs", "Log", "Stop", "Detach", "Quit", "Help", "Theme", "Stop, then end"}
        bindings = [active.binding for active in app.screen.active_bindings.values() if active.binding.id]
        await pilot.press("question_mark")
        assert isinstance(app.screen, HelpScreen)
        shown = plain(app.screen.query_one(Panel).lines)
        for binding in bindings:
            assert binding.tooltip
            assert binding.tooltip in shown
        await pilot.press("escape")
        assert isinstance(app.screen, RunScreen)


async def test_the_list_of_answers_follows_the_newest_until_the_cursor_is_moved() -> None:
    script = scripted.running()
    source = ScriptedSource(script.events)
    app = RankdeckApp(source)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("2")
        await pilot.pause()
        answers = app.query_one(AnswerList)
        assert answers.cursor == 63
        source.say(protocol.Output(at=script.at, record=scripted.record(5000)))
        await until(pilot, lambda: answers.cursor == 5000)
        await pilot.press("up", "k")
        assert answers.cursor == 62
        source.say(protocol.Output(at=script.at, record=scripted.record(70)))
        await settled(pilot)
        assert answers.cursor == 62
        await pilot.press("o")
        assert (answers.order, answers.cursor) == ("input", 62)
        await pilot.press("end")
        assert answers.cursor == 5000
        await pilot.press("home", "j", "down")
        assert answers.cursor == 2
        await pilot.press("o", "f")
        assert (answers.order, answers.cursor) == ("arrival", 70)
        await pilot.press("pageup")
        assert answers.cursor not in (None, 70)


async def test_of_thousands_of_answers_only_the_visible_ones_are_painted() -> None:
    script = scripted.running()
    app = RankdeckApp(ScriptedSource(script.events))
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("2")
        for index in range(10_000):
            app.followed.book.add(scripted.record(1000 + index))
        answers = app.query_one(AnswerList)
        painted: list[int] = []
        render_line = answers.render_line
        answers.render_line = lambda y: (painted.append(y), render_line(y))[1]  # type: ignore[method-assign]
        answers.show(app.followed.book)
        await pilot.pause()
        assert answers.cursor == 10_999
        assert 0 < len(painted) < 100


async def test_what_a_model_writes_is_shown_and_never_obeyed() -> None:
    evil = "[red]not markup[/red] \x1b[2J\x1b]0;owned\x07 \u202egnp.exe\u200b \x00 @click=app.quit"
    script = scripted.running().add(
        protocol.Output(record=scripted.record(99, text=evil)), protocol.LogLine(source="rank 0", text=evil)
    )
    app = dashboard(script)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        for key in ("1", "2", "3", "4", "5"):
            await pilot.press(key)
            await pilot.pause()
            text = whole_screen(app)
            assert not set(text) & set("\x1b\x07\x00\u202e\u200b")
            if key in ("2", "5"):
                assert "[red]not markup[/red] ␛[2J␛]0;owned␇ ⟨U+202E⟩gnp.exe⟨U+200B⟩ ␀" in text


# --- imports ----------------------------------------------------------------------------------


def test_the_dashboard_imports_nothing_heavy() -> None:
    code = """
import asyncio, sys
from tests import scripted, scripted_sweep
from tests.scripted_source import ScriptedSource
from rankdeck.tui.app.app import RankdeckApp

async def run():
    app = RankdeckApp(ScriptedSource(scripted.running().events))
    async with app.run_test() as pilot:
        await pilot.press("2", "3", "4", "1", "question_mark", "escape", "q", "escape")

asyncio.run(run())
heavy = {"torch", "transformers", "accelerate", "numpy", "gguf", "pyarrow"} & set(sys.modules)
assert not heavy, heavy
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


async def test_the_dashboard_says_that_nothing_comes_from_its_supervisor_until_something_does() -> None:
    app = dashboard(scripted.running())
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        app.followed._hear_silence("its supervisor (process 7) is stopped; `kill -CONT 7` lets it go on")
        await until(pilot, lambda: "(process 7) is stopped" in whole_screen(app))
        app.followed._hear_silence(None)
        await until(pilot, lambda: "is stopped" not in whole_screen(app))
