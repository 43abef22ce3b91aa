"""Both engines on a tiny model with random weights: the same answers, and real tokens only, however rows are padded."""

import itertools
import math

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rankdeck.runner.engine import choose, loading, rows
from rankdeck.runner.engine.continuous import ContinuousEngine
from rankdeck.runner.engine.decoding import clock
from rankdeck.runner.engine.generation.cache_rows import KeptRows
from rankdeck.runner.engine.paged.config import can_share_blocks
from rankdeck.runner.engine.rows import Cancelled, Row, group_by_width, trim
from rankdeck.runner.engine.static import StaticEngine
from rankdeck.runner.protocol import Prompt
from rankdeck.runner.protocol.sweep_plan import SweepPlan
from rankdeck.runner.supervisor.talk.claims import check_values
from tests.runner.engine.tiny import BOTH_WAYS, EOS, TEXTS, ending_early, make, prompts


@BOTH_WAYS
def test_each_answer_of_a_padded_batch_is_that_of_the_prompt_alone(model, way):
    one = make(model, way=way)
    batched = one.generate(prompts(*TEXTS)).records
    alone = [one.generate([prompt]).records[0] for prompt in prompts(*TEXTS)]
    assert [record.text for record in batched] == [record.text for record in alone]
    assert [record.output_tokens for record in batched] == [record.output_tokens for record in alone]


@BOTH_WAYS
def test_each_answer_is_that_of_the_models_own_greedy_decoding(model, way):
    one = make(model, ignore_eos=True, way=way)
    found = [record.text for record in one.generate(prompts(*TEXTS)).records]
    tokens, _ = one.tokenise(prompts(*TEXTS))
    expected = []
    for ids in tokens.values():
        for _ in range(12):
            with torch.inference_mode():
                ids = [*ids, int(model(torch.tensor([ids])).logits[0, -1].argmax())]
        expected.append(one.tokenizer.decode(ids[-12:], skip_special_tokens=True))
    assert found == expected


def test_output_tokens_end_with_the_end_of_sequence_token_and_padding_is_never_counted(model):
    ended = ending_early(model)
    ended.why_rows_stay = "the test wants it"
    output = ended.generate(prompts(*TEXTS))
    stopped = [record for record in output.records if record.finish_reason == "stop"]
    assert stopped, "the test needs a row that ends early"
    assert any(record.output_tokens < 12 for record in stopped)
    result = output.result
    assert result.output_tokens == sum(record.output_tokens for record in output.records)
    assert result.slots == 4 * (40 + result.steps)
    assert result.padded_slots == result.slots - result.prompt_tokens - result.output_tokens


@BOTH_WAYS
def test_rows_that_have_ended_leave_the_batch_and_the_others_go_on_as_if_nothing_had_happened(model, way):
    stays, leaves = ending_early(model), ending_early(model, way=way)
    leaves._may_join = False  # nor are prompts prefilled in groups
    stays.why_rows_stay = "the test wants it"
    whole, thinned = stays.generate(prompts(*TEXTS)), leaves.generate(prompts(*TEXTS))
    assert [record.text for record in thinned.records] == [record.text for record in whole.records]
    assert thinned.result.steps == whole.result.steps == 12
    assert thinned.result.row_steps == thinned.result.output_tokens < whole.result.row_steps == 48
    left_padding = 0 if way == "loop" else 4 * 40 - thinned.result.prompt_tokens
    assert thinned.result.padded_slots == left_padding, "and that is all there is"


@BOTH_WAYS
def test_each_record_is_given_as_soon_as_its_row_has_ended(model, way):
    given, seen = [], []
    ended = ending_early(model, way=way)
    output = ended.generate(
        prompts("x" * 200, *TEXTS), cancelled=lambda: seen.append(len(given)), on_records=given.extend
    )
    assert {record.id for record in given} == {"0", "1", "2", "3", "4"}
    assert len(given) == 5
    assert sorted(given, key=lambda record: record.index) == output.records
    assert set(seen) == {1, 2}, "what cannot be done first, then a row at the step at which it ends"


