"""What the static engine decides from what was found out of a model, and what it hands to a call of `generate`. Nothing
is found out here: the findings are made up."""

import contextlib
import copy
import itertools
from types import SimpleNamespace

import pytest
import torch

from rankdeck.runner.engine import compiling, rows, static
from rankdeck.runner.engine.compiling import BEFORE, ON_A_CPU
from rankdeck.runner.engine.generation import logit_rules, long_texts, marks
from rankdeck.runner.engine.private_names import CACHE
from rankdeck.runner.engine.rows import Answer, Cancelled
from rankdeck.runner.engine.static import StaticEngine
from rankdeck.runner.engine.trials import rehearsal, static_cache
from rankdeck.runner.engine.trials.rehearsal import Found
from tests.runner.engine.tiny import TEXTS, ending_early, make, prompts

NO_WIDTHS = "--compile has no effect: it pads prompts to few lengths, so that few are compiled"


def warmed(model, monkeypatch, found: Found, **settings) -> StaticEngine:
    asked = []
    monkeypatch.setattr(rehearsal, "rehearse", lambda *given: asked.append(given) or found)
    one = make(model, **settings)
    one._synchronise = lambda: asked.append("waited")
    one.take_notes()
    one.warm_up()
    assert asked == [(model, one.tokenizer, 0, torch.device("cpu")), "waited"]
    return one


@pytest.mark.parametrize(
    ("found", "notes", "joins"),
    [
        (Found("padded", None, True, False), [], True),
        (Found("padded", None, False, False), [], False),
        (Found("equal", None, False, False), [rehearsal.WORDS["equal"]], False),
        (Found("alone", "it is alone", False, True), [rehearsal.WORDS["alone"]], False),
    ],
)
def test_what_the_rehearsal_has_found_is_what_is_done_and_said(model, monkeypatch, found, notes, joins):
    one = warmed(model, monkeypatch, found)
    assert (one._together, one._may_join, one.why_rows_stay) == (found.together, joins, found.why_rows_stay)
    assert one.take_notes() == notes
    assert (one._own_state is not None) == found.leaves_state


def test_compiled_rows_stay_whatever_was_found_and_their_groups_are_not_joined(model, monkeypatch):
    one = warmed(model, monkeypatch, Found("padded", "its cache", True, False), compile=True)
    assert one._compiling is not None
    assert one._leaving(4) is None
    assert one._groups({0: 5, 1: 90}) == [[0, 1]]
    assert one.take_notes() == [f"{BEFORE}; {ON_A_CPU}"]


def test_a_model_that_fails_the_trial_of_a_static_cache_is_not_compiled_and_its_rows_may_leave(model, monkeypatch):
    asked = []
    monkeypatch.setattr(static_cache, "why_not", lambda *given: asked.append(given) or "it is wrong")
    one = warmed(model, monkeypatch, Found("padded", None, True, False), compile=True)
    assert asked == [(model, one.tokenizer, 0, torch.device("cpu"))]
    assert (one._compiling, one._leaving(4)) == (None, 1)
    assert one.take_notes() == ["--compile has no effect: it is wrong"], "once, and nothing of what compiling costs"
    warmed(model, monkeypatch, Found("padded", None, True, False))
    warmed(model, monkeypatch, Found("equal", None, False, False), compile=True)
    assert len(asked) == 1, "only where it may be compiled"


def test_a_model_whose_rows_are_not_padded_is_not_compiled_and_its_rows_may_leave(model, monkeypatch):
    one = warmed(model, monkeypatch, Found("equal", None, False, False), compile=True)
    assert (one._compiling, one.why_rows_stay) == (None, None)
    assert one.take_notes() == [rehearsal.WORDS["equal"], NO_WIDTHS]
    one.close()


