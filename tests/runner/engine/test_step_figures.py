"""What is counted of a batch's steps, one call at a time: progress, times, who has ended. No model generates."""

import contextlib
import time
from types import SimpleNamespace

import pytest
import torch

from rankdeck.runner.engine import rows
from rankdeck.runner.engine.decoding.clock import Figures
from rankdeck.runner.engine.generation import marks as marks_module
from rankdeck.runner.engine.generation.marks import DrawableLogits, LogitCheck, Marks
from rankdeck.runner.engine.rows import Answer, Cancelled, Progress, left_padded, trim
from rankdeck.runner.engine.step_watch import StepWatch

CPU = torch.device("cpu")
EOS, PAD = 1, 0


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(at=100.0)
    monkeypatch.setattr(time, "perf_counter", lambda: now.at)
    return now


def watching(count: int = 2, leaving: int | None = None, rules=None, **more):
    told = SimpleNamespace(progress=[], synchronised=0, cancelled=False)

    def synchronise():
        told.synchronised += 1

    watch = StepWatch(
        3, frozenset([EOS]), CPU, LogitCheck(sampled=False, infinite_is_replaced=False),
        on_step=told.progress.append, cancelled=lambda: told.cancelled, synchronise=synchronise,
        **{"measure": False, **more},
    )  # fmt: skip
    watch.begin(count, rules, leaving)
    return watch, told


def ids(*new: list[int]) -> torch.Tensor:
    return torch.tensor([[7, 7, 7, *row] for row in new])


def test_progress_counts_the_tokens_up_to_each_rows_end_five_times_a_second_at_most(clock):
    watch, told = watching(3)
    written = [[5, EOS, PAD, PAD], [5, 6, 7, 8], [5, 6, EOS, PAD]]
    for step in range(1, 5):
        watch(ids(*(row[:step] for row in written)), None)
        clock.at += 0.125
    assert told.progress == [Progress(1, 3), Progress(3, 8)]


def test_an_end_of_sequence_token_in_a_prompt_or_after_the_end_counts_for_nothing(clock):
    watch, told = watching(1)
    watch(torch.tensor([[EOS, 7, EOS, 5]]), None)
    clock.at += 1
    watch(torch.tensor([[EOS, 7, EOS, 5, EOS]]), None)
    clock.at += 1
    watch(torch.tensor([[EOS, 7, EOS, 5, EOS, EOS]]), None)
    assert told.progress == [Progress(1, 1), Progress(2, 2), Progress(3, 2)]


def test_a_row_that_was_marked_has_no_tokens_after_the_mark(clock):
    watch, told = watching(2)
    watch(ids([5], [5]), None)
    watch.marks.set(torch.tensor([True, False]), 2, "NaN")
    clock.at += 1
    assert watch(ids([5, 6], [5, 6]), None).tolist() == [True, False]
    assert told.progress[-1] == Progress(2, 4)
    clock.at += 1
    watch(ids([5, 6, 8], [5, 6, 8]), None)
    assert told.progress[-1] == Progress(3, 5)


@pytest.mark.parametrize(("leaving", "over"), [(1, True), (2, True), (3, False)])
def test_a_call_is_over_for_all_rows_once_as_many_have_ended_as_are_to_leave(clock, leaving, over):
    watch, _ = watching(3, leaving)
    assert watch(ids([5], [EOS], [6]), None).tolist() == [leaving == 1] * 3
    assert watch(ids([5, EOS], [EOS, PAD], [6, 7]), None).tolist() == [over] * 3


def test_rows_that_a_rule_ends_are_marked_with_the_token_they_ended_at_and_leave(clock):
    rules = SimpleNamespace(ended=lambda ids, scores: torch.tensor([ids.shape[1] == 5, False]))
    watch, _ = watching(2, 1, rules)
    assert watch(ids([5], [5]), None).tolist() == [False, False]
    assert watch(ids([5, 6], [5, 6]), None).tolist() == [True, True]
    assert marks_module.read(int(watch.marks.values[0])) == (2, "stop string")
    assert watch.marks.set_at.tolist() == [2, 0]


def test_rules_that_end_nothing_mark_nothing(clock):
    watch, _ = watching(2, None, SimpleNamespace(ended=lambda ids, scores: None))
    assert watch(ids([5], [5]), None).tolist() == [False, False]


