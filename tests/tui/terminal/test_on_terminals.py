"""What reaches a real terminal: whole screens on every kind of terminal, and no codes from what a model writes.

The supervisor and the dashboard are real, the ranks are stand-ins; pyte is the terminal.
"""

import json
import os
import re
import sys
import time
from pathlib import Path

import pytest
from rich.cells import cell_len

from rankdeck.tui.screens.views import VIEWS
from rankdeck.tui.settings import preferences
from tests.terminal import Terminal

RANKDECK = str(Path(sys.executable).with_name("rankdeck"))

TERMS = ["xterm", "xterm-256color", "screen", "tmux-256color", "xterm-16color", "linux", "vt100"]


@pytest.fixture
def live(launch, monkeypatch):
    """A run that lasts as long as the test."""
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.1")
    return launch([f"tell me of number {number}" for number in range(4000)])


def assert_whole(terminal: Terminal) -> None:
    """Assert that every box is closed, nothing is wider than the terminal, and no code is shown as text."""
    lines = [line.ljust(terminal.screen.columns) for line in terminal.screen.display]
    text = "\n".join(lines)
    assert not re.search(r"\[\??[\d;]+[a-zA-Z$]|\x1b|[\x00-\x09\x0b-\x1f\x7f-\x9f]", text), text
    boxes = 0
    for row, line in enumerate(lines):
        assert cell_len(line.rstrip()) <= terminal.screen.columns
        for left in (match.start() for match in re.finditer("╭", line)):
            right = line.index("╮", left)
            below = next((down for down in range(row + 1, len(lines)) if lines[down][left] == "╰"), None)
            assert below is not None, f"the box at line {row} has no end:\n{text}"
            assert lines[below][right] == "╯", text
            for side in range(row + 1, below):
                assert lines[side][left] == "│", f"line {side}:\n{text}"
                assert lines[side][right] in "│┃▐█▕▁▂▃▄▅▆▇▊▉ ", f"line {side}:\n{text}"
            boxes += 1
    assert boxes >= 1 or terminal.screen.columns < 80, text


def comes_whole(terminal: Terminal, seconds: float = 10) -> None:
    """Wait until the screen is whole, which takes longer on a busy machine."""
    deadline = time.monotonic() + seconds
    while True:
        terminal.read(0.6)
        try:
            assert_whole(terminal)
        except AssertionError:
            if time.monotonic() > deadline:
                raise
        else:
            return


@pytest.mark.parametrize("term", TERMS)
def test_on_every_kind_of_terminal_every_view_is_whole(live, term):
    with Terminal([RANKDECK, "attach", str(live.directory)], columns=80, rows=24, term=term) as terminal:
        terminal.wait_for("tok/s now", seconds=30)
        for view in (*VIEWS, VIEWS[0]):
            terminal.send(view.key)
            comes_whole(terminal)
        terminal.send("d")
        assert terminal.wait(10) == 0
        assert b"\x1b[?1049l" in terminal.raw, "the terminal is given back"


@pytest.mark.parametrize("size", [(60, 18), (120, 40), (200, 60)])
@pytest.mark.parametrize("colours", [{}, {"NO_COLOR": "1"}], ids=["colour", "NO_COLOR"])
def test_in_every_size_with_and_without_colour_every_view_is_whole(live, size, colours):
    command = [RANKDECK, "attach", str(live.directory)]
    with Terminal(command, columns=size[0], rows=size[1], environ={**os.environ, **colours}) as terminal:
        terminal.wait_for("tok/s now", seconds=30)
        for view in (*VIEWS, VIEWS[0]):
            terminal.send(view.key)
            comes_whole(terminal)
        if colours:
            # Only shades of grey; nothing is red, green or blue.
            named = set(re.findall(rb"[34]8;2;(\d+);(\d+);(\d+)", bytes(terminal.raw)))
            assert all(len(set(map(int, triple))) == 1 for triple in named), named


def test_many_resizes_end_in_a_whole_screen(live):
    with Terminal([RANKDECK, "attach", str(live.directory)], columns=120, rows=40) as terminal:
        terminal.wait_for("tok/s now", seconds=30)
        for number in range(60):
            terminal.resize(20 + number * 37 % 180, 5 + number * 17 % 60)
            terminal.read(0.02)
        terminal.resize(100, 30)
        began = terminal.bytes_out
        terminal.read(3)
        assert_whole(terminal)
        assert terminal.bytes_out - began < 200_000, "what came of older sizes is not waited for"
        terminal.send("d")
        assert terminal.wait(10) == 0


def test_a_window_that_is_too_small_shows_one_line_that_says_so(live):
    with Terminal([RANKDECK, "attach", str(live.directory)], columns=40, rows=10) as terminal:
        terminal.wait_for("60x18", seconds=30)
        terminal.resize(80, 24)
        terminal.wait_for("tok/s now", seconds=10)
        terminal.read(1)
        assert_whole(terminal)


def test_a_dumb_terminal_gets_lines_instead_of_the_dashboard(live):
    with Terminal([RANKDECK, "attach", str(live.directory)], columns=100, rows=30, term="dumb") as terminal:
        terminal.wait_for("tok/s now", seconds=30)
        assert b"\x1b" not in terminal.raw
    with Terminal([RANKDECK], columns=100, rows=30, term="dumb") as terminal:
        assert terminal.wait(20) == 2
        assert "rankdeck run --help" in terminal.text


