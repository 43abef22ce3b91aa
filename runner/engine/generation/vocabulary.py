"""Which token ids a model has room for: rows of its input embedding, and logits of its output. How many it can take.

An id outside is an IndexError on a CPU. On a GPU it is a device-side assert, after which the process can compute
nothing more. So ids are checked on the host, before the device sees them. Knows models and generation configs;
knows no prompts, batches or devices.
"""

from collections.abc import Sequence
from typing import Any

from rankdeck.runner.engine.generation.layer_configs import value_of
from rankdeck.runner.inputs.model_config import context_by


def embedding_rows(model: Any) -> int | None:
    """How many token ids `model` accepts, counted from 0; None if it does not say."""
    try:
        embedding = model.get_input_embeddings()
    except NotImplementedError:  # transformers' way of not finding it
        embedding = None
    return _size(embedding, "num_embeddings", model)


def logit_count(model: Any) -> int | None:
    """For how many token ids `model` has a logit; None where it does not say."""
    return _size(model.get_output_embeddings(), "out_features", model)


def known_ids(model: Any) -> int | None:
    """How many token ids `model` both accepts and has a logit for, counted from 0; None if it does not say."""
    return min((size for size in (embedding_rows(model), logit_count(model)) if size is not None), default=None)


def settle_config(config: Any) -> list[str]:
    """Take a padding token out of a model's config that its embedding has no row for; returns a line if there was one.

    torch would not make the embedding. Padding is masked: which token it is does not matter.
    """
    lines = []
    for part in {id(one): one for one in (config, config.get_text_config())}.values():
        pad, rows = getattr(part, "pad_token_id", None), getattr(part, "vocab_size", None)
        if isinstance(pad, int) and isinstance(rows, int) and not 0 <= pad < rows:
            part.pad_token_id = None
            lines.append(
                f"the model's config has pad_token_id {pad:,}, which is ignored: it has tokens 0 to {rows - 1:,}"
            )
    return lines[:1]


def context_tokens(config: Any) -> int | None:
    """How many tokens a model of this config has positions for; None where it says of no limit.

    A model whose state is all that it keeps of a text has none, whatever length its config gives for its training.
    """
    text = config.get_text_config()
    return context_by(lambda name: value_of(text, name))


def _size(module: Any, attribute: str, model: Any) -> int | None:
    # Not the shape of the weights: a quantised weight may be stored in another.
    size = getattr(module, attribute, None)
    return int(size) if size is not None else getattr(model.config.get_text_config(), "vocab_size", None)


def unknown_token(ids: Sequence[int], rows: int | None) -> str | None:
    """What is wrong with a prompt of these tokens for an embedding of `rows`; None if nothing is."""
    if rows is None or not ids:
        return None
    unknown = next((token for token in (max(ids), min(ids)) if not 0 <= token < rows), None)
    if unknown is None:
        return None
    return (
        f"prompt has token {unknown:,}, but the model's input embedding has {rows:,} rows (tokens 0 to {rows - 1:,}): "
        "its tokenizer does not match its weights"
    )


def settle(generation: Any, tokenizer_pad: int | None, rows: int | None, logits: int | None) -> None:
    """Bring the special tokens of a generation config within the model's `rows` and `logits`.

    Padding is masked and never counted: any token the model knows will do, and one is always set. An end-of-sequence
    token without a logit is never written, and is left out.

    Raises:
        ValueError: a forced token has no logit.
    """
    most = min((size for size in (rows, logits) if size is not None), default=None)

    def known(token: Any) -> bool:
        return token is not None and token >= 0 and (most is None or token < most)

    ends = _listed(generation.eos_token_id)
    if not all(map(known, ends)):
        generation.eos_token_id = [token for token in ends if known(token)] or None
    candidates = (generation.pad_token_id, tokenizer_pad, *_listed(generation.eos_token_id), 0)
    generation.pad_token_id = next(filter(known, candidates))
    beyond = [token for token in _listed(generation.forced_eos_token_id) if not known(token)]
    if beyond:
        raise ValueError(
            f"the model's generation_config.json has forced_eos_token_id {beyond[0]:,}, but the model generates tokens "
            f"0 to {most - 1 if most else 0:,}: correct it there, or remove it"
        )


def _listed(tokens: Any) -> list[int]:
    return [] if tokens is None else list(tokens) if isinstance(tokens, list | tuple) else [tokens]
