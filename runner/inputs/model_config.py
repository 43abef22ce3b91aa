"""The shape of a model, as its config.json gives it. Pure: the caller reads the file and passes its values in."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

CONTEXT = (
    *("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_seq_length", "max_sequence_length"),
    *("seq_length", "seq_len", "context_length", "n_context", "max_context_length"),
)
"""What configs call the number of tokens, prompt and answer, that a model has positions for."""

CONTEXT_OF_OTHERS = ("max_target_positions", "model_max_length")
"""What says as much in models that may have positions for more."""

STATE_ALONE = ("rwkv", "mamba", "falcon_mamba", "xlstm")
"""Models whose state is all that they keep of a text: they have no limit, whatever length their training had."""


STRETCHED = ("linear", "dynamic", "yarn")
"""Kinds of rotary positions that make room for `factor` times as many tokens as the model was first trained for."""

NOT_STRETCHED = (
    *("gemma3", "opt", "gpt2", "gpt_neo", "gptj", "gpt_bigcode", "codegen", "ctrl", "xglm", "biogpt", "bart", "mbart"),
    *("bert", "roberta"),
)
"""Models whose config gives the stretched number already, and those whose positions were learned one by one."""


def context_in(values: Mapping[str, Any]) -> int | None:
    """How many tokens a model with this config.json has positions for; None where it says of no limit."""
    return context_by(_text_config(values).get)


def context_by(value: Callable[[str], Any]) -> int | None:
    """The same, where `value` gives what the config of the text has under a name, or None."""
    if str(value("model_type")).startswith(STATE_ALONE):
        return None
    return _first_size(CONTEXT, value)


def _first_size(names: Sequence[str], value: Callable[[str], Any]) -> int | None:
    """The number of tokens under the first of `names` that has one, and with stretched positions what that comes to.

    Whoever stretches positions after the training (vicuna-16k, Qwen with YaRN) may leave the number as it was.
    """
    sizes = ((name, value(name)) for name in names)
    name, size = next(((name, size) for name, size in sizes if type(size) is int and size > 0), ("", None))
    rope = value("rope_parameters") or value("rope_scaling")
    if size is None or name != CONTEXT[0] or not isinstance(rope, Mapping):
        return size
    if str(value("model_type")).removesuffix("_text") in NOT_STRETCHED:
        return size
    first, factor = rope.get("original_max_position_embeddings") or size, rope.get("factor")
    if rope.get("rope_type", rope.get("type")) not in STRETCHED or not isinstance(first, int):
        return size
    return max(size, int(first * factor)) if isinstance(factor, int | float) and 1 < factor < 2**20 else size


def _text_config(values: Mapping[str, Any]) -> dict[str, Any]:
    text = values.get("text_config")
    return {**values, **text} if isinstance(text, dict) else dict(values)


class ModelShape(NamedTuple):
    """The figures of a model that decide its memory. `stored_bytes`: its weights on disk, if it is quantised there."""

    parameters: int
    layers: int
    kv_heads: int
    head_size: int
    hidden: int
    intermediate: int
    vocabulary: int
    context: int | None = None
    dtype: str | None = None
    stored_bytes: int | None = None
    embedding_parameters: int = 0
    counted: bool = True
    """Whether the parameters were counted in the weights' files, not calculated from config.json."""
    quantised: bool = False
    """Whether the weights on disk are quantised: without `stored_bytes` nobody knows how large they are."""
    tied: bool = False
    """Whether the last layer shares the weight of the input embedding."""


DEMO = ModelShape(134_515_008, 30, 3, 64, 576, 1536, 49152, 8192, "float32", None, 28_311_552, tied=True)
"""SmolLM2-135M-Instruct, for use until it is in the cache."""


def shape_from_config(values: dict[str, Any], parameters: int | None, stored_bytes: int | None = None) -> ModelShape:
    """The shape in a config.json. `parameters` is None if they could not be counted in the weights' files.

    Raises:
        ValueError: a figure is missing.
    """
    text = _text_config(values)

    def number(*names: str, default: int | None = None) -> int:
        for name in names:
            value = text.get(name)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
        if default is None:
            raise ValueError(f"its config.json has no {names[0]}")
        return default

    layers = number("num_hidden_layers", "n_layer", "num_layers")
    hidden = number("hidden_size", "n_embd", "d_model")
    heads = number("num_attention_heads", "n_head", "num_heads")
    kv_heads = number("num_key_value_heads", default=heads)
    head_size = number("head_dim", default=hidden // heads or 1)
    intermediate = number("intermediate_size", "n_inner", "ffn_dim", default=4 * hidden)
    vocabulary = number("vocab_size")
    embedding = vocabulary * hidden
    dtype = text.get("dtype") or text.get("torch_dtype")
    counted, quantised = parameters is not None, isinstance(values.get("quantization_config"), dict)
    if parameters is None:
        experts = number("num_local_experts", "num_experts", "n_routed_experts", default=1)
        inner = number("moe_intermediate_size", default=intermediate) if experts > 1 else intermediate
        attention = 2 * hidden * head_size * (heads + kv_heads)
        layer = attention + 3 * hidden * inner * experts
        parameters = layers * layer + embedding * (1 if text.get("tie_word_embeddings") else 2)
    return ModelShape(
        parameters=parameters,
        layers=layers,
        kv_heads=kv_heads,
        head_size=head_size,
        hidden=hidden,
        intermediate=intermediate,
        vocabulary=vocabulary,
        context=_first_size([*CONTEXT, *CONTEXT_OF_OTHERS], text.get),
        dtype=dtype if isinstance(dtype, str) else None,
        stored_bytes=stored_bytes if quantised else None,
        quantised=quantised,
        embedding_parameters=embedding,
        counted=counted,
        tied=text.get("tie_word_embeddings") is True,
    )