def test_a_model_whose_cache_cannot_lose_rows_keeps_them_and_says_so(model, monkeypatch):
    def refuse(*_):
        raise NotImplementedError("no rows")

    monkeypatch.setattr(KeptRows, "take_out", refuse)
    one = ending_early(model)
    one.warm_up()
    assert one.why_rows_stay == "its cache cannot lose rows (NotImplementedError: no rows)"
    assert one.generate(prompts(*TEXTS)).result.row_steps == 48


@BOTH_WAYS
@pytest.mark.parametrize("own", [{}, {"min_new_tokens": 5}, {"repetition_penalty": 1.3}])
def test_settings_of_the_models_own_mean_the_same_when_rows_leave(model, own, way):
    early = ending_early(model).generation.eos_token_id
    stays, leaves = (make(model, {"eos_token_id": early, **own}, way=how) for how in (None, way))
    assert leaves.why_rows_stay is None
    stays.why_rows_stay = "the test wants it"
    texts = [[record.text for record in one.generate(prompts(*TEXTS)).records] for one in (stays, leaves)]
    assert texts[0] == texts[1]


MIXED = ("a", "b" * 60, "cc", "d" * 58, "eeee", "f" * 30, "gg")


@BOTH_WAYS
@pytest.mark.parametrize("settings", [{}, {"ignore_eos": True}, {"max_new_tokens": 1}])
def test_prompts_of_unlike_lengths_are_prefilled_in_groups_and_answered_as_if_they_were_not(
    model, monkeypatch, settings, way
):
    monkeypatch.setitem(rows.GROUP_SLOTS, "cpu", 8)
    whole, grouped = ending_early(model, **settings), ending_early(model, way=way, **settings)
    expected, output = whole.generate(prompts(*MIXED)), grouped.generate(prompts(*MIXED))
    assert output.records == expected.records
    assert output.result.steps == expected.result.steps
    assert expected.result.slots - expected.result.decode_slots == 7 * 64
    in_groups = 2 * 64 + 31 + 4 * 8
    one_after_another = sum(1 + len(text) for text in MIXED)
    assert output.result.slots - output.result.decode_slots == (one_after_another if way == "loop" else in_groups)
    assert output.result.prefill_seconds > 0


@BOTH_WAYS
def test_a_grouped_batch_too_is_abandoned_when_asked(model, monkeypatch, way):
    monkeypatch.setitem(rows.GROUP_SLOTS, "cpu", 8)
    one = make(model, way=way)
    calls = iter([False, True])
    with pytest.raises(Cancelled):
        one.generate(prompts(*MIXED), cancelled=lambda: next(calls))


@given(st.lists(st.sampled_from([8, 16, 24, 64, 128]), min_size=1, max_size=7), st.sampled_from([0, 10, 100, 10_000]))
def test_groups_are_the_cheapest_there_are(widths, group_cost):
    def cost(groups):
        return sum(group_cost + len(group) * max(widths[at] for at in group) for group in groups)

    groups = group_by_width(dict(enumerate(widths)), group_cost)
    assert sorted(at for group in groups for at in group) == list(range(len(widths)))
    order = sorted(range(len(widths)), key=lambda at: -widths[at])
    cuts = itertools.chain.from_iterable(
        itertools.combinations(range(1, len(widths)), count) for count in range(len(widths))
    )
    everyway = ([order[a:b] for a, b in itertools.pairwise([0, *some, len(widths)])] for some in cuts)
    assert cost(groups) == min(map(cost, everyway))


# --- the continuous engine -------------------------------------------------------------------------


@BOTH_WAYS
@pytest.mark.parametrize("settings", [{}, {"ignore_eos": True}])
def test_both_engines_give_the_same_greedy_answers(model, settings, way):
    static = ending_early(model, way=way, **settings)
    continuous = ending_early(model, ContinuousEngine, **settings)
    texts = [f"{word} and {'so on ' * count}" for count, word in enumerate(("one", "two", "three", "four") * 4)]
    expected = static.generate(prompts(*texts)).records
    given = []
    output = continuous.generate(prompts(*texts), on_records=given.extend)
    continuous.close()
    assert output.records == expected
    assert sorted(given, key=lambda record: record.index) == expected
    result = output.result
    assert (result.rows, result.padded_slots) == (16, 0)
    assert result.slots == sum(record.prompt_tokens + record.output_tokens for record in expected)
    assert result.steps == 12
    assert result.decode_seconds > 0 < result.prefill_seconds


