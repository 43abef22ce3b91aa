"""`rankdeck serve`: a run's dashboard in a browser, for an audience."""

import errno
import socket
from typing import Annotated

import typer

from rankdeck.tui.commands.common import find_run, load_preferences, refuse
from rankdeck.tui.commands.options import Theme
from rankdeck.tui.settings.preferences import PreferenceError

EXTRA = "it needs the extra `web`: pip install 'rankdeck[web]'"
PORT = 8000


def serve(
    run: Annotated[
        str | None, typer.Argument(help="A run's name, or its directory.  [default: the newest live run]")
    ] = None,
    control: Annotated[bool, typer.Option("--control", help="Viewers may steer the run, and stop it.")] = False,
    host: Annotated[str, typer.Option(help="Listen there; other than the loopback, others can watch.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Listen on it; 0 is any free one.", min=0, max=65535)] = PORT,
    theme: Theme = None,
) -> None:
    """The same dashboard in a browser, read-only; a run that is over is replayed. Needs the extra `web`."""
    directory = find_run(run)
    try:
        theme = load_preferences(theme=theme).theme
    except PreferenceError as error:
        raise refuse(str(error)) from None
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
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise refuse(f"--port: {port} is taken on {host}; choose another, or 0 for any free one") from None
        raise refuse(f"cannot listen on {host}, port {port}: {error.strerror}") from None
    admission = server.admission(listening, host)
    if not server.is_loopback(listening):
        can = "read all prompts and answers" + (", steer the run and stop it" if control else "")
        typer.echo(f"rankdeck: warning: whoever has this address, or listens on the network, can {can}", err=True)

    def say_where() -> None:
        typer.echo(server.address(listening, host) + admission.address_end)
        how = "viewers may steer it" if control else "read-only"
        typer.echo(f"rankdeck: serving {directory.name}, {how}; Ctrl-C ends it", err=True)

    title = f"rankdeck {directory.name}"
    views = server.RunServer(directory, title=title, control=control, theme=theme, admission=admission)
    views.serve_on(listening, say_where)
