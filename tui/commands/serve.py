"""`rankdeck serve`: a run's dashboard in a browser, for an audience."""

import errno
import signal
import socket
from typing import Annotated

import typer

from rankdeck.runner.protocol.config import out_of_bounds
from rankdeck.tui.commands.common import find_run, load_preferences, view_problems
from rankdeck.tui.commands.options import Theme, ViewOptions
from rankdeck.tui.commands.parsing import mistakes, refuse
from rankdeck.tui.settings.preferences import PreferenceError
from rankdeck.tui.terminal.inert import say, tell
from rankdeck.tui.words.text import visible

EXTRA = "it needs the extra `web`: pip install 'rankdeck[web]'"
PORT, MAX_PORT = 8000, 65535


def serve(
    context: typer.Context,
    run: Annotated[
        str | None, typer.Argument(help="A run's name, or its directory.  [default: the newest live run]")
    ] = None,
    control: Annotated[bool, typer.Option("--control", help="Viewers may steer the run, and stop it.")] = False,
    host: Annotated[str, typer.Option(help="Listen there; other than the loopback, others can watch.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 picks a free one.")] = PORT,
    theme: Theme = None,
) -> None:
    """The same dashboard in a browser, read-only; a run that is over is replayed. Needs the extra `web`."""
    # Until the server handles it, Ctrl-C ends the process outright: there is nothing to clean up yet, and as an
    # exception it could be lost in a callback of an import.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    wrong = [*mistakes(context), *view_problems(ViewOptions(theme=theme))]
    if said := out_of_bounds(port, 0, MAX_PORT):
        wrong.append(f"--port: {said}")
    directory = find_run(run, wrong)
    if wrong:
        raise refuse(*wrong)
    try:
        theme = load_preferences(theme=theme).theme
    except PreferenceError as error:
        raise refuse(*str(error).split("\n")) from None
    try:
        from rankdeck.tui.web import server
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("aiohttp", "aiohttp_jinja2", "textual_serve"):
            raise
        raise refuse(EXTRA) from None
    try:
        listening = server.listen(host, port)
    except socket.gaierror as error:
        raise refuse(f"--host: {host}: {error.strerror}") from None
    except UnicodeError:
        raise refuse(f"--host: {host!r} is not a valid host name") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise refuse(f"--port: {port} is taken on {host}; choose another, or 0 for any free one") from None
        raise refuse(f"cannot listen on {host}, port {port}: {error.strerror}") from None
    admission = server.admission(listening, host)
    if not server.is_loopback(listening):
        can = "read all prompts and answers" + (", steer the run and stop it" if control else "")
        tell(f"rankdeck: warning: whoever has this address, or listens on the network, can {can}")

    def say_where() -> None:
        say(server.address(listening, host) + admission.address_end)
        how = "viewers may steer it" if control else "read-only"
        tell(f"rankdeck: serving {directory.name}, {how}; Ctrl-C ends it")

    title = visible(f"rankdeck {directory.name}")
    views = server.RunServer(directory, title=title, control=control, theme=theme, admission=admission)
    views.serve_on(listening, say_where)
