"""`rankdeck replay`: a recorded run again, in a dashboard, as lines or as its events."""

import sys
import time
from collections.abc import Iterator
from typing import Annotated

import typer

from rankdeck.runner import protocol
from rankdeck.runner.protocol import AnyEvent
from rankdeck.tui.commands.common import preferred, view_problems
from rankdeck.tui.commands.options import ViewOptions, grouped
from rankdeck.tui.commands.parsing import mistakes, refuse
from rankdeck.tui.plain.view import end_lines, terminal_view
from rankdeck.tui.settings.preferences import Preferences
from rankdeck.tui.sources import journal
from rankdeck.tui.sources.journal import Journal, JournalError
from rankdeck.tui.sources.replay import FASTEST, SLOWEST, ReplaySource
from rankdeck.tui.terminal.inert import say, say_json, tell


@grouped
def replay(
    *,
    context: typer.Context,
    run: Annotated[
        str | None, typer.Argument(help="A run's name, its directory, or a journal (its events.jsonl).")
    ] = None,
    speed: Annotated[
        float | None,
        typer.Option(help="0.25 to 64 times as fast.  [default: 1; lines and JSON come without waiting]"),
    ] = None,
    sample: Annotated[bool, typer.Option("--sample", help="The recorded run that comes with rankdeck.")] = False,
    view: ViewOptions,
) -> None:
    """Watch a run once more, in the same dashboard: pause, seek, change the speed. Needs no GPU and no model."""
    wrong = [*mistakes(context), *view_problems(view)]
    if sample and run is not None:
        wrong.append("--sample replays the run that comes with rankdeck; leave out --sample or RUN")
    if not sample and run is None:
        wrong.append(
            "say what to replay: `rankdeck replay RUN`, where `rankdeck list` shows the runs there are, "
            "or `rankdeck replay --sample` for the one that comes with rankdeck"
        )
    if speed is not None and not SLOWEST <= speed <= FASTEST:
        wrong.append(f"--speed: must be from {SLOWEST:g} to {FASTEST:g}, not {speed:g}")
    if wrong:
        raise refuse(*wrong)
    try:
        found = Journal(journal.SAMPLE) if run is None else journal.find(run)
        preferences = preferred(view)
        if preferences is None:
            _print(found, speed, json=view.json)
        else:
            _show(found, speed or 1.0, preferences)
    except JournalError as error:
        raise refuse(str(error)) from None


def _print(found: Journal, speed: float | None, *, json: bool) -> None:
    for note in found.notes:
        tell(f"rankdeck: {note}")
    view = terminal_view()
    try:
        for event in _paced(found, speed):
            if json:
                say_json(protocol.encode_line(event).decode())
            else:
                view.show(event)
            if speed is not None:
                sys.stdout.flush()
    except KeyboardInterrupt:
        return
    finally:
        view.close()
    if stops := journal.how_it_stops(found):
        tell(f"rankdeck: the journal stops here: {stops}")


def _paced(found: Journal, speed: float | None) -> Iterator[AnyEvent]:
    """The events; with a speed, each at the time it is due."""
    began = time.monotonic()
    for number, event in enumerate(found.events()):
        if speed is not None:
            time.sleep(max(0.0, began + found.moment(number) / speed - time.monotonic()))
        yield event


def _show(found: Journal, speed: float, preferences: Preferences) -> None:
    from rankdeck.tui.app.replay import ReplayApp
    from rankdeck.tui.session.terminal_session import run_app

    app = ReplayApp(ReplaySource(found, speed=speed), journal.how_it_stops(found), preferences=preferences)
    run_app(app)
    if app.followed.lost is not None:
        raise JournalError(app.followed.lost)
    if app.followed.final_state is not None:
        for line in end_lines(app.followed.final_state):
            say(line)
