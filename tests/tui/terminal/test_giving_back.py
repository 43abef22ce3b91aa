"""The terminal is given back however a dashboard ends: by its key, a signal, kill -9, a stop or a hangup."""

import asyncio
import os
import re
import shutil
import signal
import sys
import termios
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psutil
import pyte
import pytest

from rankdeck.runner import run_directory
from rankdeck.runner.start import Started
from rankdeck.tui.session.terminal_session import LEAVE_SECONDS
from rankdeck.tui.sources.journal import SAMPLE
from rankdeck.tui.terminal.driver import RESIZE_SECONDS, Resizes
from tests.reports import write_run
from tests.terminal import Terminal

RANKDECK = str(Path(sys.executable).with_name("rankdeck"))
REPLAY = f"{RANKDECK} replay --sample"

COOKED = termios.ECHO | termios.ICANON | termios.ISIG


@pytest.fixture
def shell() -> Iterator[Terminal]:
    """A dashboard under a shell that outlives it, and then prints a line."""
    with Terminal(["sh", "-c", f"{REPLAY}; echo over: $?; exec cat"], columns=80, rows=24) as terminal:
        terminal.wait_for("Throughput", seconds=20)
        terminal.read(0.3)
        assert not modes(terminal) & COOKED
        yield terminal


def modes(terminal: Terminal) -> int:
    return int(termios.tcgetattr(terminal._master)[3])


def dashboard_of(terminal: Terminal) -> psutil.Process:
    return psutil.Process(terminal.pid).children()[0]


def assert_given_back(terminal: Terminal) -> None:
    """Assert that it is in cooked mode, with a cursor, on the main screen, without mouse reports and the like."""
    deadline = time.monotonic() + 5
    while modes(terminal) & COOKED != COOKED and time.monotonic() < deadline:
        terminal.read(0.05)
    terminal.read(0.3)
    assert modes(terminal) & COOKED == COOKED
    assert not terminal.screen.cursor.hidden
    raw = bytes(terminal.raw)
    for mode in (b"1049", b"1000", b"1003", b"1006", b"1015", b"1004", b"2004"):
        assert raw.rfind(b"\x1b[?%sl" % mode) > raw.rfind(b"\x1b[?%sh" % mode), mode
    assert raw.rfind(b"\x1b[?25h") > raw.rfind(b"\x1b[?25l")
    assert raw.rfind(b"\x1b[?7h") > raw.rfind(b"\x1b[?7l")
    assert raw.count(b"\x1b[<u") >= raw.count(b"\x1b[>"), "the keyboard's mode is popped"
    assert raw.count(b"\x1b[22;0t") <= raw.count(b"\x1b[23;0t"), "the title is popped"


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGHUP", "SIGSEGV"])
def test_a_dashboard_that_is_sent_a_signal_gives_the_terminal_back(shell: Terminal, name: str) -> None:
    dashboard_of(shell).send_signal(getattr(signal, name))
    shell.wait_for("over: ", seconds=10)
    assert_given_back(shell)


def test_told_to_leave_it_detaches(shell: Terminal) -> None:
    dashboard_of(shell).terminate()
    shell.wait_for("over: 0", seconds=10)


def test_the_guard_survives_the_killing_of_the_whole_job(shell: Terminal) -> None:
    # The shell is in the same group here, so only the guard is left to restore the terminal.
    os.killpg(shell.pid, signal.SIGKILL)
    assert_given_back(shell)


def test_left_by_its_key_it_writes_nothing_twice_and_leaves_no_guard(shell: Terminal) -> None:
    dashboard = dashboard_of(shell)
    guards = dashboard.children()
    shell.send("q")
    shell.wait_for("over: 0", seconds=10)
    assert_given_back(shell)
    assert bytes(shell.raw).count(b"\x1b[?1049l") == 1
    assert len(guards) == 1
    assert not guards[0].is_running()


def test_to_the_shell_and_back_and_killed_there() -> None:
    environ = {**os.environ, "PS1": "ready> "}
    with Terminal(["bash", "--norc", "-i"], columns=80, rows=24, environ=environ) as terminal:
        terminal.wait_for("ready>", seconds=10)
        terminal.send(f"{REPLAY}\r")
        terminal.wait_for("Throughput", seconds=20)
        terminal.read(0.3)
        terminal.send("\x1a")
        terminal.wait_for("Stopped", seconds=10)
        assert bytes(terminal.raw).rfind(b"\x1b[?1049l") > bytes(terminal.raw).rfind(b"\x1b[?1049h")
        terminal.send("echo the shell is here\r")
        terminal.wait_for("\nthe shell is here", seconds=10)
        terminal.send("fg\r")
        assert_repainted(terminal)
        dashboard_of(terminal).kill()
        terminal.wait_for("Killed", seconds=10)
        terminal.send("stty -a; echo done\r")
        terminal.wait_for("\ndone", seconds=10)
        assert " icanon" in terminal.text
        assert " echo " in terminal.text
        assert not terminal.screen.cursor.hidden


