"""The title of the window, and alerts for a user who is not watching."""

from typing import Any

import pytest
from msgspec.structs import replace
from textual import events

from rankdeck.runner import protocol
from rankdeck.runner.state import Mark, RunState
from rankdeck.tui.app.app import RankdeckApp
from rankdeck.tui.settings.preferences import Preferences
from rankdeck.tui.sources.client import SourceError
from rankdeck.tui.words import alerts
from rankdeck.tui.words.status import ASKED_FOR
from tests import scripted, scripted_steering
from tests.dashboards import settled, until
from tests.scripted_source import ScriptedSource


class Heard:
    """What a headless app would have sent to its terminal."""

    def __init__(self) -> None:
        self.titles: list[str] = []
        self.written: list[str] = []

    def listen(self, app: RankdeckApp) -> None:
        driver: Any = app._driver
        driver.set_title = self.titles.append
        driver.write = self.written.append


def test_the_title_has_progress_speed_and_name() -> None:
    state = scripted.running().state
    assert alerts.title(state) == f"rankdeck {int(state.done_share * 100)}% {state.rate_now:.0f} tok/s calm-harbour"
    assert alerts.title(RunState()) == "rankdeck"
    assert alerts.title(scripted.completed().state) == "rankdeck completed calm-harbour"
    assert "paused" in alerts.title(replace(state, paused=ASKED_FOR))


def test_no_name_controls_the_terminal_through_a_title_or_an_alert() -> None:
    evil = replace(scripted.completed().state, name="a\x07\x1b]2;b\x1b\\\u202e" * 50)
    assert not set(alerts.title(evil)) & set("\x07\x1b\u202e\u009c")
    (alert,) = alerts.since(scripted.running().state, evil)
    assert not set(alert) & set("\x07\x1b\u202e\u009c")
    assert len(alert) <= alerts.LONGEST_ALERT


def test_alerts_are_for_endings_and_for_trouble() -> None:
    state = scripted.running().state
    assert alerts.since(state, state) == []
    assert alerts.since(state, replace(state, paused=ASKED_FOR)) == [], "the user asked for it"
    assert alerts.since(state, replace(state, paused="no space left")) == ["calm-harbour is paused: no space left"]
    assert alerts.since(state, scripted.completed().state)[0].startswith("calm-harbour has completed: 100 of 100")
    assert "has failed" in alerts.since(state, scripted.failed().state)[0]
    lost = replace(state, marks=(*state.marks, Mark(elapsed=1.0, kind="rank lost", text="rank 1 lost")))
    assert alerts.since(state, lost) == ["calm-harbour has lost a rank"]
    full = replace(state, marks=(*state.marks, Mark(elapsed=1.0, kind="memory", text="rank 1 ≤8")))
    assert "out of memory" in alerts.since(state, full)[0]


@pytest.mark.parametrize(
    ("notify", "sent"),
    [("bell", "\x07"), ("osc9", "\x1b]9;calm-harbour was stopped: 64 of 100 prompts\x07"), ("off", "")],
)
async def test_the_notify_preference_decides_how_an_alert_is_sent(notify: Any, sent: str) -> None:
    script = scripted.running()
    source = ScriptedSource(script.events)
    app = RankdeckApp(source, preferences=Preferences(notify=notify))
    heard = Heard()
    async with app.run_test() as pilot:
        await settled(pilot)
        heard.listen(app)
        source.say(script.ended(status="stopped").events[-1])
        await settled(pilot)
        assert "".join(heard.written) == sent


async def test_alerts_are_sent_only_while_the_terminal_has_no_focus() -> None:
    script = scripted.running()
    source = ScriptedSource(script.events)
    app = RankdeckApp(source, preferences=Preferences(notify="bell"))
    heard = Heard()
    async with app.run_test() as pilot:
        await settled(pilot)
        heard.listen(app)
        app.post_message(events.AppFocus())
        await pilot.pause()
        source.say(script.add(protocol.Paused(reason="no space left", asked=False)).events[-1])
        await settled(pilot)
        assert heard.written == []
        app.post_message(events.AppBlur())
        await pilot.pause()
        source.say(script.ended(status="stopped").events[-1])
        await settled(pilot)
        assert "".join(heard.written) == "\x07"


async def test_a_run_that_can_no_longer_be_watched_sends_an_alert() -> None:
    source = ScriptedSource(scripted.running().events, error=SourceError("lost the supervisor"))
    app = RankdeckApp(source, preferences=Preferences(notify="osc9"))
    sent: list[str] = []
    app.alert = sent.append  # type: ignore[method-assign]
    async with app.run_test() as pilot:
        await until(pilot, lambda: app.followed.lost is not None)
    assert sent == ["calm-harbour can no longer be watched: lost the supervisor"]


async def test_events_from_before_the_viewer_came_send_no_alert() -> None:
    heard = Heard()
    source = ScriptedSource([])
    app = RankdeckApp(source, preferences=Preferences())
    async with app.run_test() as pilot:
        await pilot.pause()
        heard.listen(app)
        source.say(scripted_steering.auto_settled().ended(status="stopped").snapshot())
        await settled(pilot)
        assert heard.written == []
