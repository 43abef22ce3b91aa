"""What is no causal language model is refused by name; what transformers answers prompts with never is."""

from typing import Any

import pytest

from rankdeck.runner.inputs.checkpoint import architecture
from rankdeck.runner.inputs.checkpoint.transformers_names import Names, installed_names, table_in

NAMES = installed_names()


def why(kind: str | None, made_by: str | None = None, **config: Any) -> str | None:
    listed = {} if made_by is None else {"architectures": [made_by]}
    return architecture.why_not_causal({"model_type": kind, **listed, **config}, NAMES)


def test_the_names_are_those_that_transformers_itself_goes_by() -> None:
    from transformers.models.auto import configuration_auto, modeling_auto

    causal = dict(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    assert {kind: NAMES.causal[kind] for kind in causal} == causal
    assert set(configuration_auto.CONFIG_MAPPING_NAMES) <= {*NAMES.configs, *NAMES.causal}
    takes = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING
    shared = {kind for kind in NAMES.causal if kind not in causal}
    assert all(configuration_auto.CONFIG_MAPPING[kind] in takes for kind in shared)


def test_no_type_that_transformers_has_a_causal_model_of_is_refused_when_its_class_saved_it() -> None:
    assert len(NAMES.causal) > 100
    refused = {}
    for kind, made_by in NAMES.causal.items():
        twofold = {"is_decoder": True} if NAMES.masked.get(kind, made_by) != made_by else {}
        full = {"attention_type": "original_full"} if kind == "big_bird" else {}
        if said := why(kind, made_by, **twofold, **full):
            refused[kind] = said
    assert refused == {}


def test_no_type_with_a_class_of_decoders_alone_needs_architectures() -> None:
    kinds = {*NAMES.causal} - {*NAMES.masked} - {*NAMES.sequence} - {*NAMES.speech}
    assert [kind for kind in kinds if why(kind)] == []


@pytest.mark.parametrize(
    ("kind", "made_by", "config", "what"),
    [
        ("t5", "T5ForConditionalGeneration", {}, "an encoder-decoder"),
        ("bart", "BartForConditionalGeneration", {"is_encoder_decoder": True}, "an encoder-decoder"),
        ("bart", "BartForConditionalGeneration", {}, "an encoder-decoder"),
        ("bart", "BartModel", {}, "an encoder-decoder"),
        ("bart", None, {}, "an encoder-decoder"),
        ("marian", "MarianMTModel", {}, "an encoder-decoder"),
        ("whisper", "WhisperForConditionalGeneration", {}, "an encoder-decoder"),
        ("encoder-decoder", "EncoderDecoderModel", {"is_encoder_decoder": True}, "an encoder-decoder"),
        ("bert", "BertForMaskedLM", {}, "a masked language model, which fills gaps"),
        ("bert", "BertModel", {}, "an encoder, which reads in both directions"),
        ("bert", "BertLMHeadModel", {"is_decoder": False}, "an encoder, which reads in both directions (is_decoder"),
        ("roberta", None, {}, "an encoder, which reads in both directions"),
        ("distilbert", "DistilBertModel", {}, "an encoder, which reads in both directions"),
        ("llama", "LlamaForSequenceClassification", {}, "a classifier"),
        ("llama", "LlamaForTokenClassification", {}, "a token classifier"),
        ("qwen2", "Qwen2ForQuestionAnswering", {}, "a question-answering model, which finds answers in a text"),
        ("qwen2", "Qwen2ForRewardModel", {}, "a reward model"),
        ("vit", "ViTForImageClassification", {}, "an image classifier"),
        ("bert", "BertForMultipleChoice", {}, "a multiple-choice model"),
        ("bert", "BertForNextSentencePrediction", {}, "a classifier"),
        ("wav2vec2", "Wav2Vec2ForAudioClassification", {}, "an audio classifier"),
        ("vit", None, {}, "a kind of model that does not generate text"),
        ("esm", "EsmModel", {}, "an encoder, which reads in both directions"),
        ("vit", None, {"vision_config": {}}, "a model for images and text"),
        ("vit", None, {"vision_config": {}, "audio_config": {}}, "a model for sounds and text"),
        ("vit", None, {"is_encoder_decoder": True}, "an encoder-decoder"),
        ("vit", None, {"is_encoder_decoder": "yes"}, "a kind of model that does not generate text"),
        ("gpt2", "GPT2Model", {"is_encoder_decoder": True}, "an encoder-decoder"),
        ("qwen2", "Qwen2ForCausalLM", {"text_config": {"is_causal": False}}, "an encoder"),
        ("llama", "LlamaForCausalLM", {"text_config": {"use_bidirectional_attention": True}}, "an encoder"),
        ("clip", "CLIPModel", {"vision_config": {}}, "a model for images and text"),
        ("llava", "LlavaForConditionalGeneration", {}, "a model for images and text"),
        ("qwen2_vl", "Qwen2VLForConditionalGeneration", {}, "a model for images and text"),
        ("qwen2_audio", "Qwen2AudioForConditionalGeneration", {"audio_config": {}}, "a model for sounds and text"),
        ("musicgen", "MusicgenForConditionalGeneration", {}, "a model that takes or makes more than text"),
        ("wav2vec2", "Wav2Vec2ForCTC", {}, "a model for CTC"),
        ("segformer", "SegformerForSemanticSegmentation", {}, "a model for semantic segmentation"),
        ("gemma3_text", "Gemma3TextModel", {"use_bidirectional_attention": True}, "an encoder"),
        ("qwen2", "Qwen2ForCausalLM", {"is_causal": False}, "an encoder"),
    ],
)
def test_another_kind_of_model_is_refused_by_its_name(
    kind: str, made_by: str | None, config: dict[str, Any], what: str
) -> None:
    said = why(kind, made_by, **config) or ""
    assert said.startswith(f"not a causal language model: {made_by or f'model type {kind}'} is {what}")
    assert said.endswith("rankdeck needs a causal language model (usually …ForCausalLM)")


@pytest.mark.parametrize(
    ("kind", "made_by", "config"),
    [
        ("gpt2", None, {}),
        ("gpt2", "GPT2LMHeadModel", {"is_encoder_decoder": True, "is_causal": True}),
        ("llama", "LlamaForCausalLM", {"text_config": ["none"], "use_bidirectional_attention": False}),
        ("gpt2", "GPT2DoubleHeadsModel", {}),
        ("gpt2", "GPT2Model", {}),
        ("mistral", "MistralModel", {}),
        ("bart", "BartForCausalLM", {"is_encoder_decoder": False, "is_decoder": True}),
        ("bart", None, {"is_encoder_decoder": False}),
        ("bert", "BertLMHeadModel", {"is_decoder": True}),
        ("bert", "BertModel", {"is_decoder": True}),
        ("gemma3", "Gemma3ForConditionalGeneration", {"vision_config": {}, "text_config": {}}),
        ("llama4", "Llama4ForConditionalGeneration", {"vision_config": {}}),
        ("mllama", "MllamaForConditionalGeneration", {"vision_config": {}}),
        ("gemma4", "Gemma4ForConditionalGeneration", {"text_config": {"use_bidirectional_attention": "vision"}}),
    ],
)
def test_what_transformers_makes_a_causal_model_of_is_taken(
    kind: str, made_by: str | None, config: dict[str, Any]
) -> None:
    assert why(kind, made_by, **config) is None


def test_attention_that_a_short_text_switches_for_good_is_refused_with_its_cure() -> None:
    for config in ({}, {"attention_type": "block_sparse"}):
        said = why("big_bird", "BigBirdForCausalLM", is_decoder=True, **config) or ""
        assert said.startswith("its attention is block_sparse, which a short text turns off for all that follow")
        assert said.endswith('set "attention_type": "original_full" in its config.json')
    assert why("big_bird", "BigBirdForCausalLM", is_decoder=True, attention_type="original_full") is None


def test_a_type_that_this_release_does_not_know_names_the_release() -> None:
    said = why("of_tomorrow", "OfTomorrowForCausalLM") or ""
    assert f"its model type is 'of_tomorrow', which transformers {NAMES.version} does not know" in said
    assert "pip install -U transformers" in said
    for nothing in (None, "", 5):
        assert "no model_type" in (architecture.why_not_causal({"model_type": nothing}, NAMES) or "")


def test_embeddings_of_sentences_are_refused_though_the_class_is_causal() -> None:
    config = {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}
    assert architecture.why_not_causal(config, NAMES) is None
    said = architecture.why_not_causal(config, NAMES, sentence_model=True) or ""
    assert "Qwen3ForCausalLM is a sentence-transformers model, which makes embeddings" in said


def test_where_the_tables_cannot_be_read_only_what_config_json_says_itself_is_refused() -> None:
    nothing = Names("?", {}, {}, {}, {}, {}, {}, {})
    for config in ({"model_type": "llama"}, {"model_type": "new", "architectures": ["NewForCausalLM"]}):
        assert architecture.why_not_causal(config, nothing) is None
    assert architecture.why_not_causal({"model_type": "t5", "is_encoder_decoder": True}, nothing)
    assert architecture.why_not_causal({"model_type": "x", "architectures": ["XForMaskedLM"]}, nothing)


def test_a_table_is_read_with_all_that_is_added_to_it() -> None:
    source = (
        'OTHER = OrderedDict(\n    [\n        ("z", "Z"),\n    ]\n)\n'
        'NAMES = OrderedDict[str, str | None](\n    [\n        ("a", "A"),  # a remark\n'
        '        ("b", "B" if there() else None),\n    ]\n)\n'
        'NAMES.update(\n    {\n        "c": "C",\n    }\n)\n'
    )
    assert table_in(source, "NAMES") == {"a": "A", "b": "B", "c": "C"}
    assert table_in("", "NAMES") == {}


@pytest.mark.parametrize("listed", [None, [], "XForMaskedLM", [5], [""], {"0": "XForMaskedLM"}])
def test_a_class_that_is_not_named_is_not_made_up(listed: Any) -> None:
    assert architecture.architecture_of({"architectures": listed}) is None
    assert architecture.why_not_causal({"model_type": "llama", "architectures": listed}, NAMES) is None


def test_of_several_classes_the_first_is_that_of_the_checkpoint() -> None:
    listed = ["BertForMaskedLM", "LlamaForCausalLM"]
    assert architecture.architecture_of({"architectures": listed}) == "BertForMaskedLM"
    said = architecture.why_not_causal({"model_type": "bert", "architectures": listed}, NAMES) or ""
    assert said.startswith("not a causal language model: BertForMaskedLM is ")
