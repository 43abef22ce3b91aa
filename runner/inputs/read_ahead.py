"""Has the kernel read a model's weights into its page cache while the ranks are still importing.

Knows files and their sizes; loads nothing and takes no memory in this process. Ranks that find the weights in the page
cache load at the speed of memory, all at once.
"""

import contextlib
import os
from pathlib import Path

import psutil

PIECE = 128 * 1024
"""Linux reads at most a device's read-ahead per request, 128 KiB by default."""

ROOM = 0.5
"""Share of the available memory that weights may take: if they do not fit, their start would be dropped again."""


def read_ahead(folder: Path) -> int:
    """Request all weights in `folder`; returns how many bytes. What cannot be read is left to the ranks.

    Returns before all of it is in memory, but may have to wait for the disk: call it in a thread.
    """
    weights = sorted(folder.glob("*.safetensors"))
    asked = 0
    with contextlib.suppress(OSError, AttributeError):  # a file that was removed; a system without posix_fadvise
        if sum(path.stat().st_size for path in weights) > psutil.virtual_memory().available * ROOM:
            return 0
        for path in weights:
            with path.open("rb") as file:
                for start in range(0, path.stat().st_size, PIECE):
                    os.posix_fadvise(file.fileno(), start, PIECE, os.POSIX_FADV_WILLNEED)
            asked += path.stat().st_size
    return asked
