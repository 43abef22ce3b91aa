"""A run watched without a screen: what Ctrl-C does, the exit status, and what is said as the viewer leaves."""

import asyncio
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from rankdeck.runner import protocol, run_directory
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.run_directory.run_file import RunFile
from rankdeck.runner.state import RunState, Snapshot
from rankdeck.tui.plain.view import PlainView, end_lines
from rankdeck.tui.session import watch as watching
from rankdeck.tui.sources.client import SocketSource, SourceError
from rankdeck.tui.terminal.inert import OutputError
from tests import scripted
from tests.scripted_source import ScriptedSource

ENDED = scripted.completed()
CUT_SHORT = scripted.running().ended()
LOST = SourceError("the supervisor is gone")


class Asides(PlainView):
    """A view that keeps what is said aside."""

    def __init__(self) -> None:
        super().__init__(lambda _: None)
        self.told: list[str] = []
        self.closed = 0

    def aside(self, line: str) -> None:
        self.told.append(line)

    def close(self) -> None:
        self.closed += 1


def follow(source: ScriptedSource, view: Asides, *, steerable: bool = True) -> int:
    return asyncio.run(asyncio.wait_for(watching._follow(source, view, steerable), 10))


@pytest.mark.parametrize("script", [scripted.completed(), scripted.failed()])
def test_the_exit_status_is_the_runs_whether_its_end_came_as_an_event_or_in_a_snapshot(script):
    assert script.state.ended is not None
    status = script.state.ended.exit_status
    for messages in ([*script.events], [Snapshot(state=script.state)]):
        view = Asides()
        assert follow(ScriptedSource(messages), view) == status
        assert (view.told, view.closed) == ([], 1)


def test_a_run_that_is_lost_is_said_so_with_status_3():
    view = Asides()
    assert follow(ScriptedSource(scripted.running().events, error=LOST), view) == 3
    assert view.told == ["rankdeck: the supervisor is gone"]
    assert view.closed == 1


def interrupting(source: ScriptedSource, times: int, *, steerable: bool = True) -> tuple[int, list[str]]:
    """Press Ctrl-C `times` times once the source has said all, each as the one before has been sent; then it ends."""
    view = Asides()

    async def run() -> int:
        following = asyncio.ensure_future(watching._follow(source, view, steerable))
        async with asyncio.timeout(10):
            while not source.said_all:
                await asyncio.sleep(0)
            for number in range(1, times + 1):
                os.kill(os.getpid(), signal.SIGINT)
                while not following.done() and len(source.sent) < number:
                    await asyncio.sleep(0)
            if not following.done():
                source.say(CUT_SHORT.events[-1])
            return await following

    return asyncio.run(run()), view.told


STOPPING = "rankdeck: stopping after the batches in flight; Ctrl-C again to end now"


@pytest.mark.parametrize(
    ("times", "told", "sent"),
    [
        (1, [STOPPING], [protocol.Stop(now=False)]),
        (2, [STOPPING], [protocol.Stop(now=False), protocol.Stop(now=True)]),
    ],
)
def test_the_first_ctrl_c_asks_the_run_to_stop_and_the_second_ends_it(times, told, sent):
    source = ScriptedSource(scripted.running().events)
    status, said = interrupting(source, times)
    assert CUT_SHORT.state.ended is not None
    assert (status, said, source.sent) == (CUT_SHORT.state.ended.exit_status, told, sent)


def test_the_third_ctrl_c_leaves_the_run_to_itself():
    source = ScriptedSource(scripted.running().events)
    status, said = interrupting(source, 3)
    assert (status, said) == (watching.EXIT_INTERRUPTED, [STOPPING, "rankdeck: no longer watching"])


def test_a_viewer_that_may_not_steer_only_leaves():
    source = ScriptedSource(scripted.running().events)
    assert interrupting(source, 1, steerable=False) == (watching.EXIT_INTERRUPTED, [])
    assert source.sent == []


def test_ctrl_c_is_pythons_own_again_afterwards():
    before = signal.getsignal(signal.SIGINT)
    follow(ScriptedSource(ENDED.events), Asides())
    assert signal.getsignal(signal.SIGINT) == before


def test_a_reader_that_has_gone_is_no_failure_of_the_run_and_no_success_of_the_command(capsys, monkeypatch):
    class Broken(Asides):
        def show(self, message: object) -> None:
            raise BrokenPipeError

    view = Broken()
    assert follow(ScriptedSource(ENDED.events), view) == 141, "as a shell says of a command that a closed pipe ended"
    assert view.closed == 1
    assert "nobody is reading any more; the run goes on" in capsys.readouterr().err
    monkeypatch.setattr(watching.run_directory, "has_ended", lambda directory: True)
    assert follow(ScriptedSource(ENDED.events), Broken()) == 141
    assert "nobody is reading any more; the run has ended" in capsys.readouterr().err

    def nobody(line: str) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(watching, "tell", nobody)  # 2>&1
    assert follow(ScriptedSource(ENDED.events), Broken()) == 141


