"""What vLLM is asked to do with a row: a run's generation settings as vLLM's sampling parameters, or why it cannot.

Knows the fields of transformers' GenerationConfig that act on logits, which of them vLLM has, and what its own are
called. Knows no engine.
"""

import hashlib
from typing import Any

from rankdeck.runner.engine.generation.settings import ON_LOGITS
from rankdeck.runner.protocol.config import RunConfig

SAME = ("temperature", "top_p", "min_p", "repetition_penalty")
"""Settings that vLLM has under the same name, with the same meaning."""

TOP_K = 50
"""What transformers takes where nobody says anything; vLLM takes all tokens."""

OWN = frozenset({*SAME, "top_k", "min_new_tokens", "min_length"})

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "min_length": (0,),
    "min_new_tokens": (0,),
    "typical_p": (1.0,),
    "epsilon_cutoff": (0.0,),
    "eta_cutoff": (0.0,),
    "encoder_repetition_penalty": (1.0,),
    "no_repeat_ngram_size": (0,),
    "encoder_no_repeat_ngram_size": (0,),
    "guidance_scale": (1.0,),
    "renormalize_logits": (False, True),
    "remove_invalid_values": (False, True),
}
"""Values, besides None, with which a setting changes no answer. Normalised logits order and draw tokens as before; that
logits are numbers, vLLM takes for granted."""


def why_not(generation: Any) -> str | None:
    """Why vLLM cannot do what these settings ask for; None if it can."""
    lacking = [
        name
        for name in sorted(ON_LOGITS - OWN)
        if (value := getattr(generation, name, None)) is not None and value not in NEUTRAL.get(name, ()) and value != []
    ]
    if generation.stop_strings:
        lacking.append("stop_strings")
    if not lacking:
        return None
    found = ", ".join(lacking)
    return f"the model's generation config sets {found}, which rankdeck cannot pass to vLLM; use --engine static"


def arguments(generation: Any, config: RunConfig, eos_tokens: frozenset[int]) -> dict[str, Any]:
    """The arguments of vLLM's SamplingParams that are the same for all rows.

    A row ends with one of `eos_tokens`, which is part of its answer.
    """
    values = {name: value for name in SAME if (value := getattr(generation, name, None)) is not None}
    if not config.do_sample:
        values = {name: value for name, value in values.items() if name == "repetition_penalty"}
        values["temperature"] = 0.0
    else:
        values["top_k"] = TOP_K if generation.top_k is None else generation.top_k
    return {
        **values,
        "stop_token_ids": sorted(eos_tokens),
        "ignore_eos": not eos_tokens,  # else it looks for those that the model's config names, too
        "detokenize": False,
    }


def least_tokens(generation: Any, prompt_tokens: int) -> int:
    """How many tokens an answer to a prompt of so many has at least."""
    of_all = (generation.min_length or 0) - prompt_tokens
    return max(0, generation.min_new_tokens or 0, of_all)


def seed_of(seed: int, index: int, begun: int) -> int:
    """The seed of a row, by that of the run and its prompt's index; a row that goes on after `begun` tokens draws
    others.

    So what is drawn does not depend on which rows are generated beside it, or by which rank.
    """
    return int.from_bytes(hashlib.sha256(f"{seed} {index} {begun}".encode()).digest()[:4])
