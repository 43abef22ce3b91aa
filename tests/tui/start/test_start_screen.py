"""The start screen: settings are checked as they are typed, runs are launched, and earlier ones opened again."""

import shutil
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from textual.events import Key
from textual.pilot import Pilot
from textual.widgets import Button, Input, Label

from rankdeck.runner import run_directory
from rankdeck.runner.inputs.memory_estimate import MemoryEstimate
from rankdeck.runner.machine.facts import Facts
from rankdeck.runner.protocol.config import Problem, RunConfig
from rankdeck.tui.app.app import RankdeckApp
from rankdeck.tui.screens.help import HelpScreen
from rankdeck.tui.sources.client import Source
from rankdeck.tui.sources.journal import SAMPLE
from rankdeck.tui.sources.runs import RecentRun
from rankdeck.tui.start.doctor import DoctorScreen
from rankdeck.tui.start.machine_launcher import MachineLauncher
from rankdeck.tui.start.run_list import RunList
from rankdeck.tui.start.screen import StartScreen
from rankdeck.tui.widgets.key_bar import KeyBar
from rankdeck.tui.words.text import plain
from tests.dashboards import TWO_GPUS, ScriptedLauncher, said, until, whole_screen
from tests.reports import write_run
from tests.terminal import Terminal


async def test_a_run_is_chosen_checked_and_launched_with_the_keyboard() -> None:
    launcher = ScriptedLauncher()
    app = RankdeckApp(None, launcher=launcher)
    async with app.run_test(size=(80, 24)) as pilot:
        assert isinstance(app.screen, StartScreen)
        await until(pilot, lambda: app.screen.query_one("#ranks", Input).value == "2")
        assert app.screen.query_one("#launch", Button).disabled
        await pilot.press(*"a.txt")
        await until(pilot, lambda: not app.screen.query_one("#launch", Button).disabled)
        await pilot.press("tab", "tab", *["backspace"] * 4, "8", "enter")
        await until(pilot, lambda: app.run_is_shown)
    assert launcher.launched == [RunConfig(prompts="a.txt", model="demo", ranks=2, batch_size=8, max_new_tokens=100)]
    assert threading.get_ident() not in launcher.threads


async def test_each_mistake_is_shown_beside_its_field_and_prevents_the_launch() -> None:
    launcher = ScriptedLauncher()
    app = RankdeckApp(None, launcher=launcher)
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press(*"a.doc", "tab", "x", "tab", "0", "enter")
        await until(pilot, lambda: "no such file" in said(app, "prompts"))
        assert "whole number" in said(app, "ranks")
        await until(pilot, lambda: "from 1 to" in said(app, "batch_size"))
        assert app.screen.query_one("#launch", Button).disabled
    assert launcher.launched == []


async def test_a_mistake_does_not_repeat_the_path_shown_above_it(tmp_path: Path) -> None:
    app = RankdeckApp(None, launcher=MachineLauncher())
    async with app.run_test(size=(80, 24)) as pilot:
        field = app.screen.query_one("#prompts", Input)
        await until(pilot, lambda: field.value != "")  # the defaults are in
        field.value = f"{tmp_path}/{'long' * 20}.txt"
        await until(pilot, lambda: "no such file" in said(app, "prompts"))
        assert said(app, "prompts") == "✗ there is no such file"


async def test_a_failed_launch_is_explained_and_the_form_stays() -> None:
    app = RankdeckApp(None, launcher=ScriptedLauncher(OSError("no space left on device")))
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press(*"a.txt", "enter")
        await until(pilot, lambda: "no space left" in str(app.screen.query_one("#launch-said", Label).content))
        assert isinstance(app.screen, StartScreen)
        await pilot.press("escape")
    assert app.followed.final_state is None