def test_compiling_is_announced_with_what_it_costs_on_a_cpu_or_with_why_it_is_not_done(model, monkeypatch):
    assert make(model).take_notes() == []
    assert make(model, compile=True).take_notes() == [], "it is not known yet whether it works"
    assert compiling.announced("cpu") == f"{BEFORE}; {ON_A_CPU}"
    assert compiling.announced("cuda") == BEFORE
    monkeypatch.setattr(long_texts, "padded_up_to", lambda config, context: 64 if context == 128 else None)
    one = make(model, compile=True)
    assert one.take_notes() == [
        long_texts.words(64),
        "--compile has no effect: it pads prompts, and long ones of this model must not be padded",
    ]
    assert (one._compiling, one.why_rows_stay) == (None, None)
    monkeypatch.setattr(compiling, "why_not", lambda given: "it is quantised" if given is model else None)
    assert make(model, compile=True).take_notes()[1:] == ["--compile has no effect: it is quantised"]
    assert make(model).take_notes() == [long_texts.words(64)]


def test_settings_that_are_applied_row_by_row_are_announced(model, monkeypatch):
    made = logit_rules.LogitRules

    class Slow(made):
        def __init__(self, *given):
            super().__init__(*given)
            self.by_row = True

    monkeypatch.setattr(static, "LogitRules", Slow)
    assert make(model).take_notes() == [logit_rules.ONE_AT_A_TIME]


# --- which prompts go together ---


def test_prompts_go_together_as_far_as_the_model_lets_them_and_long_ones_with_their_like(model):
    one, lengths = make(model), {3: 5, 4: 40, 5: 16, 6: 40, 7: 17}
    assert one._parts(lengths, 8) == [[3, 4, 5, 6, 7]]
    assert one._parts({}, 8) == []
    one._padded_up_to = 24  # 16 and 8 new ones fill it; 17 is padded to 24
    assert one._parts(lengths, 8) == [[3, 5], [4, 6], [7]]
    assert one._parts(lengths, 9) == [[3], [4, 6], [5], [7]]
    one._padded_up_to = 31  # it is the padded length that counts
    assert one._parts(lengths, 8) == [[3, 5], [4, 6], [7]]
    one._padded_up_to, one._together = None, "equal"
    assert one._parts(lengths, 8) == [[3], [4, 6], [5], [7]]
    one._together = "alone"
    assert one._parts(lengths, 8) == [[3], [4], [5], [6], [7]]


def test_prompts_are_padded_to_a_multiple_of_8_or_of_64_where_steps_are_compiled(model):
    plain, compiled = make(model), make(model, compile=True)
    assert [plain._rounded(length) for length in (1, 8, 9, 64, 65)] == [8, 8, 16, 64, 72]
    assert [compiled._rounded(length) for length in (1, 64, 65)] == [64, 64, 128]
    assert [plain._width(lengths) for lengths in ([5, 5], [5], [5, 6], [3, 17])] == [5, 5, 8, 24]
    assert [compiled._width(lengths) for lengths in ([5, 5], [3, 65])] == [64, 128]


def test_groups_are_made_only_where_their_caches_can_be_joined_and_nothing_is_compiled(model, monkeypatch):
    asked = []
    monkeypatch.setattr(static, "group_by_width", lambda widths, cost: asked.append((widths, cost)) or [[1], [0]])
    one, lengths = make(model), {0: 5, 1: 90}
    assert one._groups(lengths) == [[0, 1]]
    one._may_join = True
    assert one._groups(lengths) == [[1], [0]]
    assert asked == [({0: 8, 1: 96}, one._group_slots)]
    compiled = make(model, compile=True)
    compiled._may_join = True
    assert compiled._groups(lengths) == [[0, 1]]


def test_rows_leave_only_if_something_may_end_them_and_nothing_keeps_them(model):
    one = make(model)
    assert one._leaving(130) == 3
    one.device = torch.device("cuda")
    assert one._leaving(130) == 65
    one.why_rows_stay = "a reason"
    assert one._leaving(130) is None
    fixed = make(model, ignore_eos=True)
    assert fixed._leaving(4) is None
    fixed._rules.ends_rows = True
    assert fixed._leaving(4) == 1


