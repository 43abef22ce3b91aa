"""Which setting of a sweep is best, which are tied with it, which is chosen, and the sentence about it."""

from hypothesis import given
from hypothesis import strategies as st

from rankdeck.runner.sweep.cells import best, cells
from rankdeck.runner.sweep.intervals import told_apart
from rankdeck.runner.sweep.verdict import Verdict, verdict
from tests.runner.sweep.test_sweep_figures import RATES, sweep


def judged(rates: dict[tuple[int, int], list[float]]) -> Verdict:
    found = verdict(cells(sweep(rates)))
    assert found is not None
    return found


def test_of_batch_sizes_that_cannot_be_told_apart_the_smaller_is_chosen_with_the_reason():
    found = judged({(2, 8): [50, 51, 52], (2, 16): [99, 101, 103], (2, 32): [101, 104, 104]})
    assert found.tied == [(2, 16)]
    assert found.chosen.setting == (2, 16)
    assert found.repeats == 9
    assert found.sentence == (
        "cannot be told apart from batch size 16 (2.0 ± 4.3 tok/s between them); about 9 repeats would tell; "
        "batch size 16 is chosen: as fast within the noise, with less memory and latency"
    )


def test_a_best_setting_beyond_the_noise_is_chosen_and_called_so():
    found = judged({(2, 16): [99, 100, 101], (2, 32): [119, 120, 121]})
    assert (found.tied, found.repeats, found.chosen.setting) == ([], None, (2, 32))
    assert found.sentence == "faster than every other setting, beyond the noise"


def test_a_tied_smaller_batch_is_chosen_within_5_percent_of_the_best_and_not_beyond():
    within = judged({(2, 8): [90, 96, 102], (2, 16): [97, 100, 103]})
    assert (within.tied, within.chosen.setting) == ([(2, 8)], (2, 8))
    beyond = judged({(2, 8): [86, 93, 100], (2, 16): [97, 100, 103]})
    assert (beyond.tied, beyond.chosen.setting) == ([(2, 8)], (2, 16)), "7 % slower is not as good"


def test_the_repeats_named_are_enough_to_tell_the_best_from_all_that_are_tied():
    far = judged({(2, 8): [88, 95, 102], (2, 32): [97, 100, 103]})
    near = judged({(2, 16): [92, 97, 102], (2, 32): [97, 100, 103]})
    both = judged({(2, 8): [88, 95, 102], (2, 16): [92, 97, 102], (2, 32): [97, 100, 103]})
    assert far.repeats is not None
    assert near.repeats is not None
    assert far.repeats < near.repeats == both.repeats


def test_noise_alone_never_argues_for_a_slow_setting():
    found = judged({(1, 1): [10, 60], (1, 32): [80, 130]})
    assert found.tied == [(1, 1)]
    assert found.chosen.setting == (1, 32), "35 tokens/s are not within 5 % of 105"
    assert "chosen all the same" in found.sentence


def test_fewer_ranks_are_named_but_never_chosen_for_their_noise():
    found = judged({(1, 16): [95, 100, 102], (2, 32): [98, 101, 104]})
    assert found.tied == [(1, 16)]
    assert found.chosen.setting == (2, 32)
    assert found.sentence.startswith("cannot be told apart from batch size 16 with 1 rank (2.0 ±")


def test_of_many_tied_settings_the_fastest_are_named_and_the_others_counted():
    found = judged({(2, size): [100 - place, 103, 106 + place] for place, size in enumerate((4, 8, 16, 32, 64))})
    assert len(found.tied) == 4
    assert "batch size 8, batch size 16 and 2 more" in found.sentence
    assert "not even 100 repeats would tell" in found.sentence, "their means are the same"


def test_with_one_repeat_the_fastest_is_chosen_and_its_noise_is_called_unknown():
    found = judged({(2, 16): [103], (2, 32): [104]})
    assert (found.noise_known, found.tied, found.chosen.setting) == (False, [], (2, 32))
    assert found.sentence.startswith("measured once: how far that varies is not known")


def test_settings_measured_once_are_left_out_of_what_the_best_is_faster_than():
    found = judged({(2, 8): [50, 51], (2, 16): [103], (2, 32): [104, 105]})
    assert (found.tied, found.chosen.setting) == ([], (2, 32))
    assert found.sentence == (
        "faster than the 1 other whose noise is known, beyond the noise; of 1 other, measured once, no noise is known"
    )
    more = judged({(2, 4): [20, 21], (2, 8): [50, 51], (2, 16): [103], (2, 24): [102], (2, 32): [104, 105]})
    assert more.sentence == (
        "faster than the 2 others whose noise is known, beyond the noise; of 2 others, measured once, no noise is known"
    )


def test_a_single_setting_is_compared_with_nothing_and_without_any_there_is_no_verdict():
    assert judged({(2, 16): [103, 104]}).sentence == ""
    assert verdict(cells(sweep({(2, 16): [-1]}))) is None
    assert verdict([]) is None


MEASURED = st.dictionaries(
    st.tuples(st.integers(1, 3), st.sampled_from((1, 2, 4, 8))), st.lists(RATES, min_size=1, max_size=4), min_size=1
)


@given(MEASURED)
def test_the_chosen_setting_is_as_fast_as_the_best_within_noise_and_5_percent(rates):
    found = cells(sweep(rates))
    first, said = best(found), verdict(found)
    assert first is not None
    assert said is not None
    chosen = said.chosen
    assert chosen.active_ranks == first.active_ranks
    assert chosen.batch_size <= first.batch_size
    assert chosen.tokens_per_second.mean * 1.05 >= first.tokens_per_second.mean * (1 - 1e-12)
    assert chosen is first or chosen.setting in said.tied
    for cell in found:
        apart = cell.tokens_per_second is not None and told_apart(cell.tokens_per_second, first.tokens_per_second)
        assert not (apart and cell.setting in said.tied)
        smaller = cell.active_ranks == first.active_ranks and cell.batch_size < chosen.batch_size
        if smaller and cell.setting in said.tied:
            assert cell.tokens_per_second.mean * 1.05 < first.tokens_per_second.mean


def test_the_difference_is_given_only_where_one_setting_is_tied():
    two = judged({(2, 8): [99, 101, 103], (2, 16): [99, 101, 104], (2, 32): [101, 104, 104]})
    assert len(two.tied) == 2
    assert two.sentence.startswith("cannot be told apart from batch size 16 and batch size 8; about ")
    assert "between them" not in two.sentence
