"""The whole, in a real terminal: the `rankdeck` command in a pty, accelerate's ranks, the demo model."""

import json
import os
import re
import signal
import sys
from pathlib import Path

import pytest

from rankdeck.runner import run_directory
from tests import ROOT
from tests.terminal import Terminal

pytestmark = pytest.mark.slow

RANKDECK = str(Path(sys.executable).with_name("rankdeck"))
STORIES = (ROOT / "sample_prompts" / "stories.txt").read_text().splitlines()


def prompts_file(tmp_path: Path, count: int) -> str:
    path = tmp_path / "prompts.txt"
    path.write_text("".join(f"{prompt}\n" for prompt in STORIES[:count]))
    return str(path)


def present_batch_size(terminal: Terminal) -> int | None:
    """That of the marked row in the table of settings."""
    found = re.search(r"▸ +(\d+) +[12] ", terminal.text)
    return int(found[1]) if found is not None else None


def test_a_run_is_launched_from_the_dashboard_steered_left_and_watched_again(tmp_path, run_dir):
    command = [RANKDECK, "run", prompts_file(tmp_path, 96), "--model", "demo", "--device", "cpu", "--ranks", "2"]
    command += ["--batch-size", "4", "--max-new-tokens", "24", "--run-dir", str(run_dir)]
    with Terminal(command, columns=80, rows=24) as terminal:
        terminal.wait_for("Throughput", seconds=20)
        terminal.wait_for("tok/s now", seconds=240)
        terminal.send("+")
        terminal.wait_until(lambda: present_batch_size(terminal) == 8, seconds=20)
        terminal.send("[")
        terminal.wait_for("1 of 2 ranks")
        terminal.resize(120, 40)
        terminal.wait_until(lambda: re.search(r"▸ +8 +1 +\d+ ", terminal.text) is not None, seconds=180)
        terminal.send("d")
        assert terminal.wait() == 0
    assert b"rankdeck attach" in bytes(terminal.raw), "the way back is printed"

    with Terminal([RANKDECK, "attach", str(run_dir)], columns=120, rows=40) as terminal:
        terminal.wait_until(lambda: present_batch_size(terminal) == 8, seconds=20)
        terminal.send("]")
        terminal.wait_for("completed", seconds=240)
        terminal.send("2")
        terminal.wait_for("answers, as they came")
        terminal.send("og")
        terminal.wait_for(STORIES[0][:20])
        terminal.send("q")
        assert terminal.wait() == 0
        assert b"\x1b[?1049l" in bytes(terminal.raw), "the terminal is given back as it was"
    records = list(run_directory.read_outputs(run_dir))
    assert [record.prompt for record in records] == STORIES[:96]
    assert run_directory.read_run_file(run_dir).summary.completed == 96


def test_the_terminals_death_does_not_end_the_run(tmp_path, run_dir):
    command = [RANKDECK, "run", prompts_file(tmp_path, 12), "--model", "demo", "--device", "cpu", "--ranks", "2"]
    command += ["--max-new-tokens", "12", "--run-dir", str(run_dir)]
    with Terminal(command, columns=80, rows=24) as terminal:
        terminal.wait_for("Throughput", seconds=20)
        os.kill(terminal.pid, signal.SIGHUP)
        terminal.wait()
    with Terminal([RANKDECK, "attach", str(run_dir), "--plain"], columns=200) as terminal:
        assert terminal.wait(240) == 0
        assert "12 of 12 prompts completed" in terminal.text


def test_control_c_while_loading_stops_at_once_and_leaves_nothing(tmp_path, run_dir):
    command = [
        RANKDECK,
        "run",
        prompts_file(tmp_path, 4),
        "--model",
        "demo",
        "--device",
        "cpu",
        "--run-dir",
        str(run_dir),
    ]
    with Terminal([*command, "--plain"], columns=200) as terminal:
        terminal.wait_for("importing", seconds=30)
        terminal.send("\x03")
        assert terminal.wait(30) == 130
    assert json.loads((run_dir / "run.json").read_text())["status"] == "stopped"
    assert not run_directory.supervisor_alive(run_dir)
