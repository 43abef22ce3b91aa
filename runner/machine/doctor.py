"""What would not work on this machine, and the cure. Pure: facts in, findings out, none about what was not examined.

`bad` keeps a run, or its GPUs, from working; `warn` works, with a loss that the finding names.
"""

from collections.abc import Iterable

from rankdeck.runner.inputs import vllm_package
from rankdeck.runner.machine.check import GIB, MIB, Check, Numbers, Status, counted, gib, size, version_numbers
from rankdeck.runner.machine.facts import Facts, WritablePlace
from rankdeck.runner.machine.gpu_checks import gpu_checks

RANGES: dict[str, tuple[Numbers, Numbers | None]] = {
    "torch": ((2, 8), None),
    "transformers": ((5, 17), (6,)),
    "accelerate": ((1, 10), (2,)),
    "nvidia-ml-py": ((12, 575), None),
    "textual": ((8,), (9,)),
}
"""The versions that rankdeck installs with: at least the first, below the second."""

TESTED: dict[str, tuple[Numbers, Numbers]] = {"torch": ((2, 13), (2, 13)), "transformers": ((5, 17), (5, 24))}
"""The releases that its tests run with, from the first to the second; others may work."""

OPTIONAL = {
    "bitsandbytes": "--quantization bnb-8bit and bnb-4bit",
    "torchao": "--quantization int8",
    "pyarrow": "prompts from .parquet files",
}

LOW_SHARED_MEMORY = 64 * MIB
LOW_MEMORY = 2 * GIB
LOW_DISK = GIB
DEMO_ROOM = 800_000_000
LOW_FILES = 1024
LONGEST_SOCKET = 107
"""Bytes that a unix socket's path may have (sun_path of unix(7), less its final zero)."""


def worst(checks: Iterable[Check]) -> Status:
    """The status of the machine as a whole."""
    found = {check.status for check in checks}
    return "bad" if "bad" in found else "warn" if "warn" in found else "ok"


def findings(facts: Facts) -> list[Check]:
    """All findings, group by group. Those about torch and CUDA are missing until torch was asked."""
    return [*_software(facts), *gpu_checks(facts), *_room(facts), *_places(facts), *_terminal(facts)]


# --- software -------------------------------------------------------------------------------------


def _software(facts: Facts) -> list[Check]:
    checks = [Check(group="Software", name="python", status="ok", found=facts.python)]
    checks.extend(_package(name, facts.packages.get(name)) for name in RANGES)
    optional = OPTIONAL if facts.vllm is not None else {**OPTIONAL, "vllm": "--engine vllm"}
    missing = [name for name in optional if name not in facts.packages]
    here = [f"{name} {facts.packages[name]}" for name in OPTIONAL if name in facts.packages]
    checks.append(
        Check(
            group="Software",
            name="optional",
            status="ok",
            found="; ".join([*here, *(f"no {name} (for {optional[name]})" for name in missing)]),
        )
    )
    if facts.vllm is not None:
        found = f"{facts.vllm}, for --engine vllm; {vllm_package.LISTENS}"
        checks.append(Check(group="Software", name="vllm", status="ok", found=found))
    if facts.accelerate_config is not None:
        found = f"{facts.accelerate_config}, yours, is not read: a run brings its own"
        checks.append(Check(group="Software", name="own config", status="ok", found=found))
    return checks


def _package(name: str, version: str | None) -> Check:
    least, below = RANGES[name]
    wanted = f"{name}>={_dotted(least)}" + (f",<{_dotted(below)}" if below else "")
    cure = f"pip install '{wanted}'"
    if version is None:
        return Check(group="Software", name=name, status="bad", found="is not installed", cure=cure)
    numbers = version_numbers(version)
    if numbers < least or (below is not None and numbers >= below):
        found = f"{version}, and rankdeck was made for {wanted.removeprefix(name)}"
        return Check(group="Software", name=name, status="bad", found=found, cure=cure)
    return Check(group="Software", name=name, status="ok", found=f"{version}{_untested(name, numbers)}")


def _untested(name: str, numbers: Numbers) -> str:
    """A remark on a release that no test runs with."""
    oldest, newest = TESTED.get(name, ((), ()))
    if not oldest or oldest <= numbers[:2] <= newest:
        return ""
    return f"; tested with {_dotted(oldest)}" + (f" to {_dotted(newest)}" if newest != oldest else "")


def _dotted(numbers: Numbers) -> str:
    return ".".join(map(str, numbers))


# --- memory, disk, files ----------------------------------------------------------------------------


def _room(facts: Facts) -> list[Check]:
    group, machine = "Memory", facts.machine
    checks = []
    free, total = machine.memory_free_bytes, machine.memory_total_bytes
    if free is not None and total is not None:
        found = f"{gib(free)} of {gib(total)} GiB free, {counted(machine.cores, 'core')}"
        low = free < LOW_MEMORY
        cure = "end something, or run fewer ranks: one of the demo model takes about 1.4 GiB" if low else None
        checks.append(Check(group=group, name="memory", status="warn" if low else "ok", found=found, cure=cure))
    shared = facts.shared_memory_bytes
    if shared is not None:
        low = shared < LOW_SHARED_MEMORY
        found = f"/dev/shm has {size(shared)} free"
        cure = "start the container with --shm-size=1g, in case a library of the model wants it" if low else None
        checks.append(Check(group=group, name="shared memory", status="warn" if low else "ok", found=found, cure=cure))
    if facts.open_files is not None and facts.open_files >= 0:
        low = facts.open_files < LOW_FILES
        found = f"{facts.open_files:,} files may be open"
        cure = (
            f"raise the hard limit (ulimit -Hn) to {LOW_FILES}: many ranks and viewers need a socket each"
            if low
            else None
        )
        checks.append(Check(group=group, name="open files", status="warn" if low else "ok", found=found, cure=cure))
    return checks


