"""No id that a model has no room for reaches its device: on a GPU that would end the rank, not the prompt."""

import pytest
import torch
import transformers

from rankdeck.runner.engine.generation import vocabulary
from rankdeck.runner.engine.static import StaticEngine
from rankdeck.runner.protocol.config import RunConfig
from tests.runner.engine.tiny import EOS, TEXTS, ByteTokenizer, ending_early, make, prompts


class Beyond(ByteTokenizer):
    """Its exclamation mark was added to a vocabulary for which the model has 259 rows; its question mark is a bug."""

    pad_token_id = 300

    def __call__(self, text, add_special_tokens=True):
        ids = super().__call__(text, add_special_tokens)["input_ids"]
        return {"input_ids": [{ord("!") + 3: 259, ord("?") + 3: -1}.get(token, token) for token in ids]}


def engine(model, **own):
    model.generation_config = transformers.GenerationConfig(eos_token_id=EOS, **own)
    return StaticEngine(model, Beyond(), RunConfig(prompts="p", max_new_tokens=12), torch.device("cpu"))


def test_a_token_beyond_the_embedding_is_that_prompts_error_and_the_others_have_their_answers(model):
    records = engine(model).generate(prompts("fine", "not fine!", "what?", "fine")).records
    said = "but the model's input embedding has 259 rows (tokens 0 to 258): its tokenizer does not match its weights"
    assert [record.error for record in records] == [
        None,
        f"prompt has token 259, {said}",
        f"prompt has token -1, {said}",
        None,
    ]
    assert records[0].text == records[3].text == make(model).generate(prompts("fine")).records[0].text


@pytest.mark.parametrize("pad", [None, -1, 259, 32_000])
def test_a_padding_token_that_the_model_does_not_know_is_replaced_by_one_it_knows(model, pad):
    expected = make(model).generate(prompts(*TEXTS)).records
    one = engine(model, pad_token_id=pad)
    one.warm_up()
    assert one.generate(prompts(*TEXTS)).records == expected
    assert one.generation.pad_token_id == EOS


def test_the_padding_of_a_finished_row_is_known_to_the_model_too(model):
    early = ending_early(model)
    one = engine(model, pad_token_id=-1)
    one.generation.eos_token_id, one.eos_tokens = early.generation.eos_token_id, early.eos_tokens
    one.why_rows_stay = "the test wants it"
    assert one.generate(prompts(*TEXTS)).records == early.generate(prompts(*TEXTS)).records


def settled(rows=100, logits=90, **settings):
    generation = transformers.GenerationConfig(**settings)
    vocabulary.settle(generation, 95, rows, logits)
    return generation


def test_special_tokens_that_the_model_knows_stay_as_they_are():
    generation = settled(eos_token_id=[5, 6], pad_token_id=7, forced_eos_token_id=5)
    assert (generation.eos_token_id, generation.pad_token_id, generation.forced_eos_token_id) == ([5, 6], 7, 5)
    assert settled(eos_token_id=5, pad_token_id=0).pad_token_id == 0


def test_padding_has_a_logit_too_since_a_penalty_looks_it_up_there():
    assert settled(eos_token_id=5, pad_token_id=92).pad_token_id == 5
    assert settled(pad_token_id=92).pad_token_id == 0


def test_an_end_of_sequence_token_without_a_logit_is_never_written_and_left_out():
    assert settled(eos_token_id=[5, 92]).eos_token_id == [5]
    assert settled(eos_token_id=92).eos_token_id is None
    assert settled(eos_token_id=-1).eos_token_id is None


@pytest.mark.parametrize("forced", [92, [5, 92]])
def test_a_forced_token_without_a_logit_is_refused_at_the_start(forced):
    with pytest.raises(ValueError, match="forced_eos_token_id 92, but the model generates tokens 0 to 89: correct it"):
        settled(forced_eos_token_id=forced)


def test_the_size_of_a_vocabulary_is_that_of_the_models_own_tensors(model):
    assert (vocabulary.embedding_rows(model), vocabulary.logit_count(model)) == (259, 259)


@pytest.mark.parametrize(
    ("kind", "more", "most"),
    [
        ("llama", {"max_position_embeddings": 77}, 77),
        ("gpt2", {"n_positions": 77}, 77),
        ("codegen", {"n_positions": 77}, 77),
        ("mpt", {"max_seq_len": 77}, 77),
        ("bloom", {"seq_length": 77}, 77),
        ("bloom", {}, None),
        ("rwkv", {"context_length": 77}, None),
        ("mamba", {}, None),
        ("falcon_mamba", {}, None),
    ],
)
def test_the_context_has_many_names_and_a_model_that_is_all_state_has_none(kind, more, most):
    assert vocabulary.context_tokens(transformers.AutoConfig.for_model(kind, **more)) == most


@pytest.mark.parametrize("pad", [-1, 101, 32_000])
def test_a_padding_token_that_the_config_has_no_row_for_is_set_aside_with_a_line(pad):
    config = transformers.AutoConfig.for_model("llama", vocab_size=101)
    config.pad_token_id = pad
    (line,) = vocabulary.settle_config(config)
    assert line == f"the model's config has pad_token_id {pad:,}, which is ignored: it has tokens 0 to 100"
    assert config.pad_token_id is None
    config.pad_token_id = 7
    assert vocabulary.settle_config(config) == []
    assert config.pad_token_id == 7
