"""Words and signs of a few kinds, each whole: typed numbers, phases, styles, errors, doctor, a setting's command."""

import re
import shlex
from typing import Any

import pytest
from msgspec.structs import replace

from rankdeck.runner import protocol
from rankdeck.runner.machine.check import Check
from rankdeck.runner.protocol.config import MAX_BATCH_SIZE
from rankdeck.runner.run_directory.run_file import RunFileError
from rankdeck.runner.state import Mark, RankState, RunState
from rankdeck.runner.sweep.cells import Cell
from rankdeck.tui.words import alerts
from rankdeck.tui.words.doctor import MARKS, WORDS, doctor_lines, verdict, worst_first
from rankdeck.tui.words.errors import problem, reason
from rankdeck.tui.words.numbers import MOST_NUMBERS, read_batch_size, read_numbers
from rankdeck.tui.words.status import ASKED_FOR, ENDED_EARLY, STATUS, eta_words, shown_phase
from rankdeck.tui.words.styles import RANK_COLOURS, STYLES, rank_style
from rankdeck.tui.words.sweep_command import best_command
from rankdeck.tui.words.text import plain
from tests import scripted

# --- numbers as typed -----------------------------------------------------------------------------


NO_NUMBERS = ("x", "1.5", "8 16", "８", "²", "+-8", "--8", "+", "1_0")  # noqa: RUF001


@pytest.mark.parametrize(
    ("typed", "number"),
    [
        ("8", 8),
        (" 8 ", 8),
        ("+8", 8),
        ("1", 1),
        (str(MAX_BATCH_SIZE), MAX_BATCH_SIZE),
        ("auto", None),
        (" AUTO ", None),
    ],
)
def test_a_batch_size_is_read_as_people_type_it(typed: str, number: int | None) -> None:
    assert read_batch_size(typed) == number


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("", "needs a whole number, or auto"),
        ("  ", "needs a whole number, or auto"),
        *((typed, "must be a whole number, or auto") for typed in NO_NUMBERS),
        ("9" * 21, "must be a whole number, or auto"),
        *((typed, f"must be from 1 to {MAX_BATCH_SIZE}, or auto") for typed in ("0", "-1", str(MAX_BATCH_SIZE + 1))),
        ("9" * 20, f"must be from 1 to {MAX_BATCH_SIZE}, or auto"),
    ],
)  # fmt: skip
def test_what_is_no_batch_size_is_refused_in_words_for_people(typed: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)) as raised:
        read_batch_size(typed)
    assert str(raised.value) == said


@pytest.mark.parametrize(
    ("typed", "numbers"),
    [("8", [8]), ("4,2,4", [2, 4]), ("1-3 2-4", [1, 2, 3, 4]), ("5-5", [5]), ("1-1000", list(range(1, 1001)))],
)
def test_numbers_and_ranges_are_sorted_and_taken_once(typed: str, numbers: list[int]) -> None:
    assert read_numbers(typed, most=2000) == numbers


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (" ", "needs whole numbers, as in 1,2,4"),
        ("1,,2", "must be whole numbers, as in 1,2,4 or 1-4, not an empty item"),
        ("1,2,", "must be whole numbers, as in 1,2,4 or 1-4, not an empty item"),
        ("1-", "must be whole numbers, as in 1,2,4 or 1-4, not '1-'"),
        ("1234567890", "must be whole numbers, as in 1,2,4 or 1-4, not '1234567890'"),
        ("0-3", "must be numbers from 1 to 2,000, not 0-3"),
        ("3-1", "must be numbers from 1 to 2,000, not 3-1"),
        ("2001", "must be numbers from 1 to 2,000, not 2001"),
        ("1-1001", f"has more than {MOST_NUMBERS:,} numbers"),
        ("1-1000 1001", f"has more than {MOST_NUMBERS:,} numbers"),
    ],
)
def test_what_is_no_list_of_numbers_is_named(typed: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)) as raised:
        read_numbers(typed, most=2000)
    assert str(raised.value) == said


# --- phases, marks, styles ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"phase": "left"}, "ended"),
        ({"phase": "decoding"}, "decoding"),
        ({"phase": "ready"}, "ready"),
        ({"rank": 2, "phase": "ready"}, "inactive"),
        ({"rank": 2, "phase": "waiting"}, "inactive"),
        ({"rank": 2, "phase": "loading"}, "loading"),
        ({"rank": 2, "phase": "decoding", "batch": 3}, "decoding"),
        ({"rank": 2, "phase": "waiting", "batch": 3}, "waiting"),
    ],
)
def test_a_rank_that_gets_nothing_and_has_nothing_is_inactive_and_any_other_shows_its_phase(
    changes: dict[str, Any], shown: str
) -> None:
    running = replace(scripted.running().state, active_ranks=2)
    rank = RankState(**{"rank": 1, **changes})
    assert shown_phase(running, rank) == shown
    ended = scripted.completed().state
    assert shown_phase(replace(ended, active_ranks=2), rank) == ("ended" if rank.phase == "left" else rank.phase)


