"""Copying to the clipboard of the terminal in front of the person, over any number of SSH hops: OSC 52.

The text goes out as base64, so that nothing in it steers a terminal. Whether the terminal took it, nobody says;
so the words do not claim it did.
"""

from typing import Any

from textual.app import App

MOST_BYTES = 74_994
"""Longer texts are dropped by common terminals without a word: this many bytes are 100,000 characters of base64."""


def copy(app: App[Any], text: str, what: str, *, instead: str = "") -> None:
    """Copy `text`, and say what was done; `what` names it, as in `the answer`.

    `instead` says what else can be done with a text that is too long for terminals.
    """
    # A lone surrogate is no text that could be sent.
    data = text.encode("utf-8", errors="replace")
    if len(data) > MOST_BYTES:
        said = f"{what} has {len(text):,} characters: terminals take some 75,000 bytes. {instead}"
        app.notify(
            said.rstrip(),
            title="Too long to copy",
            severity="warning",
            markup=False,
        )
        return
    app.copy_to_clipboard(data.decode())
    app.notify(
        f"{what}, {len(text):,} characters. The terminal must allow OSC 52; in tmux: set -g set-clipboard on",
        title="Copied",
        markup=False,
    )
