"""Whether a config.json is that of a causal language model, which is what `AutoModelForCausalLM` makes of any it takes.

It takes encoder-decoders, masked language models and classifiers, too, and leaves out or makes up what does not fit:
their answers would be noise. Pure: the caller reads the files.
"""

import re
from typing import Any

from rankdeck.runner.inputs.checkpoint.transformers_names import Names

GENERATING_HEADS = ("CausalLM", "ConditionalGeneration")
"""What follows `For` in the classes whose checkpoints have a language model's head."""

HEADS = {
    "SequenceClassification": "a classifier",
    "TokenClassification": "a token classifier",
    "QuestionAnswering": "a question-answering model, which finds answers in a text",
    "MultipleChoice": "a multiple-choice model",
    "MaskedLM": "a masked language model, which fills gaps",
    "NextSentencePrediction": "a classifier",
    "RewardModel": "a reward model, which scores texts",
    "ImageClassification": "an image classifier",
    "AudioClassification": "an audio classifier",
}

WANTED = "rankdeck needs a causal language model (usually …ForCausalLM)"
TWO_WAYS = "an encoder, which reads in both directions"
ENCODER_DECODER = "an encoder-decoder"
BLOCKS = "block_sparse"
BLOCKS_FOR_A_TIME = (
    f"its attention is {BLOCKS}, which a short text turns off for all that follow, so that answers would depend on "
    'their order; set "attention_type": "original_full" in its config.json'
)
MORE_THAN_TEXT = "a model that takes or makes more than text"


def why_not_causal(config: dict[str, Any], names: Names, *, sentence_model: bool = False) -> str | None:
    """Why transformers' own code cannot answer prompts with this model, in words for people; None if it can.

    `sentence_model` is whether the folder has the files of sentence-transformers.
    """
    kind, architecture = config.get("model_type"), architecture_of(config)
    if not isinstance(kind, str) or not kind:
        return "its config.json has no model_type, so transformers cannot tell what it is; fetch it again"
    if names.known and kind not in names.configs and kind not in names.causal:
        return (
            f"its model type is {kind!r}, which transformers {names.version} does not know; "
            "a newer one may: pip install -U transformers"
        )
    if sentence_model:
        return _no(architecture, kind, "a sentence-transformers model, which makes embeddings")
    what = _other_kind(config, kind, architecture, names)
    if what is None and kind == "big_bird" and config.get("attention_type", BLOCKS) == BLOCKS:
        return BLOCKS_FOR_A_TIME
    return None if what is None else _no(architecture, kind, what)


def architecture_of(config: dict[str, Any]) -> str | None:
    """The class that the checkpoint was saved from, if its config.json says so."""
    listed = config.get("architectures")
    first = listed[0] if isinstance(listed, list) and listed else None
    return first if isinstance(first, str) and first else None


def _no(architecture: str | None, kind: str, what: str) -> str:
    return f"not a causal language model: {architecture or f'model type {kind}'} is {what}; {WANTED}"


def _other_kind(config: dict[str, Any], kind: str, architecture: str | None, names: Names) -> str | None:
    """What the model is, if it is no causal language model."""
    own, composed = names.causal.get(kind), (architecture or "").endswith("ForConditionalGeneration")
    head = re.search(r"For([A-Z]\w*)$", architecture or "")
    if head and not head[1].startswith(GENERATING_HEADS):
        return HEADS.get(head[1], f"a model for {_words(head[1])}")
    if own is None and names.known:
        return _kind_without_causal(config, kind, names)
    if architecture is None or architecture != own:
        # Their classes say by default that they are, so that a config.json need not.
        pairs = kind in names.sequence or kind in names.speech
        if config.get("is_encoder_decoder", pairs) is True or (pairs and composed):
            return ENCODER_DECODER
        if composed and names.known and kind not in names.pictures:
            return MORE_THAN_TEXT
    # Their decoders are the same classes with a setting: without it they see what they are to predict.
    twofold = names.masked.get(kind, own) != own and kind not in names.sequence
    if twofold and config.get("is_decoder") is not True:
        return f"{TWO_WAYS} (is_decoder is not true)"
    text = config.get("text_config")
    for values in (config, text if isinstance(text, dict) else {}):
        if values.get("is_causal") is False or values.get("use_bidirectional_attention") is True:
            return TWO_WAYS
    return None


def _kind_without_causal(config: dict[str, Any], kind: str, names: Names) -> str:
    """What a model type is of which transformers has no causal language model."""
    if kind in names.speech or isinstance(config.get("audio_config"), dict):
        return "a model for sounds and text"
    if kind in names.pictures or isinstance(config.get("vision_config"), dict):
        return "a model for images and text"
    if kind in names.sequence or config.get("is_encoder_decoder") is True or kind.endswith("encoder-decoder"):
        return ENCODER_DECODER
    return TWO_WAYS if kind in names.masked else "a kind of model that does not generate text"


def _words(name: str) -> str:
    """`ImageSegmentation` as `image segmentation`; `CTC` as it is."""
    return name if name.isupper() else re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
