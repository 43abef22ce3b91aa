"""Copying to the clipboard of the user's own terminal, over any number of SSH hops: OSC 52.

The text is sent as base64, so that nothing in it can steer the terminal. The terminal does not say whether it took the
text, so the words do not claim it did.
"""

from typing import Any

from textual.app import App

MOST_BYTES = 74_994
"""Common terminals silently drop longer texts: this many bytes are 100,000 characters of base64."""


def copy(app: App[Any], text: str, what: str, *, instead: str = "") -> None:
    """Copy `text`, and tell the user; `what` names it, as in `the answer`.

    `instead` tells the user what else to do with a text that is too long for terminals.
    """
    # A lone surrogate cannot be encoded.
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
