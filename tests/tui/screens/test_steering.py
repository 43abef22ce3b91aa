"""The knobs on the dashboard: every key sends its command, faster than the run can answer, and only while it can."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from textual.pilot import Pilot
from textual.widgets import Input, Label

from rankdeck.runner import protocol
from rankdeck.runner.protocol import Command, Pause, Resume, SetActiveRanks, SetBatchSize, Stop
from rankdeck.runner.protocol.config import MAX_BATCH_SIZE
from rankdeck.tui.app.app import RankdeckApp
from rankdeck.tui.screens.advice import AdviceScreen
from rankdeck.tui.screens.batch_size import BatchSizeScreen
from rankdeck.tui.screens.questions import LeaveScreen, StopNowScreen
from rankdeck.tui.screens.run import RunScreen
from rankdeck.tui.sources.knobs import Knobs, larger, smaller
from rankdeck.tui.widgets.deck import Leave
from rankdeck.tui.widgets.lines import Lines, Panel
from rankdeck.tui.words.numbers import read_batch_size
from rankdeck.tui.words.text import plain
from tests import scripted, scripted_steering
from tests.dashboards import dashboard, panel, settled, until, whole_screen
from tests.scripted import Script
from tests.scripted_source import ScriptedSource


async def press(script: Script, *keys: str, steerable: bool = True) -> list[Command]:
    """The commands that a dashboard of `script` sends for `keys`."""
    source = ScriptedSource(script.events)
    app = RankdeckApp(source, steerable=steerable)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press(*keys)
        await pilot.pause()
    return source.sent


# --- every key ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "sent"),
    [
        (["+"], [SetBatchSize(batch_size=16)]),
        (["="], [SetBatchSize(batch_size=16)]),
        (["-"], [SetBatchSize(batch_size=4)]),
        (["_"], [SetBatchSize(batch_size=4)]),
        (["+", "+"], [SetBatchSize(batch_size=16), SetBatchSize(batch_size=32)]),
        (["-", "-", "-", "-", "-"], [SetBatchSize(batch_size=size) for size in (4, 2, 1)]),
        (["+", "-"], [SetBatchSize(batch_size=16), SetBatchSize(batch_size=8)]),
        (["a"], [SetBatchSize(batch_size=None)]),
        (["b", "1", "2", "enter"], [SetBatchSize(batch_size=12)]),
        (["b", *"auto", "enter"], [SetBatchSize(batch_size=None)]),
        (["b", "1", "2", "enter", "+"], [SetBatchSize(batch_size=12), SetBatchSize(batch_size=16)]),
        (["b", "0", "enter", "escape"], []),
        (["]"], []),
        (["["], [SetActiveRanks(active_ranks=2)]),
        (["[", "[", "["], [SetActiveRanks(active_ranks=2), SetActiveRanks(active_ranks=1)]),
        (["[", "]"], [SetActiveRanks(active_ranks=2), SetActiveRanks(active_ranks=3)]),
        (["space"], [Pause()]),
        (["space", "space"], [Pause(), Resume()]),
        (["x"], [Stop(now=False)]),
        (["X"], []),
        (["X", "escape"], []),
        (["X", "enter"], []),
        (["X", "X"], [Stop(now=True)]),
        (["X", "left", "enter"], [Stop(now=True)]),
        (["d"], []),
        (["q", "escape"], []),
    ],
    ids=lambda value: " ".join(value) if value and isinstance(value[0], str) else None,
)
async def test_every_key_sends_what_it_says(keys: list[str], sent: list[Command]) -> None:
    script = scripted_steering.SteeredScript(3, batch_size=8).begun().rounds(1, finish=False)
    assert await press(script, *keys) == sent


@pytest.mark.parametrize("view", ["1", "2"])
async def test_a_turn_that_is_refused_is_answered_in_every_view_and_once(view: str) -> None:
    script = scripted_steering.SteeredScript(3, batch_size=8, prompts=24).begun().rounds(1, finish=False)
    known = len(script.events)
    source = ScriptedSource(script.events)
    app = RankdeckApp(source)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press(view, "+")
        assert source.sent == [SetBatchSize(batch_size=16)], "the run decides"
        reason = "no prompts left for another batch size: the last 24 are in flight"
        script.wait(0.1).add(protocol.TurnRefused(reason=reason)).wait(0.25).tick()
        source.say(*script.events[known:])
        await settled(pilot)
        await until(pilot, lambda: bool(app._notifications))
        assert [toast.message for toast in app._notifications] == [f"refused: {reason}"]
        await pilot.press("+")
        assert source.sent[-1] == SetBatchSize(batch_size=16), "the first press changed nothing"
    audience = RankdeckApp(ScriptedSource(script.events), steerable=False)
    async with audience.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        assert not audience._notifications


async def test_space_resumes_a_paused_run_but_not_one_paused_by_a_full_disk() -> None:
    assert await press(scripted_steering.paused(), "space") == [Resume()]
    assert await press(scripted_steering.disk_full(), "space") == []


@pytest.mark.parametrize("keys", [["+"], ["-"], ["a"], ["b", "8", "enter"], ["["], ["space"], ["s"], ["x"], ["X", "X"]])
async def test_nothing_is_sent_in_a_replay_and_nothing_after_the_end(keys: list[str]) -> None:
    assert await press(scripted_steering.knob_turned(), *keys, steerable=False) == []
    assert await press(scripted.completed(), *keys) == []


async def test_a_replay_is_left_without_a_question() -> None:
    app = RankdeckApp(ScriptedSource(scripted.running().events), steerable=False)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("q")
        await until(pilot, lambda: app.return_value is not None)


async def test_the_knobs_are_offered_once_the_ranks_are_ready() -> None:
    script = scripted.loading()
    source = ScriptedSource(script.events)
    app = RankdeckApp(source)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("+", "[")
        assert source.sent == []
        known = len(script.events)
        source.say(*script.ready().events[known:])
        await settled(pilot)
        await pilot.press("[")
        await until(pilot, lambda: source.sent == [SetActiveRanks(active_ranks=1)])


async def test_every_knob_is_in_the_palette() -> None:
    app = dashboard(scripted_steering.knob_turned())
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        commands = {command.title: command.callback for command in app.get_system_commands(app.screen)}
        assert commands.keys() >= {"Smaller batches", "Larger batches", "Batch size", "Auto batch size"}
        assert commands.keys() >= {"Fewer ranks", "More ranks", "Pause", "Stop", "Stop now", "Detach", "Advice"}
        await commands["Larger batches"]()
        source = app.followed.source
        assert isinstance(source, ScriptedSource)
        assert source.sent == [SetBatchSize(batch_size=16)]


# --- dialogs ------------------------------------------------------------------------------------


async def test_a_typed_batch_size_is_checked_as_it_is_typed() -> None:
    app = dashboard(scripted_steering.knob_turned())
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("b")
        assert isinstance(app.screen, BatchSizeScreen)

        def said() -> str:
            return str(app.screen.query_one("#batch-size-said", Label).content)

        for keys, expected in (("x", "✗ must be a whole number"), ("0", "✗ must be from 1 to"), ("au", "a number, or")):
            app.screen.query_one(Input).clear()
            await pilot.press(*keys)
            await until(pilot, lambda expected=expected: said().startswith(expected))  # type: ignore[misc]
        await pilot.press("enter")
        assert isinstance(app.screen, BatchSizeScreen)
        await pilot.press("escape")
        assert isinstance(app.screen, RunScreen)


async def test_stopping_now_asks_first_and_says_what_it_costs() -> None:
    app = dashboard(scripted_steering.knob_turned())
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("X")
        assert isinstance(app.screen, StopNowScreen)
        assert "batches in flight are abandoned" in whole_screen(app)
        await pilot.press("n", "q")
        assert isinstance(app.screen, LeaveScreen)


async def test_i_shows_all_advice_in_full() -> None:
    app = dashboard(scripted_steering.advice())
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        assert "3 ranks at batch size 16 need 3 rounds" in plain(app.query_one("#advice", Lines).lines)
        await pilot.press("i")
        assert isinstance(app.screen, AdviceScreen)
        text = " ".join(plain(app.screen.query_one(Panel).lines).split())
        assert "for 100 prompts; batch size 17 needs 2." in text
        await pilot.press("i")
        assert isinstance(app.screen, RunScreen)


# --- what a late viewer sees --------------------------------------------------------------------


async def test_a_late_viewer_sees_what_the_others_see() -> None:
    script = scripted_steering.one_of_two()
    shown = []
    for messages in (script.events, [script.snapshot()]):
        app = RankdeckApp(ScriptedSource(messages))
        async with app.run_test(size=(120, 40)) as pilot:
            await settled(pilot)
            shown.append([panel(app, name) for name in ("throughput", "progress", "settings", "ranks")])
    assert shown[0] == shown[1]
    assert "active ranks 2 → 1" in shown[0][0]
    assert "1 rank: 89" in shown[0][0], "the band of the setting"
    assert "speedup" in shown[0][2]


async def test_answers_missed_while_the_viewer_was_stalled_are_read_back_once_each() -> None:
    script = scripted.running()
    on_disk = [scripted.record(index) for index in range(96)]
    source = ScriptedSource(script.events)
    app = RankdeckApp(source, earlier=lambda _: on_disk)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        assert len(app.followed.book) == 64
        for index in range(64, 96):
            script.add(protocol.Output(record=scripted.record(index)))
        source.say(script.snapshot(), protocol.Output(at=script.at, record=scripted.record(96)))
        await until(pilot, lambda: len(app.followed.book) == 97)
        assert [record.index for record in app.followed.book.newest(200)] == list(range(97))


async def test_a_reason_for_a_pause_comes_and_goes_without_moving_the_ranks_out_of_sight() -> None:
    script = scripted_steering.knob_turned(2)
    source = ScriptedSource(script.events)
    app = RankdeckApp(source)

    async def tell(event: protocol.AnyEvent, pilot: Pilot[Leave]) -> None:
        known = len(script.events)
        source.say(*script.add(event).events[known:])
        await settled(pilot)

    async with app.run_test(size=(60, 18)) as pilot:
        await settled(pilot)
        await tell(protocol.Paused(reason=scripted_steering.DISK_FULL, asked=False), pilot)
        text = " ".join(whole_screen(app).split())
        assert "‖ paused: outputs.jsonl cannot be written: No space left on device." in text
        await until(pilot, lambda: app.query_one("#overview").max_scroll_y == 0)
        await tell(protocol.Resumed(), pilot)
        assert not app.query_one("#notice").display
        assert app.query_one("#devices").display


# --- pure ---------------------------------------------------------------------------------------


def test_from_4_one_press_is_8_and_one_back_is_4() -> None:
    assert (larger(4), smaller(8), smaller(1), larger(MAX_BATCH_SIZE)) == (8, 4, 1, MAX_BATCH_SIZE)


@given(st.integers(1, MAX_BATCH_SIZE))
def test_the_ladder_is_powers_of_two_and_always_moves(batch_size: int) -> None:
    up, down = larger(batch_size), smaller(batch_size)
    assert up.bit_count() == down.bit_count() == 1
    assert batch_size < up <= 2 * batch_size or up == MAX_BATCH_SIZE
    assert batch_size / 2 <= down < batch_size or down == batch_size == 1


@given(st.text(max_size=30))
def test_a_text_is_a_batch_size_or_is_refused_with_a_reason(text: str) -> None:
    with contextlib.suppress(ValueError):
        size = read_batch_size(text)
        assert size is None or 1 <= size <= MAX_BATCH_SIZE
    for wrong in ("", "0", "-1", "8.5", "eight", "1e3", "99999999"):
        with pytest.raises(ValueError, match="auto"):
            read_batch_size(wrong)


def test_a_value_asked_for_is_forgotten_once_confirmed_or_too_old() -> None:
    script = scripted_steering.SteeredScript(batch_size=4).begun()
    knobs = Knobs()
    assert knobs.turn_batch_size(script.state, up=True) == SetBatchSize(batch_size=8)
    assert knobs.turn_batch_size(script.state, up=True) == SetBatchSize(batch_size=16)
    knobs.update(script.size(8).state)
    assert knobs.turn_batch_size(script.state, up=True) == SetBatchSize(batch_size=32)
    knobs.update(script.wait(10).tick().state)
    assert knobs.turn_batch_size(script.state, up=True) == SetBatchSize(batch_size=16)
