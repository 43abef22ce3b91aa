"""Why a process ended, from what it printed and what the kernel says of it. Pure.

Knows Python's tracebacks, the crash traces of faulthandler, and exit statuses. Does not know where the lines come from.
"""

import re
import signal
from collections.abc import Sequence

KILLED = "killed by SIGKILL (by the kernel because memory ran out, or by somebody)"

_ERROR_LINE = re.compile(r"^(?:\[rank\d+\]: ?)?((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt|Exit)\b.*)")
_NOISE = re.compile(
    r"^\s*($|[-=]{5,}|Traceback|File \"|\[W|warnings\.warn|.*the supervisor is gone)",
    re.IGNORECASE,
)
_LAUNCHER = re.compile(r"CalledProcessError: .*?(?:died with <Signals\.(?P<signal>\w+)|$)")
"""What `accelerate launch` says at last, whatever its process died of."""


def cause_of(lines: Sequence[str]) -> str | None:
    """The last meaningful line of a log: the last error, else the last line that is no banner or stack trace."""
    meaningful = [line for line in lines if not _LAUNCHER.search(line)]
    for line in reversed(meaningful):
        if match := _ERROR_LINE.match(line.strip()):
            return match[1]
    for line in reversed(meaningful):
        if line.startswith("Fatal Python error"):
            return line.strip()
    for line in reversed(meaningful):
        if not _NOISE.match(line):
            return line.strip()
    return None


def end_of_rank(status: int | None, lines: Sequence[str]) -> str:
    """What a rank died of: `status` is its exit status, or minus a signal's number; None if nobody knows it."""
    if status == -signal.SIGKILL:
        return KILLED
    said = cause_of(lines)
    if status is not None and status < 0:
        return f"killed by {signal_name(-status)}" + (f": {said}" if said else "")
    return said or (f"ended with status {status}, without a word" if status else "ended without a word")


def out_of_memory_while_loading(ranks: int) -> str:
    """What to say of a rank that was killed by SIGKILL before it was ready, and what can be done."""
    cure = "run fewer ranks (--ranks)" if ranks > 1 else "take a smaller model, or a smaller --dtype"
    return (
        f"killed by SIGKILL before it was ready: the kernel does that when the machine's memory runs out, and would do "
        f"so again; {cure}"
    )


def end_of_launcher(status: int, lines: Sequence[str]) -> str:
    """Why there is no parent of the ranks any more; `lines` is what `accelerate launch` printed."""
    said = cause_of([line for line in lines if not _is_of_launcher(line)])
    for line in reversed(lines):
        if (match := _LAUNCHER.search(line)) and match["signal"]:
            said = KILLED if match["signal"] == "SIGKILL" else f"killed by {match['signal']}"
            break
    return f"accelerate launch ended with status {status}: {said or 'it said nothing'}"


def _is_of_launcher(line: str) -> bool:
    """Whether a line is of the traceback that `accelerate launch` prints when its process has failed."""
    return "accelerate/commands/launch.py" in line or "simple_launcher" in line


def signal_name(number: int) -> str:
    """A signal's name; its number where it has none, as those for real time."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