def test_stopped_and_continued_by_signals_it_repaints_and_still_gives_the_terminal_back(shell: Terminal) -> None:
    dashboard = dashboard_of(shell)
    dashboard.send_signal(signal.SIGSTOP)
    shell.read(0.3)
    dashboard.send_signal(signal.SIGCONT)
    assert_repainted(shell)
    shell.send("q")
    shell.wait_for("over: 0", seconds=10)
    assert_given_back(shell)


def assert_repainted(terminal: Terminal) -> None:
    """Assert that everything is on the alternate screen that the dashboard has just changed to."""
    begin = len(terminal.raw)
    deadline = time.monotonic() + 10
    while b"\x1b[?1049h" not in terminal.raw[begin:] and time.monotonic() < deadline:
        terminal.read(0.1)
    while b"Throughput" not in terminal.raw[terminal.raw.rfind(b"\x1b[?1049h") :] and time.monotonic() < deadline:
        terminal.read(0.1)
    terminal.read(0.5)
    fresh = pyte.Screen(80, 24)
    pyte.ByteStream(fresh).feed(bytes(terminal.raw[terminal.raw.rfind(b"\x1b[?1049h") :]))
    assert "rankdeck" in fresh.display[0]
    assert "Throughput" in "".join(fresh.display)
    assert "Help" in fresh.display[23]


def test_a_terminal_that_is_gone_ends_the_dashboard() -> None:
    terminal = Terminal([*REPLAY.split()], columns=80, rows=24)
    terminal.wait_for("Throughput", seconds=20)
    dashboard = psutil.Process(terminal.pid)
    os.close(terminal._master)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and os.waitpid(terminal.pid, os.WNOHANG)[0] == 0:
        time.sleep(0.05)
    assert not dashboard.is_running()


def test_a_terminal_that_is_gone_without_sighup_ends_it_too() -> None:
    """A dashboard outside the terminal's session gets no SIGHUP from the system."""
    import pty
    import subprocess

    master, slave = pty.openpty()
    process = subprocess.Popen(
        REPLAY.split(),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"},
    )
    os.close(slave)
    seen = b""
    while b"\x1b[?1049h" not in seen:
        seen += os.read(master, 65536)
    os.close(master)
    process.wait(10)


def test_a_terminal_that_takes_no_more_text_does_not_keep_a_dashboard_from_leaving(shell: Terminal) -> None:
    dashboard = dashboard_of(shell)
    for number in range(20):  # much is written, and nobody reads
        shell.resize(100 + number % 2 * 20, 30)
        time.sleep(0.1)
    dashboard.terminate()
    gone, _ = psutil.wait_procs([dashboard], timeout=LEAVE_SECONDS + 3)
    assert gone == [dashboard]
    assert_given_back(shell)


async def test_of_many_resizes_only_the_first_and_the_last_are_applied() -> None:
    resizes = Resizes(asyncio.get_running_loop())
    sizes: list[int] = []
    for size in range(100):
        resizes.soon(partial(sizes.append, size))
        if size == 0:
            await asyncio.sleep(0.01)
    await asyncio.sleep(RESIZE_SECONDS + 0.05)
    assert sizes == [0, 99]


def test_after_many_resizes_the_screen_is_right() -> None:
    with Terminal([*REPLAY.split()], columns=80, rows=24) as terminal:
        terminal.wait_for("Throughput", seconds=20)
        for number in range(200):
            terminal.resize(*((60, 18), (120, 40), (40, 10), (200, 60), (80, 24))[number % 5])
            terminal.read(0.01)
        terminal.resize(100, 30)

        def whole() -> bool:
            lines = terminal.text.split("\n")
            top, bottom = lines[0].startswith(" rankdeck"), "Help" in lines[29]
            return top and bottom and "Throughput" in lines[1] and lines[1].rstrip().endswith("╮")

        terminal.wait_until(whole, seconds=20)
        lines = terminal.text.split("\n")
        assert sum("Throughput" in line for line in lines) == 1


