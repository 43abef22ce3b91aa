"""What the static engine decides from what was found out of a model, and what it gives `generate` or the decode loop.
Nothing is found out here: the findings are made up."""

import contextlib
import copy
import itertools
from types import SimpleNamespace

import pytest
import torch

from rankdeck.runner.engine import rows, static
from rankdeck.runner.engine.decoding import forward, lookup_attention
from rankdeck.runner.engine.generation import by_generate, logit_rules, long_texts, marks
from rankdeck.runner.engine.generation.answers import answers_of
from rankdeck.runner.engine.private_names import CACHE
from rankdeck.runner.engine.rows import Answer, Cancelled
from rankdeck.runner.engine.static import StaticEngine
from rankdeck.runner.engine.trials import rehearsal
from rankdeck.runner.engine.trials.rehearsal import Found
from tests.runner.engine.tiny import BOTH_WAYS, TEXTS, ending_early, make, prompts

NOT_ITS_OWN = f"{static.BY_GENERATE}: {static.OTHER}"


def warmed(model, monkeypatch, found: Found, *, tried=True, one=None, **settings) -> StaticEngine:
    """The engine `one`, else a new one, warmed up with these findings; `tried` is whether the decode loop was.

    Where rows may be joined, but not in the loop, it is tried with less and less that is not the model's own.
    """
    trials, waited = [], []
    monkeypatch.setattr(lookup_attention, "is_there", lambda: True)
    monkeypatch.setattr(rehearsal, "rehearse", lambda *given, **named: trials.append((given, named)) or found)
    one = one or make(model, **settings)
    one._synchronise = lambda: waited.append(len(trials))
    one.take_notes()
    one.warm_up()
    assert waited == [len(trials)], "once, at the end"
    for (*given, in_loop, findings), _ in trials:
        assert given == [model, one.tokenizer, 0, torch.device("cpu")]
        assert (in_loop is not None) == tried
        assert findings is one.findings
    loops = ["ragged, by lookup", "ragged", "by lookup", "in the loop"]
    loops = loops if found.may_join and not found.loops else loops[:1]
    assert [named for _, named in trials] == ([{"loop": loop} for loop in loops] if tried else [{}])
    return one


@pytest.mark.parametrize(
    ("found", "notes", "joins"),
    [
        (Found("padded", None, True, False, True), [], True),
        (Found("padded", None, True, False), [NOT_ITS_OWN], True),
        (Found("padded", None, True, True, True), [NOT_ITS_OWN], True),
        (Found("padded", None, False, False), [NOT_ITS_OWN], False),
        (Found("equal", None, False, False), [rehearsal.WORDS["equal"], NOT_ITS_OWN], False),
        (Found("alone", "it is alone", False, True), [rehearsal.WORDS["alone"], NOT_ITS_OWN], False),
    ],
)
def test_what_the_rehearsal_has_found_is_what_is_done_and_said(model, monkeypatch, found, notes, joins):
    one = warmed(model, monkeypatch, found)
    assert (one._together, one._may_join, one.why_rows_stay) == (found.together, joins, found.why_rows_stay)
    assert one.take_notes() == notes
    assert (one._own_state is not None) == found.leaves_state
    assert (one._workspace is not None) == (notes == [])


def test_who_asks_for_generate_gets_it_without_a_word_and_the_decode_loop_is_not_tried(model, monkeypatch):
    one = warmed(model, monkeypatch, Found("padded", None, True, False), tried=False, decoding="generate")
    assert (one._workspace, one._may_join, one.take_notes()) == (None, True, [])


def over_two_devices(one, monkeypatch):
    one.devices = [torch.device("cuda", 0), torch.device("cuda", 1)]


def with_processors_of_its_own(one, monkeypatch):
    one._rules.has_own = True


def with_flash_attention(one, monkeypatch):
    monkeypatch.setattr(one.model.config.get_text_config(), "_attn_implementation", "flash_attention_2")


def with_a_cache_of_another_name(one, monkeypatch):
    def forward(self, input_ids, attention_mask, position_ids, cache_params): ...

    monkeypatch.setattr(type(one.model), "forward", forward)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (over_two_devices, "the model is spread over several devices"),
        (with_processors_of_its_own, "its rows go one by one"),
        (with_flash_attention, "its attention (flash_attention_2) takes no mask of its own"),
        (with_a_cache_of_another_name, "it takes no positions, mask and cache from outside"),
    ],
)
def test_what_rules_the_decode_loop_out_beforehand_is_said_and_it_is_not_tried(model, monkeypatch, kind, why):
    one = make(model)
    kind(one, monkeypatch)
    notes = warmed(model, monkeypatch, Found("padded", None, True, False), tried=False, one=one).take_notes()
    assert one._workspace is None
    assert notes[-1] == f"{static.BY_GENERATE}: {why}"


def test_without_a_warm_up_batches_go_by_generate_and_nothing_is_said(model):
    assert (make(model)._workspace, make(model).take_notes()) == (None, [])


def test_a_model_whose_long_texts_must_not_be_padded_does_not_go_by_the_decode_loop(model, monkeypatch):
    monkeypatch.setattr(long_texts, "padded_up_to", lambda config, context: 64 if context == 128 else None)
    assert make(model).take_notes() == [long_texts.words(64)]
    one = warmed(model, monkeypatch, Found("padded", None, True, False, True))
    assert (one._workspace, one.take_notes()) == (None, [NOT_ITS_OWN])


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


