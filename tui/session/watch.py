"""Watch a run to its end: in a dashboard, as lines, or as JSON.

Knows how a view gets its events, what Ctrl-C does without a screen, and the exit status.
"""

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rankdeck.runner import protocol, run_directory
from rankdeck.runner.state import RunState, Snapshot, ToViewer
from rankdeck.runner.state.silence import silence_words, silent_ranks
from rankdeck.tui.plain.tour import PlainTour
from rankdeck.tui.plain.view import PlainView, end_lines, terminal_view
from rankdeck.tui.settings.preferences import Preferences
from rankdeck.tui.sources.client import SocketSource, Source, SourceError
from rankdeck.tui.sources.whole_stream import WholeStream
from rankdeck.tui.start.way_back import Back
from rankdeck.tui.terminal.inert import OutputError, say, say_json, tell
from rankdeck.tui.words.errors import problem
from rankdeck.tui.words.status import ASKED_FOR

if TYPE_CHECKING:
    from rankdeck.tui.app.app import RankdeckApp
    from rankdeck.tui.sources.journal import Journal

EXIT_BAD_INPUT, EXIT_DIED, EXIT_INTERRUPTED = 2, 3, 130
EXIT_NOBODY_READS = 128 + signal.SIGPIPE
"""As a shell reports a command that a closed pipe has ended: how the run went is not known here."""

_SIGNALS_TO_LEAVE = (signal.SIGTERM, signal.SIGHUP)

REMARK_SECONDS = 5.0
"""Who has waited so long for a run to stop is told for what."""

ANSWERS_AGAIN = "its supervisor answers"


def watch(
    directory: Path,
    died: Callable[[], bool] | None = None,
    *,
    preferences: Preferences | None,
    json: bool = False,
    steerable: bool = True,
    whole: bool = False,
    tour: bool = False,
) -> int:
    """Watch the run in `directory` until it ends or the viewer leaves. Returns the exit status.

    With `preferences` in a dashboard; without them as lines, or as JSON if `json`, with every answer that is made from
    now on or, if `whole`, that there is. If it is not `steerable`, the run gets no commands, and Ctrl-C only leaves.
    With `tour` a tour begins once the run is under way; JSON has no place for what it says.
    """
    source = SocketSource(directory, died)
    if preferences is not None:
        from rankdeck.tui.app.app import RankdeckApp
        from rankdeck.tui.session.terminal_session import run_app

        app = RankdeckApp(
            source, earlier=run_directory.read_outputs, steerable=steerable, preferences=preferences, tour=tour
        )
        run_app(app)
        return _farewell(app)
    return asyncio.run(_follow(source, _JsonView() if json else terminal_view(), steerable, whole, tour))


def start_screen(preferences: Preferences | None = None) -> int:
    """The dashboard's start screen: choose, launch, watch, come back. Returns the status of the last run watched.

    An error in a run's dashboard or a replay leads back to the start screen, which shows it; an error in the start
    screen itself ends it, as does a signal to leave at any point.
    """
    from rankdeck.tui.app.app import RankdeckApp
    from rankdeck.tui.session.terminal_session import run_app
    from rankdeck.tui.start.machine_launcher import MachineLauncher

    status = 0
    back: Back | None = None
    launcher = MachineLauncher()
    while True:
        app = RankdeckApp(
            None, launcher=launcher, earlier=run_directory.read_outputs, preferences=preferences, back=back
        )
        told = run_app(app)
        for run in app.left_runs.values():
            status = _say_end(*run)
        left_with = _farewell(app)
        if app.followed.directory is not None:
            status = left_with or app.return_code or 0
        if told:
            return status
        if app.wanted is not None:
            back = _replay(app.wanted, app.wanted_at, preferences)
            if back is None:
                return status
            back = back._replace(seen=app.seen)
        elif app.followed.directory is not None:
            alive = run_directory.supervisor_alive(app.followed.directory)
            command, said = (
                ("attach", "goes on, but its dashboard broke") if alive else ("replay", "its dashboard broke")
            )
            back = _back_from(app.followed.directory, app.broke, said, command)._replace(seen=app.seen)
        else:
            return app.return_code or status or left_with  # if it broke, Textual has printed why


