"""--plain: its lines have what the screen shows, and in a terminal a bar stays below them."""

import io
import re
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from rich.cells import cell_len

from rankdeck.tui.panels.overview.advice import advice_texts
from rankdeck.tui.panels.overview.ranks import rank_lines
from rankdeck.tui.plain.bar import ERASE, BottomLine, bar_stream
from rankdeck.tui.plain.status import WIDE, bar_line, progress_line, status_lines
from rankdeck.tui.plain.view import PlainView
from rankdeck.tui.words.text import plain
from tests import scripted, scripted_steering
from tests.scripted import Script
from tests.terminal import Terminal

RANKDECK = str(Path(sys.executable).with_name("rankdeck"))
PROMPTS = [f"tell me of number {number}" for number in range(60)]


def said(script: Script) -> str:
    lines: list[str] = []
    view = PlainView(lines.append)
    for event in script.events:
        view.show(event)
    return "".join(lines)


def test_the_ranks_are_the_table_on_screen() -> None:
    state = scripted.running().state
    titles, first, second = status_lines(state)[:3]
    assert titles.split() == ["rank", "device", "state", "batch", "step", "tok/s", "prompts", "waste", "idle"]
    assert re.fullmatch(r" +0 +cpu +decoding +#5 x16 +\d+/50 +\d+ +32 +12% +\d+%", first)
    assert "\n".join((titles, first, second)) == plain(rank_lines(state, WIDE))


def test_each_gpu_has_a_row_with_the_figures_on_screen() -> None:
    lines = status_lines(scripted.running(8, gpus=8).state)[9:]
    assert lines[0].split() == ["gpu", "name", "busy", "memory", "power", "temp", "SM", "clock", "throttle", "rank"]
    assert re.fullmatch(
        r" +3  H100 80GB HBM3 +\d+%  25.0/79.6 GiB  \d+/700 W  61 °C  1980/1980 MHz  power cap +3", lines[4]
    )


def test_without_a_gpu_each_process_has_a_row() -> None:
    titles, first = status_lines(scripted.running().state)[3:5]
    assert titles.split() == ["rank", "device", "CPU", "threads", "memory"]
    assert re.fullmatch(r" +0  AMD EPYC 9354  \d+% +1  1.3 GiB", first)


def test_a_missing_figure_of_a_gpu_is_not_available_and_a_lost_gpu_says_why() -> None:
    state = scripted.running(1, gpus=1).state
    (device,) = state.devices
    bare = replace(
        device.sample,
        busy_percent=None, memory_used_bytes=None, power_watts=None, temperature_celsius=None, sm_clock_mhz=None,
        throttle_reasons=None,
    )  # fmt: skip
    line = status_lines(replace(state, devices=(replace(device, sample=bare),)))[3]
    assert line.count("n/a") == 6
    lost = replace(device.sample, lost=True, unavailable={"lost": "fell off the bus"})
    line = status_lines(replace(state, devices=(replace(device, sample=lost),)))[2]
    assert line == "GPU 0 H100 80GB HBM3  ✗ lost  fell off the bus  rank 0"


def test_the_progress_line_has_speed_eta_and_phases_of_the_ranks() -> None:
    line = progress_line(scripted.running().state)
    assert re.search(r"\d+ tok/s now, \d+ mean, \d+ peak", line)
    assert line.startswith("64 / 100 prompts, 32 in flight, ")
    assert re.search(
        r"ETA \d\d:\d\d, output tokens 4,\d{3}, batch size 16, padding waste 12% \(2 ranks decoding\)$", line
    )


def test_the_status_is_printed_every_ten_seconds() -> None:
    script = scripted.running(2, gpus=2, prompts=1000)
    for _ in range(40):
        script.wait(1).tick(step=20, batches=[5, 6])
    block = [line for line in said(script).splitlines() if re.search(r" 0 +cuda:0 +decoding", line)]
    assert 4 <= len(block) <= 7


def test_advice_is_printed_only_when_it_is_new() -> None:
    script = scripted_steering.STATES["advice"]()
    for _ in range(40):
        script.wait(1).tick()
    assert advice_texts(script.state)
    for advice in advice_texts(script.state):
        assert said(script).count(f"advice: {advice}") == 1


def test_the_log_is_among_the_lines() -> None:
    assert "log of supervisor: run calm-harbour, 100 prompts" in said(scripted.starting())


def test_many_ranks_are_printed_less_often() -> None:
    script = scripted.running(64, prompts=5000)
    for _ in range(70):
        script.wait(1).tick()
    assert 1 <= len(re.findall(r" 63 +cpu ", said(script))) <= 3


@given(st.integers(1, 300), st.sampled_from(["starting", "fetching", "loading", "running", "completed", "failed"]))
def test_the_bar_is_never_wider_than_the_terminal(width: int, name: str) -> None:
    state = getattr(scripted, name)().state
    line = bar_line(state, width)
    assert cell_len(line) <= width
    assert "%" in line or width < 5


