"""When a rank hangs: by its own pace, never while it loads as it may, told before it is ended."""

import pytest

from rankdeck.runner.supervisor.talk.patience import (
    LEAST_PATIENCE_SECONDS,
    TOLD_SECONDS,
    UNKNOWN_TIMES,
    Pulse,
    patience_for,
    to_be_given_up,
    to_be_told,
)


def warm(*silences: float, work: float = 100.0) -> Pulse:
    """The pulse of a rank that has ended a first batch at once, and these silences since."""
    pulse = Pulse(pace_known=True)
    pulse.given(work)
    for silence in silences:
        pulse.silent = silence
        pulse.heard("at work")
    return pulse


def silent(pulse: Pulse, seconds: float, *, stopped: bool = False) -> Pulse:
    pulse.begin()
    pulse.passed(seconds, stopped=stopped)
    return pulse


def test_a_rank_whose_steps_come_fast_is_told_of_in_15_seconds_and_ended_after_60():
    pulse = warm(0.3, 0.5)
    assert TOLD_SECONDS < 15
    assert not to_be_told(silent(pulse, TOLD_SECONDS - 1), "at work")
    assert to_be_told(silent(pulse, TOLD_SECONDS), "at work")
    assert not to_be_given_up(silent(pulse, 59), "at work", None)
    assert to_be_given_up(silent(pulse, 60), "at work", None)


def test_a_rank_with_slow_steps_is_waited_for_ten_times_as_long_as_they_take():
    pulse = warm(20.0, 5.0)
    assert patience_for(pulse, "at work", None) == 200
    assert not to_be_told(silent(pulse, 99), "at work"), "a step of 20 s is usual here"
    assert to_be_told(silent(pulse, 100), "at work")


def test_more_rows_or_longer_prompts_are_waited_for_in_proportion():
    pulse = warm(20.0, work=100.0)
    pulse.given(400.0)
    assert patience_for(pulse, "at work", None) == 800
    pulse.given(1.0)
    assert patience_for(pulse, "at work", None) == 200, "fewer are not waited for less: a step takes what it takes"


def test_a_first_batch_whose_kernels_are_new_sets_no_pace_for_all_later_ones_but_counts_as_a_prefill_may():
    pulse = Pulse()
    pulse.given(100.0)
    pulse.silent = 90.0
    pulse.heard("at work")
    pulse.pace_known = True
    assert patience_for(pulse, "at work", None) == 270


def test_loading_and_the_first_batch_are_waited_for_far_longer():
    for stage in ("loading", "at work"):
        assert patience_for(Pulse(), stage, None) == UNKNOWN_TIMES * LEAST_PATIENCE_SECONDS == 1200
        assert patience_for(Pulse(), stage, 5.0) == 100
    assert not to_be_told(silent(Pulse(), 30), "loading")
    assert to_be_told(silent(Pulse(), 60), "loading")
    assert to_be_told(silent(Pulse(), TOLD_SECONDS), "at work")


@pytest.mark.parametrize("stage", ["loading", "waiting", "at work"])
def test_a_stopped_process_is_told_at_once_in_any_stage(stage):
    assert to_be_told(silent(warm(20.0), TOLD_SECONDS, stopped=True), stage)


def test_a_rank_with_nothing_to_do_may_be_silent_for_ever():
    pulse = silent(warm(), 10**6)
    assert not to_be_told(pulse, "waiting")
    assert not to_be_given_up(pulse, "waiting", None)
    assert not to_be_given_up(pulse, "waiting", 1.0)


def test_the_patience_asked_for_holds_and_0_is_for_ever():
    pulse = silent(warm(20.0), 30)
    assert to_be_given_up(pulse, "at work", 30.0)
    assert not to_be_given_up(pulse, "at work", 31.0)
    for stage in ("loading", "at work"):
        assert patience_for(silent(pulse, 10**9), stage, 0) is None
        assert not to_be_given_up(pulse, stage, 0)


def test_a_silence_in_which_the_process_was_stopped_is_no_pace():
    pulse = warm(0.5)
    silent(pulse, 50, stopped=True).heard("at work")
    assert patience_for(pulse, "at work", None) == LEAST_PATIENCE_SECONDS
    silent(pulse, 50).heard("waiting")
    assert patience_for(pulse, "at work", None) == LEAST_PATIENCE_SECONDS, "nor is one without work"


def test_a_stop_that_is_over_when_the_rank_goes_on_is_no_pace_either():
    pulse = silent(warm(0.5), 50, stopped=True)
    pulse.passed(2.0)
    assert not pulse.stopped
    pulse.heard("at work")
    assert patience_for(pulse, "at work", None) == LEAST_PATIENCE_SECONDS
    silent(pulse, 50).heard("at work")
    assert patience_for(pulse, "at work", None) == 500, "the next silence counts again"


@pytest.mark.parametrize("stage", ["loading", "at work"])
def test_a_process_that_is_stopped_while_nothing_is_known_of_its_pace_has_the_usual_patience_from_its_stop_on(stage):
    pulse = Pulse()
    pulse.passed(300.0)
    pulse.passed(LEAST_PATIENCE_SECONDS - 1, stopped=True)
    assert patience_for(pulse, stage, None) == 300 + LEAST_PATIENCE_SECONDS
    assert not to_be_given_up(pulse, stage, None)
    pulse.passed(1.0, stopped=True)
    assert to_be_given_up(pulse, stage, None)
    pulse.passed(1.0)
    assert not to_be_given_up(pulse, stage, None), "it was continued"


def test_silence_in_which_it_is_known_to_have_computed_does_not_count_until_its_pace_is_known():
    pulse = Pulse()
    pulse.passed(10_000.0, computes=True)
    assert to_be_told(pulse, "at work")
    assert patience_for(pulse, "at work", None) is None
    pulse.passed(1199.0)
    assert not to_be_given_up(pulse, "at work", None)
    pulse.passed(1.0)
    assert to_be_given_up(pulse, "at work", None)


def test_silence_begins_anew_with_each_word_and_each_batch():
    pulse = silent(warm(), 59, stopped=True)
    pulse.heard("at work")
    assert (pulse.silent, pulse.stopped) == (0.0, False)
    silent(pulse, 59, stopped=True).given(1.0)
    assert (pulse.silent, pulse.stopped) == (0.0, False)


def test_of_first_batches_the_longest_silence_counts_and_never_less_than_what_is_given_to_the_unknown():
    pulse = Pulse()
    pulse.given(100.0)
    for silence in (500.0, 50.0):
        pulse.silent = silence
        pulse.heard("at work")
    assert pulse.usual() == 1500
    assert patience_for(pulse, "at work", None) == 1500
    assert patience_for(pulse, "at work", 10.0) == 200, "what was asked for is not stretched"


def test_loading_is_waited_for_as_long_whatever_is_known_of_the_pace():
    assert patience_for(warm(0.5), "loading", None) == 1200


def test_time_in_which_it_computed_is_of_one_silence_alone():
    pulse = Pulse()
    pulse.passed(10_000.0, computes=True)
    pulse.heard("at work")
    pulse.pace_known = False
    assert (pulse.computed, pulse.computes) == (0.0, False)
    pulse.passed(3.0, computes=True)
    pulse.passed(2.0)
    assert (pulse.computed, pulse.computes, pulse.silent) == (3.0, False, 5.0)
