"""What is wrong with a prompt file, in words: each with its place, so many and no more, and harmless."""

import datetime
from typing import Any

import pytest

from rankdeck.runner.inputs.prompts.problems import (
    KEPT_PROBLEMS,
    PRINTED_PROBLEMS,
    Problems,
    PromptError,
    PromptProblem,
    kind,
    shown,
)


@pytest.mark.parametrize(
    ("place", "unit", "said"),
    [(None, "line", "p: bad"), (7, "line", "p:7: bad"), (7, "row", "p: row 7: bad"), (None, "row", "p: bad")],
)
def test_a_problem_says_the_file_and_the_place(place: int | None, unit: str, said: str) -> None:
    assert str(PromptProblem("p", "bad", place, unit)) == said


@pytest.mark.parametrize(
    ("count", "more"), [(1, ""), (20, ""), (21, "and 1 more"), (1000, "and 980 more"), (1001, "and 981 more")]
)
def test_the_first_twenty_are_printed_a_thousand_kept_and_all_counted(count: int, more: str) -> None:
    assert (PRINTED_PROBLEMS, KEPT_PROBLEMS) == (20, 1000)
    problems = Problems("p")
    for number in range(count):
        problems.add("bad", number + 1)
    with pytest.raises(PromptError) as caught:
        problems.check()
    assert (caught.value.count, len(caught.value.problems)) == (count, min(count, KEPT_PROBLEMS))
    printed = str(caught.value).splitlines()
    assert printed == [f"p:{number}: bad" for number in range(1, min(count, 20) + 1)] + [more] * bool(more)


def test_an_error_of_a_few_problems_counts_them_itself() -> None:
    assert PromptError([PromptProblem("p", "bad")]).count == 1


def test_problems_are_told_in_the_order_of_the_file_and_what_has_no_place_first() -> None:
    problems = Problems("p")
    problems.check()
    for place in (3, 1, None):
        problems.add(f"at {place}", place)
    with pytest.raises(PromptError) as caught:
        problems.check()
    assert str(caught.value).splitlines() == ["p: at None", "p:1: at 1", "p:3: at 3"]


def test_what_stops_the_reading_comes_after_what_was_found_before() -> None:
    problems = Problems("p")
    problems.add("bad", 2)
    stopped = problems.stop("the end", 1)
    assert str(stopped).splitlines() == ["p:2: bad", "p:1: the end"]
    assert (stopped.count, problems.count) == (2, 2)
    problems.unit = "item"
    assert str(problems.stop("more", 3)).splitlines()[-1] == "p: item 3: more"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "null"), (True, "true"), (False, "false"), (0, "a number"), (1.5, "a number"), ("a", "a string"),
        ("", "an empty string"), ([1], "a list"), ([], "an empty list"), ({"a": 1}, "an object"), ({}, "an object"),
        (b"", "bytes"), (datetime.date(2020, 1, 1), "date"),
    ],
)  # fmt: skip
def test_a_value_is_called_what_it_is_in_json(value: Any, said: str) -> None:
    assert kind(value) == said


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a" * 40, "a" * 40),
        ("a" * 41, "a" * 39 + "…"),
        ("näme", "näme"),
        ("a\nb", "a\\nb"),
        ("\x1b[2J", "\\u001b[2J"),
        ('say "\x07', 'say \\"\\u0007'),
        ("", ""),
    ],
)
def test_a_name_out_of_a_file_is_cut_and_harmless(name: str, said: str) -> None:
    assert shown(name) == said
