"""The tour and the invitation on the dashboard: T begins one, a knob takes over, looking around does not."""

import pytest
from textual.pilot import Pilot

from rankdeck.runner import protocol
from rankdeck.runner.protocol import Pause, SetActiveRanks, SetBatchSize
from rankdeck.tui.app.app import RankdeckApp
from rankdeck.tui.settings.preferences import Preferences
from rankdeck.tui.widgets.lines import Lines
from rankdeck.tui.words.text import plain
from tests import scripted_steering, scripted_sweep
from tests.dashboards import settled, until
from tests.scripted import Script
from tests.scripted_source import ScriptedSource
from tests.scripted_steering import SteeredScript

BEGUN = [SetActiveRanks(active_ranks=1)]
BACK = SetActiveRanks(active_ranks=2)


class Deck:
    """A dashboard of a script that may go on."""

    def __init__(self, script: Script, **how: object) -> None:
        self.script = script
        self.source = ScriptedSource(script.events)
        self.app = RankdeckApp(self.source, **how)  # type: ignore[arg-type]
        self._said = len(script.events)

    async def tell(self, pilot: Pilot[object]) -> None:
        """What the script has written meanwhile."""
        self.source.say(*self.script.events[self._said :])
        self._said = len(self.script.events)
        await settled(pilot)

    @property
    def line(self) -> str:
        return plain(self.app.query_one("#advice", Lines).lines)

    async def says(self, pilot: Pilot[object], words: str) -> None:
        await until(pilot, lambda: words in self.line)

    def toasts(self) -> list[str]:
        return [toast.message for toast in self.app._notifications]


def small(**how: object) -> tuple[Deck, SteeredScript]:
    script = SteeredScript(batch_size=2, prompts=400).begun().rounds(1)
    return Deck(script, **how), script


@pytest.mark.parametrize("size", [(60, 18), (80, 24), (120, 40)])
async def test_t_begins_a_tour_which_captions_each_step_in_every_view(size: tuple[int, int]) -> None:
    deck, script = small()
    async with deck.app.run_test(size=size) as pilot:
        await settled(pilot)
        await pilot.press("T")
        await deck.says(pilot, "tour  1 of 2 ranks at batch size 2")
        assert deck.source.sent == BEGUN
        for view in "2345":
            await pilot.press(view, "j")
            await deck.says(pilot, "1 of 2 ranks at batch size 2")
        await pilot.press("question_mark", "escape", "1")
        script.activate(1).rounds(3)
        await deck.tell(pilot)
        await deck.says(pilot, "2 of 2 ranks at batch size 2")
        script.activate(2).rounds(3)
        await deck.tell(pilot)
        await deck.says(pilot, "2 of 2 ranks at batch size 4")
        assert deck.source.sent == [*BEGUN, SetActiveRanks(active_ranks=2), SetBatchSize(batch_size=4)]


@pytest.mark.parametrize(
    ("key", "sent"),
    [
        ("+", [BACK, SetBatchSize(batch_size=4)]),
        ("space", [BACK, Pause()]),
        ("]", [SetActiveRanks(active_ranks=2)]),
        ("x", [protocol.Stop()]),
    ],
)
async def test_a_key_that_steers_takes_over_at_once(key: str, sent: list[protocol.Command]) -> None:
    deck, script = small()
    async with deck.app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("T")
        script.activate(1).rounds(1, finish=False)
        await deck.tell(pilot)
        await pilot.press(key)
        back = ", with 2 ranks active again" if BACK in sent and key != "]" else ""
        await deck.says(pilot, f"the tour ends here{back}: you have the knobs")
        assert deck.source.sent == [*BEGUN, *sent]
        script.rounds(4)
        await deck.tell(pilot)
        assert deck.source.sent == [*BEGUN, *sent], "it asks for nothing more"
        await until(pilot, lambda: "tour" not in deck.line or "runs the tour" in deck.line)


async def test_its_result_stays_until_the_user_turns_a_knob() -> None:
    script = SteeredScript(1, batch_size=2, prompts=16).begun().rounds(3)
    deck = Deck(script)
    async with deck.app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("T")
        script.rounds(1)
        await deck.tell(pilot)
        script.size(4).rounds(1, finish=False)
        await deck.tell(pilot)
        script.idle(0)
        script.rounds(1)
        await deck.tell(pilot)
        await deck.says(pilot, "best so far: batch size")
        await pilot.press("space")
        await until(pilot, lambda: "best so far" not in deck.line)


