"""The search for the best batch size: what it begins with, when it grows, and when it settles."""

import pytest

from rankdeck.runner.protocol.config import MAX_BATCH_SIZE
from rankdeck.runner.protocol.first_batch import FirstBatch, first_batch
from rankdeck.runner.scheduling.batch_size_search import Choice, Known, Search, memory_limit


def test_auto_cuts_a_job_of_a_few_rounds_into_even_ones_and_does_not_search():
    choice = Search(Known(prompts=400, ranks=2, tokens_per_row=200)).start()
    assert (choice.batch_size, choice.settled) == (50, True)
    assert choice.reason == "400 prompts are 4 even rounds of 50 per rank"
    assert not Search(Known(prompts=520, ranks=2, tokens_per_row=200)).start().settled


@pytest.mark.parametrize(
    ("prompts", "cpu", "gpu"),
    [
        (1, FirstBatch(1, 1), FirstBatch(1, 1)),
        (64, FirstBatch(64, 1), FirstBatch(64, 1)),
        (100, FirstBatch(50, 2), FirstBatch(100, 1)),
        (256, FirstBatch(64, 4), FirstBatch(256, 1)),
        (257, FirstBatch(64, None), FirstBatch(129, 2)),
        (1024, FirstBatch(64, None), FirstBatch(256, 4)),
        (1025, FirstBatch(64, None), FirstBatch(256, None)),
    ],
)
def test_on_a_gpu_a_small_job_is_one_round_where_on_a_cpu_it_is_several(prompts, cpu, gpu):
    assert first_batch(prompts, on_gpu=False) == cpu
    assert first_batch(prompts, on_gpu=True) == gpu


def test_rounds_are_no_larger_than_memory_allows():
    assert first_batch(256, on_gpu=True, most=100) == FirstBatch(86, 3)
    assert first_batch(256, on_gpu=True, most=20) == FirstBatch(20, None)
    assert first_batch(5, on_gpu=True, most=0) == FirstBatch(1, None)


def test_on_a_gpu_the_search_begins_with_more_rows_and_goes_on_doubling():
    search = Search(Known(prompts=100_000, ranks=2, tokens_per_row=200, on_gpu=True))
    assert search.start().reason == "starting at 256 and growing while tokens/s gains 5 %"
    assert search.learn(256, 100.0, None, 90_000).batch_size == 512
    assert search.learn(512, 180.0, None, 80_000).batch_size == 1024
    small = Search(Known(prompts=500, ranks=2, tokens_per_row=200, on_gpu=True)).start()
    assert (small.batch_size, small.settled) == (250, True)
    assert small.reason == "500 prompts are one even round of 250 per rank"


def test_memory_that_does_not_hold_the_first_size_makes_more_rounds_and_then_a_search():
    def start(memory: int) -> tuple[int, bool]:
        known = Known(
            prompts=500, ranks=2, tokens_per_row=200, on_gpu=True, memory_free_bytes=memory, kv_bytes_per_token=10_000
        )
        choice = Search(known).start()
        return choice.batch_size, choice.settled

    assert start(10**9) == (250, True)
    assert start(4 * 10**8) == (125, True)
    assert start(10**8) == (34, False)


def test_out_of_memory_at_the_first_size_halves_it_and_does_so_again():
    search = Search(Known(prompts=500, ranks=2, tokens_per_row=200, on_gpu=True))
    assert search.start().batch_size == 250
    assert search.wall(250, 125).reason == "settled at 125: a batch of 250 ran out of memory"
    assert search.wall(125, 62).batch_size == 62


def test_no_batch_is_larger_than_the_settings_allow():
    search = Search(Known(prompts=10**7, ranks=1, tokens_per_row=200, on_gpu=True))
    search.start()
    choice = search.learn(MAX_BATCH_SIZE, 100.0, None, 9 * 10**6)
    assert (choice.batch_size, choice.settled) == (MAX_BATCH_SIZE, True)


KNOWN = Known(prompts=10_000, ranks=2, tokens_per_row=200, memory_free_bytes=10**9, kv_bytes_per_token=10_000)


def test_the_search_stops_where_a_larger_batch_gains_less_than_five_percent():
    search = Search(Known(prompts=10_000, ranks=2, tokens_per_row=200))
    assert search.start().batch_size == 64
    assert search.learn(64, 100.0, None, 9000).batch_size == 128
    assert search.learn(128, 180.0, None, 8000).batch_size == 256
    choice = search.learn(256, 184.0, None, 7000)
    assert (choice.batch_size, choice.settled) == (128, True)
    assert choice.reason == "settled at 128: 128 -> 256 changed tokens/s by +2%, and a larger batch must gain 5 %"


