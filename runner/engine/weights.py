"""Whether the weights that were loaded are those of the model, the last word after the headers were read; their bytes.

transformers gives a parameter that it finds no weights for random ones, with a warning. Knows what `from_pretrained`
reports, and how quantised weights are stored; knows no files.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch

SHOWN = 4
"""How many names are said; the rest is a number."""


class WrongWeightsError(RuntimeError):
    """A checkpoint lacks weights of its model, or has some of other sizes. Another launch would find the same."""


def checked(model: Any, found: Mapping[str, Any], model_path: str) -> list[str]:
    """Lines for people on what was loaded into `model`, by the report of `from_pretrained`.

    Raises:
        WrongWeightsError: weights are missing, have other sizes, or could not be put together.
    """
    problems = []
    if missing := sorted(name for name in found.get("missing_keys") or () if _matters(model, name)):
        problems.append(f"{_count(missing, 'weight')} missing: {_names(missing)}")
    if other := sorted(found.get("mismatched_keys") or ()):
        sizes = [f"{name} has {_size(there)} instead of {_size(wanted)}" for name, there, wanted in other]
        problems.append(f"{_count(sizes, 'weight')} of another size: {_names(sizes)}")
    if errors := [str(error) for error in found.get("error_msgs") or ()]:
        problems.append(f"{_count(errors, 'weight')} that could not be read: {_names(errors)}")
    if problems:
        raise WrongWeightsError(
            f"{model_path} does not hold the weights of a causal language model: {'; '.join(problems)}. Without them "
            "its answers would be random"
        )
    extra = sorted(found.get("unexpected_keys") or ())
    return [f"{_count(extra, 'weight')} in the files that this model does not use: {_names(extra)}"] if extra else []


def _matters(model: Any, name: str) -> bool:
    """Whether a tensor that no file has is one that training made: masks and positions a model makes itself."""
    if getattr(model, "hf_quantizer", None) is not None:
        return name.endswith(".weight")  # it has tensors of its own beside the weights
    tensor = dict(model.named_buffers()).get(name)
    return tensor is None or bool(tensor.is_floating_point())


def _count(things: list[str], noun: str) -> str:
    return f"{len(things):,} {noun}{'' if len(things) == 1 else 's'}"


def _names(names: Iterable[str]) -> str:
    names = list(names)
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more:,} more" if more > 0 else "")


def _size(shape: Any) -> str:
    return " x ".join(f"{extent:,}" for extent in shape)


def stored_bytes(tensor: Any) -> int:
    """Bytes that a parameter takes as stored, which for a quantised one is not what its dtype says."""
    if hasattr(tensor, "__tensor_flatten__"):  # torchao: packed values, scales, zero points
        names, _ = tensor.__tensor_flatten__()
        return sum(stored_bytes(getattr(tensor, name)) for name in names)
    scales = getattr(getattr(tensor, "quant_state", None), "absmax", None)  # bitsandbytes, 4 bits
    if scales is None:
        scales = getattr(tensor, "SCB", None)  # bitsandbytes, 8 bits
    extra = scales.numel() * scales.element_size() if isinstance(scales, torch.Tensor) else 0
    return int(tensor.numel() * tensor.element_size()) + extra