# --- what models say ------------------------------------------------------------------------------

CODES = {
    "a colour": "\x1b[35;7;99m",
    "a look at the cursor": "\x1b[6n",
    "the clipboard": "\x1b]52;c;SE9TVElMRQ==\x07",
    "the title": "\x1b]0;HOSTILE\x07",
    "a link": "\x1b]8;;http://hostile.example\x1b\\",
    "the printer": "\x1b[5i",
    "a device control string": "\x1bP$q q\x1b\\",
    "leaving the screen": "\x1b[?1049l\x1b[2J",
    "a reset": "\x1bc",
    "an 8-bit code": "\x9b35;7;98m",
    "an 8-bit string": "\x9d0;HOSTILE\x9c",
    "a backspace": "safe\b\b\b\bevil",
    "a return": "safe\revil",
    "a bell": "\x07\x07",
    "a NUL": "a\x00b",
    "DEL": "a\x7fb",
    "writing backwards": "\u202eevil\u202c \u2066evil\u2069",
    "no width": "a\u200bb\u2060c\ufeffd",
    "tags": "a\U000e0041b",
    "line ends": "a\u2028b\u2029c\x0b\x0cd\x85e",
    "markup": "[bold red]loud[/] [@click=app.quit]here[/] [link=file:///etc/passwd]x[/link]",
    "a format": "%s %n {0.__class__} $HOME `id`",
    "a path": "../../../../etc/passwd",
    "many marks": "e" + "\u0301" * 500,
}
MARKS = (
    b"35;7;99m", b"35;7;98m", b"SE9TVElMRQ", b"0;HOSTILE", b"8;;http://hostile", b"5i", b"$q q", b"6n", b"c",
)  # fmt: skip
"""What follows an escape in the hostile prompts; the terminal gets none of it after an escape."""


def hostile_prompts(tmp_path: Path) -> Path:
    path = tmp_path / "hostile.jsonl"
    says = [f"!say {name}: {code}" for name, code in CODES.items()]
    says += ["!say " + "a line of a megabyte " * 50_000, "!say " + "\x1b[35;7;99m" * 20_000]
    says += [f"!say {name}: {code}" for name, code in CODES.items()]
    path.write_text("".join(json.dumps({"prompt": say}) + "\n" for say in says))
    return path


def assert_harmless(raw: bytes) -> None:
    """Assert that none of the prompts' codes reached the terminal."""
    for mark in MARKS:
        for start in (b"\x1b[", b"\x1b]", b"\x1bP", b"\x1b", b"\xc2\x9b", b"\xc2\x9d"):
            assert start + mark not in raw, start + mark
    text = raw.decode("utf-8", "surrogateescape")
    assert not re.search("[\x80-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e007f]", text)
    # Without our own codes nothing unprintable is left: no cursor movement, no bell.
    own = re.sub(r"\x1b\[[<>=?]?[\d;]*\$?[a-zA-Z]|\x1b\](22;default|2;rankdeck[^\x00-\x1f\x7f]*)\x07", "", text)
    left = set(re.findall(r"[\x00-\x1f\x7f]", own)) - {"\r", "\n"}
    assert not left, {match: own[max(0, own.index(match) - 60) : own.index(match) + 60] for match in left}


@pytest.fixture
def hostile(launch, tmp_path, monkeypatch):
    preferences.path().parent.mkdir(parents=True)
    preferences.path().write_text(
        'notify = "off"\n'
    )  # otherwise we would ring the bell ourselves at the end of the run
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.1")
    return launch(hostile_prompts(tmp_path), ranks=2, batch_size=4)


def test_nothing_a_model_writes_reaches_the_terminal_as_a_code(hostile):
    with Terminal([RANKDECK, "attach", str(hostile.directory)], columns=120, rows=40) as terminal:
        terminal.wait_for("Throughput", seconds=30)
        began = time.monotonic()
        for view in (*VIEWS, VIEWS[1]):
            terminal.send(view.key)
            terminal.read(1.2)
        for key in ("g", "\r", "j", "j", "j", "\x1b", "G", "\r", "k", "\x1b"):
            terminal.send(key)
            terminal.read(0.2)
        terminal.send("1")
        terminal.wait_for("completed", seconds=60)
        assert time.monotonic() - began < 60
        terminal.send("2")
        terminal.read(1)
        for key in "gjjjjjjjjjjjjjjjjjjjjjjjjjj":
            terminal.send(key)
            terminal.read(0.1)
        terminal.send("q")
        assert terminal.wait(10) == 0
        assert_harmless(bytes(terminal.raw))
        assert "outputs:" in terminal.text, "the lines after it are there"


def test_nothing_a_model_writes_reaches_the_lines_as_a_code(hostile):
    with Terminal([RANKDECK, "attach", str(hostile.directory), "--plain"], columns=120, rows=40) as terminal:
        assert terminal.wait(60) == 0
        assert_harmless(bytes(terminal.raw))
        assert "prompts completed" in terminal.text


def test_a_hostile_run_is_replayed_and_listed_harmlessly(hostile, state_home):
    hostile.process.wait(60)
    for command in (["replay", str(hostile.directory), "--plain"], ["list"], ["report", str(hostile.directory)]):
        with Terminal([RANKDECK, *command], columns=120, rows=40) as terminal:
            assert terminal.wait(60) == 0
            assert_harmless(bytes(terminal.raw))
