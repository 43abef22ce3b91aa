"""The language that filters answers: what it finds, and what it says about mistakes."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from rankdeck.runner.protocol import OutputRecord
from rankdeck.tui.panels.outputs.finding import beginning, marked, marked_lines, spans
from rankdeck.tui.panels.outputs.listing import ANSWERS
from rankdeck.tui.panels.outputs.query import QueryError
from rankdeck.tui.words.text import cut, plain, visible

RECORD = OutputRecord(
    index=17,
    id="story-17",
    prompt="The Lighthouse keeper counted the ships",
    text=" twice, because the ninth one had no lamp\nand no name.",
    prompt_tokens=9,
    output_tokens=40,
    finish_reason="length",
    rank=1,
    batch=7,
)
FAILED = replace(RECORD, finish_reason="error", error="CUDA out of memory", text="", output_tokens=0, rank=None)


def found(query: str, record: OutputRecord = RECORD) -> bool:
    return ANSWERS.parse(query).matches(record)


@pytest.mark.parametrize(
    "query",
    [
        "",
        "   ",
        "lighthouse",
        "NINTH lighthouse",
        "story-17",
        '"ninth one"',
        '"ninth one',  # still being typed
        "rank:1",
        "RANK:0-3",
        "rank:0,1",
        "rank:1,",
        "tokens:40",
        "tokens:>39",
        "tokens:>=40",
        "tokens:<=40",
        "tokens:10-40 chars:>20",
        "tokens:10..40",
        "finish:length",
        "finish:stop|length",
        "finish:l",
        "#17",
        "#10-20",
        "index:17",
        "batch:7",
        "id:STORY-17",
        "prompt:ships",
        'answer:"no name"',
        "-dragon",
        "-rank:0",
        "-#18",
        '-"ninth two"',
        "lighthouse rank:1 tokens:>30 -finish:error",
    ],
)
def test_a_query_matches_what_it_names(query: str) -> None:
    assert found(query)


@pytest.mark.parametrize(
    "query",
    [
        "dragon",
        "lighthouse dragon",
        '"one ninth"',
        "rank:0",
        "tokens:>40",
        "finish:stop",
        "#18",
        "batch:8",
        "id:story",
        "prompt:ninth",
        "answer:ships",
        "error:memory",
        "-lighthouse",
        "-rank:1",
        "chars:<5",
        "rank:1 rank:0",
    ],
)
def test_a_query_does_not_match_what_it_does_not_name(query: str) -> None:
    assert not found(query)


def test_errors_are_found_by_their_words_and_match_no_rank() -> None:
    assert found("error:MEMORY finish:error", FAILED)
    assert found("cuda", FAILED)
    assert not found("rank:>=0", FAILED)
    assert found("-rank:>=0", FAILED)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("rank:x", "rank:x: x is no number; write rank:1 or rank:0-3"),
        ("lamp rank:", "rank: needs a value; write rank:1 or rank:0-3"),
        ("tokens:>4-9", "tokens:>4-9: >4-9 is a range and has a sign too; write tokens:>40 or tokens:10-20"),
        ("finish:late", "finish:late: late is none of stop, length, error; write finish:stop, length or error"),
        ("-", "- leaves out what follows it, as in -word"),
        ("#a", "#a: a is no number; write #17 or #10-20"),
        ("#", "# needs a value; write #17 or #10-20"),
    ],
)
def test_a_mistake_is_explained_with_what_to_write_instead(query: str, said: str) -> None:
    with pytest.raises(QueryError, match=re.escape(said)):
        ANSWERS.parse(query)


def test_for_an_unknown_name_quoting_it_as_text_is_suggested() -> None:
    with pytest.raises(QueryError, match=r"length: is none of rank, finish, .*; as text, write \"length:9\""):
        ANSWERS.parse("length:9")
    assert found('"http://x"', replace(RECORD, text="see http://x"))


def test_a_wrong_term_does_not_undo_the_others() -> None:
    with pytest.raises(QueryError) as raised:
        ANSWERS.parse("lighthouse rank:x tokens:>30")
    assert raised.value.rest.text == "lighthouse tokens:>30"
    assert raised.value.rest.matches(RECORD)


@given(st.text(max_size=60))
def test_any_text_is_a_query_or_a_mistake(text: str) -> None:
    try:
        query = ANSWERS.parse(text)
    except QueryError as error:
        query = error.rest
    query.matches(RECORD)
    assert ANSWERS.parse(query.text).text == query.text


WORDS = st.text(st.characters(categories=["L", "N"], include_characters="'!?."), min_size=1, max_size=6)


@given(st.lists(WORDS, min_size=1, max_size=4), st.text(max_size=20))
def test_words_match_in_any_order_and_all_must_match(words: list[str], rest: str) -> None:
    record = replace(RECORD, text=" ".join([*words, rest]))
    query = " ".join(f'"{word}"' for word in reversed(words))
    assert found(query, record)
    assert not found(f'{query} "\ue000"', record)
    assert not found(f'-"{words[0]}"', record)


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_numbers_compare_as_written(tokens: int, low: int, high: int) -> None:
    record = replace(RECORD, output_tokens=tokens)
    assert found(f"tokens:{low}-{high}", record) == (low <= tokens <= high)
    assert found(f"tokens:>{low}", record) == (tokens > low)
    assert found(f"tokens:<{low}", record) == (tokens < low)
    assert found(f"-tokens:{low}", record) == (tokens != low)


# --- marks ----------------------------------------------------------------------------------------


@given(st.text(max_size=200), WORDS, st.integers(1, 40))
def test_marking_changes_no_text_and_marks_every_match(text: str, word: str, width: int) -> None:
    shown = visible(text + word, keep_newlines=True)
    places = spans(shown, ANSWERS.parse(f'"{word}"').finds)
    assert places
    assert plain([marked(shown, "", places)]) == "\n".join(shown.split("\n")).rstrip()
    lines, begins = marked_lines(shown, width, "", places, here=0)
    assert len(begins) == len(places)
    assert any(style == "match-here" for _, style in lines[begins[0]])
    assert all(any(style.startswith("match") for _, style in lines[line]) for line in begins)


def test_a_wrapped_match_is_marked_on_both_lines() -> None:
    places = spans("the ninth one had no lamp", ANSWERS.parse('"ninth one"').finds)
    lines, begins = marked_lines("the ninth one had no lamp", 10, "dim", places, None)
    assert begins == [0]
    assert lines[0] == (("the ", "dim"), ("ninth", "match"))
    assert lines[1] == (("one", "match"), (" had no", "dim"))


def test_a_row_begins_a_little_before_its_match() -> None:
    finds: Any = ANSWERS.parse("needle").finds
    assert beginning("needle in hay", finds, 20) == "needle in hay"
    assert beginning("hay " * 100 + "needle", finds, 20).startswith("…")
    assert "needle" in beginning("hay " * 100 + "needle", finds, 20)[:20]
    assert beginning("hay " * 100, finds, 20) == "hay " * 20


def test_a_query_marks_the_words_it_wants_and_not_those_it_excludes() -> None:
    finds = ANSWERS.parse('one -two prompt:three "four five"').finds
    assert finds is not None
    assert [finds.search(word) is not None for word in ("ONE", "two", "three", "four five")] == [
        True,
        False,
        True,
        True,
    ]
    assert ANSWERS.parse("rank:1 -two").finds is None


def test_a_row_that_would_be_cut_just_after_its_match_begins_later() -> None:
    finds = re.compile("lamp")
    for width in range(12, 40):
        text = "the ninth one had no lamp and no name"
        assert "lamp" in cut(beginning(text, finds, width), width)
