"""Why a process ended: from its log, its exit status, and what `accelerate launch` says of its process."""

import signal

import pytest

from rankdeck.runner.launching import last_words
from rankdeck.runner.launching.last_words import cause_of, end_of_launcher, end_of_rank

TWO_ERRORS = """\
Traceback (most recent call last):
  File "/x/loading.py", line 3, in load
    open(path)
FileNotFoundError: weights.bin is not there

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "/x/worker.py", line 9, in live
    raise
RuntimeError: the model cannot be loaded
""".splitlines()

LAUNCHER = [
    "Traceback (most recent call last):",
    '  File "/v/site-packages/accelerate/commands/launch.py", line 1423, in <module>',
    "    main()",
    '  File "/v/site-packages/accelerate/commands/launch.py", line 1413, in launch_command',
    "    simple_launcher(args)",
    "    raise subprocess.CalledProcessError(returncode=process.returncode, cmd=cmd)",
]
CALLED = "subprocess.CalledProcessError: Command '['/v/bin/python', '-m', 'rankdeck.runner.rank.parent']' "


def test_the_cause_is_the_last_error_not_the_first():
    assert cause_of(TWO_ERRORS) == "RuntimeError: the model cannot be loaded"
    assert cause_of([*TWO_ERRORS, "[rank1]: torch.OutOfMemoryError: no room"]) == "torch.OutOfMemoryError: no room"


@pytest.mark.parametrize(
    ("lines", "cause"),
    [
        ([], None),
        (["", "-----", "Traceback (most recent call last):", '  File "x.py", line 1'], None),
        (["loading", "the supervisor is gone; leaving"], "loading"),
        (["Fatal Python error: Segmentation fault", "", "Current thread 0x1:", '  File "x.py"'],
         "Fatal Python error: Segmentation fault"),
        (["terminate called after throwing an instance of 'c10::Error'", "", "====="],
         "terminate called after throwing an instance of 'c10::Error'"),
        (["ValueError: no such word", "Fatal Python error: Aborted"], "ValueError: no such word"),
    ],
)  # fmt: skip
def test_without_an_error_it_is_the_last_line_that_says_something(lines, cause):
    assert cause_of(lines) == cause


@pytest.mark.parametrize(
    ("status", "lines", "said"),
    [
        (-signal.SIGKILL, TWO_ERRORS, last_words.KILLED),
        (-signal.SIGSEGV, [], "killed by SIGSEGV"),
        (-signal.SIGABRT, ["terminate called"], "killed by SIGABRT: terminate called"),
        (-40, [], "killed by signal 40"),
        (1, TWO_ERRORS, "RuntimeError: the model cannot be loaded"),
        (3, [], "ended with status 3, without a word"),
        (0, [], "ended without a word"),
        (None, [], "ended without a word"),
        (None, ["OSError: no"], "OSError: no"),
    ],
)
def test_a_rank_ends_by_a_signal_or_with_its_last_words(status, lines, said):
    assert end_of_rank(status, lines) == said


def test_too_little_memory_while_loading_is_told_with_its_cure():
    assert "run fewer ranks (--ranks)" in last_words.out_of_memory_while_loading(2)
    alone = last_words.out_of_memory_while_loading(1)
    assert "--ranks" not in alone
    assert "smaller model" in alone


def test_what_the_launcher_says_of_its_process_is_not_the_cause_unless_nothing_else_is_known():
    failed = ["ImportError: no torch", *LAUNCHER, CALLED + "returned non-zero exit status 1."]
    assert end_of_launcher(1, failed) == "accelerate launch ended with status 1: ImportError: no torch"
    killed = [*LAUNCHER, CALLED + "died with <Signals.SIGKILL: 9>."]
    assert end_of_launcher(1, killed) == f"accelerate launch ended with status 1: {last_words.KILLED}"
    crashed = ["a warning", *LAUNCHER, CALLED + "died with <Signals.SIGSEGV: 11>."]
    assert end_of_launcher(1, crashed) == "accelerate launch ended with status 1: killed by SIGSEGV"
    assert end_of_launcher(2, []) == "accelerate launch ended with status 2: it said nothing"


def test_what_the_kernel_does_where_memory_runs_out_is_told_word_for_word():
    assert last_words.KILLED == "killed by SIGKILL (by the kernel because memory ran out, or by somebody)"
    words = (
        "killed by SIGKILL before it was ready: the kernel does that when the machine's memory runs out, and would do "
        "so again; "
    )
    assert last_words.out_of_memory_while_loading(2) == f"{words}run fewer ranks (--ranks)"
    assert last_words.out_of_memory_while_loading(1) == f"{words}take a smaller model, or a smaller --dtype"