@pytest.mark.parametrize(
    ("kind", "way"), [(StaticEngine, "loop"), (StaticEngine, "generate"), (ContinuousEngine, None)]
)
def test_both_engines_cut_the_answers_of_a_sweeps_trials_at_as_many_tokens_as_it_wants(model, kind, way):
    sweep = SweepPlan(batch_sizes=[4], ranks=[1], trial_tokens=5)
    one = make(model, kind=kind, ignore_eos=True, sweep=sweep, way=way)
    lengths = [record.output_tokens for record in one.generate(prompts(*TEXTS)).records]
    one.close()
    assert lengths == [5] * len(TEXTS)


def test_rows_come_and_go_and_each_is_the_one_the_prompt_alone_would_get(model):
    alone = [make(model, ignore_eos=True).generate([prompt]).records[0].text for prompt in prompts(*TEXTS)]
    one = make(model, kind=ContinuousEngine, ignore_eos=True)
    one.warm_up()
    tokens, _ = one.tokenise(prompts(*TEXTS))
    found: dict[object, object] = {}
    joined = False
    while not joined:
        if not one.in_flight:  # on a busy machine it may be over before it is looked at
            one.submit([Row("first", tokens[0])], max_new_tokens=12)
        found.update({key: answer for key, answer, _ in one.ended(0.01)})
        joined = one.tokens_in_flight() > 3 and one.in_flight == 1
    assert 0 < one.cache_used() < 1
    for at in (1, 2, 3):
        one.submit([Row(at, tokens[at])], max_new_tokens=12)
    while one.in_flight:
        found.update({key: answer for key, answer, _ in one.ended(0.01)})
    one.close()
    assert [one.tokenizer.decode(found[key].tokens, True) for key in ("first", 1, 2, 3)] == alone
    assert one.steps == 0, "a closed manager has made no steps"


def beginning_alike(count: int) -> list[str]:
    """Prompts whose first 70 tokens are the same: more than a page of the cache has."""
    return ["the same beginning, " * 4 + f"no {number}" for number in range(count)]


def test_rows_that_share_the_beginning_of_their_prompts_have_the_answers_of_each_alone(model, monkeypatch):
    texts = beginning_alike(6)
    alone = [make(model, ignore_eos=True).generate([prompt]).records[0].text for prompt in prompts(*texts)]
    one = make(model, kind=ContinuousEngine, ignore_eos=True)
    read = prompt_tokens_read(model, monkeypatch)
    texts_of = lambda: [record.text for record in one.generate(prompts(*texts)).records]  # noqa: E731
    assert texts_of() == alone
    first = sum(read)
    assert texts_of() == alone, "whatever is left of rows that have ended"
    one.close()
    if can_share_blocks():
        assert sum(read) - first <= first - 6 * 64, "a page of each prompt was there already"


def test_in_a_measured_batch_a_prompt_costs_the_same_whenever_it_comes(model, monkeypatch):
    one = make(model, kind=ContinuousEngine, ignore_eos=True)
    read = prompt_tokens_read(model, monkeypatch)
    costs = []
    for _ in range(3):
        before = sum(read)
        one.generate(prompts(*beginning_alike(1)), measure=True)
        costs.append(sum(read) - before)
    one.close()
    assert len(set(costs)) == 1


def prompt_tokens_read(model, monkeypatch) -> list[int]:
    """How many tokens each step from now on computes, those of prompts and the ones that are continued."""
    read: list[int] = []
    forward = model.forward

    def counting(*given, **named):
        read.append(named["input_ids"].shape[-1])
        return forward(*given, **named)

    monkeypatch.setattr(model, "forward", counting)
    return read