def test_a_silent_rank_is_shown_as_such_until_the_run_ends_and_nobody_can_tell_the_end() -> None:
    silence = protocol.RankSilent(rank=1, seconds=15.0, stage="at work")
    running = scripted.running().state
    rank = replace(running.ranks[1], silence=silence)
    silent = replace(running, ranks=(running.ranks[0], rank))
    assert shown_phase(silent, rank) == "silent"
    assert eta_words(silent) == "waiting for rank 1"
    assert eta_words(running)[2] == ":"
    assert shown_phase(replace(silent, ended=scripted.completed().state.ended), rank) == rank.phase
    assert shown_phase(silent, replace(rank, phase="left")) == "ended"


def test_every_status_has_a_mark_and_a_style_that_there_is() -> None:
    assert set(STATUS) == {"running", "completed", ENDED_EARLY, "stopped", "failed", "lost", "unreadable"}
    assert all(len(mark) == 1 and style in STYLES for mark, style in STATUS.values())
    assert {style for name, (_, style) in STATUS.items() if name in ("failed", "unreadable")} == {"bad"}
    assert [name for name, (_, style) in STATUS.items() if style == "good"] == ["completed"]


def test_a_rank_has_its_colour_everywhere_and_none_is_that_of_no_rank() -> None:
    assert [rank_style(rank) for rank in (None, 0, 7, 8, 17)] == ["dim", "rank-0", "rank-7", "rank-0", "rank-1"]
    assert {rank_style(rank) for rank in range(2 * RANK_COLOURS)} <= set(STYLES)


# --- title and alerts -----------------------------------------------------------------------------


def test_the_title_says_what_is_known_by_now() -> None:
    running = scripted.running().state
    loading = scripted.loading().state
    assert alerts.title(loading) == f"rankdeck {loading.phase} calm-harbour"
    assert (
        alerts.title(replace(running, paused=ASKED_FOR))
        == f"rankdeck {int(running.done_share * 100)}% paused calm-harbour"
    )
    assert alerts.title(scripted.failed().state) == "rankdeck failed calm-harbour"
    long = alerts.title(replace(scripted.completed().state, name="n" * 99))
    assert long == f"rankdeck completed {'n' * (alerts.LONGEST_NAME - 1)}…"


def test_alerts_count_what_failed_and_tell_each_thing_once() -> None:
    running, completed = scripted.running().state, scripted.completed().state
    over = replace(completed, completed=97, failed=3)
    assert alerts.since(running, over) == ["calm-harbour has completed: 97 of 100 prompts, 3 failed"]
    assert alerts.since(running, completed) == ["calm-harbour has completed: 100 of 100 prompts"]
    assert alerts.since(over, over) == []
    full = replace(running, paused="no space")
    assert alerts.since(full, full) == []
    assert alerts.since(full, replace(running, paused="no memory")) == ["calm-harbour is paused: no memory"]
    assert alerts.since(full, running) == []
    mark = Mark(elapsed=1.0, kind="rank lost", text="rank 1 lost")
    marked = replace(running, marks=(*running.marks, mark))
    assert alerts.since(marked, marked) == []
    assert alerts.since(marked, replace(marked, marks=(*marked.marks, mark, mark))) == ["calm-harbour has lost a rank"]
    other = replace(running, marks=(mark, *running.marks))
    assert alerts.since(replace(running, marks=(*running.marks, mark)), replace(other, marks=(mark,))) == []
    memory = replace(running, marks=(*running.marks, replace(mark, kind="memory")))
    assert alerts.since(running, memory) == [
        "calm-harbour was out of memory on a rank, and goes on with smaller batches"
    ]


def test_an_alert_is_short_and_sent_only_as_it_was_asked_for() -> None:
    assert len(alerts.lost(RunState(name="r"), "why " * 99)) == alerts.LONGEST_ALERT
    assert alerts.lost(RunState(), "gone") == "can no longer be watched: gone"
    assert alerts.lost(RunState(name="r"), "a\x1bb") == "r can no longer be watched: a␛b"
    assert [alerts.signal_of(kind, "a\x07b") for kind in ("osc9", "bell", "off", "")] == [
        "\x1b]9;a␇b\x07",
        "\x07",
        "",
        "",
    ]


# --- errors ---------------------------------------------------------------------------------------


def test_the_reason_of_an_error_is_its_words_and_that_of_a_bug_has_its_type() -> None:
    assert reason(OSError(28, "No space left on device")) == "[Errno 28] No space left on device"
    assert reason(RunFileError("a\n  b\x1b")) == "a b␛"
    assert reason(OSError()) == "OSError"
    assert reason(ValueError()) == "ValueError"
    assert reason(ValueError("odd")) == "ValueError: odd"


