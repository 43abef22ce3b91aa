"""The pager in a real terminal: whatever $PAGER is, the terminal is intact afterwards and the dashboard goes on.

The dashboard is real, on a run of stand-in ranks; pyte is the terminal. Most pagers here are scripts that write down
what they were given.
"""

import json
import os
import shutil
import signal
import sys
import termios
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from rankdeck.runner import run_directory
from rankdeck.tui.terminal import pager
from tests.terminal import Terminal
from tests.tui.terminal.test_on_terminals import assert_harmless, assert_whole

RANKDECK = str(Path(sys.executable).with_name("rankdeck"))
EVIL = "\x1b[35;7;99m\x1b]0;HOSTILE\x07\x1b]52;c;SE9TVElMRQ==\x07\x9b35;7;98m \u202eback\u202c [red]x[/red] |sh;$(id)"
SEEN = "␛[35;7;99m␛]0;HOSTILE␇␛]52;c;SE9TVElMRQ==␇⟨U+009B⟩35;7;98m ⟨U+202E⟩back⟨U+202C⟩ [red]x[/red] |sh;$(id)"
LEFT, TAKEN = b"\x1b[?1000l", b"\x1b[?1000h"
"""Mouse reports; a pager may use the alternate screen too, but not these."""


@pytest.fixture
def live(launch, tmp_path, monkeypatch):
    """A run that lasts as long as the test; its first answer is hostile."""
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.1")
    path = tmp_path / "prompts.jsonl"
    prompts = [f"!say {EVIL}", *(f"tell me of number {number}" for number in range(4000))]
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    started = launch(path)
    deadline = time.monotonic() + 20
    while not run_directory.supervisor_alive(started.directory):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return started


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str, str], str]:
    """Makes a program in a new directory, which can be the whole PATH."""

    def make(name: str, script: str) -> str:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        path = folder / name
        path.write_text(script)
        path.chmod(0o755)
        return str(path)

    return make


@contextmanager
def outputs_of(run, environ: Mapping[str, str | None]) -> Iterator[Terminal]:
    """The Outputs view of a run, with an answer under the cursor; at the end it is left by its key."""
    changed = {**os.environ, **{name: value for name, value in environ.items() if value is not None}}
    for name, value in environ.items():
        if value is None:
            changed.pop(name, None)
    with Terminal([RANKDECK, "attach", str(run.directory)], columns=100, rows=30, environ=changed) as terminal:
        before = termios.tcgetattr(terminal._master)
        terminal.wait_for("tok/s now", seconds=30)
        terminal.send("2")
        terminal.wait_for("output token", seconds=30)
        terminal.send("og")  # in input order, the first
        terminal.wait_for("▸ #0", seconds=10)
        terminal.read(0.3)
        yield terminal
        terminal.send("1")
        terminal.wait_for("Throughput", seconds=10)
        terminal.read(0.5)
        assert_whole(terminal)
        terminal.send("d")
        assert terminal.wait(10) == 0
        assert termios.tcgetattr(terminal._master) == before
        for mode in (1000, 1003, 1006, 1049, 2004):
            assert terminal.raw.rindex(b"\x1b[?%dl" % mode) > terminal.raw.rindex(b"\x1b[?%dh" % mode)


def told(terminal: Terminal) -> str:
    """The message that says why there is no pager."""
    terminal.wait_for("No pager", seconds=10)
    terminal.read(0.3)
    lines = [line.split("▌", 1)[1].split("│")[0] for line in terminal.text.splitlines() if "▌" in line]
    return " ".join(" ".join(lines).split())


def until_there(path: Path, terminal: Terminal) -> str:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline, terminal.text
        terminal.read(0.05)
    return path.read_text()


def back(terminal: Terminal, since: int) -> None:
    """Wait until the dashboard has taken the terminal again."""
    deadline = time.monotonic() + 20
    while terminal.raw.find(TAKEN, since) < 0:
        assert time.monotonic() < deadline, terminal.text
        terminal.read(0.05)
    terminal.read(0.5)


def test_a_pager_has_the_terminal_as_it_was_and_the_answer_whole_and_harmless(live, program, tmp_path):
    said = tmp_path / "said"
    mine = program("my pager", f'#!/bin/sh\nstty -a </dev/tty >{said}.tty; echo "$@" >{said}.words; cat >{said}.part\n'
                               f'mv {said}.part {said}; read line </dev/tty; echo "$line" >{said}.line\n')  # fmt: skip
    with outputs_of(live, {"PAGER": f"'{mine}' -x 'two words'"}) as terminal:
        began = len(terminal.raw)
        terminal.send("p")
        text = until_there(said, terminal)
        assert LEFT in terminal.raw[began:]
        assert TAKEN not in terminal.raw[began:]
        assert text.startswith("#0   rank 0   batch #1")
        assert f"prompt\n!say {SEEN}\n\nanswer\n{SEEN}\n" in text
        modes = Path(f"{said}.tty").read_text().split()
        assert {"icanon", "echo", "isig", "opost"} <= set(modes)
        assert Path(f"{said}.words").read_text() == "-x two words\n"
        terminal.send("a line for the pager\r")
        back(terminal, began)
        assert Path(f"{said}.line").read_text() == "a line for the pager\n"
    assert_harmless(bytes(terminal.raw))


