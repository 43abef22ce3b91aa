"""The dashboard of one browser: `python -m rankdeck.tui.web.view DIRECTORY [--control] [--theme NAME]`, by the server.

A live run is watched, one that is over is replayed. Viewers reach nothing else on this machine, even with --control,
which lets them steer the run. Speaks Textual's web protocol on its standard streams, so it prints nothing. Ends when
the server does, however that ended.
"""

import argparse
import os
import threading
import time
from pathlib import Path

from rankdeck.runner import run_directory
from rankdeck.tui.app.app import RankdeckApp
from rankdeck.tui.settings.preferences import Preferences

LOOK_SECONDS = 1.0


def view_of(directory: Path, *, control: bool, theme: str | None = None) -> RankdeckApp:
    """The dashboard to show a browser of the run in `directory`: live, or a replay if the run is over.

    Raises:
        JournalError: the run is over, and its journal cannot be replayed.
    """
    preferences = Preferences(theme=theme)  # keys and bells are for the user of this machine, not for viewers
    if run_directory.supervisor_alive(directory):
        from rankdeck.tui.sources.client import SocketSource

        return RankdeckApp(
            SocketSource(directory),
            earlier=run_directory.read_outputs,
            steerable=control,
            preferences=preferences,
            at_home=False,
        )
    from rankdeck.tui.app.replay import ReplayApp
    from rankdeck.tui.sources import journal
    from rankdeck.tui.sources.replay import ReplaySource

    found = journal.find(str(directory))
    return ReplayApp(ReplaySource(found), journal.how_it_stops(found), preferences=preferences, at_home=False)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_SECONDS)
    os._exit(0)  # there is nobody to tell, and no terminal to restore


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--control", action="store_true")
    parser.add_argument("--theme")
    options = parser.parse_args()
    threading.Thread(target=_end_with, args=[os.getppid()], daemon=True).start()
    view_of(options.directory, control=options.control, theme=options.theme).run()


if __name__ == "__main__":
    main()
