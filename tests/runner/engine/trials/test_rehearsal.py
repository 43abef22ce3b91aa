"""Whatever a model does with padding, neighbours and its cache, each answer is that of the prompt alone."""

import contextlib
import inspect
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import transformers

from rankdeck.runner.engine.decoding.forward import Forward
from rankdeck.runner.engine.decoding.workspace import Workspace
from rankdeck.runner.engine.generation.cache_rows import KeptRows
from rankdeck.runner.engine.static import BY_GENERATE
from rankdeck.runner.engine.trials import exactly, rehearsal, told
from rankdeck.runner.engine.trials.likeness import Likeness
from rankdeck.runner.engine.trials.rehearsal import WORDS, Found, rehearse
from tests.runner.engine.lone import CPU, MIXED, VOCABULARY, alone, engine, static, texts_of, tiny, tokenizer
from tests.runner.engine.tiny import WAYS, prompts

IN_LAYERS = "cache_params" not in inspect.signature(transformers.MambaForCausalLM.forward).parameters
"""Whether Mamba has its state in a cache like that of others, as from transformers 5.24 on: then rows may leave."""


@pytest.fixture(autouse=True)
def only_as_it_is(monkeypatch):
    """What a model's own type tells, without float32."""
    monkeypatch.setattr(exactly, "tried", lambda *_: None)
    monkeypatch.setattr(exactly, "may_be_tried", lambda *_: False)


