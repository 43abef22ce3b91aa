"""The rows of a continuous rank by the order that they came with, and progress less what has its record."""

from rankdeck.runner.protocol import OutputRecord, StepsInFlight
from rankdeck.runner.supervisor.talk.rows_in_hand import RowsInHand, without_row


def test_rows_are_counted_off_by_order_and_the_last_of_an_order_is_told():
    hand = RowsInHand(7, 2)
    hand.add(9, 1)
    assert (hand.batch, hand.rows, hand.left) == (7, 3, {7: 2, 9: 1})
    assert not hand.row_ended(7)
    assert (hand.rows, hand.left) == (2, {7: 1, 9: 1})
    assert hand.row_ended(9)
    assert hand.row_ended(7)
    assert (hand.batch, hand.rows, hand.left) == (7, 0, {})


def record(tokens: int) -> OutputRecord:
    return OutputRecord(
        index=0, id="0", prompt="p", text="t", prompt_tokens=5, output_tokens=tokens, finish_reason="stop"
    )


def test_a_row_that_has_its_record_is_not_in_flight_any_more():
    steps = StepsInFlight(rank=1, batch=2, step=9, output_tokens=20, rows=3, cache_used=0.5)
    left = without_row(steps, record(8))
    assert left == StepsInFlight(rank=1, batch=2, step=9, output_tokens=12, rows=2, cache_used=0.5)
    assert without_row(left, record(12)).output_tokens == 0
    for _ in range(3):
        left = without_row(left, record(12))
    assert (left.output_tokens, left.rows) == (0, 0), "the progress was older"
    unknown = StepsInFlight(rank=1, batch=2, step=9, output_tokens=20)
    assert without_row(unknown, record(1)).rows is None
