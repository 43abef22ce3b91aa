"""Following the log of a rank: every line once, and never more of a huge log than its end."""

import os
from pathlib import Path

import pytest

from rankdeck.runner.launching.log_tail import KEPT_LINES, MAX_BYTES_A_LOOK, MAX_LINE, MAX_LINES_A_LOOK, LogTail


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "rank-0.log"
    path.write_text("of the launch before\n")
    return path


def add(log: Path, text: str) -> None:
    with log.open("a") as file:
        file.write(text)


def test_a_line_is_told_once_when_it_is_whole(log):
    tail = LogTail(log)
    add(log, "loading\nhalf a li")
    assert tail.new_lines() == ["loading"]
    assert tail.new_lines() == []
    add(log, "ne\r10%\r20%\n\nlast words")
    assert tail.new_lines() == ["half a line", "10%", "20%"]
    assert tail.new_lines(last_look=True) == ["last words"]
    assert list(tail.recent) == ["loading", "half a line", "10%", "20%", "last words"]


def test_a_log_that_does_not_exist_yet_has_no_lines(tmp_path):
    tail = LogTail(tmp_path / "rank-0.log")
    assert tail.new_lines() == []
    add(tmp_path / "rank-0.log", "hello\n")
    assert tail.new_lines() == ["hello"]


def test_a_pipe_in_the_place_of_a_log_has_no_lines_and_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "rank-0.log")
    assert LogTail(tmp_path / "rank-0.log").new_lines(last_look=True) == []
    assert LogTail(Path("/dev/full")).new_lines(last_look=True) == [], "which would never end"


def test_of_a_log_that_grew_by_gigabytes_only_the_end_is_read(log):
    tail = LogTail(log)
    add(log, "cut off by what fol")
    tail.new_lines()
    with log.open("r+b") as file:
        file.truncate(8 * 2**30)  # takes no room on the disk
    add(log, "\nthe end\n")
    zeros, end = tail.new_lines()
    assert set(zeros) == {"\0"}
    assert end == "the end"


def test_of_a_flood_of_lines_the_newest_are_told_and_kept(log):
    tail = LogTail(log)
    flood = [f"line {number}" for number in range(2 * max(MAX_LINES_A_LOOK, KEPT_LINES))]
    add(log, "\n".join(flood) + "\n")
    assert tail.new_lines() == flood[-MAX_LINES_A_LOOK:]
    assert list(tail.recent) == flood[-KEPT_LINES:]


def test_a_line_without_an_end_is_kept_to_the_length_that_is_shown(log):
    tail = LogTail(log)
    for _ in range(3):
        add(log, "é" * (MAX_BYTES_A_LOOK // 2))
        assert tail.new_lines() == []
        assert len(tail._rest) == 4 * MAX_LINE, "bytes; no more of it is kept in memory"
    assert tail.new_lines(last_look=True) == ["é" * MAX_LINE]


def test_of_a_line_that_never_ends_the_beginning_is_told(log):
    tail = LogTail(log)
    add(log, "x" * (2 * MAX_BYTES_A_LOOK))
    (line,) = tail.new_lines(last_look=True)
    assert line == "x" * MAX_LINE