def test_the_search_steps_back_where_a_larger_batch_is_slower():
    search = Search(Known(prompts=10_000, ranks=2, tokens_per_row=200))
    search.start()
    search.learn(16, 100.0, None, 9000)
    choice = search.learn(32, 90.0, None, 8000)
    assert (choice.batch_size, choice.settled) == (16, True)


def test_the_search_never_asks_for_more_than_memory_holds():
    assert memory_limit(KNOWN) == int(0.9e9 / (10_000 * 200 * 1.3))
    search = Search(
        Known(prompts=10_000, ranks=2, tokens_per_row=200, memory_free_bytes=10**8, kv_bytes_per_token=10_000)
    )
    choice = search.start()
    assert choice.batch_size == 34
    assert search.learn(34, 200.0, None, 9000).reason == "settled at 34: 68 would not fit, memory allows about 34 rows"


def test_measured_peaks_say_more_than_the_estimate():
    search = Search(KNOWN)
    search.start()
    search.learn(16, 100.0, 2_000_000_000, 9000)
    choice = search.learn(32, 190.0, 2_300_000_000, 8000)
    assert choice.settled
    assert choice.reason == "settled at 32: 64 would not fit, it would take 120% of the free memory"


def test_out_of_memory_ends_the_search_at_the_best_size_measured():
    search = Search(KNOWN)
    search.start()
    search.learn(16, 100.0, None, 9000)
    search.learn(32, 180.0, None, 8000)
    choice = search.wall(64, 32)
    assert (choice.batch_size, choice.settled) == (32, True)
    assert choice.reason == "settled at 32: a batch of 64 ran out of memory"


def test_prompts_that_no_longer_fill_a_larger_round_are_shared_out_evenly():
    search = Search(Known(prompts=300, ranks=2, tokens_per_row=200))
    search.start()
    choice = search.learn(16, 100.0, None, 50)
    assert (choice.batch_size, choice.settled) == (25, True)


def test_out_of_memory_ends_the_search_at_the_fastest_size_not_at_the_largest():
    search = Search(Known(prompts=10_000, ranks=1, tokens_per_row=100))
    search.measured = {8: 100.0, 16: 180.0, 32: 150.0, 128: 999.0}
    assert search.wall(64, fits=1).batch_size == 16, "those beyond what ran out do not count"


def test_a_size_that_was_measured_and_then_ran_out_of_memory_is_not_kept():
    search = Search(Known(prompts=10_000, ranks=1, tokens_per_row=100))
    search.measured = {8: 100.0, 16: 180.0}
    assert search.wall(16, fits=12).batch_size == 8


def test_growth_of_memory_is_judged_by_the_two_largest_sizes_measured():
    search = Search(Known(prompts=10**6, ranks=1, tokens_per_row=100, memory_free_bytes=1000))
    # 1 byte a row from 8 to 16, but 20 from 16 to 32: 64 rows would take 1,280 of 1,000 bytes.
    search.peaks = {8: 100, 16: 108, 32: 428}
    assert search._fits(64) == "it would take 128% of the free memory"
    assert search._fits(40) is None


# --- each bound, on both sides ------------------------------------------------------------------------


def search(**facts) -> Search:
    return Search(Known(**{"prompts": 10**6, "ranks": 2, "tokens_per_row": 100, **facts}))


def test_memory_for_less_than_a_row_is_still_for_one_and_unknown_memory_limits_nothing():
    assert memory_limit(Known(prompts=1, ranks=1, tokens_per_row=10, memory_free_bytes=1, kv_bytes_per_token=1)) == 1
    for missing in ({"memory_free_bytes": None}, {"kv_bytes_per_token": None}, {"tokens_per_row": 0}):
        facts = {"tokens_per_row": 10, "memory_free_bytes": 10**6, "kv_bytes_per_token": 10, **missing}
        assert memory_limit(Known(prompts=1, ranks=1, **facts)) is None
    assert search().start().batch_size == 64


def test_prompts_per_rank_are_those_of_the_rank_with_the_most():
    assert [Known(prompts=count, ranks=3, tokens_per_row=1).per_rank for count in (0, 1, 3, 4)] == [0, 1, 1, 2]


