"""A sweep from the start screen: planned in a dialog, checked, and launched as `rankdeck sweep` launches it."""

import sys
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
from textual.events import Key
from textual.pilot import Pilot
from textual.widgets import Button, Input, Label

from rankdeck.runner import run_directory, start
from rankdeck.runner.forecast.cost_model import fit
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.protocol.sweep_plan import SweepPlan
from rankdeck.runner.start import InputError
from rankdeck.runner.sweep.verdict import summarise_sweep
from rankdeck.tui.app.app import RankdeckApp
from rankdeck.tui.panels.forms.sweep_form import (
    KEPT,
    as_sweep,
    first_values,
    new_sweep,
    promise,
    read_plan,
    without_sweep,
)
from rankdeck.tui.screens.help import HelpScreen
from rankdeck.tui.screens.run import RunScreen
from rankdeck.tui.screens.sweep import SweepScreen
from rankdeck.tui.sources.runs import Setting
from rankdeck.tui.start.machine_launcher import MachineLauncher
from rankdeck.tui.start.screen import StartScreen
from rankdeck.tui.widgets.key_bar import KeyBar
from rankdeck.tui.widgets.lines import Panel
from rankdeck.tui.words.text import plain
from tests import scripted_sweep
from tests.dashboards import SIZES, ScriptedLauncher, said, until, whole_screen
from tests.reports import write_run
from tests.runner.forecast.test_cost_model import point
from tests.terminal import Terminal
from tests.tui.commands.test_cli import rankdeck


def sweep_said(app: RankdeckApp, name: str) -> str:
    return str(app.screen.query_one(f"#sweep-{name}", Label).content)


async def ready(pilot: Pilot[Any]) -> None:
    """Wait until the form is filled in and found to be right."""
    await until(pilot, lambda: not pilot.app.screen.query_one("#launch", Button).disabled)


async def open_dialog(pilot: Pilot[Any]) -> None:
    await ready(pilot)
    await pilot.press("f4")
    await until(pilot, lambda: isinstance(pilot.app.screen, SweepScreen))
    await pilot.pause()


async def test_the_dialog_asks_for_sizes_ranks_and_repeats_and_launches_the_sweep() -> None:
    launcher = ScriptedLauncher()
    app = RankdeckApp(None, launcher=launcher)
    async with app.run_test(size=(80, 24)) as pilot:
        await open_dialog(pilot)
        assert sweep_said(app, "promise").startswith("6 trials: 3 batch sizes x 2 numbers of ranks x 1 repeat")
        assert "again and again, at fixed length" in sweep_said(app, "happens")
        await pilot.press("ctrl+u", *"4,8", "tab", *"1-3", "tab", "2", "enter")
        await until(pilot, lambda: app.run_is_shown)
    plan = SweepPlan(batch_sizes=[4, 8], ranks=[1, 2, 3], repeats=2, trial_tokens=32)
    assert launcher.launched == [RunConfig(prompts="stories.txt", ranks=3, ignore_eos=True, sweep=plan)]


def test_the_start_screen_launches_the_same_sweep_as_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[RunConfig] = []

    def launch(config: RunConfig, **_: object) -> None:
        asked.append(config)
        raise InputError(["enough is known"])

    monkeypatch.setattr(start, "launch", launch)
    rankdeck("sweep", "p.txt", "--batch-sizes", "2,4", "--ranks", "1-2", "--limit", "9")
    rankdeck("sweep", "p.txt", "--batch-sizes", "2,4", "--ranks", "1-2", "--limit", "9", "--outputs")
    form = RunConfig(prompts="p.txt", ranks=7, batch_size=16, dispatch="split", limit=9)
    assert len(asked) == 2
    for config in asked:
        assert config.sweep is not None
        assert as_sweep(form, config.sweep) == config


def test_a_single_repeat_is_one_round_and_more_are_as_with_the_command() -> None:
    work = new_sweep(RunConfig(prompts="p.txt", ranks=2), 100)
    for repeats, rounds in (("1", 1), ("3", 2)):
        plan, problems = read_plan({**first_values(work), "repeats": repeats}, work)
        assert problems == []
        assert plan is not None
        assert (plan.repeats, plan.least_rounds) == (int(repeats), rounds)