def test_what_ends_a_step_ends_all_rows_and_the_next_ones_go_on(model, monkeypatch):
    one = make(model, kind=ContinuousEngine, ignore_eos=True)
    one.warm_up()
    with monkeypatch.context() as patched:
        patched.setattr(
            model, "forward", lambda **_: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory."))
        )
        with pytest.raises(torch.OutOfMemoryError):
            one.generate(prompts(*TEXTS))
    assert one.in_flight == 0
    assert [record.output_tokens for record in one.generate(prompts(*TEXTS)).records] == [12] * 4
    one.close()


def test_rows_are_not_failed_one_by_one_by_a_submission_after_the_step_that_failed_them_all(model, monkeypatch):
    one = make(model, kind=ContinuousEngine, ignore_eos=True)
    with monkeypatch.context() as patched:
        patched.setattr(
            model, "forward", lambda **_: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory."))
        )
        one.submit([Row("first", [5, 6, 7])])
        while one._manager.is_running():
            pass
        with pytest.raises(torch.OutOfMemoryError):
            one.submit([Row("second", [5, 6, 7])])
    assert one.in_flight == 0


def test_what_is_in_flight_is_abandoned_when_asked(model):
    # More than can be done between two looks at whether it is still wanted.
    one = make(model, kind=ContinuousEngine, ignore_eos=True, max_new_tokens=100, batch_size=1)
    calls = iter([False, True])
    with pytest.raises(Cancelled):
        one.generate(prompts(*"abcdefgh"), cancelled=lambda: next(calls))
    assert one.in_flight == 0


@pytest.mark.parametrize(
    ("own", "engine_asked", "name", "why"),
    [
        ({}, "continuous", "continuous", ""),
        ({}, "static", "static", ""),
        ({}, "auto", "static", choose.AUTO["cpu"]),
        (
            {"repetition_penalty": 1.3},
            "continuous",
            "static",
            "continuous batching cannot be used here: its generation config wants RepetitionPenaltyLogitsProcessor, "
            "which it does not support",
        ),
    ],
)  # fmt: skip
def test_the_engine_is_the_one_asked_for_if_it_goes_with_the_model(model, own, engine_asked, name, why):
    made = make(model, own, engine=engine_asked)
    loaded = loading.Loaded(model, made.tokenizer, made.device)
    chosen, reason = choose.choose(made._config, loaded)
    chosen.close()
    assert (chosen.name, reason) == (name, why)


# --- tokens, steps, errors ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "kept", "reason"),
    [
        ([5, 6, 1, 0, 0], [5, 6, 1], "stop"),
        ([5, 6], [5, 6], "length"),
        ([1], [1], "stop"),
        ([], [], "length"),
        ([5, 9, 1], [5, 9], "stop"),
    ],
)  # fmt: skip
def test_a_row_is_cut_after_its_first_end_of_sequence_token(tokens, kept, reason):
    answer = trim(tokens, frozenset([1, 9]))
    assert (answer.tokens, answer.finish_reason) == (kept, reason)


@BOTH_WAYS
def test_progress_counts_steps_and_real_tokens(model, monkeypatch, way):
    monkeypatch.setattr(clock, "PROGRESS_SECONDS", 0.0)
    seen = []
    one = make(model, ignore_eos=True, way=way)
    one.generate(prompts("a", "b"), on_step=seen.append)
    assert [(progress.step, progress.output_tokens) for progress in seen] == [(n, 2 * n) for n in range(1, 13)]


@BOTH_WAYS
def test_a_batch_is_abandoned_within_a_step_and_the_next_one_is_answered(model, way):
    one, calls = make(model, ignore_eos=True, way=way), iter([False, False, True])
    expected = one.generate(prompts(*TEXTS)).records
    with pytest.raises(Cancelled):
        one.generate(prompts("another", "and one more"), cancelled=lambda: next(calls))
    assert one.generate(prompts(*TEXTS)).records == expected