def test_the_bar_has_share_prompts_speed_eta_and_ranks() -> None:
    line = bar_line(scripted.running().state, 79)
    assert re.match(r" \d\d% █+░+  64/100 prompts  \d+ tok/s  ETA \d\d:\d\d  2/2 ranks$", line), line
    assert "1/2 ranks ready" in bar_line(replace_ready(scripted.loading().state), 79)


def replace_ready(state):
    ready = scripted.ready(0, 0)
    return replace(state, ranks=(replace(state.ranks[0], ready=ready), *state.ranks[1:]))


def test_the_bar_is_redrawn_in_place_four_times_a_second_at_most_with_lines_above_it() -> None:
    stream, now = io.StringIO(), [0.0]
    bar = BottomLine(stream, clock=lambda: now[0])
    drawn = 0
    for beat in range(100):
        now[0] = beat / 100
        if bar.due:
            bar.draw(f"{beat}%")
            drawn += 1
    assert drawn == 4
    stream.truncate(0)
    bar.write_above(stream, "a line\n")
    bar.close()
    assert stream.getvalue().lstrip("\0") == f"{ERASE}a line\n75%{ERASE}"


def test_there_is_no_bar_without_a_terminal_that_can_show_one(monkeypatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    for term, there in (("dumb", False), ("", False), ("xterm", True)):
        monkeypatch.setenv("TERM", term)
        assert (bar_stream() is not None) is there
    ascii_only = BottomLine(io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert ascii_only.signs == ("#", ".")


@pytest.fixture
def slowly(monkeypatch):
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.05")


def attach(started, **how) -> Terminal:
    return Terminal([RANKDECK, "attach", str(started.directory), "--plain"], rows=20, **how)


def test_in_a_terminal_the_bar_is_below_the_lines_and_is_erased_at_the_end(launch, slowly):
    with attach(launch(PROMPTS), columns=100) as terminal:
        terminal.wait_for("tok/s  ETA")
        *above, bar = terminal.text.rstrip().splitlines()
        assert re.match(r" *\d+% █*░*  \d+/60 prompts", bar), terminal.text
        assert above
        assert not any("░" in line for line in above), "the only bar is the last line"
        terminal.wait(60)
        assert "█" not in terminal.text
        assert "60 of 60 prompts completed" in terminal.text


def test_ctrl_c_erases_the_bar(launch, slowly):
    with attach(launch(PROMPTS * 20), columns=100) as terminal:
        terminal.wait_for("tok/s  ETA")
        terminal.send("\x03")
        # It may have scrolled off the screen by now.
        terminal.wait_until(lambda: b"Ctrl-C again to end now" in terminal.raw, seconds=30)
        assert terminal.wait(30) == 130
        assert "█" not in terminal.text
        assert "░" not in terminal.text


def test_ctrl_c_with_watch_only_does_not_end_the_run(launch, slowly):
    started = launch(PROMPTS * 20)
    command = [RANKDECK, "attach", str(started.directory), "--plain", "--watch-only"]
    with Terminal(command, columns=100, rows=20) as terminal:
        terminal.wait_for("tok/s  ETA")
        terminal.send("\x03")
        assert terminal.wait(30) == 130
    assert started.process.poll() is None


@pytest.mark.parametrize("columns", [20, 40, 60])
def test_in_a_narrow_terminal_the_bar_takes_one_line(launch, slowly, columns):
    with attach(launch(PROMPTS), columns=columns) as terminal:
        terminal.wait_for("%", seconds=20)
        terminal.wait(60)
        bars = re.findall(r"\r\x1b\[K([^\r\n\x1b]*%[^\r\n\x1b]*)", terminal.raw.decode())
        assert bars
        assert all(cell_len(bar) < columns for bar in bars if re.match(r" {0,2}\d+%", bar))


def test_a_dumb_terminal_gets_lines_without_a_bar_or_control_codes(launch, slowly):
    with attach(launch(PROMPTS), columns=100, term="dumb") as terminal:
        terminal.wait(60)
        assert b"\x1b" not in terminal.raw
        assert "60 of 60 prompts completed" in terminal.text


def test_redirected_output_has_only_lines_and_the_terminal_has_the_bar(launch, slowly, tmp_path):
    started = launch(PROMPTS)
    file = tmp_path / "lines"
    command = f"{RANKDECK} attach {started.directory} --plain > {file}"
    with Terminal(["sh", "-c", command], columns=100, rows=20) as terminal:
        terminal.wait_for("tok/s  ETA")
        terminal.wait(60)
        assert terminal.text.strip() == ""
    text = file.read_text()
    assert "60 of 60 prompts completed" in text
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", text)
