"""The dialog with all advice: it is of this moment, the run is steered from it, and nothing in it jumps."""

import pytest

from rankdeck.runner import protocol
from rankdeck.runner.protocol import Command, Pause, SetActiveRanks, SetBatchSize
from rankdeck.tui.app.app import RankdeckApp
from rankdeck.tui.screens.advice import AdviceScreen
from rankdeck.tui.screens.batch_size import BatchSizeScreen
from rankdeck.tui.screens.run import RunScreen
from rankdeck.tui.sources.replay import ReplaySource
from rankdeck.tui.widgets.key_bar import KeyBar
from rankdeck.tui.widgets.lines import Panel
from rankdeck.tui.words.text import plain
from tests import scripted, scripted_steering, scripted_sweep
from tests.dashboards import dashboard, settled, still, until
from tests.scripted import Script
from tests.scripted_source import ScriptedSource
from tests.scripted_steering import SteeredScript
from tests.tui.screens.test_replay_screen import Replay


def advice(app: RankdeckApp) -> str:
    """The text of the dialog, in one line."""
    assert isinstance(app.screen, AdviceScreen)
    return " ".join(plain(app.screen.query_one(Panel).lines).split())


def listed_keys(app: RankdeckApp) -> str:
    """The line of keys in the dialog; empty if there is none."""
    assert isinstance(app.screen, AdviceScreen)
    bar = app.screen.query_one(KeyBar)
    return plain(bar.lines) if bar.display else ""


def begun() -> SteeredScript:
    return SteeredScript(3, batch_size=8).begun().rounds(1, finish=False)


# --- steering -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "sent"),
    [
        (["+"], [SetBatchSize(batch_size=16)]),
        (["-", "_"], [SetBatchSize(batch_size=4), SetBatchSize(batch_size=2)]),
        (["a"], [SetBatchSize(batch_size=None)]),
        (["["], [SetActiveRanks(active_ranks=2)]),
        (["[", "]"], [SetActiveRanks(active_ranks=2), SetActiveRanks(active_ranks=3)]),
        (["space"], [Pause()]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value[0], str) else None,
)
async def test_the_keys_that_steer_do_what_they_do_without_it(keys: list[str], sent: list[Command]) -> None:
    source = ScriptedSource(begun().events)
    app = RankdeckApp(source)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("i", *keys)
        await until(pilot, lambda: source.sent == sent)
        assert isinstance(app.screen, AdviceScreen)


async def test_a_batch_size_can_be_typed_and_leads_back_to_it() -> None:
    source = ScriptedSource(begun().events)
    app = RankdeckApp(source)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("i", "b")
        await until(pilot, lambda: isinstance(app.screen, BatchSizeScreen))
        await pilot.press("1", "2", "enter")
        await until(pilot, lambda: source.sent == [SetBatchSize(batch_size=12)])
        await until(pilot, lambda: isinstance(app.screen, AdviceScreen))


async def test_a_key_that_can_do_nothing_says_so() -> None:
    app = dashboard(begun())
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        await settled(pilot)
        await pilot.press("i", "]")
        await until(pilot, lambda: [toast.message for toast in app._notifications] == ["All ranks are active."])


async def test_a_turn_that_the_run_refuses_is_answered_in_the_dialog() -> None:
    script = begun()
    known = len(script.events)
    source = ScriptedSource(script.events)
    app = RankdeckApp(source)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("i", "+")
        script.wait(0.1).add(protocol.TurnRefused(reason="no prompts left")).wait(0.25).tick()
        source.say(*script.events[known:])
        await until(pilot, lambda: "refused: no prompts left" in advice(app))
        await until(pilot, lambda: [toast.message for toast in app._notifications] == ["refused: no prompts left"])


async def test_the_tour_can_be_begun_from_it_and_says_there_what_to_look_at() -> None:
    source = ScriptedSource(SteeredScript(2, batch_size=4, prompts=2000).begun().rounds(2).events)
    app = RankdeckApp(source)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("i", "T")
        await until(pilot, lambda: "▸ tour" in advice(app) and "T ends it" in advice(app))
        await until(pilot, lambda: bool(source.sent))


async def test_stopping_leaving_and_other_views_are_not_reached_through_it() -> None:
    source = ScriptedSource(begun().events)
    app = RankdeckApp(source)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("i", "x", "X", "d", "s", "2")
        await still(pilot)
        assert source.sent == []
        assert isinstance(app.screen, AdviceScreen)
        for key in ("i", "q", "escape"):
            await pilot.press(key)
            await until(pilot, lambda: isinstance(app.screen, RunScreen) and app.screen.view == "overview")
            await pilot.press("i")
            await until(pilot, lambda: isinstance(app.screen, AdviceScreen))


# --- its line of keys ---------------------------------------------------------------------------


@pytest.mark.parametrize("width", [60, 80, 120])
async def test_it_lists_the_keys_that_steer_and_a_click_presses_one(width: int) -> None:
    source = ScriptedSource(begun().events)
    app = RankdeckApp(source)
    async with app.run_test(size=(width, 24)) as pilot:
        await settled(pilot)
        await pilot.press("i")
        await still(pilot)
        keys = listed_keys(app)
        assert keys.startswith("- + Batch size  [ ] Ranks")
        assert "space Pause" in keys
        assert "T Tour" in keys
        assert "Stop" not in keys
        await pilot.click(KeyBar, offset=(1 + keys.index("["), 1))
        await until(pilot, lambda: source.sent == [SetActiveRanks(active_ranks=2)])


