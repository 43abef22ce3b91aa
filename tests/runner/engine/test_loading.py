"""What is loaded is what the folder holds: nothing made up for what is missing, nothing used that does not fit."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from rankdeck.runner.engine import loading, weights
from rankdeck.runner.engine.choose import choose
from rankdeck.runner.engine.weights import WrongWeightsError
from rankdeck.runner.protocol.config import RunConfig
from tests.runner.engine.lone import CPU, alone, engine, texts_of, tiny, tokenizer


@pytest.fixture
def folder(tmp_path):
    tiny(num_key_value_heads=2).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    return tmp_path


def load(folder, **settings):
    return loading.load(RunConfig(prompts="p", max_new_tokens=12, **settings), str(folder), CPU)


def edit(folder, name, **changes):
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change(folder, edited):
    """Edit the tensors of the checkpoint, by name."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    edited(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def test_a_whole_checkpoint_is_loaded_without_a_word(folder):
    assert load(folder).notes == ()


def test_missing_weights_are_refused_by_their_names(folder):
    def without(tensors):
        del tensors["lm_head.weight"], tensors["model.layers.1.mlp.up_proj.weight"]

    change(folder, without)
    with pytest.raises(WrongWeightsError) as refused:
        load(folder)
    assert str(refused.value) == (
        f"{folder} does not hold the weights of a causal language model: 2 weights missing: lm_head.weight, "
        "model.layers.1.mlp.up_proj.weight. Without them its answers would be random"
    )


def test_a_layer_left_out_is_some_names_and_a_number(folder):
    def without(tensors):
        for name in [name for name in tensors if "layers.1." in name]:
            del tensors[name]

    change(folder, without)
    with pytest.raises(WrongWeightsError, match=r"9 weights missing: .*layers\.1\..* and 5 more"):
        load(folder)


def test_other_sizes_are_refused_with_the_tensor_and_both_sizes(folder):
    change(folder, lambda tensors: tensors.update({"model.norm.weight": torch.ones(31)}))
    with pytest.raises(WrongWeightsError, match=r"1 weight of another size: model\.norm\.weight has 31 instead of 32"):
        load(folder)


def test_weights_that_nobody_uses_are_a_line(folder):
    change(folder, lambda tensors: tensors.update({"score.weight": torch.ones(2, 32)}))
    assert load(folder).notes == ("1 weight in the files that this model does not use: score.weight",)


def test_a_head_that_is_tied_to_the_embedding_is_not_missing(tmp_path):
    tiny(num_key_value_heads=2, tie_word_embeddings=True).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    assert load(tmp_path).notes == ()


class Made:
    hf_quantizer = None

    def named_buffers(self):
        return [("mask", torch.ones(3, dtype=torch.bool)), ("correction", torch.ones(3))]


def test_masks_that_a_model_makes_itself_may_be_missing_and_what_was_learned_may_not():
    assert weights.checked(Made(), {"missing_keys": {"mask"}}, "m") == []
    with pytest.raises(WrongWeightsError, match="1 weight missing: correction"):
        weights.checked(Made(), {"missing_keys": {"mask", "correction"}}, "m")


@pytest.mark.parametrize("pad", [-1, 5_000])
def test_a_padding_token_without_a_row_is_a_line_and_the_answers_are_those_of_the_prompt_alone(folder, pad):
    expected = alone(tiny(num_key_value_heads=2))
    edit(folder, "config.json", pad_token_id=pad)
    edit(folder, "generation_config.json", pad_token_id=pad)
    loaded = load(folder)
    assert [line for line in loaded.notes if f"pad_token_id {pad:,}" in line]
    one, _ = engine(loaded.model)
    assert texts_of(one) == expected


def test_settings_that_transformers_would_not_load_are_set_aside_with_a_line(folder):
    edit(folder, "generation_config.json", num_return_sequences=3, compile_config={"mode": "default"})
    loaded = load(folder)
    assert loaded.notes == (
        "the model's generation config has num_return_sequences 3, which is ignored: a prompt has one answer",
    )
    assert texts_of(engine(loaded.model)[0]) == alone(tiny(num_key_value_heads=2))


def test_a_generate_of_the_models_own_is_set_aside_with_a_line(folder, monkeypatch):
    make = transformers.AutoModelForCausalLM.from_pretrained

    def with_its_own(*arguments, **more):
        model, found = make(*arguments, **more)
        model.generate = lambda **_: "anything"
        return model, found

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", with_its_own)
    loaded = load(folder)
    assert ["custom_generate" in line for line in loaded.notes] == [True]
    assert texts_of(engine(loaded.model)[0]) == alone(tiny(num_key_value_heads=2))


def test_lines_on_loading_come_out_of_the_engine_first(folder):
    change(folder, lambda tensors: tensors.update({"score.weight": torch.ones(2, 32)}))
    loaded = load(folder)
    for kind in ("static", "continuous"):
        one, _ = choose(RunConfig(prompts="p", max_new_tokens=12, engine=kind), loaded)
        assert one.take_notes()[:1] == list(loaded.notes)
        one.close()