async def test_a_knob_that_is_at_its_end_takes_over_as_well() -> None:
    for key, size, sent in (("minus", 1, [BACK]), ("]", 2, [])):
        script = SteeredScript(batch_size=size, prompts=400).begun().rounds(1)
        deck = Deck(script)
        async with deck.app.run_test(size=(80, 24)) as pilot:
            await settled(pilot)
            await pilot.press("T")
            script.activate(1).rounds(1, finish=False)
            if key == "]":
                script.rounds(3).activate(2).rounds(1, finish=False)
            await deck.tell(pilot)
            before = BEGUN if key == "minus" else [*BEGUN, BACK]
            assert deck.source.sent == before
            await pilot.press(key)
            await deck.says(pilot, "the tour ends here")
            assert deck.source.sent == [*before, *sent]


async def test_t_ends_it_at_the_best_setting_so_far_or_where_it_began() -> None:
    for measured in (False, True):
        deck, script = small()
        async with deck.app.run_test(size=(80, 24)) as pilot:
            await settled(pilot)
            await pilot.press("T")
            script.activate(1).rounds(1, finish=False)
            if measured:
                script.rounds(3).activate(2).rounds(3)
            await deck.tell(pilot)
            if measured:
                script.size(4).rounds(1, finish=False)
                await deck.tell(pilot)
            before = list(deck.source.sent)
            await pilot.press("T")
            await deck.says(pilot, "the tour ends here, at batch size 2 x 2 ranks")
            assert deck.source.sent == [*before, SetBatchSize(batch_size=2) if measured else BACK]


@pytest.mark.parametrize("way", ["detach", "signal"])
async def test_who_leaves_in_the_middle_leaves_the_run_with_all_its_ranks(way: str) -> None:
    deck, script = small()
    async with deck.app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("T")
        script.activate(1).rounds(1, finish=False)
        await deck.tell(pilot)
        if way == "detach":
            await pilot.press("d")
        else:
            assert deck.app.leave_soon()
        await until(pilot, lambda: deck.source.sent == [*BEGUN, BACK])
    assert deck.app.return_value == "detached"


async def test_none_begins_while_a_turn_of_a_knob_is_on_its_way() -> None:
    deck, script = small()
    async with deck.app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("+", "T")
        await until(pilot, lambda: any("has not reached the run yet" in said for said in deck.toasts()))
        assert deck.source.sent == [SetBatchSize(batch_size=4)]
        script.size(4).rounds(1, finish=False)
        await deck.tell(pilot)
        await pilot.press("T")
        await deck.says(pilot, "1 of 2 ranks at batch size 4")


async def test_a_tour_may_begin_by_itself_once_the_ranks_are_ready() -> None:
    script = SteeredScript(batch_size=2).started()
    deck = Deck(script, tour=True)
    async with deck.app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        assert deck.source.sent == []
        script.launched().loading().ready()
        script.size(2).rounds(1, finish=False)
        await deck.tell(pilot)
        await deck.says(pilot, "tour  1 of 2 ranks")
        assert deck.source.sent == BEGUN


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (scripted_sweep.running, "a sweep is running"),
        (scripted_steering.auto_trying, "the search for the best batch size is running"),
        (scripted_steering.paused, "the run is paused"),
        (
            lambda: SteeredScript(batch_size=8, prompts=16).begun().rounds(1, finish=False),
            "every prompt is answered",
        ),
    ],
)
async def test_where_none_can_begin_it_says_why(script, why: str) -> None:  # type: ignore[no-untyped-def]
    deck = Deck(script())
    async with deck.app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("T")
        await until(pilot, lambda: any(why in said for said in deck.toasts()))
        assert deck.source.sent == []


async def test_an_audience_has_no_tour_and_is_not_invited() -> None:
    deck, _ = small(steerable=False)
    async with deck.app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("T")
        assert (deck.source.sent, "doubles" in deck.line) == ([], False)


async def test_a_small_batch_invites_with_the_users_keys_until_the_first_turn() -> None:
    deck, script = small(preferences=Preferences(keys={"knob.larger_batches": "f6", "run.tour": "f7"}))
    async with deck.app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        assert "f6 doubles the batch size" in deck.line
        assert "f7 runs the tour" in deck.line
        await pilot.press("f6")
        script.size(4)
        await deck.tell(pilot)
        assert deck.source.sent == [SetBatchSize(batch_size=4)]
        await until(pilot, lambda: "doubles the batch size" not in deck.line)


async def test_the_tour_is_in_the_palette_and_in_the_help() -> None:
    deck, _ = small()
    async with deck.app.run_test(size=(120, 60)) as pilot:
        await settled(pilot)
        assert "Tour" in {command.title for command in deck.app.get_system_commands(deck.app.screen)}
        await pilot.press("question_mark")
        assert "any knob ends it" in " ".join(plain(deck.app.screen.query_one(".-help, Panel").lines).split())
