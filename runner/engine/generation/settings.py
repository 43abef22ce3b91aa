"""The generation settings of a run: the model's own with the run's on top, and which of them reach whom.

Knows every field of transformers' GenerationConfig, and what it means where many prompts are generated at once. Those
that act on logits are applied by `runner.engine.generation.logit_rules`, each row by itself; those that choose another
way to search are set aside, with a line; `generate` is given what is left, and nothing that it could fill in from the
model's own. Knows no batches, and computes nothing.
"""

import contextlib
import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import transformers

from rankdeck.runner.protocol.config import RunConfig

FILE = "generation_config.json"

OF_THE_RUN = frozenset(
    {
        "max_length", "max_new_tokens", "do_sample", "temperature", "top_k", "top_p", "eos_token_id",
        "pad_token_id", "bos_token_id", "return_dict_in_generate", "use_cache", "stop_strings",
    }
)  # fmt: skip
"""Set by the run, or brought within what it can do."""

ON_LOGITS = frozenset(
    {
        "min_length", "min_new_tokens", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff",
        "repetition_penalty", "encoder_repetition_penalty", "no_repeat_ngram_size",
        "encoder_no_repeat_ngram_size", "bad_words_ids", "renormalize_logits", "forced_bos_token_id",
        "forced_eos_token_id", "remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens",
        "begin_suppress_tokens", "sequence_bias", "guidance_scale", "watermarking_config",
    }
)  # fmt: skip
"""Act on a row's logits, by what `generate` would do for that row's prompt alone."""

REACH_GENERATE = (
    "max_new_tokens", "do_sample", "eos_token_id", "pad_token_id", "bos_token_id", "use_cache",
)  # fmt: skip
"""What `generate` is given of them when it generates."""

WITHOUT_EFFECT = frozenset(
    {
        # of searches that are set aside
        "early_stopping", "length_penalty", "diversity_penalty", "num_assistant_tokens",
        "num_assistant_tokens_schedule", "assistant_confidence_threshold", "max_matching_ngram_size",
        "assistant_lookbehind", "target_lookbehind", "assistant_ensemble_weight", "is_assistant", "low_memory",
        # of what `generate` returns beside the tokens
        "output_attentions", "output_hidden_states", "output_scores", "output_logits",
        # of speed and memory: the run has its own ways
        "compile_config", "disable_compile", "continuous_batching_config", "prefill_chunk_size",
        "max_cache_len", "cache_config",
        # of encoder-decoder models, and of the file itself
        "decoder_start_token_id", "transformers_version", "_from_model_config", "_commit_hash",
    }
)  # fmt: skip
"""Change no answer of a decoder that takes one token after the other."""

_SEARCH = "rankdeck decodes greedily or samples"
_SPECULATIVE = "it changes how fast answers come, not what they are"

SET_ASIDE: dict[str, tuple[tuple[Any, ...], str]] = {
    "num_beams": ((1,), _SEARCH),
    "num_beam_groups": ((1,), _SEARCH),
    "constraints": ((), _SEARCH),
    "force_words_ids": ((), _SEARCH),
    "penalty_alpha": ((0,), _SEARCH),
    "dola_layers": ((), _SEARCH),
    "num_return_sequences": ((1,), "a prompt has one answer"),
    "prompt_lookup_num_tokens": ((), _SPECULATIVE),
    "assistant_early_exit": ((), _SPECULATIVE),
    "use_mtp": ((False,), _SPECULATIVE),
    "speculation_type": ((), _SPECULATIVE),
    "cache_implementation": (("dynamic",), "rows leave a cache as they end"),
    "token_healing": ((False,), "it would change the prompt"),
    "max_time": ((), "an answer would depend on the others of its batch"),
}
"""Settings that are not done: the values, besides None, with which they do nothing, and why they are left out."""

NO_END = "the model's config names no end-of-sequence token, so answers go on to --max-new-tokens"
"""As with `generate`: the tokenizer is not asked for one."""

