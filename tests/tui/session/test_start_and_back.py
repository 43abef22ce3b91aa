"""How a run comes to be watched, and what leads where: the screen, lines or JSON; replays; back to the start screen."""

from pathlib import Path
from typing import Any

import pytest

from rankdeck.runner import run_directory
from rankdeck.tui.app.app import LeftRun, RankdeckApp
from rankdeck.tui.app.replay import ReplayApp
from rankdeck.tui.plain.view import PlainView
from rankdeck.tui.session import watch as watching
from rankdeck.tui.settings.labels import AS_DECLARED, OF_A_REPLAY
from rankdeck.tui.settings.preferences import Preferences
from rankdeck.tui.sources.client import SocketSource
from rankdeck.tui.sources.journal import SAMPLE, Journal
from rankdeck.tui.start.machine_launcher import MachineLauncher
from rankdeck.tui.start.way_back import Back, Filled, Seen
from tests import scripted
from tests.recordings import journal_of
from tests.scripted_source import ScriptedSource

MINE = Preferences(theme="rankdeck-dark", notify="off")
SEEN = Seen((), None, Filled({}, frozenset(), None, "", {}))


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> "Dashboards":
    """What happens in each dashboard, one after another."""
    dashboards = Dashboards()
    monkeypatch.setattr("rankdeck.tui.session.terminal_session.run_app", dashboards.run)
    return dashboards


class Dashboards:
    def __init__(self) -> None:
        self.shown: list[Any] = []
        self.acts: list[Any] = []

    def run(self, app: Any) -> bool:
        self.shown.append(app)
        return bool(self.acts.pop(0)(app)) if self.acts else False


def died() -> bool:
    return False


# --- one run --------------------------------------------------------------------------------------


@pytest.mark.parametrize("steerable", [True, False])
def test_with_preferences_a_run_is_watched_on_the_screen_and_its_end_is_the_status(
    tmp_path: Path, runs: Dashboards, capsys: pytest.CaptureFixture[str], steerable: bool
) -> None:
    runs.acts = [lambda app: setattr(app.followed, "lost", "it is gone")]
    status = watching.watch(tmp_path, died, preferences=MINE, steerable=steerable, tour=not steerable)
    assert status == watching.EXIT_DIED
    (app,) = runs.shown
    source = app.followed.source
    assert isinstance(source, SocketSource)
    assert (source.directory, source._died) == (tmp_path, died)
    assert (app.preferences, app._steerable, app._earlier) == (MINE, steerable, run_directory.read_outputs)
    assert app._tour is not steerable
    assert capsys.readouterr() == ("", "rankdeck: it is gone\n")


@pytest.mark.parametrize("json", [False, True])
@pytest.mark.parametrize("steerable", [True, False])
def test_without_preferences_it_is_lines_or_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, json: bool, steerable: bool
) -> None:
    followed: list[tuple[Any, ...]] = []

    async def follow(*given: Any) -> int:
        followed.append(given)
        return 7

    monkeypatch.setattr(watching, "_follow", follow)
    assert watching.watch(tmp_path, died, preferences=None, json=json, steerable=steerable) == 7
    ((source, view, may_steer, whole, tour),) = followed
    assert (source.directory, source._died, may_steer, whole, tour) == (tmp_path, died, steerable, False, False)
    assert isinstance(view, watching._JsonView if json else PlainView)
    watching.watch(tmp_path, preferences=None, whole=True, tour=True)
    assert followed[1][2:] == (True, True, True), "whoever started or attached to a run steers it"


def test_a_run_is_asked_to_stop_in_its_directory_and_as_it_was_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Path, bool]] = []

    async def stop(source: SocketSource, now: bool) -> int:
        asked.append((source.directory, now))
        return 3

    monkeypatch.setattr(watching, "_stop", stop)
    assert [watching.stop(tmp_path, now=now) for now in (True, False)] == [3, 3]
    assert asked == [(tmp_path, True), (tmp_path, False)]


# --- the start screen -----------------------------------------------------------------------------


def test_the_start_screen_is_shown_with_the_users_preferences_and_left_with_status_0(runs: Dashboards) -> None:
    assert watching.start_screen(MINE) == 0
    (app,) = runs.shown
    assert isinstance(app, RankdeckApp)
    assert isinstance(app._launcher, MachineLauncher)
    assert (app.preferences, app._back, app.followed.source) == (MINE, None, None)
    assert app._earlier is run_directory.read_outputs