def test_only_trials_cut_answers_short_and_not_the_run_afterwards() -> None:
    work = new_sweep(RunConfig(prompts="p.txt", ranks=2, max_new_tokens=100), 100)
    values = first_values(work)
    plan, _ = read_plan(values, work)
    assert plan is not None
    assert plan.trial_tokens == 32
    sweep = as_sweep(work.config, plan)
    assert (sweep.new_tokens, sweep.max_new_tokens) == (32, 100)
    again = without_sweep(sweep, Setting(2, 8))
    assert (again.new_tokens, again.batch_size) == (100, 8)
    whole, _ = read_plan({**values, "trial_tokens": "100"}, work)
    assert whole is not None
    assert whole.trial_tokens is None
    _, problems = read_plan({**values, "trial_tokens": "101"}, work)
    assert [(problem.setting, problem.message) for problem in problems] == [
        ("trial_tokens", "must be numbers from 1 to 100, not 101")
    ]
    kept, problems = read_plan({**values, "trial_tokens": "", "answers": KEPT, "batch_sizes": "2"}, work)
    assert problems == []
    assert kept is not None
    assert kept.trial_tokens is None


async def test_too_few_prompts_for_kept_answers_are_refused_before_anything_starts() -> None:
    launcher = ScriptedLauncher()
    app = RankdeckApp(None, launcher=launcher)
    async with app.run_test(size=(80, 24)) as pilot:
        await open_dialog(pilot)
        app.screen.query_one("#sweep-answers").focus()
        await pilot.press("right")
        await until(pilot, lambda: sweep_said(app, "answers-said").startswith("✗"))
        assert sweep_said(app, "answers-said") == "✗ that needs 195 prompts at least, and there are 100"
        await pilot.press("enter")
        assert isinstance(app.screen, SweepScreen)
        app.screen.query_one("#sweep-batch_sizes", Input).value = "4,8"
        await until(pilot, lambda: "✗" not in sweep_said(app, "answers-said"))
        assert "Each prompt is used once" in sweep_said(app, "happens")
        await pilot.press("enter")
        await until(pilot, lambda: app.run_is_shown)
    (config,) = launcher.launched
    assert config.sweep is not None
    assert (config.sweep.outputs, config.ignore_eos) == (True, False)


def test_the_time_is_estimated_only_if_earlier_runs_measured_all_settings() -> None:
    config = RunConfig(prompts="p.txt", ranks=2, max_new_tokens=50)
    measured = [point(rows, ranks=ranks) for rows in (3, 12, 50) for ranks in (1, 2)]
    for known, words in (
        (None, "6 trials: 3 batch sizes x 2 numbers of ranks x 1 repeat; at least 00:12."),
        (measured[:2], "6 trials: 3 batch sizes x 2 numbers of ranks x 1 repeat; at least 00:12."),
        (measured, "6 trials: 3 batch sizes x 2 numbers of ranks x 1 repeat; about 00:"),
    ):
        work = new_sweep(config, 100, fit(known) if known is not None else None)
        plan, _ = read_plan(first_values(work), work)
        assert plan is not None
        assert promise(plan, work).startswith(words)


def test_proposed_batch_sizes_go_up_to_what_the_prompts_fill_in_one_round() -> None:
    proposed = {
        (prompts, ranks): first_values(new_sweep(RunConfig(prompts="p.txt", ranks=ranks), prompts))["batch_sizes"]
        for prompts, ranks in ((None, 2), (100, 2), (100, 8), (1, 2), (100_000, 8))
    }
    assert proposed == {
        (None, 2): "2,8,32,128",
        (100, 2): "3,12,50",
        (100, 8): "1,3,12",
        (1, 2): "1",
        (100_000, 8): "2,8,32,128",
    }


async def test_batch_sizes_beyond_the_prompts_are_allowed_with_a_warning() -> None:
    app = RankdeckApp(None, launcher=ScriptedLauncher())
    async with app.run_test(size=(120, 40)) as pilot:
        await ready(pilot)
        app.screen.query_one("#limit", Input).focus()
        await pilot.press("9")
        await open_dialog(pilot)
        assert app.screen.query_one("#sweep-batch_sizes", Input).value == "1,4"
        app.screen.query_one("#sweep-batch_sizes", Input).value = "16"
        await until(pilot, lambda: "largest round takes 32 prompts: of 9 some come twice" in sweep_said(app, "promise"))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("key", ["f4", "enter"])
async def test_a_form_with_mistakes_names_the_first_one_and_moves_the_focus_there(
    key: str, size: tuple[int, int]
) -> None:
    launcher = ScriptedLauncher()
    app = RankdeckApp(None, launcher=launcher)
    async with app.run_test(size=size) as pilot:
        await ready(pilot)
        app.screen.query_one("#prompts", Input).value = "no.doc"
        app.screen.query_one("#ranks", Input).value = "many"
        app.screen.query_one("#engine").focus()
        await pilot.press(key)
        await until(pilot, lambda: "✗ mend this first: Prompt file: there is no such file" in whole_screen(app))
        assert app.focused is app.screen.query_one("#prompts")
        await pilot.press(*"a.txt", key)
        await until(pilot, lambda: "✗ mend this first: Ranks: must be a whole number, not" in whole_screen(app))
        assert app.focused is app.screen.query_one("#ranks")
        await pilot.press("2")
        await until(pilot, lambda: "mend this first" not in whole_screen(app))
        assert isinstance(app.screen, StartScreen)
    assert launcher.launched == []