def test_the_time_of_each_step_but_the_first_is_kept_only_if_it_is_measured(clock):
    for measure, seconds in ((True, [2.0, 3.0]), (False, None)):
        watch, told = watching(1, measure=measure)
        for step, took in ((1, 5.0), (2, 2.0), (3, 3.0)):
            clock.at += took
            watch(ids([5] * step), None)
        assert watch.step_seconds == seconds
        assert told.synchronised == 1, "the device is waited for once, for the first token"


def test_the_clock_stands_still_while_something_is_handed_over(clock):
    watch, _ = watching(1)
    assert watch.clock() == 100.0
    with watch.handing_over():
        clock.at += 7
    assert watch.clock() == 100.0
    with contextlib.suppress(ValueError), watch.handing_over():
        clock.at += 1
        raise ValueError
    clock.at += 2
    assert watch.clock() == 102.0


def test_a_batch_that_is_cancelled_ends_in_its_prefill_or_at_any_step(clock):
    watch, told = watching(1)
    watch(ids([5]), None)
    told.cancelled = True
    with pytest.raises(Cancelled):
        watch(ids([5, 6]), None)
    watch, told = watching(1)
    told.cancelled = True
    watch.begin_group(1, None, 4)
    with pytest.raises(Cancelled):
        watch(torch.zeros(1, 5, dtype=torch.long), None)


def test_the_prefills_of_groups_are_one_step_over_with_the_last_of_them(clock):
    watch, told = watching(2, measure=True)
    for width, took in ((9, 3.0), (4, 1.0)):
        watch.begin_group(2, None, width)
        assert watch.logit_check.step == 1
        clock.at += took
        assert watch(torch.full((2, width + 1), 5), None).tolist() == [False, False], "no row ends here"
    assert (watch.steps, watch.first_token_at, told.synchronised) == (1, 104.0, 2)
    assert told.progress == []
    watch.begin(2, None, None)
    assert watch.logit_check.step == 2
    clock.at += 0.5
    watch(ids([5, 6], [5, 6]), None)
    assert watch.step_seconds == [0.5]


def test_the_check_of_logits_knows_the_number_of_the_next_token(clock):
    watch, _ = watching(1)
    assert watch.logit_check.step == 1
    assert watch.logit_check.marks is watch.marks
    watch(ids([5]), None)
    assert watch.logit_check.step == 2
    watch.begin(1, None, None)
    assert watch.logit_check.step == 2
    assert watch.logit_check.marks is watch.marks


def test_the_figures_of_a_batch_are_those_of_its_parts_together(clock):
    total = Figures()
    for part, (seconds, step_seconds) in enumerate([(2.0, [0.5, 0.5]), (4.0, [1.0])], start=1):
        watch = SimpleNamespace(
            first_token_at=10.0, clock=lambda seconds=seconds: 10.0 + seconds, steps=3 * part, step_seconds=step_seconds
        )
        total.add(Figures.of(watch, 10.0 - part, 100 * part, 20 * part, 5 * part))
    assert total == Figures(3.0, 6.0, 300, 9, 60, 15, step_seconds=[0.5, 0.5, 1.0])
    plain = Figures()
    unmeasured = SimpleNamespace(first_token_at=1.0, clock=lambda: 1.0, steps=1, step_seconds=None)
    plain.add(Figures.of(unmeasured, 0.0, 1, 1, 1))
    assert plain == Figures(1.0, 0.0, 1, 1, 1, 1, step_seconds=None)


# --- rows ---


def test_a_row_that_something_else_ended_is_cut_there_and_has_stopped():
    assert trim([5, 6, 7], frozenset([EOS]), 2) == Answer([5, 6], "stop")
    assert trim([5, EOS, 7], frozenset([EOS]), 3) == Answer([5, EOS], "stop")
    assert trim([5, 6, EOS], frozenset([EOS]), 2) == Answer([5, 6], "stop")
    assert trim([5, 6], frozenset([EOS]), 0) == Answer([], "stop")
    assert trim([5, 6], frozenset([EOS])) == Answer([5, 6], "length")