async def test_keys_that_arrive_together_go_into_the_fields_they_were_typed_for() -> None:
    app = RankdeckApp(None, launcher=ScriptedLauncher())
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.screen.query_one("#ranks", Input).value == "2")
        for key in ("a", "tab", "7", "tab", "8", "shift+tab", "9"):
            app.post_message(Key(key, key if len(key) == 1 else None))  # as they come over a slow line
        await until(pilot, lambda: app.screen.query_one("#ranks", Input).value == "9")
        assert app.screen.query_one("#prompts", Input).value == "a"
        assert app.screen.query_one("#batch_size", Input).value == "8"


async def test_a_refused_launch_does_not_happen_later_with_the_settings_of_another_run() -> None:
    launcher = ScriptedLauncher(runs=RUNS)
    app = RankdeckApp(None, launcher=launcher)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: not app.screen.query_one("#launch", Button).disabled)
        await pilot.press(*"no.doc", "enter")
        await until(pilot, lambda: "no such file" in said(app, "prompts"))
        await pilot.press("escape", "j", "c")
        await until(pilot, lambda: app.screen.query_one("#prompts", Input).value == "done.txt")
        await until(pilot, lambda: not app.screen.query_one("#launch", Button).disabled)
        await pilot.pause(0.3)
    assert launcher.launched == []


async def test_settings_copied_before_the_check_cancel_a_requested_launch() -> None:
    launcher = ScriptedLauncher(runs=RUNS)
    app = RankdeckApp(None, launcher=launcher)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: not app.screen.query_one("#launch", Button).disabled)
        app.screen.query_one("#ranks", Input).focus()
        await pilot.pause()
        for key in ("9", "enter", "escape", "j", "c"):
            app.post_message(Key(key, key if len(key) == 1 else None))
        await until(pilot, lambda: app.screen.query_one("#prompts", Input).value == "done.txt")
        await until(pilot, lambda: not app.screen.query_one("#launch", Button).disabled)
        await pilot.pause(0.3)
    assert launcher.launched == []


async def test_attaching_to_a_run_cancels_a_launch_not_checked_yet() -> None:
    class Slow(ScriptedLauncher):
        attached = threading.Event()

        def attach(self, directory: Path) -> Source:
            self.attached.wait(10)
            return super().attach(directory)

    launcher = Slow(runs=RUNS)
    app = RankdeckApp(None, launcher=launcher)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: not app.screen.query_one("#launch", Button).disabled)
        app.screen.query_one("#ranks", Input).focus()
        await pilot.pause()
        for key in ("9", "enter", "escape", "a"):
            app.post_message(Key(key, key if len(key) == 1 else None))
        await until(pilot, lambda: "launching" in whole_screen(app))
        app.screen._launch.check()  # type: ignore[attr-defined]
        await pilot.pause(0.4)
        launcher.attached.set()
        await until(pilot, lambda: app.run_is_shown)
    assert launcher.asked == [("attach", Path("/runs/going"))]
    assert launcher.launched == []


async def test_a_launch_requested_before_the_form_is_filled_in_uses_what_is_filled_in() -> None:
    class Slow(ScriptedLauncher):
        checking, looked = threading.Event(), threading.Event()

        def recent(self) -> list[RecentRun]:
            self.looked.wait(10)
            return []

        def check(self, settings: RunConfig) -> list[Problem]:
            self.looked.set()
            self.checking.wait(10)
            return super().check(settings)

    launcher = Slow()
    app = RankdeckApp(None, launcher=launcher)
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press(*"mine.txt", "enter")
        await until(pilot, lambda: app.screen.query_one("#ranks", Input).value == "2")
        launcher.checking.set()
        await until(pilot, lambda: app.run_is_shown)
    assert launcher.launched == [RunConfig(prompts="mine.txt", ranks=2)]


# --- recent runs --------------------------------------------------------------------------------------


def recent(name: str, status: str, **changes: Any) -> RecentRun:
    values: dict[str, Any] = {
        "directory": Path("/runs") / name,
        "name": name,
        "status": status,
        "started_at": 0.0,
        "done": "40/100",
        "rate": "143 tok/s",
        "config": RunConfig(prompts=f"{name}.txt", ranks=3, batch_size=7, dtype="float32"),
        "has_figures": status not in ("running", "lost"),
    }
    return RecentRun(**{**values, **changes})