async def test_a_mistake_in_a_setting_out_of_sight_brings_it_into_view() -> None:
    app = RankdeckApp(None, launcher=ScriptedLauncher())
    async with app.run_test(size=(80, 24)) as pilot:
        await ready(pilot)
        app.screen.query_one("#top_p", Input).value = "7"
        await pilot.press("f4")
        await until(pilot, lambda: "mend this first: top-p: has no effect without sampling" in whole_screen(app))
        assert app.focused is app.screen.query_one("#top_p")
        assert app.screen.query_one("#more").display


async def test_a_setting_typed_right_before_the_key_is_used_by_the_sweep() -> None:
    launcher = ScriptedLauncher()
    app = RankdeckApp(None, launcher=launcher)
    async with app.run_test(size=(80, 24)) as pilot:
        await ready(pilot)
        app.screen.query_one("#max_new_tokens", Input).focus()
        await pilot.pause()
        for key in ("ctrl+u", "7", "f4"):
            app.post_message(Key(key, key if len(key) == 1 else None))  # in one piece, as over a slow line
        await until(pilot, lambda: isinstance(app.screen, SweepScreen))
        await pilot.press("enter")
        await until(pilot, lambda: app.run_is_shown)
    assert launcher.launched[0].max_new_tokens == 7


async def test_after_the_dialog_memory_is_estimated_for_what_was_typed_right_before_it() -> None:
    app = RankdeckApp(None, launcher=ScriptedLauncher())
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: "GiB per rank" in whole_screen(app))
        app.screen.query_one("#batch_size", Input).focus()
        await pilot.press("ctrl+u", *"60000", "f4")
        await until(pilot, lambda: isinstance(app.screen, SweepScreen))
        await pilot.press("escape")
        await until(pilot, lambda: "60000 would not fit" in said(app, "batch_size"))


