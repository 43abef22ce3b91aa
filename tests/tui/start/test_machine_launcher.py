"""What the start screen asks of this machine reaches the job as it was asked, and the answer comes back."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from rankdeck.runner import run_directory
from rankdeck.runner.protocol.config import Problem, RunConfig
from rankdeck.runner.run_directory.run_file import RunFileError
from rankdeck.tui.sources.client import SocketSource
from rankdeck.tui.sources.runs import Setting, sample_prompts
from rankdeck.tui.start import machine_launcher
from rankdeck.tui.start.machine_launcher import MachineLauncher
from tests.reports import write_run
from tests.scripted_sweep import USUAL
from tests.tui.start.test_start_screen import recent

CONFIG = RunConfig(prompts="p.txt", column="text", limit=7)


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> MachineLauncher:
    monkeypatch.setattr(machine_launcher.checks, "default_device", lambda: "cpu")
    monkeypatch.setattr(machine_launcher.checks, "default_ranks", lambda: 6)
    return MachineLauncher()


def test_a_run_is_launched_resumed_and_attached_to_with_its_own_end_known(
    launcher: MachineLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, ...]] = []
    died = lambda: False  # noqa: E731

    def started(*given: Any, stdin: Any = None) -> SimpleNamespace:
        asked.append(given)
        assert stdin is None or stdin.read() == b"", "the keyboard is the dashboard's"
        return SimpleNamespace(directory=Path("/runs/new"), died=died)

    monkeypatch.setattr(machine_launcher.start, "launch", started)
    monkeypatch.setattr(machine_launcher.start, "resume", started)
    for source, of in (
        (launcher.launch(CONFIG), died),
        (launcher.resume(Path("/runs/old")), died),
        (launcher.attach(Path("/runs/new")), None),
    ):
        assert isinstance(source, SocketSource)
        assert (source.directory, source._died) == (Path("/runs/new"), of)
    assert asked == [(CONFIG,), (Path("/runs/old"), {})], "a run is resumed with the settings that it had"


def test_what_is_asked_of_the_machine_is_asked_with_these_settings(
    launcher: MachineLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name in (
        (machine_launcher.checks, "estimate_memory"),
        (machine_launcher.model_shape, "count_of"), (machine_launcher.runs, "costs_like"),
        (machine_launcher.journal, "find"), (machine_launcher.examine, "machine"), (machine_launcher.examine, "facts"),
        (machine_launcher.runs, "recent"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, lambda *given, name=name: (name, *given))
    monkeypatch.setattr(machine_launcher, "read_folder", lambda *given: ("read_folder", *given))
    machine: Any = "this machine"
    assert launcher.estimate(CONFIG, machine) == ("estimate_memory", CONFIG, machine)
    assert launcher.prompts(CONFIG) == ("count_of", "p.txt", "text", 7)
    assert launcher.costs(CONFIG) == ("costs_like", CONFIG, "cpu")
    assert launcher.journal(Path("/runs/a")) == ("find", "/runs/a")
    assert launcher.folder("/home", True) == ("read_folder", "/home", True)
    assert launcher.folder("/home", False) == ("read_folder", "/home", False)
    assert launcher.machine() == ("machine",)
    assert launcher.examine() == ("facts",)
    assert launcher.recent() == ("recent",)


def test_what_a_check_finds_is_said_but_for_standard_input_which_is_the_keyboard(
    launcher: MachineLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [Problem("ranks", "too many"), Problem("prompts", "/dev/tty is a pipe; give it as standard input: -")]
    monkeypatch.setattr(machine_launcher.checks, "check", lambda config: found)
    said = [Problem("ranks", "too many"), Problem("prompts", "/dev/tty is a pipe")]
    assert launcher.check(CONFIG) == said
    for name in ("-", " - "):
        (*others, last) = launcher.check(replace(CONFIG, prompts=name))
        assert others == said
        assert last == Problem("prompts", "standard input is the keyboard here; name a file")


async def test_torch_is_asked_for_what_it_sees(launcher: MachineLauncher, monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask_torch() -> str:
        return "what it sees"

    monkeypatch.setattr(machine_launcher.examine, "ask_torch", ask_torch)
    assert await launcher.ask_torch() == "what it sees"  # type: ignore[comparison-overlap]


def test_the_first_settings_are_the_sample_on_the_demo_with_as_many_ranks_as_fit(
    launcher: MachineLauncher, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert launcher.first_settings() == RunConfig(
        prompts=str(sample_prompts()), model="demo", ranks=6, max_new_tokens=50
    )
    monkeypatch.chdir(sample_prompts().parent)
    assert launcher.first_settings().prompts == "stories.txt", "the shorter path, since people read it"
    monkeypatch.chdir(tmp_path)
    tmp_path.rmdir()
    assert launcher.first_settings().prompts == str(sample_prompts()), "the working directory is gone"


def test_the_settings_of_a_run_are_those_for_a_new_one_here(launcher: MachineLauncher, tmp_path: Path) -> None:
    prompts = tmp_path / "mine.csv"
    prompts.write_text("text\na\n")
    config = replace(CONFIG, prompts=str(prompts))

    def taken(config: RunConfig, **changes: Any) -> RunConfig:
        return launcher.settings(recent("old", "completed", directory=tmp_path, config=config, **changes))

    assert taken(config) == config, "the file is there"
    assert taken(replace(config, device="cpu")).device == "auto", "which is the same here"
    assert taken(replace(config, device="cuda")).device == "cuda", "and this is not"
    swept = taken(replace(config, sweep=USUAL, ignore_eos=True), chosen=Setting(3, 24))
    assert (swept.sweep, swept.ranks, swept.batch_size) == (None, 3, 24)
    piped = replace(config, prompts="-")
    assert taken(piped).prompts == "-", "no copy is left"
    (tmp_path / run_directory.PROMPTS_FILE).write_text('{"prompt": "a"}\n')
    for of in (piped, replace(config, prompts=str(tmp_path / "gone.csv"))):
        assert (taken(of).prompts, taken(of).column) == (str(tmp_path / run_directory.PROMPTS_FILE), None)
    assert taken(config) == config, "its own file comes first"


@pytest.mark.parametrize(("problem", "said"), [("it is empty", "it is empty"), (None, "odd has no settings")])
def test_a_run_that_cannot_be_read_has_no_settings_to_take(
    launcher: MachineLauncher, problem: str | None, said: str
) -> None:
    with pytest.raises(RunFileError, match=f"^{said}$"):
        launcher.settings(recent("odd", "unreadable", config=None, problem=problem))


def test_a_report_leads_to_its_page(launcher: MachineLauncher, tmp_path: Path) -> None:
    write_run(tmp_path / "done")
    path = launcher.report(tmp_path / "done")
    assert path == tmp_path / "done" / "report.html"
    assert {"report.html", "report.md", "report.csv", "report.json"} <= set(os.listdir(path.parent))