@pytest.mark.parametrize(("rate", "size"), [(105.0, 32), (104.9, 8)])
def test_a_gain_of_just_five_percent_over_the_next_smaller_size_is_enough(rate, size):
    found = search()
    found.measured = {4: 1.0, 8: 100.0, 64: 1000.0}
    assert found.learn(16, rate, None, 10**6).batch_size == size


def test_anything_is_a_gain_over_a_size_that_yielded_nothing():
    found = search()
    found.measured = {8: 0.0}
    choice = found.learn(16, 0.0, None, 10**6)
    assert (choice.batch_size, choice.settled, choice.reason) == (32, False, "trying 32: tokens/s still grows")


@pytest.mark.parametrize(
    ("left", "size", "settled", "reason"),
    [
        (65, 32, False, "trying 32: tokens/s still grows"),
        (64, 32, True, "the 64 prompts left are one even round of 32 per rank"),
        (63, 32, True, "the 63 prompts left are one even round of 32 per rank"),
        (20, 16, True, "the 20 prompts left are one even round of 10 per rank"),
        (0, 16, True, "the 0 prompts left are one even round of 1 per rank"),
    ],
)
def test_a_larger_size_is_tried_only_if_more_than_one_round_of_it_is_left(left, size, settled, reason):
    choice = search().learn(16, 10.0, None, left)
    assert (choice.batch_size, choice.settled, choice.reason) == (size, settled, reason)


def test_a_last_round_that_would_not_fit_is_not_made_of_what_is_left():
    found = search(memory_free_bytes=10**6, kv_bytes_per_token=300)
    found.start()
    assert found.limit == 23
    choice = found.learn(16, 10.0, None, 48)
    assert (choice.batch_size, choice.settled) == (16, True)
    assert choice.reason == "settled at 16: too few prompts are left to try more"
    assert found.learn(16, 10.0, None, 46).batch_size == 23, "as many as fit"


HALF = MAX_BATCH_SIZE // 2


@pytest.mark.parametrize(("size", "next_size"), [(HALF, MAX_BATCH_SIZE), (HALF + 1, HALF + 1)])
def test_the_largest_size_of_all_may_be_tried(size, next_size):
    choice = search().learn(size, 10.0, None, 10**7)
    assert (choice.batch_size, choice.settled) == (next_size, size == next_size)
    if choice.settled:
        assert choice.reason == f"settled at {size}: a batch has at most {MAX_BATCH_SIZE} rows"


def test_a_size_at_the_limit_of_the_estimate_fits_and_one_row_more_does_not():
    found = search(memory_free_bytes=10**6, kv_bytes_per_token=300)
    found.start()
    assert found._fits(23) is None
    assert found._fits(24) == "memory allows about 23 rows"
    found.peaks = {8: 100}
    assert found._fits(24) == "memory allows about 23 rows", "one peak has no slope"
    found.peaks = {8: 100, 16: 108}
    assert found._fits(24) is None, "what was measured counts for more"
    blind = search()
    blind.peaks = {8: 100, 16: 10**12}
    assert blind._fits(10**6) is None, "nothing is known of the memory"


@pytest.mark.parametrize(("rows", "why"), [(90, None), (91, "it would take 91% of the free memory")])
def test_what_grows_with_the_batch_may_take_nine_tenths_of_the_free_memory(rows, why):
    found = search(memory_free_bytes=1000)
    found.peaks = {8: 80, 16: 160}
    assert found._fits(rows) == why


def test_a_peak_of_nothing_is_a_peak_and_one_that_is_not_known_is_none():
    found = search()
    found.learn(8, 10.0, 0, 10**6)
    found.learn(16, 20.0, None, 10**6)
    assert found.peaks == {8: 0}
    assert found.measured == {8: 10.0, 16: 20.0}


def test_out_of_memory_at_a_single_row_leaves_a_batch_of_one():
    choice = search().wall(1, fits=0)
    assert (choice.batch_size, choice.settled) == (1, True)


def test_no_more_rows_are_tried_than_the_engine_was_loaded_for():
    known = Known(prompts=100_000, ranks=1, tokens_per_row=10, on_gpu=True, most_rows=256, memory_free_bytes=2**40)
    search = Search(known)
    choice = search.start()
    assert choice.batch_size <= 256
    for peak in (10, 11, 12, 13):
        if choice.settled:
            break
        choice = search.learn(choice.batch_size, choice.batch_size * 1.0, peak, 90_000)
    assert choice == Choice(
        256, "settled at 256: 512 would not fit, the engine was started for at most 256 rows at once", True
    )