def test_json_is_every_message_as_it_came_and_what_is_said_aside_goes_to_standard_error(capsys):
    view = watching._JsonView()
    for event in ENDED.events[:3]:
        view.show(event)
    view.aside("rankdeck: hello")
    view.close()
    shown = capsys.readouterr()
    assert shown.out.encode() == b"".join(protocol.encode_line(event) for event in ENDED.events[:3])
    assert shown.err == "rankdeck: hello\n"


class Unread:
    """Standard output that keeps what it is given until it is flushed."""

    def __init__(self) -> None:
        self.kept, self.seen = "", ""

    def write(self, text: str) -> None:
        self.kept += text

    def flush(self) -> None:
        self.seen, self.kept = self.seen + self.kept, ""


@pytest.mark.parametrize("make", [watching._JsonView, PlainView])
def test_each_message_can_be_read_before_the_next_one_comes(monkeypatch, make):
    """A pipe is buffered: whoever reads it would see nothing for minutes."""
    out = Unread()
    monkeypatch.setattr(sys, "stdout", out)
    running = scripted.running().events
    seen: list[str] = []

    class Source(ScriptedSource):
        async def events(self):
            for message in (*running, CUT_SHORT.events[-1]):
                yield message
                assert out.kept == "", message
                seen.append(out.seen)

    assert follow(Source([]), make()) == 0
    assert len(seen) == len(running)
    assert len(set(seen)) > 5


def test_a_supervisor_that_is_silent_and_answers_again_is_said_aside(tmp_path, monkeypatch):
    view = Asides()

    async def events(self):
        self.on_silence("it is stopped")
        self.on_silence(None)
        yield Snapshot(state=ENDED.state)

    monkeypatch.setattr(SocketSource, "events", events)
    assert follow(SocketSource(tmp_path), view) == 0  # type: ignore[arg-type]
    assert view.told == ["rankdeck: it is stopped", "rankdeck: its supervisor answers"]


def test_a_run_whose_messages_stop_without_an_end_has_died():
    class Silent(ScriptedSource):
        async def events(self):
            yield scripted.running().events[0]

    assert follow(Silent([]), Asides()) == watching.EXIT_DIED


@pytest.mark.parametrize(("ended", "said"), [(True, "the run has ended"), (False, "the run goes on; `rankdeck attach")])
def test_lines_that_cannot_be_written_are_said_with_how_the_run_stands(monkeypatch, capsys, ended, said):
    class Full(Asides):
        def show(self, message: object) -> None:
            raise OutputError("no room")

        def close(self) -> None:
            super().close()
            raise OSError("no room for the bar either")

    monkeypatch.setattr(run_directory, "has_ended", lambda _: ended)
    view = Full()
    assert follow(ScriptedSource(ENDED.events), view) == watching.EXIT_DIED
    assert view.closed == 1
    told = capsys.readouterr().err
    assert told.startswith(f"rankdeck: no room; {said}")
    assert ("attach" in told) is not ended


def test_the_statuses_are_those_that_scripts_rely_on():
    assert (watching.EXIT_BAD_INPUT, watching.EXIT_DIED, watching.EXIT_INTERRUPTED) == (2, 3, 130)


# --- stopping -------------------------------------------------------------------------------------


class Reached(ScriptedSource):
    reached = True


@pytest.mark.parametrize("now", [True, False])
async def test_stop_asks_first_and_then_says_how_the_run_ended(capsys, now):
    source = Reached(ENDED.events)
    assert await watching._stop(source, now) == 0  # type: ignore[arg-type]
    assert source.sent == [protocol.Stop(now=now)]
    assert capsys.readouterr().out.splitlines() == end_lines(ENDED.state)


async def test_a_run_that_is_lost_as_it_is_stopped_is_said_so(capsys):
    assert await watching._stop(Reached([], error=LOST), now=False) == 3  # type: ignore[arg-type]
    assert capsys.readouterr() == ("", "rankdeck: the supervisor is gone\n")


async def test_an_order_that_waits_for_a_stopped_supervisor_is_said_so(monkeypatch, capsys):
    monkeypatch.setattr(run_directory, "supervisor_alive", lambda _: True)
    assert await watching._stop(Reached([], error=SourceError("it is stopped")), now=False) == 3  # type: ignore[arg-type]
    said = "rankdeck: it is stopped; it will stop as soon as it runs again\n"
    assert capsys.readouterr() == ("", said)


async def test_the_same_hindrance_is_said_once_and_after_it_has_gone_again(capsys):
    paused, resumed = protocol.Paused(reason="no room", asked=False), protocol.Resumed()
    running = Snapshot(state=scripted.running().state)
    source = Reached([running, paused, paused, resumed, paused, ENDED.events[-1]])
    assert await watching._stop(source, now=False) == 0  # type: ignore[arg-type]
    assert capsys.readouterr().err == "rankdeck: the run cannot end yet: no room\n" * 2