def _replay(found: "Journal", position: float, preferences: Preferences | None) -> Back | None:
    """Replay a journal; returns what the user comes back from, None if a signal said to leave."""
    broke: BaseException | None
    try:
        from rankdeck.tui.app.replay import ReplayApp
        from rankdeck.tui.session.terminal_session import run_app
        from rankdeck.tui.sources.journal import how_it_stops
        from rankdeck.tui.sources.replay import ReplaySource

        source = ReplaySource(found, position=position, playing=not position)
        app = ReplayApp(source, how_it_stops(found), preferences=preferences, from_start=True)
        told = run_app(app)
        broke = app.broke
        if app.followed.lost is not None:
            tell(f"rankdeck: {app.followed.lost}")
        if told:
            return None
    except Exception as error:  # whatever went wrong, the start screen can show it
        broke = error
    return _back_from(found.path.parent, broke, "its replay broke", "replay")


def _back_from(directory: Path, broke: BaseException | None, said: str, command: str) -> Back:
    return Back(directory.resolve(), problem(said, broke, _known_as(directory), command) if broke is not None else "")


def stop(directory: Path, *, now: bool) -> int:
    """Ask a run to stop, wait until it has, and say how it ended. Returns 0 once it has ended.

    A run that could not be asked is none that was stopped, even if it has ended meanwhile.
    """
    return asyncio.run(_stop(SocketSource(directory), now))


async def _stop(source: SocketSource, now: bool) -> int:
    await source.send(protocol.Stop(now=now))
    view = PlainView(lambda _: None)
    source.on_silence = _tell_silence
    held_up = None
    now_is = asyncio.get_running_loop().time
    say_at: float | None = now_is() + REMARK_SECONDS
    try:
        async for message in source.events():
            view.show(message)
            if say_at is not None and now_is() > say_at and view.state.ended is None:
                say_at = None
                tell(f"rankdeck: {_waited_for(view.state, now)}")
            before, held_up = held_up, view.state.paused
            if held_up not in (None, before, ASKED_FOR) and view.state.ended is None:
                tell(f"rankdeck: the run cannot end yet: {held_up}")
    except SourceError as error:
        later = "; it will stop as soon as it runs again" if source.reached else ""
        alive = run_directory.supervisor_alive(source.directory)
        tell(f"rankdeck: {error}{later if alive else ''}")
        return EXIT_DIED
    for line in end_lines(view.state):
        say(line)
    if not source.reached:
        tell("rankdeck: the run had ended before it could be told to stop")
        return EXIT_DIED
    return 0


def _waited_for(state: RunState, now: bool) -> str:
    """What keeps a run that was told to stop."""
    busy = [rank.rank for rank in state.ranks if rank.batch is not None]
    if now or not busy:
        return "waiting for its ranks to leave"
    whose = f"rank {busy[0]}" if len(busy) == 1 else f"{len(busy)} ranks"
    silent = [f" (rank {silence.rank}: {silence_words(silence)})" for silence in silent_ranks(state)[:1]]
    ends = f"`rankdeck stop {_way_back(state)} --now` ends them at once"
    return f"waiting for the batches in flight of {whose}{''.join(silent)}; {ends}"


def _tell_silence(said: str | None) -> None:
    tell(f"rankdeck: {said if said is not None else ANSWERS_AGAIN}")


def _farewell(app: "RankdeckApp") -> int:
    """Say how the run stands after its dashboard was left; returns the exit status."""
    if app.followed.final_state is None and app.followed.lost is None:
        return app.return_code or 0
    return _say_end(app.followed.final_state, app.followed.lost)


def _say_end(state: RunState | None, lost: str | None) -> int:
    """Say how a run that was watched ended, or that it goes on; returns the exit status."""
    if lost is not None:
        tell(f"rankdeck: {lost}")
        return EXIT_DIED
    if state is None or state.config is None:
        return 0
    with contextlib.suppress(ValueError):  # a path with a NUL in it
        if state.ended is None and run_directory.has_ended(Path(state.directory)):
            return 0  # it ended after the user had left
    if state.ended is None:
        say(f"run {state.name} goes on. Watch it: rankdeck attach {_way_back(state)}")
        return 0
    for line in end_lines(state):
        say(line)
    return state.ended.exit_status


def _way_back(state: RunState) -> str:
    """What to give `attach` to find the run: its name, else its directory."""
    return _known_as(Path(state.directory), state.name)