def test_a_run_with_an_odd_name_is_one_word_of_the_command_that_is_named() -> None:
    said = problem("broke", ValueError("x"), "my run;\x1b", "replay")
    assert said == (
        "my run;␛: broke: ValueError: x. The run is untouched; `rankdeck replay 'my run;␛'` shows the whole error"
    )


# --- the doctor -----------------------------------------------------------------------------------


def check(group: str, status: Any, name: str = "name", **more: Any) -> Check:
    return Check(group=group, name=name, status=status, found=more.pop("found", "found"), **more)


CHECKS = [
    check("packages", "ok", "python"),
    check("packages", "warn", "torch", found="old", cure="pip install it"),
    check("gpus", "bad", "driver", found="none\x1b"),
    check("places", "ok", "cache"),
]


def test_findings_stand_under_their_group_with_a_mark_and_the_cure_below() -> None:
    assert plain(doctor_lines(CHECKS, 100)).split("\n") == [
        "packages",
        "  ✓  python          found",
        "  !  torch           old",
        "                     → pip install it",
        "",
        "gpus",
        "  ✗  driver          none␛",
        "",
        "places",
        "  ✓  cache           found",
    ]
    words = plain(doctor_lines(CHECKS, 100, WORDS))
    assert "  warn  torch           old\n                        -> pip install it" in words
    assert words.isascii() is ("␛" not in words)
    assert set(WORDS) == set(MARKS)


def test_long_findings_and_cures_go_on_below_themselves() -> None:
    one = check("g", "bad", found="word " * 8, cure="cure " * 8)
    lines = plain(doctor_lines([one], 45)).split("\n")[1:]
    indents = [len(line) - len(line.lstrip()) for line in lines]
    assert indents == [2, 21, 21, 23]
    assert lines[2].lstrip().startswith("→ cure")
    assert all(len(line) <= 45 for line in lines)


def test_the_worst_group_comes_first_and_groups_stay_together_in_their_order() -> None:
    mixed = [*CHECKS, check("late", "warn"), check("gpus", "ok", "name of it")]
    assert [one.group for one in worst_first(mixed)] == ["gpus", "gpus", "packages", "packages", "late", "places"]


@pytest.mark.parametrize(
    ("statuses", "said", "style"),
    [
        ([], "Nothing stands in the way.", "good"),
        (["ok"], "Nothing stands in the way.", "good"),
        (["warn"], "1 thing could be better.", "warn"),
        (["bad", "bad"], "2 things would not work.", "bad"),
        (["bad", "warn", "warn", "ok"], "1 thing would not work; 2 things could be better.", "bad"),
    ],
)
def test_the_verdict_counts_what_would_not_work_and_what_could_be_better(
    statuses: list[Any], said: str, style: str
) -> None:
    assert verdict([check("g", status) for status in statuses]) == ((said, style),)


# --- the command of a setting ---------------------------------------------------------------------


CELL = Cell(active_ranks=3, batch_size=24, outcome="measured")


def command(**changes: Any) -> list[str]:
    config = replace(scripted.config(), **changes)
    return shlex.split(" ".join(best_command(replace(RunState(), config=config, directory="/runs/it's"), CELL)))


def test_the_command_of_a_setting_has_its_ranks_and_size_and_every_setting_that_was_changed() -> None:
    plain_run = command(prompts="my prompts.txt", model="org/model")
    assert plain_run[:5] == ["rankdeck", "run", "my prompts.txt", "--model", "org/model"]
    assert plain_run[-4:] == ["--batch-size", "24", "--ranks", "3"]
    changed: dict[str, Any] = {
        "max_new_tokens": 7, "order": "input", "device": "cpu", "dtype": "float32", "engine": "static",
        "attention": "eager", "decoding": "generate", "quantization": "int8",
        "temperature": 0.5, "top_p": 0.9, "top_k": 5, "seed": 4,
        "ranks_per_gpu": 2, "gpus_per_rank": 2, "limit": 9, "column": "a b",
    }  # fmt: skip
    for name, value in changed.items():
        words = command(**{name: value})
        flag = "--" + name.replace("_", "-")
        assert words[words.index(flag) + 1] == str(value), name
    for name in ("chat", "trust_remote_code", "do_sample"):
        flag = "--" + name.replace("_", "-")
        assert flag in command(**{name: True})
        assert flag not in command()
    assert "--ignore-eos" not in command(ignore_eos=True), "answers that are read end where the model ends them"
    assert command(prompts="-")[2] == "/runs/it's/prompts.jsonl"
    assert best_command(RunState(), CELL) == []