@pytest.mark.parametrize(
    ("now", "events", "said"),
    [
        (
            False,
            [],
            "waiting for the batches in flight of 2 ranks; `rankdeck stop /home/ada/.local/state/rankdeck/runs/"
            "calm-harbour --now` ends them at once",
        ),
        (
            False,
            [protocol.RankSilent(rank=1, stage="at work", seconds=20, process="stopped")],
            "waiting for the batches in flight of 2 ranks (rank 1: no step for 20 s, its process is stopped); "
            "`rankdeck stop /home/ada/.local/state/rankdeck/runs/calm-harbour --now` ends them at once",
        ),
        (True, [], "waiting for its ranks to leave"),
    ],
)
async def test_who_waits_long_for_a_run_to_stop_is_told_once_for_what(monkeypatch, capsys, now, events, said):
    monkeypatch.setattr(watching, "REMARK_SECONDS", -1.0)
    state = scripted.running()
    for event in events:
        state.add(event)
    source = Reached([Snapshot(state=state.state), protocol.Tick(), protocol.Tick(), ENDED.events[-1]])
    assert await watching._stop(source, now) == 0  # type: ignore[arg-type]
    assert capsys.readouterr().err == f"rankdeck: {said}\n"


def test_one_rank_that_keeps_a_run_is_named_and_who_has_nothing_in_hand_keeps_none():
    state = scripted.running().state
    first, *others = state.ranks
    idle = [msgspec.structs.replace(rank, batch=None) for rank in others]
    assert "in flight of rank 0;" in watching._waited_for(msgspec.structs.replace(state, ranks=(first, *idle)), False)
    assert watching._waited_for(RunState(), False) == "waiting for its ranks to leave"


# --- leaving --------------------------------------------------------------------------------------


def run_in(directory: Path, status: str = "running", name: str | None = None) -> RunState:
    """The state of a run that goes on, and its run.json."""
    directory.mkdir(parents=True)
    run = RunFile(name=directory.name, started_at=1.0, config=RunConfig(prompts="p"), prompts=1)
    run_directory.write_run_file(directory, msgspec.structs.replace(run, status=status))
    state = scripted.running().state
    return msgspec.structs.replace(state, directory=str(directory), name=name or directory.name)


def test_a_run_that_goes_on_is_left_with_the_way_back_to_it(tmp_path, capsys):
    assert watching._say_end(run_in(run_directory.runs_directory() / "mine"), None) == 0
    assert capsys.readouterr().out == "run mine goes on. Watch it: rankdeck attach mine\n"
    elsewhere = tmp_path / "else where"
    assert watching._say_end(run_in(elsewhere), None) == 0
    assert capsys.readouterr().out == f"run else where goes on. Watch it: rankdeck attach {elsewhere}\n"


def test_a_name_that_another_run_has_is_not_the_way_back(tmp_path):
    run_in(run_directory.runs_directory() / "twin")
    run_in(tmp_path / "twin")
    assert watching._known_as(tmp_path / "twin") == str(tmp_path / "twin")
    assert watching._known_as(run_directory.runs_directory() / "twin") == "twin"
    assert watching._known_as(run_directory.runs_directory() / "twin", "other") == str(
        run_directory.runs_directory() / "twin"
    )


@pytest.mark.parametrize("status", ["completed", "stopped", "failed"])
def test_of_a_run_that_ended_after_the_viewer_had_left_nothing_is_said(tmp_path, capsys, status):
    assert watching._say_end(run_in(tmp_path / "run", status), None) == 0
    assert capsys.readouterr() == ("", "")


def test_a_run_that_has_ended_is_summed_up_with_its_exit_status(capsys):
    for script in (scripted.completed(), scripted.failed()):
        assert script.state.ended is not None
        assert watching._say_end(script.state, None) == script.state.ended.exit_status
        assert capsys.readouterr().out.splitlines() == end_lines(script.state)
    assert watching._say_end(scripted.completed().state, "it is gone") == watching.EXIT_DIED
    assert capsys.readouterr() == ("", "rankdeck: it is gone\n")


def test_of_a_run_that_was_never_seen_nothing_is_said(capsys):
    assert watching._say_end(None, None) == 0
    assert watching._say_end(RunState(), None) == 0
    assert capsys.readouterr() == ("", "")


def test_a_run_in_a_directory_that_no_file_can_have_goes_on(capsys):
    state = msgspec.structs.replace(scripted.running().state, directory="/nul\0/run")
    assert watching._say_end(state, None) == 0
    assert "goes on. Watch it: rankdeck attach" in capsys.readouterr().out


@pytest.mark.parametrize("code", [0, 1, None])
def test_a_dashboard_that_was_left_says_how_its_run_stands_and_one_that_broke_leaves_with_its_own_status(capsys, code):
    def left(state: RunState | None, lost: str | None) -> int:
        followed = SimpleNamespace(final_state=state, lost=lost)
        return watching._farewell(SimpleNamespace(followed=followed, return_code=code))  # type: ignore[arg-type]

    failed = scripted.failed().state
    assert failed.ended is not None
    assert left(None, None) == (code or 0)
    assert capsys.readouterr() == ("", "")
    assert left(failed, None) == failed.ended.exit_status
    assert left(None, "it is gone") == watching.EXIT_DIED
    assert "it is gone" in capsys.readouterr().err