def _known_as(directory: Path, name: str = "") -> str:
    """What to give a command to find a run: its `name`, or its directory's; else the whole path."""
    name = name or directory.name
    try:
        return name if run_directory.find_run(name) == directory.resolve() else str(directory)
    except run_directory.RunFileError:
        return str(directory)


def _goes_on(source: Source) -> str:
    return f"the run goes on; `rankdeck attach {_known_as(source.directory)}` watches it"


class _JsonView:
    """Writes every message as JSON, as it came; the last line is the run's end, even if that came in a snapshot."""

    def show(self, message: ToViewer) -> None:
        say_json(protocol.encode_line(message).decode())
        if isinstance(message, Snapshot) and message.state.ended is not None:
            say_json(protocol.encode_line(message.state.ended).decode())

    def aside(self, line: str) -> None:
        tell(line)

    def close(self) -> None:
        pass


async def _follow(
    source: Source, view: PlainView | _JsonView, steerable: bool, whole: bool = False, tour: bool = False
) -> int:
    """Feed the view until the run ends. The first Ctrl-C asks the run to stop, the second ends it."""
    loop = asyncio.get_running_loop()
    asked = 0
    asking: set[asyncio.Task[None]] = set()
    told_to_leave = 0
    guided = PlainTour(source, view, wanted=tour and steerable) if isinstance(view, PlainView) else None

    def interrupted() -> None:
        nonlocal asked
        asked += 1
        if not steerable:
            following.cancel()
            return
        if asked == 1:
            view.aside("rankdeck: stopping after the batches in flight; Ctrl-C again to end now")
        elif asked > 2:
            view.aside("rankdeck: no longer watching")
            following.cancel()
        stop = protocol.Stop(now=asked > 1)
        asking.add(loop.create_task(source.send(stop) if guided is None else guided.ask(stop)))

    loop.add_signal_handler(signal.SIGINT, interrupted)

    async def leave(number: int) -> None:
        nonlocal told_to_leave
        told_to_leave = number
        if guided is not None:
            await guided.leave()
        following.cancel()

    def told(number: int) -> None:
        asking.add(loop.create_task(leave(number)))

    for number in _SIGNALS_TO_LEAVE if tour else ():  # without a tour there is nothing to put in order first
        if signal.getsignal(number) is signal.SIG_DFL:
            loop.add_signal_handler(number, told, number)

    stream = WholeStream(source, whole=whole, on_gap=lambda said: view.aside(f"rankdeck: {said}"))

    async def follow() -> int:
        status = EXIT_DIED
        async for message in stream.events():
            if guided is not None:
                await guided.show(message)
            else:
                view.show(message)
            sys.stdout.flush()
            ended = message.state.ended if isinstance(message, Snapshot) else message
            if isinstance(ended, protocol.RunEnded):
                status = ended.exit_status
        return status

    async def follow_to_the_end() -> int:
        try:
            return await follow()
        except (BrokenPipeError, OutputError):
            if guided is not None:
                await guided.leave()
            raise

    if isinstance(source, SocketSource):
        source.on_silence = lambda said: view.aside(f"rankdeck: {said if said is not None else ANSWERS_AGAIN}")
    following = loop.create_task(follow_to_the_end())
    try:
        return await following
    except SourceError as error:
        view.aside(f"rankdeck: {error}")
        return EXIT_DIED
    except OutputError as error:
        ended = run_directory.has_ended(source.directory)
        tell(f"rankdeck: {error}; {'the run has ended' if ended else _goes_on(source)}")
        return EXIT_DIED
    except BrokenPipeError:
        ended = run_directory.has_ended(source.directory)
        with contextlib.suppress(OSError):  # nor does anybody read this, with 2>&1
            tell(f"rankdeck: nobody is reading any more; {'the run has ended' if ended else _goes_on(source)}")
        return EXIT_NOBODY_READS
    except asyncio.CancelledError:
        return 128 + told_to_leave if told_to_leave else EXIT_INTERRUPTED
    finally:
        with contextlib.suppress(OSError):
            view.close()
        with contextlib.suppress(Exception):
            for number in (signal.SIGINT, *_SIGNALS_TO_LEAVE):
                loop.remove_signal_handler(number)
