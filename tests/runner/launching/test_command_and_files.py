"""How `accelerate launch` is called, and what its config file says; last words and logs at their edges."""

import signal
import sys
from pathlib import Path

import pytest

from rankdeck.runner.launching import accelerate, log_tail
from rankdeck.runner.launching.last_words import KILLED, cause_of, end_of_launcher, end_of_rank, signal_name
from rankdeck.runner.launching.log_tail import LogTail


def test_one_process_is_launched_by_this_python_by_a_config_of_its_own():
    command = accelerate.accelerate_command(Path("/run/accelerate.yaml"), "a.module", ["--run-dir", "/run"])
    assert command == [
        *(sys.executable, "-m", "accelerate.commands.launch", "--config_file", "/run/accelerate.yaml"),
        *("--num_machines", "1", "--num_processes", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
        *("-m", "a.module", "--run-dir", "/run"),
    ]


@pytest.mark.parametrize("on_cpu", [True, False])
def test_the_config_file_launches_one_process_without_a_group_or_half_precision(tmp_path, on_cpu):
    import yaml
    from accelerate.commands.config.config_args import load_config_from_file

    path = tmp_path / "accelerate.yaml"
    accelerate.write_accelerate_config(path, on_cpu)
    assert yaml.safe_load(path.read_text()) == {
        "compute_environment": "LOCAL_MACHINE",
        "debug": False,
        "distributed_type": "NO",
        "downcast_bf16": "no",
        "machine_rank": 0,
        "main_training_function": "main",
        "mixed_precision": "no",
        "num_machines": 1,
        "num_processes": 1,
        "use_cpu": on_cpu,
    }
    assert load_config_from_file(str(path)).use_cpu is on_cpu, "accelerate knows every field"
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("[rank12]: torch.cuda.OutOfMemoryError: no room", "torch.cuda.OutOfMemoryError: no room"),
        ("[rank1]:ValueError: x", "ValueError: x"),
        ("  KeyboardInterrupt", "KeyboardInterrupt"),
        ("SystemExit: 3", "SystemExit: 3"),
        ("my_package.errors.BadException: why", "my_package.errors.BadException: why"),
        ("AssertionError", "AssertionError"),
    ],
)
def test_an_error_is_known_by_its_name_whoever_says_it(line, cause):
    assert cause_of([line, "and something later"]) == cause


@pytest.mark.parametrize(
    "line", ["an Error: in a sentence", "error: lower", "Errors: 3", "x.error: no", "a ValueError: inside"]
)
def test_a_sentence_with_the_word_in_it_is_no_error(line):
    assert cause_of([line, "what came later"]) == "what came later"


@pytest.mark.parametrize(
    "noise",
    [
        "",
        "   ",
        "------",
        "=====",
        "Traceback (most recent call last):",
        '  File "x.py", line 1',
        "[W1128 12:00:00 socket.cpp:1] no hostname",
        "warnings.warn(",
        "rank 3: The supervisor is gone",
    ],
)
def test_banners_warnings_and_stack_traces_are_not_what_a_process_died_of(noise):
    assert cause_of(["its last words", noise]) == "its last words"
    assert cause_of([noise]) is None


def test_a_short_rule_is_a_line_as_any_other():
    assert cause_of(["before", "----"]) == "----"


def test_a_crash_is_told_before_other_lines_but_after_errors():
    assert cause_of(["Fatal Python error: Aborted", "later"]) == "Fatal Python error: Aborted"
    assert cause_of(["Fatal Python error: one", "Fatal Python error: two", "later"]) == "Fatal Python error: two"
    assert cause_of(["OSError: one", "Fatal Python error: two"]) == "OSError: one"


def test_a_rank_killed_by_the_kernel_is_not_asked_for_words_and_a_status_alone_is_told():
    assert end_of_rank(-signal.SIGKILL, ["ValueError: x"]) == KILLED
    assert end_of_rank(-signal.SIGTERM, ["ValueError: x"]) == "killed by SIGTERM: ValueError: x"
    assert end_of_rank(70, []) == "ended with status 70, without a word"
    assert end_of_rank(0, ["bye"]) == "bye"


def test_of_several_launchers_the_last_one_tells_how_its_process_died():
    died = "subprocess.CalledProcessError: Command '[]' died with <Signals.{}>."
    lines = [died.format("SIGKILL: 9"), died.format("SIGBUS: 7")]
    assert end_of_launcher(1, lines) == "accelerate launch ended with status 1: killed by SIGBUS"
    assert end_of_launcher(1, lines[:1]) == f"accelerate launch ended with status 1: {KILLED}"


def test_what_the_launchers_own_traceback_says_is_never_the_cause():
    lines = ['  File "/v/accelerate/commands/launch.py", line 3, in x', "    simple_launcher(args)"]
    assert end_of_launcher(2, ["no such module", *lines]) == "accelerate launch ended with status 2: no such module"
    assert end_of_launcher(2, lines) == "accelerate launch ended with status 2: it said nothing"


def test_signals_have_their_names():
    assert signal_name(15) == "SIGTERM"
    assert signal_name(99) == "signal 99"


def test_a_log_is_followed_from_its_end_within_its_bounds(tmp_path):
    assert (log_tail.MAX_BYTES_A_LOOK, log_tail.MAX_LINES_A_LOOK, log_tail.MAX_LINE, log_tail.KEPT_LINES) == (
        2**20, 200, 2000, 200,
    )  # fmt: skip
    log = tmp_path / "log"
    log.write_bytes(b"")
    tail = LogTail(log)
    log.write_bytes(b"y" * 2001 + b"\n\xff\n  \n")
    assert tail.new_lines() == ["y" * 2000, "\ufffd"]
    with log.open("ab") as file:
        file.write(b"a" * (2**20 - 1) + b"\n")
    assert tail.new_lines() == ["a" * 2000], "as much as is read at a look is read whole"
    with log.open("ab") as file:
        file.write(b"lost\n" + b"b" * (2**20 - 5) + b"\nend\n")
    assert tail.new_lines()[-1] == "end"
    assert "lost" not in tail.recent


def test_a_last_look_at_a_log_without_an_open_line_adds_nothing(tmp_path):
    log = tmp_path / "log"
    tail = LogTail(log)
    log.write_text("whole\n")
    assert tail.new_lines(last_look=True) == ["whole"]
    assert tail.new_lines(last_look=True) == []
