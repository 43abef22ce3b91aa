"""The command line: what is refused, how, and with which exit status; what is printed without a screen."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rankdeck.runner import run_directory
from rankdeck.tui.commands import cli
from tests.runner.supervisor.test_supervisor import PROMPTS

RANKDECK = str(Path(sys.executable).with_name("rankdeck"))


def rankdeck(*arguments: str, stdin: str | None = None):
    return CliRunner().invoke(cli.app, arguments, input=stdin)


@pytest.mark.parametrize(
    ("content", "name", "arguments", "said"),
    [
        (None, "nowhere.txt", (), "there is no such file"),
        ("", "empty.txt", (), "is empty"),
        ("hello\n\nworld\n", "gap.txt", (), "gap.txt:2"),
        ('{"prompt": "a"}\n{"prompt": \n[]\n', "broken.jsonl", (), "broken.jsonl:2"),
        ("a,b\n1,2\n", "table.csv", (), "--column"),
        ("a,b\n1,2\n", "table.csv", ("--column", "c"), "'c'"),
        ("hello\n", "fine.txt", ("--batch-size", "0"), "--batch-size: must be at least 1, not 0"),
        ("hello\n", "fine.txt", ("--batch-size", "many"), "--batch-size: must be a whole number or auto, not 'many'"),
        ("hello\n", "fine.txt", ("--ranks", "-1"), "--ranks: must be at least 1, not -1"),
        ("hello\n", "fine.txt", ("--model", "./nowhere"), "there is no such folder"),
        ("hello\n", "fine.txt", ("--dispatch", "push"), "dispatch"),
        ("hello\n", "fine.txt", ("--output", "/nowhere/x.jsonl"), "there is no directory /nowhere"),
        ("hello\n", "fine.txt", ("--plain", "--json"), "exclude each other"),
        ("hello\n", "fine.txt", ("--name", "../up"), "--name"),
        ("hello\n", "fine.txt", ("--config", "nowhere.toml"), "nowhere.toml"),
    ],
)
def test_bad_input_is_refused_with_what_and_where_and_exit_status_2(
    tmp_path, state_home, content, name, arguments, said
):
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    result = rankdeck("run", str(path), *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(state_home.glob("**/run.json"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_nothing_is_left_of_a_run_whose_terminal_closes_while_its_prompts_are_read(state_home, standin_model, number):
    reading = subprocess.Popen(
        [RANKDECK, "run", "-", "--model", str(standin_model), "--device", "cpu", "--ranks", "1", "--name", "mine"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # nohup, and a shell's background, ignore some
    )
    runs = state_home / "rankdeck" / "runs"
    assert reading.stdin is not None
    reading.stdin.write(b"hello\n")
    reading.stdin.flush()
    deadline = time.monotonic() + 60
    while not (runs / "mine" / ".prompts.jsonl.partial").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    reading.send_signal(number)
    assert reading.communicate(timeout=30) == (b"", b"")
    assert reading.returncode == 130
    assert list(runs.iterdir()) == []


def test_all_bad_lines_are_named_at_once(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text("".join('{"prompt": 1}\n' for _ in range(25)))
    said = rankdeck("run", str(path)).stderr
    assert "p.jsonl:1:" in said
    assert "p.jsonl:20:" in said
    assert "5 more" in said


def test_settings_may_come_from_a_file_and_flags_win(tmp_path, monkeypatch):
    (tmp_path / "p.txt").write_text("hello\n")
    (tmp_path / "run.toml").write_text('prompts = "p.txt"\nbatch_size = "auto"\nmax_new_tokens = 7\ndevice = "cpu"\n')
    seen = {}
    monkeypatch.setattr(cli, "launch", lambda asked, *_, **__: seen.update(asked.values))
    assert rankdeck("run", "--config", str(tmp_path / "run.toml"), "--max-new-tokens", "9").exit_code == 0
    assert seen["max_new_tokens"] == 9
    assert seen["prompts"] == str(tmp_path / "p.txt"), "a path in a file is relative to the file"


@pytest.mark.parametrize("line", ["batchsize = 3", "batch_size = 3.5", "ranks = 'two'", "= 3"])
def test_a_config_file_that_makes_no_sense_is_refused(tmp_path, line):
    (tmp_path / "run.toml").write_text(line + "\n")
    result = rankdeck("run", "p.txt", "--config", str(tmp_path / "run.toml"))
    assert result.exit_code == 2
    assert "run.toml" in result.stderr


def test_runs_that_do_not_exist_or_are_not_live_are_refused():
    for command in (("attach",), ("attach", "nobody"), ("stop", "nobody"), ("resume", "nobody")):
        result = rankdeck(*command)
        assert result.exit_code == 2
        assert result.stderr.startswith("rankdeck: ")


def test_an_empty_list_says_how_to_start_a_run():
    assert rankdeck("list").stdout == "no runs yet; `rankdeck demo` starts one\n"


async def test_plain_lines_json_and_list_show_the_same_run(launch):
    started = launch(PROMPTS, name="first")
    shown = subprocess.Popen(
        [RANKDECK, "attach", str(started.directory), "--json"], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    printed = []
    from rankdeck.tui.plain.view import PlainView
    from rankdeck.tui.sources.client import SocketSource

    view = PlainView(printed.append)
    async for message in SocketSource(started.directory, started.died).events():
        view.show(message)
    started.process.wait(10)
    text = "".join(printed)
    assert "25 of 25 prompts completed, 0 failed" in text
    assert "#0 rank" in text
    assert text.rstrip().endswith("outputs.jsonl")
    lines = shown.communicate()[0].splitlines()
    if lines:  # it may have been too late to see anything
        assert json.loads(lines[-1])["type"] in ("run_ended", "snapshot")
    listed = rankdeck("list").stdout
    assert "first" in listed
    assert "completed" in listed
    assert "25/25" in listed
    record = json.loads(rankdeck("list", "--json").stdout)
    assert record["summary"]["completed"] == 25
    assert record["directory"] == str(run_directory.runs_directory() / "first")


def test_the_terminal_side_never_imports_torch():
    code = (
        "import sys\n"
        "from rankdeck.tui.app import app; from rankdeck.tui.commands import cli\n"
        "from rankdeck.tui.plain import view; from rankdeck.tui.session import watch\n"
        "heavy = {'torch', 'transformers', 'accelerate', 'numpy', 'gguf'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "from rankdeck.runner.supervisor import run\n"
        "heavy = {'torch', 'transformers', 'accelerate', 'textual', 'rich'} & set(sys.modules) - {'textual', 'rich'}\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
