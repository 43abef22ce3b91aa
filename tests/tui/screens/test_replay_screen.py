"""A replay in the dashboard: its keys, its line, what it shows of a moment, and that it steers nothing."""

from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from rankdeck.runner import protocol
from rankdeck.tui.app.replay import ReplayApp
from rankdeck.tui.panels.transport import transport_line
from rankdeck.tui.screens.help import HelpScreen
from rankdeck.tui.sources.journal import SAMPLE, Journal, how_it_stops
from rankdeck.tui.sources.replay import ReplaySource, Rewinder, Transport
from rankdeck.tui.widgets.answer_list import AnswerList
from rankdeck.tui.widgets.key_bar import KeyBar
from rankdeck.tui.widgets.lines import Lines, Panel
from rankdeck.tui.words.text import plain
from tests import scripted, scripted_steering
from tests.dashboards import SIZES, STATES, panel, until, whole_screen
from tests.recordings import journal_of, taken_up_hours_later
from tests.scripted import Script


class Clock:
    """A clock that a test moves on."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Replay:
    """A replay's dashboard, and its clock."""

    def __init__(self, path: Path = SAMPLE, position: float = 30.0, *, playing: bool = False, speed: float = 1) -> None:
        self.clock = Clock()
        journal = Journal(path)
        self.source = ReplaySource(journal, speed=speed, position=position, playing=playing, clock=self.clock)
        self.app = ReplayApp(self.source, how_it_stops(journal))

    @property
    def transport(self) -> Transport:
        return self.source.transport

    @property
    def line(self) -> str:
        return plain(self.app.screen.query_one("#transport", Lines).lines)

    async def settled(self, pilot: Pilot[Any]) -> None:
        await until(pilot, lambda: self.source.caught_up and self.app.run_is_shown)
        await pilot.pause()

    async def wait(self, pilot: Pilot[Any], seconds: float) -> None:
        self.clock.now += seconds
        self.source.wake()
        await self.settled(pilot)


def replay_of(script: Script, tmp_path: Path, position: float = 1e9) -> Replay:
    return Replay(journal_of(tmp_path / "events.jsonl", script.events), position)


# --- playing ------------------------------------------------------------------------------------


async def test_it_plays_from_the_start_to_the_end_and_the_summary_stays_until_q() -> None:
    replay = Replay(position=0, playing=True)
    async with replay.app.run_test(size=(80, 24)) as pilot:
        await replay.settled(pilot)
        assert replay.app.followed.state.done == 0
        await replay.wait(pilot, 20)
        assert 0 < replay.app.followed.state.done < 100
        assert "▶ playing    1x  00:20 / 00:58" in replay.line
        await replay.wait(pilot, 1000)
        assert "■ at end" in replay.line
        assert "✓ completed" in panel(replay.app, "summary")
        assert "4,699 output tokens" in panel(replay.app, "summary")
        assert replay.app.is_running
        await pilot.press("q")
    assert replay.app.return_value == "ended"


@pytest.mark.parametrize(
    ("keys", "position"),
    [
        (["left"], 20),
        (["right"], 40),
        (["right", "right", "left"], 40),
        (["left"] * 9, 0),
        (["right"] * 9, "length"),
        (["comma"], 29),
        (["full_stop"], 31),
        (["shift+left", "shift+left"], 28),
        (["shift+right"], 31),
        (["less_than_sign"], 0),
        (["greater_than_sign"], "length"),
        (["9"], "length"),
        (["9", "0"], 0),
        (["9", "left"], "length - 10"),
        (["2", "left"], 20),  # whatever view has the focus
        (["4", "right"], 40),
    ],
)
async def test_keys_seek(keys: list[str], position: float | str) -> None:
    replay = Replay()
    async with replay.app.run_test(size=(80, 24)) as pilot:
        await replay.settled(pilot)
        await pilot.press(*keys)
        await replay.settled(pilot)
        length = replay.source.journal.length
        expected = {"length": length, "length - 10": length - 10}.get(str(position), position)
        assert replay.transport.position == pytest.approx(expected)
        fresh = Rewinder(replay.source.journal)
        fresh.go(replay.source.journal.number_at(replay.transport.position))
        assert replay.app.followed.state == fresh.state