# --- a call of generate ---


@pytest.fixture
def calls(model, monkeypatch):
    """What `generate` is given, call by call."""
    seen, generate = [], model.generate

    def watched(**given):
        if "custom_generate" not in given:
            seen.append(
                {
                    **given,
                    "generation_config": copy.deepcopy(given["generation_config"]),
                    "own": model.generation_config,
                }
            )
        return generate(**given)

    monkeypatch.setattr(model, "generate", watched)
    return seen


def test_a_call_has_the_settings_the_rules_after_the_check_of_logits_and_the_watch(model, calls):
    one = make(model, {"repetition_penalty": 1.5, "eos_token_id": None}, ignore_eos=True)
    own = model.generation_config
    one.generate(prompts("a", "bb"), max_new_tokens=3)
    (call,) = calls
    assert [type(processor).__name__ for processor in call["logits_processor"]] == ["LogitCheck", "RowRules"]
    assert [type(criterion).__name__ for criterion in call["stopping_criteria"]] == ["StepWatch"]
    assert call["generation_config"].max_new_tokens == 3
    assert CACHE not in call
    assert call["own"] is not own, "nothing to fill in from"
    assert model.generation_config is own


def test_each_further_call_has_the_cache_and_the_tokens_that_are_left(model, calls):
    output = ending_early(model).generate(prompts(*TEXTS))
    calls.clear()
    output = ending_early(model).generate(prompts(*TEXTS))
    calls = calls[1:]  # the first asks what the model writes
    assert len(calls) > 1, "the test needs rows that leave"
    assert calls[0]["generation_config"].max_new_tokens == 12
    for before, call in itertools.pairwise(calls):
        done = call["input_ids"].shape[1] - before["input_ids"].shape[1]
        assert call["generation_config"].max_new_tokens == before["generation_config"].max_new_tokens - done
        assert call[CACHE] is not None
        assert call["attention_mask"].shape == call["input_ids"].shape
    assert output.result.steps == 12


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("replaced", [False, True])
def test_logits_are_checked_as_tokens_are_chosen_and_as_the_model_wants(model, calls, sampled, replaced):
    one = make(model, {"remove_invalid_values": replaced}, do_sample=sampled)
    one.generate(prompts("a"))
    check = calls[0]["logits_processor"][0]
    assert (check._sampled, check._infinite_is_replaced) == (sampled, replaced)


def test_the_device_is_waited_for_before_and_after_a_part_and_at_its_first_token(model, calls):
    one, order = make(model, ignore_eos=True), []
    one._synchronise = lambda: order.append(len(calls))
    one.generate(prompts("a", "b"))
    assert order == [0, 1, 1]


def test_experts_are_decoded_in_groups_for_the_rows_of_each_call_and_not_where_graphs_are_captured(model, monkeypatch):
    asked = []
    monkeypatch.setattr(static, "decoding_in_groups", lambda *given: (asked.append(given), contextlib.nullcontext())[1])
    one = make(model, ignore_eos=True)
    one._experts = "experts"
    one.generate(prompts("a", "b"))
    assert asked == [(model, "experts", 2)]
    nothing = dict.fromkeys(("prepare", "keep", "learn"), lambda *_: None)
    for begun, experts in ((False, "experts"), (True, None)):
        one._compiling = SimpleNamespace(begun=begun, **nothing)
        one.generate(prompts("a"))
        assert asked[-1] == (model, experts, 1)


def test_what_a_model_keeps_of_the_part_before_is_forgotten_before_each_part(model):
    one, restored = make(model), []
    one._together = "alone"
    one._own_state = SimpleNamespace(restore=lambda: restored.append(True))
    one.generate(prompts("a", "b", "c"))
    assert len(restored) == 3


