"""What was gathered against what was sent: what is missing on either side, or differs, is named."""

from rankdeck.runner.protocol import Gathered, OutputRecord, record_digest
from rankdeck.runner.supervisor.talk.gather import Gather


def record(index: int, text: str = "t") -> OutputRecord:
    return OutputRecord(
        index=index, id="0", prompt="p", text=text, prompt_tokens=5, output_tokens=1, finish_reason="stop"
    )


def test_a_gather_in_parts_that_brings_what_was_sent_differs_in_nothing():
    gather = Gather()
    assert (gather.records, gather.ended, gather.differing()) == (0, False, [])
    for index in (2, 0, 1):
        gather.sent(record(index))
    gather.add(Gathered(records=[(index, record_digest(record(index))) for index in (0, 1)], last=False))
    assert (gather.records, gather.ended, gather.differing()) == (2, False, [2])
    gather.add(Gathered(records=[(2, record_digest(record(2)))], last=True))
    assert (gather.records, gather.ended, gather.differing()) == (3, True, [])
    gather.add(Gathered(records=[], last=False))
    assert gather.ended, "the last part has come"


def test_records_that_are_missing_on_one_side_or_differ_are_named_in_order():
    gather = Gather()
    for index in (5, 3, 1):
        gather.sent(record(index))
    parts = [(9, "only gathered"), (3, record_digest(record(3, "another text"))), (1, record_digest(record(1)))]
    gather.add(Gathered(records=parts, last=True))
    assert gather.differing() == [3, 5, 9]
