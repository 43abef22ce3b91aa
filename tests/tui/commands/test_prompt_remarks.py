"""What of a prompt file is not taken is said once: by the command, in the log, and to every view."""

import json

from rankdeck.runner import run_directory
from tests.tui.commands.test_cli import rankdeck

ROWS = [
    {"messages": [{"role": "user", "content": "one", "name": "Ann"}], "tools": [{}], "prompt": None},
    {"prompt": "two", "messages": None, "id": 0},
]


def test_keys_that_are_left_out_are_said_on_stderr_and_in_the_log(launch, standin_model, tmp_path):
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    directory = tmp_path / "run"
    result = rankdeck(
        *("run", str(tmp_path / "p.jsonl"), "--model", str(standin_model), "--device", "cpu", "--ranks", "1"),
        *("--json", "--run-dir", str(directory)),
    )
    assert result.exit_code == 0, result.stderr
    said = "keys of the prompt file that are not used: `messages.name` (1), `tools` (1)"
    assert f"rankdeck: warning: {said}" in result.stderr.splitlines()
    assert said in run_directory.read_run_file(directory).remarks
    assert (directory / run_directory.LOG_FILE).read_text().count(f"warning: {said}") == 1
    journal = [json.loads(line) for line in (directory / run_directory.EVENTS_FILE).read_text().splitlines()]
    assert [event["text"] for event in journal if said in event.get("text", "")] == [f"warning: {said}"]
    assert [record.id for record in run_directory.read_outputs(directory)] == ["0", "0"]