class SlowToCount(ScriptedLauncher):
    """Takes long to count the prompts."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.counted = threading.Event(), threading.Event()

    def prompts(self, settings: RunConfig) -> int | None:
        self.begun.set()
        self.counted.wait(10)
        return super().prompts(settings)


async def test_no_dialog_opens_over_a_run_launched_while_prompts_were_counted() -> None:
    launcher = SlowToCount()
    app = RankdeckApp(None, launcher=launcher)
    async with app.run_test(size=(80, 24)) as pilot:
        await ready(pilot)
        await pilot.press("f4")
        await until(pilot, launcher.begun.is_set)
        await pilot.press("enter")
        await until(pilot, lambda: app.run_is_shown)
        launcher.counted.set()
        await pilot.pause(0.3)
        assert isinstance(app.screen, RunScreen)
    assert len(launcher.launched) == 1


@pytest.mark.parametrize("keys", [["f2"], ["5"]], ids=["another screen", "another setting"])
async def test_no_dialog_opens_after_another_action_while_prompts_were_counted(keys: list[str]) -> None:
    launcher = SlowToCount()
    app = RankdeckApp(None, launcher=launcher)
    async with app.run_test(size=(80, 24)) as pilot:
        await ready(pilot)
        app.screen.query_one("#ranks", Input).focus()
        await pilot.press("f4")
        await until(pilot, launcher.begun.is_set)
        await pilot.press(*keys)
        launcher.counted.set()
        await pilot.pause(0.3)
        assert not any(isinstance(screen, SweepScreen) for screen in app.screen_stack)


async def test_a_copy_of_answers_that_are_thrown_away_is_refused() -> None:
    app = RankdeckApp(None, launcher=ScriptedLauncher())
    async with app.run_test(size=(120, 40)) as pilot:
        await ready(pilot)
        app.screen.query_one("#output", Input).value = "copy.jsonl"
        await open_dialog(pilot)
        await until(pilot, lambda: "output: there is nothing to copy" in sweep_said(app, "promise"))
        await pilot.press("escape")
        assert isinstance(app.screen, StartScreen)


async def test_a_failed_launch_of_a_sweep_is_explained_beside_launch() -> None:
    app = RankdeckApp(None, launcher=ScriptedLauncher(OSError("no space left on device")))
    async with app.run_test(size=(80, 24)) as pilot:
        await open_dialog(pilot)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, StartScreen) and "no space left" in said_of_launch(app))


def said_of_launch(app: RankdeckApp) -> str:
    return str(app.screen.query_one("#launch-said", Label).content)


@pytest.mark.parametrize("size", SIZES)
async def test_the_key_of_the_sweep_is_in_the_key_bar_the_help_and_the_palette(size: tuple[int, int]) -> None:
    app = RankdeckApp(None, launcher=ScriptedLauncher())
    async with app.run_test(size=size) as pilot:
        await ready(pilot)
        assert "f4 Sweep" in plain(app.screen.query_one(KeyBar).lines)
        assert "Sweep" in {command.title for command in app.get_system_commands(app.screen)}
        await pilot.press("f1")
        assert isinstance(app.screen, HelpScreen)
        await until(pilot, lambda: "Measure batch sizes and ranks" in plain(app.screen.query_one(Panel).lines))


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_the_dialog_of_a_new_sweep_looks_as_approved(size: tuple[int, int], snap_compare: Any) -> None:
    async def steady(pilot: Pilot[Any]) -> None:
        await until(pilot, lambda: pilot.app.focused is not None)
        await open_dialog(pilot)
        for entry in pilot.app.screen.query(Input):
            entry.cursor_blink = False
        await pilot.pause()

    assert snap_compare(RankdeckApp(None, launcher=ScriptedLauncher()), terminal_size=size, run_before=steady)


def test_prompts_are_counted_as_they_are_read_and_not_by_line(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text('text\n"of two\nlines"\n"and two\nmore"\n')
    assert MachineLauncher().prompts(RunConfig(prompts=str(path), column="text")) == 2
    assert MachineLauncher().prompts(RunConfig(prompts=str(path))) is None, "the column is not known"


# --- afterwards ---------------------------------------------------------------------------------------


def test_copying_the_settings_of_a_sweep_gives_a_run_at_its_best_setting() -> None:
    state = scripted_sweep.settled().state
    assert state.config is not None
    assert state.sweep is not None
    found = summarise_sweep(state.sweep)
    assert found.best is not None
    config = msgspec.structs.replace(state.config, sweep=state.sweep.plan, ignore_eos=True)
    run_directory.runs_directory().mkdir(parents=True)
    write_run(run_directory.runs_directory() / "swept", config=config, sweep=found)
    launcher = MachineLauncher()
    (run,) = launcher.recent()
    taken = launcher.settings(run)
    assert (taken.ranks, taken.batch_size) == (found.best.active_ranks, found.best.batch_size)
    assert (taken.sweep, taken.ignore_eos) == (None, False)


def test_if_settings_are_tied_the_chosen_one_is_copied_and_not_the_fastest() -> None:
    state = scripted_sweep.tied().state
    assert state.config is not None
    assert state.sweep is not None
    found = summarise_sweep(state.sweep)
    assert found.best is not None
    assert found.chosen is not None
    assert found.chosen.setting != found.best.setting
    config = msgspec.structs.replace(state.config, sweep=state.sweep.plan)
    run_directory.runs_directory().mkdir(parents=True)
    write_run(run_directory.runs_directory() / "swept", config=config, sweep=found)
    launcher = MachineLauncher()
    (run,) = launcher.recent()
    taken = launcher.settings(run)
    assert (taken.ranks, taken.batch_size) == found.chosen.setting


STANDIN = """
from rankdeck.runner import start
from tests.conftest import start_standin_supervisor
from rankdeck.tui.commands.cli import main
start.start_supervisor = start_standin_supervisor
main()
"""
"""`rankdeck`, with ranks that load nothing."""


@pytest.mark.slow
def test_a_sweep_and_the_run_after_it_work_from_the_start_screen_in_a_real_terminal(
    tmp_path: Path, standin_model: Path
) -> None:
    prompts = tmp_path / "p.txt"
    prompts.write_text("a prompt\n" * 20)
    with Terminal([sys.executable, "-c", STANDIN], columns=100, rows=30) as terminal:
        terminal.wait_for("No runs yet")
        # Sent together, as over a slow line: to the model, replace it, to the prompts, replace them.
        terminal.send(f"\x1b[Z\x15{standin_model}\t\x15{prompts}\t\x152")
        terminal.wait_for("GiB free", "Memory  unknown")
        terminal.send("\x1bOS")
        terminal.wait_for("Batch sizes")
        terminal.send("\x154\t\x151\r")
        terminal.wait_for("best setting", "best", seconds=60)
        terminal.wait_for("q Back")
        terminal.wait_for("completed", seconds=60)
        terminal.send("q")
        terminal.wait_for("1/1 trials")
        terminal.wait_for("▸ p-")
        terminal.wait_for("from p-")
        terminal.wait_for("batch size 4, ranks 1")
        terminal.send("q")
        assert terminal.wait() == 0
    (swept,) = MachineLauncher().recent()
    assert (swept.status, swept.chosen) == ("completed", (1, 4))