def test_a_terminal_of_sixteen_colours_gets_no_others() -> None:
    with Terminal(["env", "-u", "COLORTERM", "TERM=xterm", *REPLAY.split()], columns=80, rows=24) as terminal:
        terminal.wait_for("Throughput", seconds=20)
        terminal.read(1)
        assert b"\x1b[" in terminal.raw
        assert not re.search(rb"[34]8;[25];", bytes(terminal.raw))


def test_without_colour_there_are_only_greys() -> None:
    with Terminal(["env", "NO_COLOR=1", "COLORTERM=truecolor", *REPLAY.split()], columns=80, rows=24) as terminal:
        terminal.wait_for("Throughput", seconds=20)
        terminal.read(1)
        colours = re.findall(rb"[34]8;2;(\d+);(\d+);(\d+)", bytes(terminal.raw))
        assert colours
        assert all(len(set(colour)) == 1 for colour in colours)


def test_in_a_locale_without_utf_8_every_byte_has_7_bits() -> None:
    command = ["env", "-u", "LC_ALL", "-u", "LC_CTYPE", "LANG=C", *REPLAY.split()]
    with Terminal(command, columns=80, rows=24) as terminal:
        terminal.wait_for("Throughput", seconds=20)
        terminal.send("?")
        terminal.wait_for("Words", "Views", "The replay", seconds=10)
        terminal.send("\x1bt")
        terminal.read(0.5)
        assert all(byte < 0x80 for byte in terminal.raw)


@pytest.mark.parametrize("term", ["linux", "screen", "tmux-256color", "xterm"])
def test_the_title_goes_to_terminals_that_have_one(term: str) -> None:
    with Terminal(["env", f"TERM={term}", *REPLAY.split()], columns=80, rows=24) as terminal:
        terminal.wait_for("Throughput", seconds=20)
        terminal.read(1.5)
        assert (b"\x1b]2;rankdeck" in terminal.raw) == (term != "linux")
        terminal.send("q")
        assert terminal.wait() == 0
        assert (b"\x1b[23;0t" in terminal.raw) == (term != "linux")


def test_told_to_leave_a_run_opened_from_the_start_screen_goes_to_the_shell_at_once(
    launch: Callable[..., Started], standin_model: Path
) -> None:
    (standin_model / "hold").touch()
    started = launch(["a", "b", "c"])
    with Terminal([RANKDECK], columns=80, rows=24) as terminal:
        terminal.wait_for("● running", seconds=20)
        terminal.send("\x1b")
        terminal.wait_for("a Attach", seconds=20)
        terminal.send("a")
        terminal.wait_for("Throughput", seconds=20)
        assert_ends_at_once(terminal)
        assert b"goes on. Watch it: rankdeck attach" in bytes(terminal.raw)
    assert run_directory.supervisor_alive(started.directory)


def test_told_to_leave_a_replay_opened_from_the_start_screen_goes_to_the_shell_at_once() -> None:
    directory = run_directory.runs_directory() / "done"
    directory.parent.mkdir(parents=True)
    write_run(directory)
    shutil.copy(SAMPLE, directory / run_directory.EVENTS_FILE)
    with Terminal([RANKDECK], columns=80, rows=24) as terminal:
        terminal.wait_for("✓ completed", seconds=20)
        terminal.send("\x1b")
        terminal.wait_for("p Replay", seconds=20)
        terminal.send("p")
        terminal.wait_for("Throughput", seconds=20)
        assert_ends_at_once(terminal)


def assert_ends_at_once(terminal: Terminal) -> None:
    """Assert that it ends without coming back to the start screen."""
    begun = len(terminal.raw)
    os.kill(terminal.pid, signal.SIGTERM)
    assert terminal.wait(10) == 0
    assert b"Recent runs" not in terminal.raw[begun:]
    assert_given_back(terminal)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGKILL"])
def test_the_run_goes_on_when_its_dashboard_is_told_to_leave(
    launch: Callable[..., Started], standin_model: Path, name: str
) -> None:
    (standin_model / "hold").touch()
    started = launch(["a", "b", "c"])
    with Terminal([RANKDECK, "attach", str(started.directory)], columns=80, rows=24) as terminal:
        terminal.wait_for("Throughput", seconds=20)
        terminal.wait_for("2 ranks", seconds=20)
        os.kill(terminal.pid, getattr(signal, name))
        terminal.wait(10)
        if name == "SIGTERM":
            assert terminal.status == 0
            assert b"goes on. Watch it: rankdeck attach" in bytes(terminal.raw)
    assert run_directory.supervisor_alive(started.directory)
