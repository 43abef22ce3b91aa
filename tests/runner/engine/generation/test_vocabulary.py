"""No id that a model has no room for reaches its device: on a GPU that would end the rank, not the prompt."""

from types import SimpleNamespace

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


def sizes(rows=None, logits=None, vocabulary_size=50):
    """A model that says this of its embedding and its output layer, and of its vocabulary."""
    settings = {} if vocabulary_size is None else {"vocab_size": vocabulary_size}
    own = SimpleNamespace(**settings)

    def embedding():
        if rows == "unknown":
            raise NotImplementedError
        return SimpleNamespace(num_embeddings=rows) if rows else None

    return SimpleNamespace(
        config=SimpleNamespace(get_text_config=lambda: own),
        get_input_embeddings=embedding,
        get_output_embeddings=lambda: SimpleNamespace(out_features=logits) if logits else None,
    )


@pytest.mark.parametrize(
    ("rows", "logits", "vocabulary_size", "found"),
    [
        (60, 55, 50, (60, 55, 55)),
        (55, 60, 50, (55, 60, 55)),
        (None, None, 50, (50, 50, 50)),
        ("unknown", 60, 50, (50, 60, 50)),
        (60, None, None, (60, None, 60)),
        (None, 60, None, (None, 60, 60)),
        (None, None, None, (None, None, None)),
    ],
)
def test_a_model_knows_the_tokens_that_have_a_row_and_a_logit(rows, logits, vocabulary_size, found):
    model = sizes(rows, logits, vocabulary_size)
    assert (vocabulary.embedding_rows(model), vocabulary.logit_count(model), vocabulary.known_ids(model)) == found


@pytest.mark.parametrize(
    ("ids", "rows", "unknown"),
    [
        ([0, 99], 100, None),
        ([0, 100], 100, 100),
        ([-1, 5], 100, -1),
        ([-1, 100], 100, 100),
        ([], 100, None),
        ([5], None, None),
    ],
)
def test_a_token_is_unknown_from_the_number_of_rows_on_and_below_0(ids, rows, unknown):
    found = vocabulary.unknown_token(ids, rows)
    if unknown is None:
        assert found is None
    else:
        assert found == (
            f"prompt has token {unknown}, but the model's input embedding has 100 rows (tokens 0 to 99): its tokenizer "
            "does not match its weights"
        )


def test_figures_of_large_vocabularies_are_read_with_commas():
    said = "prompt has token 1,234,567, but the model's input embedding has 32,000 rows (tokens 0 to 31,999): "
    assert vocabulary.unknown_token([1_234_567], 32_000).startswith(said)


@pytest.mark.parametrize(("pad", "kept"), [(0, True), (100, True), (101, False), (-1, False), (None, None)])
def test_of_a_config_in_two_parts_both_lose_a_padding_token_without_a_row_with_one_line(pad, kept):
    text = SimpleNamespace(pad_token_id=pad, vocab_size=101)
    whole = SimpleNamespace(pad_token_id=pad, vocab_size=101, get_text_config=lambda: text)
    lines = vocabulary.settle_config(whole)
    assert len(lines) == (kept is False)
    assert (whole.pad_token_id, text.pad_token_id) == ((pad, pad) if kept else (None, None))


def test_where_a_config_does_not_say_how_large_its_vocabulary_is_its_padding_stays():
    one = SimpleNamespace(pad_token_id=-1)
    one.get_text_config = lambda: one
    assert vocabulary.settle_config(one) == []
    assert one.pad_token_id == -1


@pytest.mark.parametrize(
    ("text", "most"),
    [
        ({"n_positions": 0, "n_ctx": 9}, 9),
        ({"max_position_embeddings": "many", "seq_len": 9}, 9),
        ({"max_position_embeddings": 9, "n_positions": 5}, 9),
        ({"max_context_length": 9}, 9),
        ({"max_position_embeddings": -1}, None),
        ({"model_type": "xlstm", "max_seq_length": 9}, None),
        ({"model_type": "mamba2", "n_ctx": 9}, None),
        ({"model_type": "not_mamba", "n_ctx": 9}, 9),
    ],
)
def test_the_first_name_that_says_a_number_is_the_context(text, most):
    text = SimpleNamespace(**{"model_type": "llama", **text})
    assert vocabulary.context_tokens(SimpleNamespace(get_text_config=lambda: text)) == most


def test_padding_is_the_first_known_of_the_config_s_the_tokenizer_s_an_end_and_token_0():
    def pad(own, tokenizers, ends, rows=100):
        generation = transformers.GenerationConfig(pad_token_id=own, eos_token_id=ends)
        vocabulary.settle(generation, tokenizers, rows, None)
        return generation.pad_token_id, generation.eos_token_id

    assert pad(99, 8, 7) == (99, 7)
    assert pad(100, 8, 7) == (8, 7)
    assert pad(None, 100, [100, 7, 6]) == (7, [7, 6])
    assert pad(-1, None, 100) == (0, None)
    assert pad(100, None, None, rows=None) == (100, None), "nothing is known of its size"
    assert pad(-1, None, (5, -2), rows=None) == (5, [5])


def test_a_forced_token_is_refused_with_the_tokens_there_are():
    def refused(forced, rows, logits):
        generation = transformers.GenerationConfig(forced_eos_token_id=forced)
        with pytest.raises(ValueError, match="forced_eos") as raised:
            vocabulary.settle(generation, None, rows, logits)
        return str(raised.value)

    said = "the model's generation_config.json has forced_eos_token_id {}, but the model generates tokens 0 to {}: "
    cure = "correct it there, or remove it"
    assert refused(2000, 2000, 3000) == said.format("2,000", "1,999") + cure
    assert refused([5, -1], None, None) == said.format(-1, 0) + cure
