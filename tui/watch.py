"""Watch a run to its end, in the view that fits: dashboard, lines, or JSON.

Knows how a view is fed, what Ctrl-C means without a screen, and which exit status comes out.
"""

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from runner import protocol, start
from runner.config import Problem, RunConfig
from runner.start import Started
from runner.state import Snapshot, ToViewer
from tui.client import SocketSource, Source, SourceError
from tui.plain import PlainView, end_lines

if TYPE_CHECKING:
    from tui.app import RankdeckApp

EXIT_BAD_INPUT, EXIT_DIED, EXIT_INTERRUPTED = 2, 3, 130


def watch(started: Started, *, plain: bool, json: bool) -> int:
    """Watch the run just started until it ends or the viewer leaves. Returns the exit status."""
    source = SocketSource(started.directory, started.died)
    if not plain and not json:
        from tui.app import RankdeckApp

        return _fly(RankdeckApp(source))
    return asyncio.run(_follow(source, _JsonView() if json else PlainView()))


def start_screen() -> int:
    """The dashboard's start screen: choose, launch, watch. Returns the exit status."""
    from tui.app import RankdeckApp

    return _fly(RankdeckApp(None, launcher=_Launcher()))


class _Launcher:
    """What the start screen may ask of the machine."""

    def __init__(self) -> None:
        self.machine = start.machine_line()
        self.default_ranks = start.default_ranks()

    def check(self, config: RunConfig) -> list[Problem]:
        return start.check(config)

    def launch(self, config: RunConfig) -> Source:
        started = start.launch(config)
        return SocketSource(started.directory, started.died)


def _fly(app: "RankdeckApp") -> int:
    app.run()
    state = app.final_state
    if state is None or state.config is None:
        return app.return_code or 0
    if state.ended is None:
        sys.stdout.write(f"run {state.name} goes on; its directory is {state.directory}\n")
        return 0
    sys.stdout.write("".join(f"{line}\n" for line in end_lines(state)))
    return state.ended.exit_status


class _JsonView:
    """The messages as they came, and the state they add up to."""

    def __init__(self, write: Callable[[str], object] = sys.stdout.write) -> None:
        self.exit_status = EXIT_DIED
        self._write = write

    def show(self, message: ToViewer) -> None:
        self._write(protocol.encode_line(message).decode())


async def _follow(source: Source, view: PlainView | _JsonView) -> int:
    """Feed the view until the run ends. The first Ctrl-C asks the run to stop, the second ends it."""
    loop = asyncio.get_running_loop()
    asked = 0
    asking: set[asyncio.Task[None]] = set()

    def interrupted() -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            sys.stderr.write("rankdeck: stopping after the batches in flight; Ctrl-C again to end now\n")
        elif asked > 2:
            sys.stderr.write("rankdeck: no longer watching\n")
            following.cancel()
        asking.add(loop.create_task(source.send(protocol.Stop(now=asked > 1))))

    loop.add_signal_handler(signal.SIGINT, interrupted)

    async def follow() -> int:
        async for message in source.events():
            view.show(message)
            sys.stdout.flush()
            if isinstance(message, protocol.RunEnded):
                return message.exit_status
            if isinstance(message, Snapshot) and message.state.ended is not None:
                return message.state.ended.exit_status
        return EXIT_DIED

    following = loop.create_task(follow())
    try:
        return await following
    except SourceError as error:
        sys.stderr.write(f"rankdeck: {error}\n")
        return EXIT_DIED
    except asyncio.CancelledError:
        return EXIT_INTERRUPTED
    finally:
        with contextlib.suppress(Exception):
            loop.remove_signal_handler(signal.SIGINT)
