"""The bounds of what a message may claim, each from both sides."""

import msgspec
import pytest

from rankdeck.runner import protocol
from rankdeck.runner.protocol import BatchResult, OutputRecord
from rankdeck.runner.supervisor.talk.claims import (
    CLOCK_SLACK_SECONDS,
    LONGEST_TEXT,
    MOST,
    MOST_ENTRIES,
    NonsenseError,
    check_record,
    check_result,
    check_shares,
    check_values,
    require,
    shortened,
)


def believed(check, *arguments, **named) -> bool:
    try:
        check(*arguments, **named)
    except NonsenseError:
        return False
    return True


def test_what_is_required_and_does_not_hold_is_nonsense_in_its_own_words():
    require(True, "never said")
    assert float(MOST) == MOST == 2**53
    with pytest.raises(NonsenseError, match=r"^it is so$"):
        require(False, "it is so")


@pytest.mark.parametrize(
    ("value", "holds"),
    [
        (0, True), (-1, False), (MOST, True), (MOST + 1, False), (0.0, True), (-0.1, False), (float(MOST), True),
        (float("nan"), False), (float("inf"), False), (True, True), (None, True),
        ("x" * LONGEST_TEXT, True), ("x" * (LONGEST_TEXT + 1), False),
        ({str(number): 1 for number in range(MOST_ENTRIES)}, True),
        ({str(number): 1 for number in range(MOST_ENTRIES + 1)}, False),
        ({"x" * (LONGEST_TEXT + 1): 1}, False), ({"a": -1}, False), ({"a": 1}, True),
        ([1, -1], False), ([1, 1], True), ((1, -1), False), ([[-1]], False),
    ],
)  # fmt: skip
def test_values_are_finite_not_negative_and_of_bearable_length_wherever_they_are(value, holds):
    assert believed(check_values, value, "it") is holds
    message = protocol.LogLine(source="s", text="t") if value is None else None
    assert message is None or believed(check_values, message, "it")


def test_values_of_a_command_may_be_negative_and_the_fault_is_named():
    assert believed(check_values, protocol.SetBatchSize(batch_size=-MOST), "it", least=-MOST)
    assert not believed(check_values, protocol.SetBatchSize(batch_size=-MOST - 1), "it", least=-MOST)
    assert believed(check_values, {"a": [-5]}, "it", least=-5)
    assert not believed(check_values, {"a": [-6]}, "it", least=-5)
    with pytest.raises(NonsenseError, match=r"^batch_size is out of range$"):
        check_values(protocol.SetBatchSize(batch_size=-1), "it")
    with pytest.raises(NonsenseError, match=r"^text is 65,537 characters long$"):
        check_values(protocol.LogLine(source="s", text="x" * (LONGEST_TEXT + 1)), "it")


RECORD = OutputRecord(
    index=1, id="1", prompt="p", text="t", prompt_tokens=2, output_tokens=10, finish_reason="stop", rank=0, batch=1
)


@pytest.mark.parametrize(
    ("changes", "holds"),
    [
        ({}, True), ({"output_tokens": 11}, False), ({"output_tokens": -1}, False), ({"prompt_tokens": MOST}, True),
        ({"prompt_tokens": MOST + 1}, False), ({"index": -1}, False),
        ({"finish_reason": "error", "error": "e"}, True), ({"finish_reason": "error"}, False), ({"error": ""}, False),
    ],
)  # fmt: skip
def test_a_record_is_of_an_answer_no_longer_than_it_may_be_or_of_an_error(changes, holds):
    assert believed(check_record, msgspec.structs.replace(RECORD, **changes), 10) is holds


def account(**changes) -> BatchResult:
    usual = {
        "rows": 3, "prompt_tokens": 6, "output_tokens": 12, "slots": 30, "padded_slots": 12, "steps": 4,
        "prefill_seconds": 1.0, "decode_seconds": 3.0, "seconds": 4.0,
    }  # fmt: skip
    return BatchResult(**{**usual, **changes})


@pytest.mark.parametrize(
    ("changes", "holds"),
    [
        ({}, True), ({"rows": 4}, False), ({"rows": 0}, True),
        ({"output_tokens": 13, "slots": 31}, False), ({"slots": 29}, False), ({"padded_slots": 13}, False),
        ({"step_seconds": [0.1] * 4}, True), ({"step_seconds": [0.1] * 5}, False), ({"steps": -1}, False),
        # Ten seconds in its hand: a hundredth more, and the slack of its clock.
        ({"seconds": 15.1}, True), ({"seconds": 15.11}, False),
        ({"prefill_seconds": 12.1}, True), ({"prefill_seconds": 12.11}, False),
        ({"decode_seconds": 14.2}, False), ({"step_seconds": [15.1]}, True), ({"step_seconds": [15.11]}, False),
    ],
)  # fmt: skip
def test_an_account_is_of_what_was_in_hand_and_of_no_more_time(changes, holds):
    assert CLOCK_SLACK_SECONDS == 5.0
    assert believed(check_result, account(**changes), rows=3, tokens=12, seconds=10.0) is holds


def test_an_account_takes_its_longest_time_and_earlier_ones_count():
    taken = {"rows": 3, "tokens": 12, "seconds": 10.0}
    assert check_result(account(), **taken) == 4.0
    assert check_result(account(seconds=1.0), **taken) == 4.0, "prefill and decode together"
    assert check_result(account(step_seconds=[3.0, 3.0]), **taken) == 6.0
    assert believed(check_result, account(), **taken, accounted=11.1)
    assert not believed(check_result, account(), **taken, accounted=11.2)


@pytest.mark.parametrize(
    ("shares", "whole", "holds"),
    [
        ([(0, 6), (6, 12)], True, True), ([(6, 12), (0, 6)], True, True), ([(0, 7), (6, 12)], True, False),
        ([(0, 5), (6, 12)], True, False), ([(0, 5), (6, 12)], False, True), ([(0, 0), (0, 12)], True, True),
        ([(12, 12), (0, 12)], True, True), ([(5, 5), (0, 12)], True, True), ([(0, 13)], True, False),
        ([(-1, 12)], True, False), ([(7, 6)], False, False), ([], False, True), ([], True, False),
        ([(0, 12), (3, 4)], False, False),
    ],
)  # fmt: skip
def test_shares_lie_beside_each_other_in_the_prompts_and_together_are_all_of_them(shares, whole, holds):
    assert believed(check_shares, shares, 12, all_ranks=whole) is holds


def test_how_many_prompts_shares_leave_out_is_said():
    with pytest.raises(NonsenseError, match=r"^the shares leave out 2,000 prompts$"):
        check_shares([(0, 1000), (3000, 4000)], 4000, all_ranks=True)


def test_only_texts_longer_than_they_may_be_are_cut_and_a_cut_is_seen():
    line = protocol.LogLine(source="source", text="abcdef")
    assert shortened(line, text=6) is line
    assert shortened(line, text=5) == protocol.LogLine(source="source", text="abcde …")
    assert shortened(line, text=5, source=3) == protocol.LogLine(source="sou …", text="abcde …")
    assert shortened(RECORD, error=1) is RECORD, "no text, nothing to cut"


@pytest.mark.parametrize("share", [(0, 13), (5, 4)])
def test_a_single_share_lies_within_the_prompts(share):
    with pytest.raises(NonsenseError, match="beyond the 12 prompts"):
        check_shares([share], 12, all_ranks=False)