KNOWN = OF_THE_RUN | ON_LOGITS | WITHOUT_EFFECT | frozenset(SET_ASIDE)


def read(folder: str) -> tuple[Any, list[str]]:
    """The generation config in a model's folder, None if it has none, and lines on what is set aside of it.

    transformers would refuse some of these settings as it loads the model, though they are not used here.

    Raises:
        ValueError: the file is no generation config, or transformers refuses what it says.
    """
    path = Path(folder, FILE)
    if not path.is_file():
        return None, []
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        wanted = {name: value for name, value in values.items() if name not in WITHOUT_EFFECT - {"_from_model_config"}}
        lines = [_line(name, wanted.pop(name)) for name in SET_ASIDE if _does_something(name, wanted.get(name))]
        return transformers.GenerationConfig.from_dict(wanted), lines
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: {error}") from error


def of_run(model: Any, tokenizer: Any, config: RunConfig) -> tuple[Any, list[str]]:
    """The model's own generation config with the run's settings on top, and lines on what is set aside of it.

    Greedy unless the run samples.
    """
    generation = copy.deepcopy(model.generation_config)
    lines = []
    for name in SET_ASIDE:
        if _does_something(name, value := getattr(generation, name, None)):
            lines.append(_line(name, value))
        setattr(generation, name, None)
    generation.use_cache = True  # it changes how fast answers come, not what they are; rows could not leave without
    generation.max_length = None
    generation.max_new_tokens = config.new_tokens
    generation.do_sample = config.do_sample
    if config.do_sample:
        for name in ("temperature", "top_p", "top_k"):
            if (value := getattr(config, name)) is not None:
                setattr(generation, name, value)
    else:
        # They have no effect, but transformers would warn of them at every batch.
        generation.temperature = generation.top_p = generation.top_k = None
    if generation.eos_token_id is None and not config.ignore_eos:
        lines.append(NO_END + _end_of(tokenizer))
    if config.ignore_eos:  # every answer has as many tokens
        generation.eos_token_id = generation.stop_strings = None
    penalty = getattr(generation, "exponential_decay_length_penalty", None)
    if generation.eos_token_id is None and penalty is not None:
        generation.exponential_decay_length_penalty = None
        lines.append(
            f"the model's generation config has exponential_decay_length_penalty {penalty}, which is ignored: it makes "
            "the end of an answer likelier, and no token ends one here"
        )
    return generation, lines + _unknown(generation)


def _end_of(tokenizer: Any) -> str:
    if tokenizer.eos_token_id is None:
        return ""
    return (
        f"; to end them at the tokenizer's {tokenizer.eos_token!r}, put "
        f'"eos_token_id": {tokenizer.eos_token_id} into generation_config.json'
    )


def bare(generation: Any) -> Any:
    """What transformers itself is given of the run's settings to generate with.

    Nothing in it acts on logits, counts tokens from the start of the padded rows, or ends a row but by its last token.
    """
    kept = {name: getattr(generation, name, None) for name in REACH_GENERATE}
    if kept["do_sample"]:
        kept["top_k"] = 0  # it is 50 where nobody says anything
    return transformers.GenerationConfig(**kept, return_dict_in_generate=True)


@contextlib.contextmanager
def nothing_to_fill_in(model: Any) -> Iterator[None]:
    """Hide a model's own generation config: `generate` takes from it whatever it is given as None."""
    own, model.generation_config = model.generation_config, transformers.GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


def _does_something(name: str, value: Any) -> bool:
    return value is not None and value not in SET_ASIDE[name][0]


def _line(name: str, value: Any) -> str:
    return f"the model's generation config has {name} {value}, which is ignored: {SET_ASIDE[name][1]}"


def _unknown(generation: Any) -> list[str]:
    """Lines on settings that only a newer transformers knows; they stay, and act on logits if on anything."""
    return [
        f"the model's generation config has {name}, which rankdeck does not know: it may change logits, nothing else"
        for name in sorted(set(vars(transformers.GenerationConfig())) - KNOWN)
        if getattr(generation, name, None) is not None
    ]
