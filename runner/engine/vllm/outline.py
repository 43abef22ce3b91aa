"""A model as far as it is known without its weights, which vLLM loads: config, tokenizer, shapes.

Knows transformers. The model lies on torch's `meta` device: it has shapes, and no memory. A quantised checkpoint has
other bytes than that says, so those are read from its files.
"""

from pathlib import Path
from typing import Any

import torch
import transformers

from rankdeck.runner.engine import loading
from rankdeck.runner.engine.loading import Loaded
from rankdeck.runner.protocol.config import RunConfig

WEIGHT_FILES = ("*.safetensors", "*.bin")


def outline(config: RunConfig, model_path: str, device: torch.device) -> Loaded:
    """The model without weights, and its tokenizer.

    Raises:
        ValueError: its generation config is none, or transformers does not know its kind.
    """
    found = loading.parts_of(config, model_path, device)
    code = {"trust_remote_code": config.trust_remote_code}
    quantised = found.config.__dict__.pop("quantization_config", None)  # shapes are those of whole weights
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(found.config, dtype=found.dtype, **code)
    if quantised is not None:
        found.config.quantization_config = model.config.quantization_config = quantised
    if found.generation is not None:
        model.generation_config = found.generation
    return Loaded(model.eval(), found.tokenizer, device, tuple(found.notes))


def bytes_of_files(model_path: str) -> int | None:
    """The bytes of the weights' files; None if there are none."""
    for pattern in WEIGHT_FILES:
        if sizes := [path.stat().st_size for path in Path(model_path).glob(pattern)]:
            return sum(sizes)
    return None


def is_quantised(model: Any) -> bool:
    """Whether the checkpoint's weights are stored otherwise than in the model's dtype."""
    return getattr(model.config, "quantization_config", None) is not None
