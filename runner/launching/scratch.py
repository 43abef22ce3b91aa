"""Where a rank's engine may keep files and sockets of its own while it lives: beside the run's socket.

That folder is its user's alone, and its path is short, as the path of a socket has to be.
"""

from pathlib import Path


def scratch_of(socket: str, rank: int) -> Path:
    """The folder of this rank; whoever needs it makes it, and the supervisor removes it with the rank."""
    return Path(socket).with_suffix(f".{rank}")