RUNS = [
    recent("going", "running"),
    recent("done", "completed"),
    recent("half", "stopped"),
    recent("orphan", "lost"),
    recent("odd", "unreadable", config=None, problem="Input data was truncated", has_figures=False),
]
KEYS = {
    "going": {"attach", "settings"},
    "done": {"replay", "report", "settings"},
    "half": {"resume", "replay", "report", "settings"},
    "orphan": {"resume", "replay", "settings"},
    "odd": set(),
}


def notices(app: RankdeckApp) -> str:
    """The notifications on the screen."""
    return "\n".join(notice.message for notice in app._notifications)


def list_of(app: RankdeckApp) -> RunList:
    return app.screen.query_one(RunList)


def keys_shown(app: RankdeckApp) -> str:
    """The key bar."""
    return plain(app.screen.query_one(KeyBar).lines)


async def to_run(pilot: Pilot[Any], name: str) -> None:
    """Leave the form for the list, and go to a run."""
    app = pilot.app
    assert isinstance(app, RankdeckApp)
    await until(pilot, lambda: list_of(app).run is not None)
    await pilot.press("escape", "home", *["j"] * [run.name for run in RUNS].index(name))
    await until(pilot, lambda: list_of(app).run == RUNS[[run.name for run in RUNS].index(name)])


@pytest.mark.parametrize("name", KEYS)
async def test_each_run_offers_only_the_keys_that_make_sense_for_it(name: str) -> None:
    app = RankdeckApp(None, launcher=ScriptedLauncher(runs=RUNS))
    async with app.run_test(size=(120, 40)) as pilot:
        await to_run(pilot, name)
        shown = {active.binding.id for active in app.screen.active_bindings.values() if active.enabled}
        actions = {"attach", "resume", "replay", "report", "settings"}
        assert {action for action in actions if f"runs.{action}" in shown} == KEYS[name]


@pytest.mark.parametrize(
    ("key", "name", "action"), [("a", "going", "attach"), ("enter", "going", "attach"), ("u", "half", "resume")]
)
async def test_attaching_and_resuming_show_the_run(key: str, name: str, action: str) -> None:
    launcher = ScriptedLauncher(runs=RUNS)
    app = RankdeckApp(None, launcher=launcher)
    async with app.run_test(size=(80, 24)) as pilot:
        await to_run(pilot, name)
        await pilot.press(key)
        await until(pilot, lambda: app.run_is_shown)
    assert launcher.asked == [(action, Path("/runs") / name)]
    assert launcher.launched == []
    assert threading.get_ident() not in launcher.threads


@pytest.mark.parametrize("key", ["p", "enter"])
async def test_a_replay_ends_the_application_with_the_journal_to_show(key: str) -> None:
    launcher = ScriptedLauncher(runs=RUNS)
    app = RankdeckApp(None, launcher=launcher)
    async with app.run_test(size=(80, 24)) as pilot:
        await to_run(pilot, "done")
        await pilot.press(key)
        await until(pilot, lambda: app.wanted is not None)
        assert app.wanted is not None
        assert app.wanted_at == (app.wanted.length if key == "enter" else 0), "enter shows its end"
    assert launcher.asked == [("journal", Path("/runs/done"))]
    assert not app.followed.directory


async def test_a_report_is_written_and_its_path_is_shown() -> None:
    launcher = ScriptedLauncher(runs=RUNS)
    app = RankdeckApp(None, launcher=launcher)
    async with app.run_test(size=(120, 40)) as pilot:
        await to_run(pilot, "half")
        await pilot.press("r")
        await until(pilot, lambda: "/runs/half/report.html" in notices(app))
    assert launcher.asked == [("report", Path("/runs/half"))]