def test_a_compiled_batch_is_timed_with_its_rows_its_length_and_its_steps(model):
    one, told = make(model, compile=True, ignore_eos=True), []
    one._compiling = SimpleNamespace(
        begun=False,
        prepare=lambda generation, *given: told.append(("prepare", *given)),
        keep=lambda *given: told.append(("keep", *given[:2], given[2] is not None)),
        learn=lambda *given: told.append(("learn", *given[:3], given[3] > 0)),
        forget=lambda: told.append("forget"),
    )
    one.generate(prompts("a", "bb"))
    assert told == [("prepare", 2, 76), ("keep", 2, 76, True), ("learn", 2, 76, 12, True)]
    one.close()
    assert told[-1] == "forget"


def test_the_tokens_of_a_long_model_s_answers_are_counted_as_this_batch_has_them(model):
    one, asked = make(model), []
    parts = one._parts
    one._parts = lambda lengths, new: asked.append((lengths, new)) or parts(lengths, new)
    one.generate(prompts("abc"))
    one.generate(prompts("abc", "x" * 300), max_new_tokens=3)
    assert asked == [({0: 4}, 12), ({0: 4}, 3)]


def test_the_account_has_the_peaks_since_the_batch_began(model, monkeypatch):
    one, done = make(model), []
    tokenise = one.tokenise
    monkeypatch.setattr(one, "tokenise", lambda given: done.append("tokenised") or tokenise(given))
    monkeypatch.setattr(one, "_reset_peak_memory", lambda: done.append("reset"))
    monkeypatch.setattr(one, "peak_memory", lambda: 11)
    monkeypatch.setattr(one, "reserved_memory", lambda: 22)
    result = one.generate(prompts("a")).result
    assert done == ["reset", "tokenised"]
    assert (result.peak_memory_bytes, result.reserved_memory_bytes) == (11, 22)


@pytest.mark.parametrize("texts", [["a", "b"], ["x" * 300, "a"], ["x" * 300]])
def test_what_cannot_be_answered_is_told_first_and_alone(model, texts):
    told: list = []
    make(model, ignore_eos=True).generate(prompts(*texts), on_records=told.append)
    unfit = [at for at, text in enumerate(texts) if len(text) > 100]
    fit = [at for at in range(len(texts)) if at not in unfit]
    assert [[record.index for record in records] for records in told] == [one for one in (unfit, fit) if one]


def test_an_answer_is_an_error_only_if_its_last_token_was_chosen_from_unusable_logits(model):
    one = make(model)
    mark = len(marks.KINDS)
    stop, nan = (marks.KINDS.index(kind) for kind in ("stop string", "NaN"))
    found = one._answers(
        [[5, 6, 7], [5, 1, 0], [5, 6, 7], [5, 6, 7], [5, 6, 1]],
        [2 * mark + stop, 3 * mark + nan, 2 * mark + nan, 0, 3 * mark + nan],
    )
    said = "the model's logits are NaN at new token {}, in float32: the weights or the model is damaged"
    assert found == [
        Answer([5, 6], "stop"),
        Answer([5, 1], "stop"),
        Answer([], "error", said.format(2)),
        Answer([5, 6, 7], "length"),
        Answer([], "error", said.format(3)),
    ]


def test_a_cancelled_batch_lets_its_cache_be_and_a_failed_one_does_not(model):
    one = make(model)
    assert not one._closes_after(Cancelled())
    assert one._closes_after(torch.OutOfMemoryError())
    assert one._closes_after(KeyboardInterrupt())
    one.close()


def test_the_cost_of_a_group_is_that_of_the_model_s_layers_and_parameters(model, monkeypatch):
    asked = []
    monkeypatch.setattr(static, "group_slots", lambda *given: asked.append(given) or 7)
    assert make(model)._group_slots == 7
    assert asked == [("cpu", 2, model.num_parameters())]
    assert rows.GROUP_SLOTS == {"cpu": 64}
