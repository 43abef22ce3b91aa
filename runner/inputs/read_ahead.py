"""Has the kernel read a model's weights into its page cache while the ranks are still importing.

Knows files and their sizes; loads nothing, and takes no memory of its own. Ranks that find the weights in the
page cache load at the speed of memory, all side by side.
"""

import contextlib
import os
from pathlib import Path

import psutil

PIECE = 128 * 1024
"""Linux reads no more than a device's read-ahead at one asking, 128 KiB by default, however much is asked for."""

ROOM = 0.5
"""Of the memory available, the share that weights may take: where they do not fit, their start would be gone again."""


def read_ahead(folder: Path) -> int:
    """Ask for all weights in `folder`; returns how many bytes were asked for. What cannot be read is left to the ranks.

    Returns before all of it is in memory, but may wait for the disk now and then: call it in a thread.
    """
    weights = sorted(folder.glob("*.safetensors"))
    asked = 0
    with contextlib.suppress(OSError, AttributeError):  # a file that went away; a system without posix_fadvise
        if sum(path.stat().st_size for path in weights) > psutil.virtual_memory().available * ROOM:
            return 0
        for path in weights:
            with path.open("rb") as file:
                for start in range(0, path.stat().st_size, PIECE):
                    os.posix_fadvise(file.fileno(), start, PIECE, os.POSIX_FADV_WILLNEED)
            asked += path.stat().st_size
    return asked