async def test_the_settings_of_a_run_are_copied_into_the_form() -> None:
    runs = [RUNS[0], recent("done", "completed", config=RunConfig(prompts="other.txt", ranks=5, chat=True))]
    launcher = ScriptedLauncher(runs=runs)
    app = RankdeckApp(None, launcher=launcher)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.screen.query_one("#ranks", Input).value == "3")
        assert app.screen.query_one("#prompts", Input).value == "going.txt", "the newest run's settings come first"
        await pilot.press("escape", "j", "c")
        await until(pilot, lambda: app.screen.query_one("#ranks", Input).value == "5")
        await until(pilot, lambda: not app.screen.query_one("#launch", Button).disabled)
        await pilot.press("enter")
        await until(pilot, lambda: app.run_is_shown)
    assert launcher.launched == [RunConfig(prompts="other.txt", ranks=5, chat=True)]


@pytest.mark.parametrize(("key", "name"), [("a", "going"), ("u", "half"), ("p", "done"), ("r", "done")])
async def test_an_action_that_fails_is_explained_and_the_screen_stays(key: str, name: str) -> None:
    launcher = ScriptedLauncher(OSError("\x1b[31mgone"), runs=RUNS)
    app = RankdeckApp(None, launcher=launcher)
    async with app.run_test(size=(120, 40)) as pilot:
        await to_run(pilot, name)
        await pilot.press(key)
        await until(pilot, lambda: "␛[31mgone" in whole_screen(app) + notices(app))
        assert isinstance(app.screen, StartScreen)


async def test_typed_settings_are_not_overwritten_by_those_found_later() -> None:
    class Slow(ScriptedLauncher):
        asked_for = threading.Event()

        def recent(self) -> list[RecentRun]:
            self.asked_for.wait(10)
            return list(RUNS)

    launcher = Slow()
    app = RankdeckApp(None, launcher=launcher)
    async with app.run_test(size=(80, 24)) as pilot:
        assert "A new run" in whole_screen(app), "the screen is there before anything is known"
        assert "looking for runs" in whole_screen(app)
        await pilot.press(*"mine.txt")
        launcher.asked_for.set()
        await until(pilot, lambda: app.screen.query_one("#ranks", Input).value == "3")
        assert app.screen.query_one("#prompts", Input).value == "mine.txt"


async def test_copied_settings_are_not_overwritten_by_those_found_later() -> None:
    class Slow(ScriptedLauncher):
        begun, counted = threading.Event(), threading.Event()

        def settings(self, run: RecentRun) -> RunConfig:
            if run.name == "going":
                self.begun.set()
                self.counted.wait(10)
            return super().settings(run)

    launcher = Slow(runs=RUNS)
    app = RankdeckApp(None, launcher=launcher)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, launcher.begun.is_set)
        await pilot.press("escape", "j", "c")
        await until(pilot, lambda: "from done" in whole_screen(app))
        launcher.counted.set()
        await until(pilot, lambda: "GiB per rank" in whole_screen(app))
        await pilot.pause(0.3)
        assert app.screen.query_one("#prompts", Input).value == "done.txt"
        assert "from done" in whole_screen(app)


async def test_the_cursor_stays_on_its_run_when_the_list_is_updated() -> None:
    launcher = ScriptedLauncher(runs=RUNS)
    app = RankdeckApp(None, launcher=launcher)
    async with app.run_test(size=(80, 24)) as pilot:
        await to_run(pilot, "half")
        assert isinstance(app.screen, StartScreen)
        beats = {timer._interval: timer._callback.__name__ for timer in app.screen._timers if timer._callback}  # type: ignore[union-attr]
        assert beats[3.0] == "_look_again"
        assert beats[15.0] == "_look_at_the_machine_again"
        launcher.runs.insert(0, recent("newer", "running"))
        app.screen._look_again()
        await until(pilot, lambda: "newer" in whole_screen(app))
        assert list_of(app).run == RUNS[2]