async def test_space_pauses_and_plays_and_at_the_end_starts_over() -> None:
    replay = Replay(position=10, playing=True)
    async with replay.app.run_test(size=(80, 24)) as pilot:
        await replay.settled(pilot)
        await pilot.press("space")
        assert "‖ paused" in replay.line
        await replay.wait(pilot, 30)
        assert replay.transport.position == 10
        await pilot.press("space")
        await replay.wait(pilot, 5)
        assert replay.transport.position == 15
        await replay.wait(pilot, 100)
        await pilot.press("space")
        await replay.wait(pilot, 3)
        assert (replay.transport.playing, replay.transport.position) == (True, 3)
        assert replay.app.followed.state.ended is None


async def test_plus_and_minus_change_the_speed_between_a_quarter_and_64_and_keep_the_position() -> None:
    replay = Replay(position=10, playing=True)
    async with replay.app.run_test(size=(80, 24)) as pilot:
        await replay.settled(pilot)
        await replay.wait(pilot, 2)
        await pilot.press("plus", "equals_sign")
        assert " 4x  00:12" in replay.line
        await replay.wait(pilot, 2)
        assert replay.transport.position == 20
        await pilot.press(*["plus"] * 9)
        assert replay.transport.speed == 64
        await pilot.press(*["minus", "underscore"] * 5)
        assert replay.transport.speed == 0.25
        await replay.wait(pilot, 4)
        assert replay.transport.position == 21


# --- what is shown ------------------------------------------------------------------------------


async def test_after_a_step_back_later_answers_are_gone() -> None:
    replay = Replay(position=1e9)
    async with replay.app.run_test(size=(120, 40)) as pilot:
        await replay.settled(pilot)
        await pilot.press("2")
        await replay.settled(pilot)
        answers = replay.app.query_one(AnswerList)
        assert len(replay.app.followed.book) == 100
        last = answers.cursor
        await pilot.press(*["left"] * 3)
        await replay.settled(pilot)
        events = replay.source.journal.events(0, replay.source.journal.number_at(replay.transport.position))
        past = [event.record.index for event in events if isinstance(event, protocol.Output)]
        assert 0 < len(past) < 100
        assert [
            replay.app.followed.book.key(number, "arrival") for number in range(len(replay.app.followed.book))
        ] == past
        assert answers.cursor == past[-1] != last
        assert answers.virtual_size.height == len(past) == replay.app.followed.state.done


async def test_a_journal_that_stops_says_so_at_its_end_and_only_there(tmp_path: Path) -> None:
    replay = replay_of(scripted.running(), tmp_path)
    async with replay.app.run_test(size=(80, 24)) as pilot:
        await replay.settled(pilot)
        assert replay.line.endswith("supervisor was lost")
        await pilot.press("left")
        await replay.settled(pilot)
        assert "supervisor was lost" not in replay.line


async def test_a_half_written_last_line_is_reported(tmp_path: Path) -> None:
    replay = Replay(journal_of(tmp_path / "events.jsonl", scripted.running().events, b'{"type":"ti'))
    async with replay.app.run_test(size=(120, 40), notifications=True) as pilot:
        await until(pilot, lambda: any("half written" in note.message for note in replay.app._notifications))


async def test_a_pause_of_the_run_is_not_the_pause_of_the_replay(tmp_path: Path) -> None:
    replay = replay_of(scripted_steering.STATES["paused"](), tmp_path)
    async with replay.app.run_test(size=(80, 24)) as pilot:
        await replay.settled(pilot)
        shown = whole_screen(replay.app)
        assert "the run was paused here" in shown
        assert "space goes on" not in shown


@pytest.mark.parametrize("width", range(56, 140, 7))
def test_the_line_is_as_wide_as_the_terminal(width: int) -> None:
    for seconds in (0.0, 59.0, 7200.0, 360000.0):
        for position in (0.0, seconds / 3, seconds):
            transport = Transport(True, False, position == seconds, 0.25, position, seconds, 2 * seconds)
            assert len(plain([transport_line(transport, width)]).rstrip()) <= width


@pytest.mark.parametrize("state", ["running", "two_gpus", *sorted(set(scripted_steering.STATES) - {"scaled_to_eight"})])
@pytest.mark.parametrize("size", SIZES[:2])
async def test_two_ranks_never_need_scrolling(state: str, size: tuple[int, int], tmp_path: Path) -> None:
    replay = replay_of({**STATES, **scripted_steering.STATES}[state](), tmp_path)
    async with replay.app.run_test(size=size) as pilot:
        await replay.settled(pilot)
        assert replay.app.query_one("#overview").max_scroll_y == 0


