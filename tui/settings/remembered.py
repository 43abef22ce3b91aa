"""What the dashboard remembers by itself: the last theme chosen. In `$XDG_STATE_HOME/rankdeck/remembered.json`.

Nothing depends on it: a file that cannot be read counts as empty, and one that cannot be written is given up.
"""

import contextlib
import os
import tempfile
from pathlib import Path

import msgspec
import platformdirs


class Remembered(msgspec.Struct, frozen=True):
    theme: str | None = None


def path() -> Path:
    return platformdirs.user_state_path("rankdeck", appauthor=False) / "remembered.json"


def recall() -> Remembered:
    try:
        return msgspec.json.decode(path().read_bytes(), type=Remembered)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return Remembered()


def remember(what: Remembered) -> None:
    """Write the file whole or not at all."""
    file = path()
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=file.name)
        try:
            with os.fdopen(descriptor, "wb") as new:
                new.write(msgspec.json.encode(what))
            os.replace(name, file)
        except OSError:
            os.unlink(name)
            raise