@pytest.mark.parametrize("runs", [RUNS, []], ids=["runs", "no_runs"])
async def test_escape_goes_from_the_form_to_the_list_and_only_there_q_quits(
    runs: list[RecentRun],
) -> None:
    app = RankdeckApp(None, launcher=ScriptedLauncher(runs=runs))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: not app.screen.query_one("#launch", Button).disabled)
        assert app.focused is app.screen.query_one("#prompts")
        await until(pilot, lambda: "esc Leave form" in keys_shown(app))
        assert "Quit" not in keys_shown(app), "in a field q is a letter"
        await pilot.press("escape")
        assert app.focused is list_of(app)
        await pilot.press("escape", "escape")
        assert app.is_running
        await until(pilot, lambda: keys_shown(app).startswith("q Quit"))
        await pilot.press("n")
        assert app.focused is app.screen.query_one("#prompts")
        for key in ("escape", "q"):
            app.post_message(Key(key, key if len(key) == 1 else None))  # in one piece, as over a slow line
        await until(pilot, lambda: not app.is_running)


@pytest.mark.parametrize("size", [(60, 18), (80, 24), (120, 40)])
async def test_in_a_field_help_is_shown_with_a_key_that_is_not_text(size: tuple[int, int]) -> None:
    app = RankdeckApp(None, launcher=ScriptedLauncher(runs=RUNS))
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: "f1 Help" in keys_shown(app))
        assert "? Help" not in keys_shown(app)
        await pilot.press("f1")
        assert isinstance(app.screen, HelpScreen)
        await pilot.press("f1")
        assert isinstance(app.screen, StartScreen)
        await pilot.press("escape")
        await until(pilot, lambda: "? Help" in keys_shown(app))
        assert "f1 Help" not in keys_shown(app)
        await pilot.press("question_mark")
        assert isinstance(app.screen, HelpScreen)


# --- the form -----------------------------------------------------------------------------------------


async def test_enter_alone_launches_a_first_run() -> None:
    launcher = ScriptedLauncher()
    app = RankdeckApp(None, launcher=launcher)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: not app.screen.query_one("#launch", Button).disabled)
        assert "No runs yet" in whole_screen(app)
        await pilot.press("enter")
        await until(pilot, lambda: app.run_is_shown)
    assert launcher.launched == [launcher.first_settings()]


async def test_the_engine_is_chosen_with_the_arrows_and_enter_launches_there_too() -> None:
    launcher = ScriptedLauncher()
    app = RankdeckApp(None, launcher=launcher)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: not app.screen.query_one("#launch", Button).disabled)
        app.screen.query_one("#engine").focus()
        await pilot.press("right", "space", "left", "enter")
        await until(pilot, lambda: app.run_is_shown)
    assert launcher.launched[0].engine == "static"


async def test_further_settings_can_be_shown_and_are_used() -> None:
    launcher = ScriptedLauncher()
    app = RankdeckApp(None, launcher=launcher)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: not app.screen.query_one("#launch", Button).disabled)
        assert not app.screen.query_one("#more").display
        await pilot.press("f3")
        await until(pilot, lambda: app.focused is app.screen.query_one("#device"))
        await pilot.press("right", "tab", "right")
        app.screen.query_one("#limit", Input).focus()
        await pilot.press("5", "enter")
        await until(pilot, lambda: app.run_is_shown)
    (config,) = launcher.launched
    assert (config.device, config.dtype, config.limit) == ("cuda", "float32", 5)