# --- keys ---------------------------------------------------------------------------------------


async def test_the_keys_that_steer_a_run_do_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    replay = Replay()
    monkeypatch.setattr(ReplaySource, "send", lambda *_: pytest.fail("there is nobody to ask"))
    async with replay.app.run_test(size=(80, 24)) as pilot:
        await replay.settled(pilot)
        before = replay.app.screen, replay.transport
        await pilot.press(*"absSxXd", "left_square_bracket", "right_square_bracket")
        await pilot.pause()
        assert (replay.app.screen, replay.transport) == before


@pytest.mark.parametrize("key", ["q", "ctrl+c"])
async def test_a_replay_is_left_without_a_question(key: str) -> None:
    replay = Replay()
    async with replay.app.run_test(size=(80, 24)) as pilot:
        await replay.settled(pilot)
        await pilot.press(key)
    assert replay.app.return_code == 0
    assert replay.app.followed.lost is None


async def test_help_palette_and_footer_have_the_keys_of_a_replay() -> None:
    replay = Replay()
    async with replay.app.run_test(size=(120, 60)) as pilot:
        await replay.settled(pilot)
        commands = {command.title for command in replay.app.get_system_commands(replay.app.screen)}
        assert commands >= {"Pause", "Slower", "Faster", "Back", "Forward", "To the beginning", "To the end", "Quit"}
        assert not commands & {"Stop", "Stop now", "Detach", "More ranks", "Auto batch size", "Stop, then end"}
        footer = plain(replay.app.query_one(KeyBar).lines)
        assert all(words in footer for words in ("←", "→", "10 s", "Pause", "Speed", "Views"))
        assert not any(words in footer for words in ("Ranks", "Batch size", "Detach"))
        bindings = [active.binding for active in replay.app.screen.active_bindings.values() if active.binding.id]
        await pilot.press("question_mark")
        assert isinstance(replay.app.screen, HelpScreen)
        shown = plain(replay.app.screen.query_one(Panel).lines)
        assert all(binding.tooltip and binding.tooltip in shown for binding in bindings)
        await pilot.press("left", "space")
        assert replay.transport.position == 30, "keys are those of the screen on top"


async def test_both_keys_for_help_show_that_of_the_view() -> None:
    replay = Replay()
    async with replay.app.run_test(size=(120, 60)) as pilot:
        await replay.settled(pilot)
        for key in ("question_mark", "f1"):
            await pilot.press(key)
            assert isinstance(replay.app.screen, HelpScreen)
            assert "Help: Overview" in str(replay.app.screen.query_one("#help").border_title)
            await pilot.press("escape")


async def test_arrows_in_a_text_field_do_not_seek() -> None:
    replay = Replay()
    async with replay.app.run_test(size=(80, 24)) as pilot:
        await replay.settled(pilot)
        field = Input()
        await replay.app.screen.mount(field)
        field.focus()
        await pilot.press("a", "left", "b", "comma", "space", "0", "9", "minus")
        assert field.value == "b, 09-a"
        assert replay.transport.position == 30


# --- as people see it ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("state", ["running", "completed", "taken_up"])
def test_a_replay_looks_as_approved(state: str, size: tuple[int, int], tmp_path: Path, snap_compare: Any) -> None:
    script = {"running": scripted.running, "completed": scripted.completed, "taken_up": taken_up_hours_later}[state]()
    position = {"running": 15.0, "completed": 1e9, "taken_up": 30.0}[state]
    replay = replay_of(script, tmp_path, position)
    assert snap_compare(replay.app, terminal_size=size, run_before=replay.settled)


@pytest.mark.parametrize("size", [(59, 40), (120, 17)])
async def test_a_terminal_that_is_too_small_shows_one_line_that_says_so(size: tuple[int, int]) -> None:
    replay = Replay()
    async with replay.app.run_test(size=size) as pilot:
        await replay.settled(pilot)
        assert whole_screen(replay.app).split() == ["rankdeck", "needs", "a", "terminal", "of", "at", "least", "60x18"]