def test_rows_are_padded_on_the_left_and_the_mask_says_where():
    assert left_padded([[5, 6], [7, 8, 9]], 4, PAD) == (
        [[PAD, PAD, 5, 6], [PAD, 7, 8, 9]],
        [[0, 0, 1, 1], [0, 1, 1, 1]],
    )
    assert left_padded([[5]], 1, PAD) == ([[5]], [[1]])


@pytest.mark.parametrize(
    ("device", "count", "leave"),
    [("cpu", 1, 1), ("cpu", 64, 1), ("cpu", 65, 2), ("cuda", 1, 1), ("cuda", 5, 3), ("cuda", 64, 32), ("mps", 8, 4)],
)
def test_how_many_rows_must_have_ended_before_they_leave(device, count, leave):
    assert rows.leaving(device, count) == leave


def test_another_forward_pass_costs_what_its_launches_take_in_slots():
    assert rows.group_slots("cpu", 1, 1) == 64
    assert rows.group_slots("cuda", 32, 7_000_000_000) == 1098
    assert rows.group_slots("cuda", 80, 70_000_000_000) == 275


def test_slots_that_are_read_are_none_in_no_step_and_those_of_the_prompt_from_the_second_on():
    assert rows.slots_read(3, 10, 0, 5) == 0
    assert rows.slots_read(1, 10, 5, 5) == 11 + 12 + 13 + 14
    assert rows.slots_read(2, 0, 2, 4) == 2 * (2 + 3)


# --- marks ---

NAN, INF = float("nan"), float("inf")


def test_a_mark_says_when_and_what():
    marks = Marks(4, CPU)
    assert marks.values.tolist() == [0, 0, 0, 0] == marks.set_at.tolist()
    for row, (step, kind) in enumerate([(1, "stop string"), (1, "NaN"), (1, "infinite"), (700, "infinite")]):
        marks.set(torch.arange(4) == row, step, kind)
        assert marks_module.read(int(marks.values[row])) == (step, kind)
    assert marks.set_at.tolist() == [1, 1, 1, 700]
    assert marks_module.read(0)[0] is None


def test_logits_of_a_row_are_unusable_if_its_largest_is_no_number():
    logits = torch.tensor([[1.0, 2.0], [NAN, 1.0], [INF, 1.0], [-INF, 1.0], [-INF, -INF], [NAN, INF]])
    found = marks_module.unusable(logits)
    assert {kind: bad.tolist() for kind, bad in found.items()} == {
        "NaN": [False, True, False, False, False, True],
        "infinite": [False, False, True, False, True, False],
    }


@pytest.mark.parametrize("replaced", [True, False])
def test_infinite_logits_pass_only_where_the_model_has_them_replaced(replaced):
    check = LogitCheck(sampled=True, infinite_is_replaced=replaced)
    logits = torch.tensor([[INF, 1.0], [NAN, 1.0]])
    assert check(None, logits)[0].tolist() == ([INF, 1.0] if replaced else [0.0, 0.0])
    check.marks = Marks(2, CPU)
    made = check(None, logits)
    assert made[1].tolist() == [0.0, 0.0]
    assert check.marks.set_at.tolist() == [0 if replaced else 1, 1]
    greedy = LogitCheck(sampled=False, infinite_is_replaced=replaced)
    assert greedy(None, logits) is logits


def test_of_unusable_rows_the_continuous_engine_tells_by_tokens_that_are_all_equally_likely():
    drawable = DrawableLogits(CPU)
    assert drawable.supports_continuous_batching
    equal = torch.log(torch.tensor(1 / 4)).item()
    assert drawable(None, torch.tensor([[1.0, 2.0, 3.0, 4.0]])).tolist() == [[1.0, 2.0, 3.0, 4.0]]
    assert drawable.first_unusable([equal]) is None, "none was seen: it is chance"
    assert drawable(None, torch.tensor([[1.0, 2.0, 3.0, 4.0], [NAN, 1.0, 1.0, 1.0]])).tolist()[1] == [0.0] * 4
    assert drawable.first_unusable([-0.1, equal, equal]) == 2
    assert drawable.first_unusable([-0.1]) is None
    assert drawable.first_unusable([]) is None
    drawable(None, torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    assert drawable.first_unusable([equal]) == 1, "that one was seen is not forgotten"


def test_progress_is_told_as_often_as_people_can_read_it():
    assert rows.PROGRESS_SECONDS == 0.2