async def test_changed_settings_out_of_sight_are_named_on_the_border() -> None:
    odd = RunConfig(prompts="p.txt", model="[b]bold[b]", limit=4, column="[red]x[/]")
    runs = [recent("done", "completed", config=odd)]
    app = RankdeckApp(None, launcher=ScriptedLauncher(runs=runs))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "also: limit 4, column [red]x[/]" in whole_screen(app))
        assert "[b]bold[b], 1 rank ─" in whole_screen(app), "names are data"
        await pilot.press("f3")
        await until(pilot, lambda: "also:" not in whole_screen(app))


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ((60, 18), "A new run, from [b]old: limit 4, fixed le…; f5: defaults"),
        ((80, 24), "from [b]old: limit 4, fixed length yes;"),
        ((120, 40), "from [b]old: limit 4, fixed length yes; f5 puts back"),
    ],
)
async def test_settings_taken_over_are_named_and_a_key_puts_the_defaults_back(
    size: tuple[int, int], words: str
) -> None:
    before = RunConfig(prompts="stories.txt", ranks=2, limit=4, ignore_eos=True)
    launcher = ScriptedLauncher(runs=[recent("[b]old", "completed", config=before)])
    app = RankdeckApp(None, launcher=launcher)
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: words in whole_screen(app))
        await pilot.press(*"mine.txt", "f5")
        await until(pilot, lambda: "from [b]old" not in whole_screen(app))
        assert not any(key.binding.id == "start.defaults" for key in app.screen.active_bindings.values())
        await pilot.press("enter")
        await until(pilot, lambda: app.run_is_shown)
    assert launcher.launched == [RunConfig(prompts="mine.txt", ranks=2)], "what was typed stays"


async def test_a_setting_changed_by_hand_no_longer_counts_as_taken_over() -> None:
    before = RunConfig(prompts="stories.txt", ranks=2, limit=4, ignore_eos=True)
    app = RankdeckApp(None, launcher=ScriptedLauncher(runs=[recent("old", "completed", config=before)]))
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: "from old: limit 4, fixed length yes; " in whole_screen(app))
        app.screen.query_one("#limit", Input).focus()
        await pilot.press("5")
        await until(pilot, lambda: "from old: fixed length yes; " in whole_screen(app))


async def test_a_mistake_in_a_setting_out_of_sight_is_shown_beside_launch() -> None:
    app = RankdeckApp(None, launcher=ScriptedLauncher())
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: not app.screen.query_one("#launch", Button).disabled)
        await pilot.press("f3")
        app.screen.query_one("#top_p", Input).focus()
        await pilot.press("7")
        await until(pilot, lambda: "✗ " in said(app, "top_p"))
        await pilot.press("f3")
        app.screen.query_one("#ranks", Input).focus()
        await pilot.press("2")
        await until(pilot, lambda: "top-p: " in str(app.screen.query_one("#launch-said", Label).content))


async def test_a_large_terminal_shows_the_further_settings_from_the_beginning() -> None:
    app = RankdeckApp(None, launcher=ScriptedLauncher())
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: not app.screen.query_one("#launch", Button).disabled)
        assert app.screen.query_one("#more").display
        assert app.screen.query_one("#new-run").max_scroll_y == 0


@pytest.mark.parametrize("size", [(60, 18), (80, 24), (120, 40), (200, 60)])
async def test_model_prompts_memory_and_launch_are_visible_at_every_size(size: tuple[int, int]) -> None:
    app = RankdeckApp(None, launcher=ScriptedLauncher(runs=RUNS))
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: "GiB per rank" in whole_screen(app))
        screen = whole_screen(app)
        for words in ("Model", "Prompt file", "Batch size", "GiB free", "Launch ", "going", "● running"):
            assert words in screen


# --- memory -------------------------------------------------------------------------------------------


async def test_memory_is_estimated_again_when_a_setting_changes() -> None:
    app = RankdeckApp(None, launcher=ScriptedLauncher())
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: "1 rank on each of 2 GPUs" in whole_screen(app))
        app.screen.query_one("#ranks", Input).focus()
        await pilot.press("4")
        await until(pilot, lambda: "2 ranks on each of 2 GPUs" in whole_screen(app))


async def test_a_batch_size_that_does_not_fit_is_marked_with_the_largest_that_does() -> None:
    launcher = ScriptedLauncher()
    app = RankdeckApp(None, launcher=launcher)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: "GiB per rank" in whole_screen(app))
        app.screen.query_one("#batch_size", Input).focus()
        await pilot.press(*"60000")
        await until(pilot, lambda: "60000 would not fit" in said(app, "batch_size"))
        assert not app.screen.query_one("#launch", Button).disabled, "an estimate forbids nothing"
        largest = said(app, "batch_size").split("fit: ")[1].split()[0]
        await pilot.press(*["backspace"] * 5, *largest)
        await until(pilot, lambda: "fit" not in said(app, "batch_size"))


