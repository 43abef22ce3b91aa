"""`rankdeck replay`: its speed, what is printed after it, and what is said of a journal that stops."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rankdeck.runner import run_directory
from rankdeck.runner.protocol import encode_line
from rankdeck.tui.app import replay as app
from rankdeck.tui.commands import replay as command
from rankdeck.tui.plain.view import end_lines
from rankdeck.tui.session import terminal_session
from rankdeck.tui.settings.preferences import Preferences
from rankdeck.tui.sources.journal import SAMPLE, JournalError
from tests import scripted
from tests.recordings import journal_of
from tests.tui.commands.test_cli import rankdeck

FINE = scripted.completed().events
PREFERENCES = Preferences(theme="nord")


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a dashboard was made of; it is left at once, with what is in `followed`."""
    got: dict[str, Any] = {"followed": SimpleNamespace(lost=None, final_state=None)}

    def made(source: Any, stops: str, *, preferences: Any) -> Any:
        got.update(path=source.journal.path, speed=source._speed, stops=stops, preferences=preferences)
        return SimpleNamespace(followed=got["followed"])

    monkeypatch.setattr(app, "ReplayApp", made)
    monkeypatch.setattr(terminal_session, "run_app", lambda ran: got.update(ran=ran))
    monkeypatch.setattr(command, "preferred", lambda view: got.update(view=view) or PREFERENCES)
    return got


@pytest.mark.parametrize(("words", "speed"), [((), 1.0), (("--speed", "0.25"), 0.25), (("--speed", "64"), 64.0)])
def test_a_dashboard_replays_at_the_speed_that_was_typed_else_as_it_was(
    shown: dict[str, Any], tmp_path: Path, words: tuple[str, ...], speed: float
) -> None:
    path = journal_of(tmp_path / "events.jsonl", FINE)
    result = rankdeck("replay", str(path), "--theme", "nord", *words)
    assert (result.exit_code, result.output) == (0, "")
    assert (shown["speed"], shown["path"], shown["stops"]) == (speed, path, "")
    assert shown["preferences"] is PREFERENCES
    assert shown["view"].theme == "nord"
    assert shown["ran"].followed is shown["followed"]


def test_the_sample_is_the_run_that_comes_along(shown: dict[str, Any]) -> None:
    assert rankdeck("replay", "--sample").exit_code == 0
    assert shown["path"] == SAMPLE


def test_why_a_journal_stops_is_told_to_the_dashboard(shown: dict[str, Any], tmp_path: Path) -> None:
    assert rankdeck("replay", str(journal_of(tmp_path / "events.jsonl", FINE[:-1]))).exit_code == 0
    assert shown["stops"] == "supervisor was lost"


def test_what_the_dashboard_showed_last_is_printed_when_it_is_left(shown: dict[str, Any]) -> None:
    state = scripted.completed().state
    shown["followed"].final_state = state
    result = rankdeck("replay", "--sample")
    assert result.stdout.splitlines() == list(end_lines(state))
    assert result.stderr == ""


def test_a_journal_that_is_damaged_meanwhile_is_refused_though_it_was_shown(shown: dict[str, Any]) -> None:
    shown["followed"].lost = "events.jsonl:7: damaged"
    shown["followed"].final_state = scripted.completed().state
    result = rankdeck("replay", "--sample")
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", "rankdeck: events.jsonl:7: damaged\n")


@pytest.mark.parametrize(
    ("speed", "said"), [("0.24", "0.24"), ("64.5", "64.5"), ("-1", "-1"), ("inf", "inf"), ("nan", "nan")]
)
def test_a_speed_beyond_what_can_be_played_is_refused(speed: str, said: str) -> None:
    result = rankdeck("replay", "--sample", "--speed", speed)
    assert (result.exit_code, result.stderr) == (2, f"rankdeck: --speed: must be from 0.25 to 64, not {said}\n")