@BOTH_WAYS
def test_batches_one_after_the_other_leave_nothing_behind(model, way):
    one, texts = ending_early(model, way=way), ["x" * 90, *TEXTS, "", "yy", "q" * 30]
    alone = {text: one.generate(prompts(text)).records[0].text for text in texts}
    for batch in (texts, texts[:2], texts[3:], texts[:1], texts[::-1]):
        assert [record.text for record in one.generate(prompts(*batch)).records] == [alone[text] for text in batch]
    cut = [one.generate(prompts(text), max_new_tokens=3).records[0].text for text in texts]
    assert [record.text for record in one.generate(prompts(*texts), max_new_tokens=3).records] == cut


@BOTH_WAYS
def test_a_prompt_too_long_for_the_context_gets_an_error_record_and_the_others_their_answers(model, way):
    output = make(model, way=way).generate(prompts("short", "x" * 200, "also short"))
    assert [record.finish_reason == "error" for record in output.records] == [False, True, False]
    assert output.records[1].error == ("prompt of 201 tokens and 12 new tokens do not fit the model's context of 128")
    assert output.records[1].output_tokens == 0
    assert output.result.rows == 2, "rows are those that were generated"


@BOTH_WAYS
def test_a_batch_of_nothing_but_errors_is_still_a_batch(model, way):
    output = make(model, way=way).generate(prompts("x" * 200))
    assert output.records[0].finish_reason == "error"
    assert output.result.slots == 0


def test_chat_goes_through_the_template_and_what_it_refuses_is_an_error_record(model):
    chat = make(model, chat=True)
    system = Prompt(index=1, id="1", messages=[{"role": "system", "content": "x"}])
    output = chat.generate([prompts("hello")[0], system])
    assert output.records[0].prompt_tokens == len("<user>hello"), "special tokens are the template's own"
    assert output.records[0].prompt == "hello"
    assert output.records[1].error == "prompt cannot be tokenised: system role not supported"


def test_greedy_unless_asked_and_the_models_own_generation_config_is_kept(model):
    own = {"temperature": 0.3, "do_sample": True}
    greedy = make(model, own).generation
    assert (greedy.do_sample, greedy.temperature, greedy.eos_token_id) == (False, None, EOS)
    sampled = make(model, own, do_sample=True, top_k=7).generation
    assert (sampled.do_sample, sampled.temperature, sampled.top_k) == (True, 0.3, 7)


@BOTH_WAYS
def test_at_fixed_length_every_row_goes_on_beyond_the_end_of_sequence(model, way):
    natural = make(model)
    # Have the model's own config end at what it writes first: natural length is then one token.
    first = natural.model.generate(
        input_ids=torch.tensor([[2, 100]]), attention_mask=torch.ones(1, 2, dtype=torch.long), max_new_tokens=1
    )[0, -1].item()
    own = {"eos_token_id": first}
    prompt = [Prompt(index=0, id="0", text=chr(97))]
    assert make(model, own, way=way).generate(prompt).result.steps == 1
    fixed = make(model, own, ignore_eos=True, way=way).generate(prompt)
    assert fixed.result.steps == 12
    assert (fixed.records[0].output_tokens, fixed.records[0].finish_reason) == (12, "length")


def test_what_it_says_of_the_model_is_right(model):
    facts = make(model).describe()
    assert facts["kv_bytes_per_token"] == 2 * 2 * 2 * 8 * 4, "key and value, layers, key-value heads, width, bytes"
    assert facts["parameter_bytes"] == 4 * facts["parameters"]
    assert facts["context_tokens"] == 128
    assert math.isclose(facts["parameters"], sum(p.numel() for p in model.parameters()))
    msgspec.json.encode(facts)


def test_a_model_that_rules_out_many_tokens_can_say_that_it_is_ready(model):
    generation = make(model, {"suppress_tokens": list(range(10, 40_000))}).describe()["generation"]
    check_values(generation, "generation")
    assert generation["suppress_tokens"].startswith("[10, 11, 12, ")
    assert generation["suppress_tokens"].endswith(" …")


def test_auto_dtype_is_float32_on_a_cpu_and_the_checkpoints_own_on_a_gpu():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert loading.choose_dtype("auto", cpu, torch.bfloat16) == torch.float32
    assert loading.choose_dtype("auto", gpu, torch.bfloat16) == torch.bfloat16
    assert loading.choose_dtype("float16", cpu, torch.bfloat16) == torch.float16