async def test_while_trials_turn_the_knobs_it_offers_only_the_pause_and_the_tour() -> None:
    app = dashboard(scripted_sweep.running_on_gpus())
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("i")
        await still(pilot)
        assert listed_keys(app) == "space Pause  T Tour"


@pytest.mark.parametrize(("script", "steerable"), [(scripted.completed(), True), (begun(), False)])
async def test_who_cannot_steer_is_offered_no_keys(script: Script, steerable: bool) -> None:
    app = RankdeckApp(ScriptedSource(script.events), steerable=steerable)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("i")
        await still(pilot)
        assert listed_keys(app) == ""


async def test_the_keys_go_when_the_run_ends_and_come_when_the_ranks_are_ready() -> None:
    script = scripted.loading()
    source = ScriptedSource(script.events)
    app = RankdeckApp(source)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("i", "+")
        await still(pilot)
        bar = app.screen.query_one(KeyBar)
        assert bar.lines[0][0] == ("- +", "bar-off")
        known = len(script.events)
        source.say(*script.ready().events[known:])
        await until(pilot, lambda: bar.lines[0][0] == ("- +", "bar-key"))
        await pilot.press("+")
        await until(pilot, lambda: source.sent == [SetBatchSize(batch_size=32)])
        source.say(*scripted.completed().events[-1:])
        await until(pilot, lambda: listed_keys(app) == "")


# --- of this moment -----------------------------------------------------------------------------


async def test_what_a_turn_brings_is_told_while_it_is_open() -> None:
    script = SteeredScript(gpus=2).begun().rounds(3)
    source = ScriptedSource(script.events)
    app = RankdeckApp(source)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("i")
        await still(pilot)
        assert "bound by kernel launches" in advice(app)
        assert "batch size 4 → 8" not in advice(app)
        known = len(script.events)
        source.say(*script.size(8).rounds(2).rounds(1, finish=False).events[known:])
        await until(pilot, lambda: "batch size 4 → 8" in advice(app))
        await until(pilot, lambda: "▸ Batch size 16 would bring" in advice(app))


async def test_a_pause_is_told_in_it() -> None:
    app = dashboard(scripted_steering.paused())
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("i")
        await still(pilot)
        assert "‖ paused after the batches in flight; space goes on" in advice(app)


async def test_a_run_that_can_no_longer_be_watched_says_that_its_advice_is_stale() -> None:
    source = ScriptedSource(begun().events)
    app = RankdeckApp(source)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("i")
        await still(pilot)
        source.say(protocol.Refused(reason="another version runs it"))
        await until(pilot, lambda: "another version runs it; these figures are stale" in advice(app))
        await until(pilot, lambda: listed_keys(app) == "")


async def test_new_figures_neither_scroll_it_nor_make_it_smaller() -> None:
    script = scripted_steering.disk_full()
    source = ScriptedSource(script.events)
    app = RankdeckApp(source)
    async with app.run_test(size=(60, 10)) as pilot:
        await settled(pilot)
        await pilot.press("i")
        await still(pilot)
        box = app.screen.query_one("#help")
        await pilot.press("j")
        await until(pilot, lambda: box.scroll_offset.y == 1)
        before = box.outer_size, box.virtual_size
        known = len(script.events)
        source.say(*script.add(protocol.Resumed()).idle(1).events[known:])
        await until(pilot, lambda: "No space left on device" not in advice(app))
        await still(pilot)
        assert (box.outer_size, box.virtual_size) == before
        assert box.scroll_offset.y == 1


async def test_who_may_steer_a_run_of_small_batches_is_invited_as_in_the_line_below() -> None:
    script = SteeredScript(2, batch_size=2, prompts=480).begun().rounds(1, finish=False)
    app = dashboard(script)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("i")
        await still(pilot)
        assert advice(app).startswith("▸ + doubles the batch size: it is now 2 prompts per batch, with 476 left")
        assert "Nothing to advise" not in advice(app)


# --- in a replay --------------------------------------------------------------------------------


async def test_in_a_replay_it_offers_to_play_and_nothing_that_steers(monkeypatch: pytest.MonkeyPatch) -> None:
    replay = Replay()
    monkeypatch.setattr(ReplaySource, "send", lambda *_: pytest.fail("there is nobody to ask"))
    async with replay.app.run_test(size=(80, 24)) as pilot:
        await replay.settled(pilot)
        await pilot.press("i")
        await still(pilot)
        assert listed_keys(replay.app) == "space Pause  ← → 10 s  - + Speed"
        await pilot.press(*"abT", "left_square_bracket", "right_square_bracket")
        assert isinstance(replay.app.screen, AdviceScreen)
        assert "active ranks 2 → 1" in advice(replay.app)
        assert replay.transport.position == 30
        await pilot.press("left", "left")
        await until(pilot, lambda: replay.transport.position == 10)
        await until(pilot, lambda: "active ranks 2 → 1" not in advice(replay.app))
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(replay.app.screen, RunScreen))
