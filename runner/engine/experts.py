"""The routed experts of a mixture-of-experts model: which parameters are theirs, and how many of them a token uses.

Knows how transformers names them: a layer's experts are a module called `experts`, with all of them fused in parameters
`[experts, ...]` (Mixtral, Qwen3-MoE, gpt-oss, DeepSeek) or one after the other in a list. Routers and shared experts
stand outside it: every token uses those. Does not know which experts the tokens of a step chose.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from rankdeck.runner.engine.generation.layer_configs import value_of
from rankdeck.runner.engine.weights import stored_bytes
from rankdeck.runner.protocol import Experts

COUNT = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
PER_TOKEN = ("num_experts_per_tok", "top_k_experts", "moe_topk", "moe_top_k", "num_experts_per_token")
"""What configs call how many experts a layer has, and how many of them a token uses."""


def experts_of(model: Any) -> Experts | None:
    """The routed experts of a loaded model; None for a dense one."""
    config = model.config.get_text_config()
    # dbrx has a config of its own for the layers with experts.
    configs = [config, value_of(config, "ffn_config")]
    count, per_token = _first(configs, COUNT), _first(configs, PER_TOKEN)
    named = model.named_parameters()
    found = sum(stored_bytes(parameter) for name, parameter in named if "experts" in name.split("."))
    if not found and (count is None or count <= 1):
        return None
    # Experts that are held elsewhere (kernels of a quantised model, other names) are not known to be experts.
    return Experts(bytes=found, count=count, per_token=per_token if found else None)


@contextlib.contextmanager
def decoding_in_groups(model: Any, experts: Experts | None, rows: int) -> Iterator[None]:
    """Have `generate` decode `rows` rows with the same products as it prefills, where that copies less.

    On a GPU it changes over to `batched_mm`, which copies an expert's weights for every row that chose it. With more
    copies than experts that takes gigabytes, and more time with every row.
    """
    if experts is None or not _copies_more(experts, rows):
        yield
        return
    model._optimize_model_for_decode = contextlib.nullcontext
    try:
        yield
    finally:
        del model._optimize_model_for_decode


def decode_products(model: Any, experts: Experts | None, rows: int) -> contextlib.AbstractContextManager[Any]:
    """The products that a decode step of `rows` rows outside `generate` is to use: those that `generate` would."""
    if experts is None or _copies_more(experts, rows):
        return contextlib.nullcontext()
    own: contextlib.AbstractContextManager[Any] = model._optimize_model_for_decode()
    return own


def _copies_more(experts: Experts, rows: int) -> bool:
    """Whether rows would choose more experts than there are, or nobody knows how many there are."""
    choices = 0 if not experts.per_token else rows * experts.per_token
    return bool(experts.count) and choices > (experts.count or 0)


def _first(configs: list[Any], names: tuple[str, ...]) -> int | None:
    values = (value_of(config, name) for name in names for config in configs)
    return next((value for value in values if isinstance(value, int)), None)