def test_all_that_is_wrong_is_told_at_once() -> None:
    result = rankdeck("replay", "--plain", "--json", "--speed", "0", "--theme", "nrd")
    assert [line.removeprefix("rankdeck: ")[:12] for line in result.stderr.splitlines()] == [
        "--plain and ", "--theme: the", "say what to ", "--speed: mus",
    ]  # fmt: skip
    both = rankdeck("replay", "mine", "--sample")
    assert both.stderr == ("rankdeck: --sample replays the run that comes with rankdeck; leave out --sample or RUN\n")


# --- lines ----------------------------------------------------------------------------------------


class View:
    """Stands for the lines of a terminal."""

    def __init__(self, interrupted: bool = False) -> None:
        self.shown: list[Any] = []
        self.closed = 0
        self.interrupted = interrupted

    def show(self, event: Any) -> None:
        if self.interrupted and len(self.shown) == 2:
            raise KeyboardInterrupt
        self.shown.append(event)

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def viewed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., View]:
    def use(**how: Any) -> View:
        view = View(**how)
        monkeypatch.setattr(command, "terminal_view", lambda: view)
        return view

    return use


def test_every_event_is_a_line_and_what_is_to_be_said_of_the_journal_is_on_stderr(
    viewed: Callable[..., View], tmp_path: Path
) -> None:
    view = viewed()
    result = rankdeck("replay", str(journal_of(tmp_path / "events.jsonl", FINE[:-1], b'{"half')), "--plain")
    assert (view.shown, view.closed, result.stdout) == (list(FINE[:-1]), 1, "")
    note, stops = result.stderr.splitlines()
    assert note.startswith(f"rankdeck: {tmp_path / 'events.jsonl'}:{len(FINE)}: the last line is only half written")
    assert stops == "rankdeck: the journal stops here: supervisor was lost"


def test_as_json_nothing_is_drawn_but_the_bar_is_given_back(viewed: Callable[..., View], tmp_path: Path) -> None:
    view = viewed()
    result = rankdeck("replay", str(journal_of(tmp_path / "events.jsonl", FINE)), "--json")
    assert (view.shown, view.closed) == ([], 1)
    assert result.stdout.encode() == b"".join(encode_line(event) for event in FINE)
    assert result.stderr == ""


def test_leaving_in_the_middle_gives_the_terminal_back_and_says_no_more(
    viewed: Callable[..., View], tmp_path: Path
) -> None:
    view = viewed(interrupted=True)
    result = rankdeck("replay", str(journal_of(tmp_path / "events.jsonl", FINE[:-1])), "--plain")
    assert (result.exit_code, len(view.shown), view.closed, result.output) == (0, 2, 1, "")


def test_at_a_speed_each_line_leaves_at_once(monkeypatch: pytest.MonkeyPatch, viewed: Callable[..., View]) -> None:
    slept: list[float] = []
    monkeypatch.setattr(command.time, "sleep", slept.append)
    flushed: list[int] = []
    for speed, each in ((64.0, True), (None, False)):
        view = viewed()
        flushed.clear()
        with monkeypatch.context() as patch:
            patch.setattr(sys.stdout, "flush", lambda view=view: flushed.append(len(view.shown)), raising=False)
            command._print(command.Journal(SAMPLE), speed, json=False)
        assert flushed == (list(range(1, len(view.shown) + 1)) if each else [])
    assert min(slept) >= 0
    assert len(slept) == len(view.shown)


def test_a_run_is_found_by_its_name_its_directory_or_its_journal(shown: dict[str, Any]) -> None:
    directory = run_directory.runs_directory() / "mine"
    directory.mkdir(parents=True)
    journal_of(directory / "events.jsonl", FINE)
    (directory / run_directory.RUN_FILE).write_text("{}")
    for name in ("mine", str(directory), str(directory / "events.jsonl")):
        shown.pop("path", None)
        assert rankdeck("replay", name).exit_code == 0
        assert shown["path"].resolve() == directory / "events.jsonl"
    assert issubclass(JournalError, Exception)
