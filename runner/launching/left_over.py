"""What an earlier launch of a run has left behind: processes that could not leave with their supervisor, ended here.

Ranks leave by themselves when their supervisor is gone; one that is stopped cannot, and keeps its memory, on a GPU too.
"""

import contextlib
import itertools
from pathlib import Path

import psutil

END_SECONDS = 3.0


def end_left_over(socket: Path) -> str | None:
    """Kill this user's processes that were launched for `socket`; says what became of them, None if there are none.

    Only for one who knows that the run has no other supervisor. Nothing is lost: ranks keep nothing but their memory.
    """
    found = [process for process in psutil.process_iter() if _was_launched_for(process, str(socket))]
    for process in found:
        with contextlib.suppress(psutil.Error, OSError):
            process.kill()
    _, alive = psutil.wait_procs(found, END_SECONDS)
    processes = "process" if len(found) == 1 else "processes"
    said = f"killed {len(found):,} {processes} left over from an earlier launch"
    return (f"{said}; {len(alive):,} would not die" if alive else said) if found else None


def _was_launched_for(process: psutil.Process, socket: str) -> bool:
    """Whether it is the launcher, the ranks' parent or a rank of a launch for `socket`, which share their arguments."""
    try:
        arguments = process.cmdline()
    except (psutil.Error, OSError):  # another user's, or gone
        return False
    return "--run-dir" in arguments and ("--socket", socket) in itertools.pairwise(arguments)