def test_the_whole_answer_on_its_own_screen_has_the_pager_too(live, program, tmp_path):
    said = tmp_path / "said"
    mine = program("mine", f"#!/bin/sh\ncat >{said}\n")
    with outputs_of(live, {"PAGER": mine}) as terminal:
        terminal.send("v")
        terminal.wait_for("Answer   1 of")
        began = len(terminal.raw)
        terminal.send("p")
        back(terminal, began)
        assert SEEN in said.read_text()
        terminal.wait_for("Answer   1 of")
        terminal.send("q")
        terminal.wait_for("Outputs")


@pytest.mark.skipif(shutil.which("less") is None, reason="there is no less here")
@pytest.mark.parametrize("less", [None, "FRX", "-R -i"])
def test_without_a_PAGER_it_is_less_which_stays_until_it_is_left(live, less):
    with outputs_of(live, {"PAGER": None, "LESS": less}) as terminal:
        began = len(terminal.raw)
        terminal.send("p")
        terminal.wait_for("(END)", seconds=20)
        terminal.read(1)
        assert TAKEN not in terminal.raw[began:], "it waits to be left, though the text is short"
        assert SEEN[:60] in terminal.raw[began:].decode()
        terminal.send("q")
        back(terminal, began)
    assert b"\x1b[35;7;99m" not in terminal.raw
    assert b"HOSTILE\x07" not in terminal.raw


def test_without_less_it_is_more(live, program, tmp_path):
    said = tmp_path / "said"
    more = program("more", f"#!/bin/sh\n{shutil.which('cat')} >{said}\n")
    with outputs_of(live, {"PAGER": "", "PATH": os.path.dirname(more)}) as terminal:
        began = len(terminal.raw)
        terminal.send("p")
        back(terminal, began)
        assert SEEN in said.read_text()


@pytest.mark.parametrize(
    ("pager", "words"),
    [
        (None, "there is no pager here (less or more)"),
        ("nosuch -R", "there is no program 'nosuch'"),
        ("less 'open", "No closing quotation"),
        ("\anosuch", "there is no program"),
    ],
)
def test_without_a_pager_the_dashboard_says_so_and_stays(live, tmp_path, pager, words):
    (tmp_path / "bin").mkdir()
    with outputs_of(live, {"PAGER": pager, "PATH": str(tmp_path / "bin")}) as terminal:
        began = len(terminal.raw)
        terminal.send("p")
        assert words in told(terminal)
        assert LEFT not in terminal.raw[began:]


def test_a_pager_that_cannot_be_started_is_reported_and_the_dashboard_is_back(live, program):
    broken = program("broken", "#!/nowhere/interpreter\n")
    with outputs_of(live, {"PAGER": broken}) as terminal:
        terminal.send("p")
        assert "could not be started: No such file or directory" in told(terminal)


@pytest.mark.parametrize(
    "script",
    [
        "#!/bin/sh\nexit 3\n",
        "#!/bin/sh\nkill -9 $$\n",
        "#!/bin/sh\nstty raw -echo </dev/tty; printf '\\033[?25l\\033[?7l'; kill -9 $$\n",
        "#!/bin/sh\nexec <&-; exit 0\n",
    ],
    ids=["fails", "killed", "killed in raw mode", "does not read"],
)
def test_a_pager_that_ends_badly_leaves_a_whole_terminal(live, program, script):
    with outputs_of(live, {"PAGER": program("bad", script)}) as terminal:
        for _ in range(2):
            began = len(terminal.raw)
            terminal.send("p")
            back(terminal, began)


def test_ctrl_c_in_the_pager_reaches_only_the_pager(live, program, tmp_path):
    ready = tmp_path / "ready"
    mine = program("mine", f"#!/bin/sh\n: > {ready}; exec sleep 60\n")
    with outputs_of(live, {"PAGER": mine}) as terminal:
        began = len(terminal.raw)
        terminal.send("p")
        until_there(ready, terminal)
        terminal.send("\x03")
        back(terminal, began)
        assert live.process.poll() is None, "the run was not asked to stop"
        assert "Stopping" not in terminal.text


@pytest.mark.parametrize("mine", ["true", "/"])
def test_ctrl_c_means_afterwards_what_it_meant_before(monkeypatch, mine):
    class Suspendable:
        @contextmanager
        def suspend(self):
            yield

    def before(*_: object) -> None:
        pass

    monkeypatch.setattr(pager, "pager_command", lambda environ: [mine])
    own = signal.signal(signal.SIGINT, before)
    try:
        with suppress(pager.PagerError):  # a folder cannot be run
            pager.page(Suspendable(), "text", os.environ)
        assert signal.getsignal(signal.SIGINT) is before
    finally:
        signal.signal(signal.SIGINT, own)


def test_events_that_came_meanwhile_are_shown_afterwards(live, program, tmp_path):
    ready = tmp_path / "ready"
    mine = program("mine", f"#!/bin/sh\ntouch {ready}; read line </dev/tty\n")
    with outputs_of(live, {"PAGER": mine}) as terminal:

        def answers() -> int:
            return int(terminal.text.split("Outputs  ")[1].split(" answer")[0].replace(",", ""))

        before, began = answers(), len(terminal.raw)
        terminal.send("p")
        until_there(ready, terminal)
        terminal.read(4)
        terminal.send("\r")
        back(terminal, began)
        terminal.read(1)
        assert answers() > before
