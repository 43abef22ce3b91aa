"""The sizes of decode steps on a GPU."""

from hypothesis import given
from hypothesis import strategies as st

from rankdeck.runner.inputs.step_sizes import ROWS, SLOTS, full_bucket, row_bucket, slot_bucket


def test_rows_double_and_beyond_the_last_bucket_come_in_its_multiples():
    assert [row_bucket(rows) for rows in (1, 2, 3, 5, 16, 17, 200, 256, 257, 600)] == [
        1, 2, 4, 8, 16, 32, 256, 256, 512, 768,
    ]  # fmt: skip


def test_slots_come_in_multiples_of_128_and_of_more_for_long_texts():
    assert [slot_bucket(slots) for slots in (1, 128, 129, 500, 1000, 1025, 4000, 5000)] == [
        128, 128, 256, 512, 1024, 1280, 4096, 5120,
    ]  # fmt: skip


@given(st.integers(1, 100_000))
def test_a_bucket_holds_what_it_is_for_and_little_more(count):
    assert count <= row_bucket(count) < max(2, 2 * count)
    assert full_bucket(count) <= count < full_bucket(count) + max(ROWS[-1], count)
    assert row_bucket(full_bucket(count)) == full_bucket(count)
    assert count <= slot_bucket(count) < count + max(SLOTS, count / 4 + 1)
    assert slot_bucket(count) <= slot_bucket(count + 1)