def _places(facts: Facts) -> list[Check]:
    group = "Files"
    checks = [
        _place("runs", facts.runs, "set XDG_STATE_HOME to a directory with room that you may write to"),
        _place("cache", facts.cache, "set XDG_CACHE_HOME to a directory with room that you may write to"),
        _demo(facts),
    ]
    if facts.environ.get("HF_HUB_OFFLINE", "0").lower() not in ("", "0", "false", "no", "off"):
        found = "HF_HUB_OFFLINE is set: of the hub, only models in the cache can be had"
        checks.append(Check(group=group, name="hub", status="ok", found=found))
    runtime = facts.runtime
    if runtime.error is not None:
        found, cure = f"{runtime.path}: {runtime.error}", f"remove it: rm -r {runtime.path}"
        checks.append(Check(group=group, name="sockets", status="bad", found=found, cure=cure))
    elif facts.socket_bytes > LONGEST_SOCKET:
        found = f"a socket's path has {facts.socket_bytes} bytes, and {LONGEST_SOCKET} are possible"
        checks.append(Check(group=group, name="sockets", status="bad", found=found, cure="choose a shorter TMPDIR"))
    else:
        found = f"{runtime.path}, for you alone"
        checks.append(Check(group=group, name="sockets", status="ok", found=found))
    return checks


def _place(name: str, place: WritablePlace, cure: str) -> Check:
    if place.error is not None:
        return Check(group="Files", name=name, status="bad", found=f"{place.path}: {place.error}", cure=cure)
    free = place.free_bytes
    low = free is not None and free < LOW_DISK
    found = f"{place.path}" + (f", {size(free)} free" if free is not None else "")
    return Check(group="Files", name=name, status="warn" if low else "ok", found=found, cure=cure if low else None)


def _demo(facts: Facts) -> Check:
    def demo(status: Status, found: str, cure: str | None = None) -> Check:
        return Check(group="Files", name="demo model", status=status, found=found, cure=cure)

    if facts.demo_cached:
        return demo("ok", "is in the cache")
    if not facts.pip:
        return demo("warn", "is not here, and cannot be fetched: pip is missing", "python -m ensurepip")
    if facts.cache.free_bytes is not None and facts.cache.free_bytes < DEMO_ROOM:
        return demo("warn", "is not here, and there is no room for it: 0.8 GB", "free some room in the cache")
    return demo("ok", "is fetched with pip when it is first wanted, 93 MB")


# --- terminal -------------------------------------------------------------------------------------


def _terminal(facts: Facts) -> list[Check]:
    terminal = facts.terminal

    def check(name: str, status: Status, found: str, cure: str | None = None) -> Check:
        return Check(group="Terminal", name=name, status=status, found=found, cure=cure)

    unicode = terminal.encoding.upper().replace("-", "") == "UTF8"
    checks = [
        check("characters", "ok", "UTF-8")
        if unicode
        else check(
            "characters",
            "warn",
            f"{terminal.encoding or 'unknown'}: bars and frames may not show",
            "export LC_ALL=C.UTF-8",
        )
    ]
    if terminal.size is None:
        return [*checks, check("size", "ok", "no terminal here: runs are shown as plain lines")]
    columns, rows = terminal.size
    if columns < 60 or rows < 18:
        checks.append(check("size", "bad", f"{columns}x{rows}; the dashboard needs 60x18", "make the window larger"))
    else:
        checks.append(check("size", "ok", f"{columns}x{rows}"))
    colours = "none wanted: NO_COLOR is set" if terminal.no_colour else terminal.colours
    if terminal.term in ("", "dumb", "unknown"):
        said = f"TERM is {terminal.term!r}: no dashboard can be drawn, runs are shown with --plain"
        checks.append(check("colours", "bad", said, "export TERM=xterm-256color"))
    else:
        few = terminal.colours == "16 colours" and not terminal.no_colour
        cure = "export TERM=xterm-256color, or COLORTERM=truecolor, if your terminal can" if few else None
        checks.append(check("colours", "warn" if few else "ok", f"TERM={terminal.term}, {colours}", cure))
    if terminal.over_ssh:
        found = "the run is a process of its own and survives a dropped line: `rankdeck attach` comes back"
        checks.append(check("ssh", "ok", found))
    if terminal.tmux_clipboard is not None:
        off = terminal.tmux_clipboard in ("off", "external")
        cure = "tmux set -g set-clipboard on" if off else None
        found = f"set-clipboard is {terminal.tmux_clipboard}" + (
            "; copying does not reach your clipboard" if off else ""
        )
        checks.append(check("tmux", "warn" if off else "ok", found, cure))
    if "STY" in facts.environ:
        found = "GNU screen passes no copying on to your clipboard"
        checks.append(check("screen", "warn", found, "use tmux, or copy with the mouse"))
    return checks