def test_prompts_are_padded_to_a_multiple_of_8_where_their_lengths_differ(model):
    plain = make(model)
    assert [plain._rounded(length) for length in (1, 8, 9, 64, 65)] == [8, 8, 16, 64, 72]
    assert [plain._width(lengths) for lengths in ([5, 5], [5], [5, 6], [3, 17])] == [5, 5, 8, 24]


def test_groups_are_made_only_where_their_caches_can_be_joined(model, monkeypatch):
    asked = []
    monkeypatch.setattr(static, "group_by_width", lambda widths, cost: asked.append((widths, cost)) or [[1], [0]])
    one, lengths = make(model), {0: 5, 1: 90}
    assert one._groups(lengths) == [[0, 1]]
    one._may_join = True
    assert one._groups(lengths) == [[1], [0]]
    assert asked == [({0: 8, 1: 96}, one._group_slots)]


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


@BOTH_WAYS
def test_the_device_is_waited_for_before_and_after_a_part_and_at_its_first_token(model, way):
    one, passes, order = make(model, ignore_eos=True, way=way), [], []
    one._synchronise = lambda: order.append(len(passes))
    hook = model.register_forward_hook(lambda *_: passes.append(True))
    one.generate(prompts("a", "b"))
    hook.remove()
    assert order == [0, 1, 12]


def test_experts_are_decoded_in_groups_for_the_rows_of_each_call(model, monkeypatch):
    asked = []
    monkeypatch.setattr(
        by_generate, "decoding_in_groups", lambda *given: (asked.append(given), contextlib.nullcontext())[1]
    )
    one = make(model, ignore_eos=True)
    one._experts = "experts"
    one.generate(prompts("a", "b"))
    assert asked == [(model, "experts", 2)]


def test_in_the_decode_loop_experts_have_the_products_for_the_rows_of_each_step_and_the_model_s_own_after_it(
    model, monkeypatch
):
    asked, entered = [], []

    @contextlib.contextmanager
    def products(*given):
        asked.append(given)
        entered.append(True)
        yield
        entered.pop()

    monkeypatch.setattr(forward, "decode_products", products)
    one = ending_early(model)
    one._experts = "experts"
    one.warm_up()
    asked.clear()
    counts = []
    hook = model.register_forward_pre_hook(
        lambda _, given, named: counts.append((len(named["input_ids"]), len(entered))), with_kwargs=True
    )
    result = one.generate(prompts(*TEXTS)).result
    hook.remove()
    steps = counts[-(result.steps - 1) :]
    assert [given[:2] for given in asked] == [(model, "experts")] * len(asked)
    assert [rows for _, _, rows in asked] == list(dict.fromkeys(rows for rows, _ in steps))
    assert len(asked) > 1, "the test needs rows that leave"
    assert {inside for _, inside in steps} == {1}
    assert {inside for _, inside in counts[: -len(steps)]} == {0}, "prompts have their own products"
    assert entered == []


def test_what_a_model_keeps_of_the_part_before_is_forgotten_before_each_part(model):
    one, restored = make(model), []
    one._together = "alone"
    one._own_state = SimpleNamespace(restore=lambda: restored.append(True))
    one.generate(prompts("a", "b", "c"))
    assert len(restored) == 3


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


@BOTH_WAYS
@pytest.mark.parametrize("texts", [["a", "b"], ["x" * 300, "a"], ["x" * 300]])
def test_what_cannot_be_answered_is_told_first_and_alone(model, texts, way):
    told: list = []
    make(model, ignore_eos=True, way=way).generate(prompts(*texts), on_records=told.append)
    unfit = [at for at, text in enumerate(texts) if len(text) > 100]
    fit = [at for at in range(len(texts)) if at not in unfit]
    assert [[record.index for record in records] for records in told] == [one for one in (unfit, fit) if one]


def test_an_answer_is_an_error_only_if_its_last_token_was_chosen_from_unusable_logits():
    mark = len(marks.KINDS)
    stop, nan = (marks.KINDS.index(kind) for kind in ("stop string", "NaN"))
    found = answers_of(
        [[5, 6, 7], [5, 1, 0], [5, 6, 7], [5, 6, 7], [5, 6, 1]],
        [2 * mark + stop, 3 * mark + nan, 2 * mark + nan, 0, 3 * mark + nan],
        frozenset([1]),
        torch.float32,
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
    one = make(model, ignore_eos=True, way="loop")
    assert not one._closes_after(Cancelled())
    assert one._closes_after(torch.OutOfMemoryError())
    assert one._closes_after(KeyboardInterrupt())

    def arena_after(error):
        def raises():
            raise error

        with pytest.raises(type(error)):
            one.generate(prompts(*TEXTS), cancelled=raises)
        return one._workspace._arena

    kept = arena_after(Cancelled())
    assert kept is not None
    assert arena_after(Cancelled()) is kept, "the next batch that fits has it"
    assert arena_after(torch.OutOfMemoryError("CUDA out of memory.")) is None
    one.generate(prompts(*TEXTS))
    one.close()
    assert one._workspace._arena is None


def test_the_cost_of_a_group_is_that_of_the_model_s_layers_and_parameters(model, monkeypatch):
    asked = []
    monkeypatch.setattr(static, "group_slots", lambda *given: asked.append(given) or 7)
    assert make(model)._group_slots == 7
    assert asked == [("cpu", 2, model.num_parameters())]
    assert rows.GROUP_SLOTS == {"cpu": 64}
