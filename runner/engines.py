"""Load a model, and choose the engine that generates with it: the one asked for, or the one known to be faster.

Knows both engines. `auto` goes by what was measured, per kind of device; an engine that does not go with the model
or the settings gives way to the static one, with the reason in one line.
"""

from dataclasses import dataclass
from typing import Any

import torch
import transformers

from runner.config import RunConfig
from runner.continuous_engine import ContinuousEngine, Unsupported
from runner.engine import Engine
from runner.static_engine import StaticEngine

AUTO = {"cpu": "faster on a CPU: 1.3 times the continuous one at 50 rows (135 M parameters, 2 cores)"}
"""Why `auto` is static, by kind of device."""

AUTO_ELSEWHERE = "the continuous one was not measured on this device yet; --engine continuous takes it"


@dataclass(frozen=True)
class Loaded:
    """A model on its device, and its tokenizer."""

    model: Any
    tokenizer: Any
    device: torch.device


def choose(config: RunConfig, loaded: Loaded) -> tuple[Engine, str]:
    """The engine of a run, warmed up, and why it is this one ("" if it was asked for and all is well)."""
    parts = loaded.model, loaded.tokenizer, config, loaded.device
    why = ""
    if config.engine == "continuous":
        continuous = ContinuousEngine(*parts)
        try:
            continuous.warm_up()
            return continuous, ""
        except Unsupported as error:
            why = f"continuous batching cannot be used here: {error}"
    elif config.engine == "auto":
        why = AUTO.get(loaded.device.type, AUTO_ELSEWHERE)
    static = StaticEngine(*parts)
    static.warm_up()
    if static.why_rows_stay:
        why = "; ".join(filter(None, (why, f"rows that have ended stay in their batch: {static.why_rows_stay}")))
    return static, why


def choose_dtype(name: str, device: torch.device, checkpoint: torch.dtype | None) -> torch.dtype:
    """`auto`: float32 on a CPU (half types are several times slower there), else the checkpoint's own."""
    if name != "auto":
        dtype: torch.dtype = getattr(torch, name)
        return dtype
    if device.type == "cpu":
        return torch.float32
    return checkpoint if isinstance(checkpoint, torch.dtype) else torch.float16


def load(config: RunConfig, model_path: str, device: torch.device) -> Loaded:
    """Load model and tokenizer onto `device`."""
    model_config = transformers.AutoConfig.from_pretrained(model_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_path, padding_side="left")
    if tokenizer.pad_token_id is None:
        # Padding is masked and never counted: any token will do.
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    dtype = choose_dtype(config.dtype, device, getattr(model_config, "dtype", None))
    # Straight onto the device: N ranks would otherwise hold N copies in the host's memory first.
    placed = {"device_map": {"": device}} if device.type == "cuda" else {}
    model = transformers.AutoModelForCausalLM.from_pretrained(model_path, dtype=dtype, **placed)
    return Loaded(model.to(device).eval(), tokenizer, device)