async def test_the_memory_of_a_model_not_fetched_yet_is_unknown() -> None:
    app = RankdeckApp(None, launcher=ScriptedLauncher(shape="unknown until the model is fetched"))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "unknown until the model is fetched" in whole_screen(app))


# --- the doctor ---------------------------------------------------------------------------------------


async def test_a_key_opens_the_doctor_which_can_look_again() -> None:
    facts = Facts(machine=TWO_GPUS, packages={"torch": "1.0"})
    app = RankdeckApp(None, launcher=ScriptedLauncher(facts=facts))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: not app.screen.query_one("#launch", Button).disabled)
        await pilot.press("f2")
        await until(pilot, lambda: isinstance(app.screen, DoctorScreen) and "would not work" in app.screen.words)
        assert isinstance(app.screen, DoctorScreen)
        assert "pip install 'torch>=2.8'" in app.screen.words
        box = app.screen.query_one("#doctor")
        await pilot.press("j", "j", "k")
        await until(pilot, lambda: box.scroll_y == 1)
        await pilot.press("r")
        await until(pilot, lambda: isinstance(app.screen, DoctorScreen) and "would not work" in app.screen.words)
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, StartScreen))


async def test_in_the_list_a_letter_opens_the_doctor() -> None:
    app = RankdeckApp(None, launcher=ScriptedLauncher(runs=RUNS))
    async with app.run_test(size=(80, 24)) as pilot:
        await to_run(pilot, "going")
        await pilot.press("D")
        await until(pilot, lambda: isinstance(app.screen, DoctorScreen))


# --- for real -----------------------------------------------------------------------------------------


def test_a_run_whose_file_of_prompts_is_gone_is_repeated_with_its_own_copy(tmp_path: Path) -> None:
    launcher = MachineLauncher()
    directory = tmp_path / "run"
    directory.mkdir()
    gone = recent("x", "completed", directory=directory, config=RunConfig(prompts="/nowhere/p.csv", column="c"))
    assert launcher.settings(gone).prompts == "/nowhere/p.csv", "there is no copy either"
    (directory / "prompts.jsonl").write_text('{"prompt": "a"}\n')
    again = launcher.settings(gone)
    assert (again.prompts, again.column) == (str(directory / "prompts.jsonl"), None)


def test_the_defaults_need_no_change() -> None:
    launcher = MachineLauncher()
    settings = launcher.first_settings()
    assert launcher.check(settings) == []
    found = launcher.estimate(settings, launcher.machine())
    assert isinstance(found, MemoryEstimate)
    assert found.batch_size == 50


def test_a_report_is_written_into_the_run_directory() -> None:
    run_directory.runs_directory().mkdir(parents=True)
    write_run(run_directory.runs_directory() / "done")
    launcher = MachineLauncher()
    (run,) = launcher.recent()
    assert launcher.report(run.directory).read_bytes().startswith(b"<!doctype html")


@pytest.mark.slow
def test_a_replay_leads_back_to_the_start_screen_in_a_real_terminal() -> None:
    directory = run_directory.runs_directory() / "done"
    directory.parent.mkdir(parents=True)
    write_run(directory)
    shutil.copy(SAMPLE, directory / run_directory.EVENTS_FILE)
    with Terminal([str(Path(sys.executable).with_name("rankdeck"))], columns=80, rows=24) as terminal:
        terminal.wait_for("✓ completed", seconds=20)
        terminal.send("\x1b")
        terminal.wait_for("p Replay")
        terminal.send("p")
        terminal.wait_for("Throughput")
        terminal.send("q")
        terminal.wait_for("Recent runs", "q Quit")  # the list has the focus again
        terminal.send("q")
        assert terminal.wait() == 0