def test_told_to_leave_nothing_more_is_shown_and_the_status_is_that_of_the_run_on_screen(runs: Dashboards) -> None:
    failed = scripted.failed().state
    assert failed.ended is not None

    def leave(app: RankdeckApp) -> bool:
        app.followed.source = ScriptedSource([])
        app.followed.state, app.followed._received_any = failed, True
        app.wanted = Journal(SAMPLE)
        return True

    runs.acts = [leave]
    assert watching.start_screen() == failed.ended.exit_status
    assert len(runs.shown) == 1


@pytest.mark.parametrize(
    ("alive", "said", "command"),
    [(True, "goes on, but its dashboard broke", "attach"), (False, "its dashboard broke", "replay")],
)
def test_a_dashboard_that_broke_leads_back_to_what_was_seen_and_names_the_command_that_still_works(
    runs: Dashboards, monkeypatch: pytest.MonkeyPatch, alive: bool, said: str, command: str
) -> None:
    monkeypatch.setattr(run_directory, "supervisor_alive", lambda _: alive)

    def broke(app: RankdeckApp) -> None:
        app.followed.source = ScriptedSource([])
        app.followed.state, app.followed._received_any = scripted.running().state, True
        app.seen = SEEN
        app._exception, app._return_code = KeyError("odd"), 1

    runs.acts = [broke]
    assert watching.start_screen(MINE) == 1, "though its run goes on"
    _, again = runs.shown
    back: Back = again._back
    assert (back.directory, back.seen, again.preferences) == (Path(scripted.DIRECTORY).resolve(), SEEN, MINE)
    assert f": {said}: KeyError: 'odd'" in back.problem
    assert f"`rankdeck {command} " in back.problem


def test_a_dashboard_that_was_merely_left_leads_back_without_a_word(runs: Dashboards) -> None:
    runs.acts = [lambda app: setattr(app.followed, "source", ScriptedSource([]))]
    assert watching.start_screen() == 0
    assert runs.shown[1]._back == Back(Path(scripted.DIRECTORY).resolve(), "", None)


@pytest.mark.parametrize(("position", "playing"), [(0.0, True), (12.0, False)])
def test_a_replay_is_shown_from_where_it_was_wanted_and_leads_back(
    tmp_path: Path, runs: Dashboards, position: float, playing: bool
) -> None:
    recorded = Journal(journal_of(tmp_path / "events.jsonl", scripted.running().events))

    def choose(app: RankdeckApp) -> None:
        app.wanted, app.wanted_at, app.seen = recorded, position, SEEN

    runs.acts = [choose]
    assert watching.start_screen(MINE) == 0
    _, shown, again = runs.shown
    assert isinstance(shown, ReplayApp)
    transport = shown.replay.transport
    assert (shown.replay.journal, transport.playing, shown.preferences) == (recorded, playing, MINE)
    assert transport.position >= position, "the first second at once, or the end as it stands"
    assert shown.stops == "supervisor was lost"
    assert shown.reworded is OF_A_REPLAY
    assert shown.reworded is not AS_DECLARED
    assert again._back == Back(tmp_path.resolve(), "", SEEN)


def test_a_replay_that_was_told_to_leave_is_the_end_and_one_that_was_lost_says_so(
    runs: Dashboards, capsys: pytest.CaptureFixture[str]
) -> None:
    def lost(app: ReplayApp) -> bool:
        app.followed.lost = "x:3: was changed"
        return True

    runs.acts = [lost]
    assert watching._replay(Journal(SAMPLE), 0.0, None) is None
    assert capsys.readouterr() == ("", "rankdeck: x:3: was changed\n")

    def broke(app: ReplayApp) -> None:
        app._exception = KeyError("odd")

    runs.acts = [broke]
    back = watching._replay(Journal(SAMPLE), 0.0, None)
    assert back is not None
    assert ": its replay broke: KeyError: 'odd'" in back.problem
    assert "`rankdeck replay " in back.problem


def test_the_status_of_the_start_screen_is_that_of_the_last_run_that_was_left(
    runs: Dashboards, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = scripted.failed().state
    assert failed.ended is not None

    def left(app: RankdeckApp) -> None:
        app.left_runs[Path("/a")] = LeftRun(None, "it is gone")
        app.left_runs[Path("/b")] = LeftRun(failed, None)

    runs.acts = [left]
    assert watching.start_screen() == failed.ended.exit_status
    assert capsys.readouterr().err == "rankdeck: it is gone\n"