KINDS = {
    "llama": ({"num_key_value_heads": 2}, "padded", True, True),
    "gpt2": ({"n_embd": 32, "n_layer": 2, "n_head": 4}, "padded", True, True),
    "gemma2": ({"head_dim": 8, "sliding_window": 8}, "padded", True, False),
    "jamba": (
        {"num_key_value_heads": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2,
         "mamba_d_state": 8, "use_mamba_kernels": False},
        "padded", True, False,
    ),
    "falcon_h1": (
        {"mamba_d_ssm": 64, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1,
         "num_key_value_heads": 2},
        "padded", True, False,
    ),
    "mamba": ({"state_size": 8}, "padded", IN_LAYERS, False),
    "roformer": ({"is_decoder": True}, "equal", True, False),
    "xlnet": ({"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64}, "equal", False, False),
    "recurrent_gemma": (
        {"lru_width": 32, "block_types": ["recurrent", "attention"], "attention_window_size": 16, "head_dim": 8,
         "num_key_value_heads": 1},
        "equal", False, False,
    ),
    "rwkv": ({"attention_hidden_size": 32, "context_length": 256}, "alone", False, False),
}  # fmt: skip
"""Kinds of models, how their rows go together, and whether rows may leave and groups be joined."""


def early(model):
    """End answers at a token that some rows write early, so that rows leave."""
    model.generation_config.eos_token_id = [2, VOCABULARY.index("e"), VOCABULARY.index("Y"), VOCABULARY.index("5")]
    return model


@pytest.mark.parametrize(
    ("kind", "way"),
    [(kind, way) for kind, (*_, may_join) in KINDS.items() for way in (WAYS if may_join else ["generate"])],
)
def test_each_answer_is_that_of_the_prompt_alone(kind, way):
    more, together, may_leave, may_join = KINDS[kind]
    # A model of its own for each prompt: some keep a state from one call to the next.
    expected = [alone(early(tiny(kind, **more)), [text])[0] for text in MIXED]
    asked = {} if may_join else {"decoding": "auto"}
    one = static(early(tiny(kind, **more)), way, **asked)
    assert [texts_of(one), texts_of(one)] == [expected] * 2
    assert (one._together, one._may_join) == (together, may_join)
    if together != "alone":
        assert (one.why_rows_stay is None) == may_leave
    notes = one.take_notes()
    assert [line for line in notes if line in WORDS.values()] == [WORDS[how] for how in WORDS if how == together]
    assert any(line.startswith(BY_GENERATE) for line in notes) is not may_join, "and that it is not as was asked for"


@pytest.mark.parametrize(("kind", "slots"), [("roformer", (6, 7, 2)), ("rwkv", (6, 7, 2))])
def test_rows_that_do_not_go_together_are_not_padded_and_the_figures_add_up(kind, slots):
    one = static(tiny(kind, **KINDS[kind][0]), ignore_eos=True)
    texts = ("Hi all", "Bye all", "Hi", "so far")
    output = one.generate(prompts(*texts), measure=True)
    parts = 3 if kind == "roformer" else 4
    result = output.result
    assert result.padded_slots == 0
    assert result.slots == sum(map(len, texts)) + 4 * 12 == result.prompt_tokens + result.output_tokens
    assert (result.rows, result.steps, result.row_steps) == (4, parts * 12, 4 * 12)
    assert len(result.step_seconds) == parts * 11
    assert result.prefill_seconds > 0 < result.decode_seconds
    assert [record.index for record in output.records] == [0, 1, 2, 3]


@pytest.mark.parametrize("kind", ["gptj", "mpt", "bloom"])
def test_paged_attention_is_used_only_where_it_gives_the_answers_of_each_prompt_alone(kind):
    shape = {"gptj": {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4},
             "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64},
             "bloom": {"n_layer": 2, "n_head": 4}}[kind]  # fmt: skip
    one, why = engine(tiny(kind, **shape), "continuous")
    with contextlib.closing(one):
        assert texts_of(one) == alone(tiny(kind, **shape))
        assert one.name == "continuous" or "other probabilities" in why or "cannot be used here" in why


def test_a_state_has_no_place_in_paged_attention():
    one, why = engine(tiny("mamba", state_size=8), "continuous")
    assert (one.name, "keeps a state" in why) == ("static", True)


def found(model):
    return rehearse(model, tokenizer(), 0, CPU)


def test_a_cache_that_loses_the_wrong_rows_keeps_them_all(monkeypatch):
    model = tiny(num_key_value_heads=2)
    assert found(model) == Found("padded", None, True, False)

    def wrong(self, cache):
        for layer in cache.layers:
            layer.reorder_cache(self._host - 1)

    monkeypatch.setattr(KeptRows, "take_out", wrong)
    assert found(model) == Found("padded", "its cache loses more than the rows that leave", False, False)


def test_groups_whose_joined_cache_gives_other_logits_are_not_made(monkeypatch):
    join = rehearsal.join

    def wrong(caches, lacking):
        joined = join(caches, lacking)
        joined.layers[0].keys = -joined.layers[0].keys
        return joined

    monkeypatch.setattr(rehearsal, "join", wrong)
    assert found(tiny(num_key_value_heads=2)) == Found("padded", None, False, False)


def workspace(model):
    return Workspace(Forward(model, None), CPU, 0)


def test_a_model_goes_by_the_decode_loop_only_where_that_gives_its_own_logits_and_is_asked_for():
    model = tiny(num_key_value_heads=2)
    told_so = workspace(model).told
    assert rehearse(model, tokenizer(), 0, CPU, told_so) == Found("padded", None, True, False, loops=True)
    assert not found(model).loops, "it was not tried"

    def a_row_too_early(groups, said):
        logits = told_so(groups, said)
        logits[1, 2] = logits[0, 2]
        return logits

    def fails(groups, said):
        raise ValueError("no such cache")

    def full(groups, said):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    for wrong in (a_row_too_early, fails):
        assert rehearse(model, tokenizer(), 0, CPU, wrong) == Found("padded", None, True, False)
    with pytest.raises(torch.OutOfMemoryError):
        rehearse(model, tokenizer(), 0, CPU, full)


@pytest.mark.parametrize("kind", [kind for kind, (*_, may_join) in KINDS.items() if not may_join])
def test_a_model_whose_rows_cannot_be_moved_is_not_tried_in_the_decode_loop(kind):
    def never(groups, said):
        raise AssertionError

    assert not rehearse(tiny(kind, **KINDS[kind][0]), tokenizer(), 0, CPU, never).loops


def test_running_out_of_memory_says_nothing_about_the_model(monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(KeptRows, "take_out", full)
    with pytest.raises(torch.OutOfMemoryError):
        found(tiny(num_key_value_heads=2))


def test_running_out_of_memory_with_rows_at_once_does_not_make_a_model_one_of_rows_alone(monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(Likeness, "agree", full)
    with pytest.raises(torch.OutOfMemoryError):
        found(tiny(num_key_value_heads=2))


def test_a_model_of_few_positions_is_tried_within_them():
    model = tiny("gpt2", n_embd=32, n_layer=2, n_head=4, n_positions=8)
    assert found(model).together == "padded"


def test_trying_leaves_the_models_own_settings_and_state_as_they_were():
    model = tiny("recurrent_gemma", **KINDS["recurrent_gemma"][0])
    model.generation_config = own = transformers.GenerationConfig(forced_eos_token_id=2, pad_token_id=0)
    assert found(model).leaves_state
    assert model.generation_config is own
    assert all(
        value is None for module in model.modules() for name, value in vars(module).items() if name.endswith("_states")
    )


def test_a_model_that_changes_its_weights_at_its_first_call_keeps_that_in_mind():
    """RWKV scales the weights of its later layers, once: told that it has not, it would do so again and again."""
    deep = {"num_hidden_layers": 4, "rescale_every": 2, "attention_hidden_size": 32, "context_length": 64}
    expected = alone(tiny("rwkv", **deep))
    one = static(tiny("rwkv", **deep))
    assert texts_of(one) == expected
    assert texts_of(one) == expected, "nor does a batch change it for the next"


def disturbed(monkeypatch, which):
    """Have rows that are tried together, as `which(rows, trial)` says, given other logits; returns the trials."""
    trials, agree = [], Likeness.agree

    def disturbing(alike, one, other):
        trials.append(len(trials))
        for row in which(other.shape[1], len(trials)):
            one[:, row] = -one[:, row]
        return agree(alike, one, other)

    monkeypatch.setattr(Likeness, "agree", disturbing)
    return trials


def test_one_row_that_goes_to_another_expert_in_half_types_does_not_send_rows_one_by_one(monkeypatch):
    disturbed(monkeypatch, lambda rows, _: range(4) if rows == 4 else [1])
    model = tiny("mixtral", num_key_value_heads=2, num_local_experts=4)
    assert found(model.to(torch.bfloat16)).together == "equal"


@pytest.mark.parametrize(("kind", "texts"), [(torch.bfloat16, 2), (torch.float32, 1)])
def test_in_half_types_rows_are_sent_one_by_one_only_if_two_texts_say_so(monkeypatch, kind, texts):
    model = tiny(num_key_value_heads=2).to(kind)
    trials = disturbed(monkeypatch, lambda rows, trial: range(rows) if trial <= 2 else [])
    assert found(model).together == ("padded" if texts == 2 else "alone")
    monkeypatch.undo()
    monkeypatch.setattr(exactly, "tried", lambda *_: None)
    trials = disturbed(monkeypatch, lambda rows, _: range(rows))
    assert (found(model).together, len(trials)) == ("alone", 2 * texts)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"xlnet"}))  # which transformers itself runs in float32 only
@pytest.mark.parametrize("spread", [0.3, None])
def test_a_fault_is_told_in_half_types_too_however_small_it_is(kind, spread, dtype):
    """With small weights logits are flat, and a fault is a few hundredths of their spread."""
    model = tiny(kind, spread=spread, **KINDS[kind][0])
    whole = found(model)
    assert found(model.to(dtype)) == whole


def test_text_is_tried_without_tokens_that_may_mean_something():
    class Odd:
        all_special_ids = (0, 1)

        def __call__(self, text, add_special_tokens):
            return {"input_ids": [0, 5, 1, 99, 7]}

    assert told.tokens(Odd(), 5, known=50) == [5, 7, 5, 7, 5]
    assert told.tokens(None, 4, known=3) == [0, 1, 2, 0]


def rehearsed(monkeypatch, dtype, *findings, in_loop=None):
    """What follows from these findings, one for each text that is tried; `in_loop` if the decode loop is, too."""
    asked, waiting = [], list(findings)

    def trial(*given):
        asked.append(given)
        return SimpleNamespace(found=lambda: waiting.pop(0))

    monkeypatch.setattr(rehearsal, "_Rehearsal", trial)
    model = SimpleNamespace(dtype=dtype, modules=list)
    decided = rehearse(model, "tokenizer", 7, CPU, in_loop)
    assert asked == [(model, "tokenizer", 7, CPU, text, in_loop) for text in told.TEXTS[: len(asked)]]
    return decided, len(asked)


FREE, BOUND = Found("padded", None, True, False), Found("alone", None, False, False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_in_the_wide_types_one_text_tells(monkeypatch, dtype):
    assert rehearsed(monkeypatch, dtype, BOUND) == (BOUND, 1)


def test_in_half_types_what_is_free_in_one_text_is_free(monkeypatch):
    assert rehearsed(monkeypatch, torch.bfloat16, FREE) == (FREE, 1)
    not_joined = Found("padded", None, False, True)
    assert rehearsed(monkeypatch, torch.bfloat16, not_joined) == (not_joined, 1)
    assert rehearsed(monkeypatch, torch.float16, BOUND, FREE) == (FREE, 2)
    stays = Found("padded", "its cache", False, False)
    assert rehearsed(monkeypatch, torch.float16, stays, FREE) == (FREE, 2)


def test_in_half_types_a_second_text_tells_of_the_decode_loop_too_where_it_is_tried(monkeypatch):
    loops = replace(FREE, loops=True)
    assert rehearsed(monkeypatch, torch.bfloat16, loops, in_loop="the loop") == (loops, 1)
    assert rehearsed(monkeypatch, torch.bfloat16, FREE, loops, in_loop="the loop") == (loops, 2)
    assert rehearsed(monkeypatch, torch.bfloat16, FREE, FREE, in_loop="the loop") == (FREE, 2)
    assert rehearsed(monkeypatch, torch.float32, FREE, in_loop="the loop") == (FREE, 1)


@pytest.mark.parametrize(
    ("freer", "other"),
    [
        (Found("padded", "stays", False, False), Found("equal", None, True, False)),
        (Found("equal", None, False, False), Found("equal", "stays", True, False)),
        (Found("equal", None, True, False), Found("equal", None, False, False)),
        (Found("equal", "stays", False, False), Found("alone", None, True, False)),
    ],
)
def test_of_two_texts_the_freer_finding_counts_and_a_state_is_left_if_one_of_them_left_it(monkeypatch, freer, other):
    for first, second in ((freer, other), (other, freer)):
        assert rehearsed(monkeypatch, torch.bfloat16, first, second) == (freer, 2)
        for left, late in ((True, False), (False, True)):
            both = replace(first, leaves_state=left), replace(second, leaves_state=late)
            assert rehearsed(monkeypatch, torch.bfloat16, *both) == (replace(freer, leaves_state=True), 2)


def test_the_rows_that_are_tried_are_of_ordinary_text_and_go_on_with_other_tokens(monkeypatch):
    asked = []

    def tokens(tokenizer, count, known, text):
        asked.append((tokenizer, count, known, text))
        return list(range(100, 100 + count))

    monkeypatch.setattr(told, "tokens", tokens)
    model = tiny(num_key_value_heads=2)
    for context, width, lengths in (
        (2048, 16, [4, 4, 4, 12]),
        (18, 16, [4, 4, 4, 12]),
        (10, 8, [4, 4, 4, 8]),
        (2, 1, [1] * 4),
    ):
        model.config.max_position_embeddings = context
        one = rehearsal._Rehearsal(model, "tokenizer", 0, CPU, "a text", None)
        assert (one._width, [len(row) for row in one._rows]) == (width, lengths)
        assert [len(said) for said in one._said] == [2] * 4
        every = [token for row in (*one._rows, *one._said) for token in row]
        assert len(set(every)) == len(every)
        assert asked[-1] == ("tokenizer", sum(lengths) + 8, len(VOCABULARY), "a text")


def test_what_is_said_of_rows_that_do_not_go_together():
    assert WORDS == {
        "equal": "rows of equal length only: with padding this model gives other answers, as if the padding were text",
        "alone": "one row at a time: next to other rows this model gives other answers",
    }
