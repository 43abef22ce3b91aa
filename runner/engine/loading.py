"""From a model's folder to a model that can generate: dtype, quantisation, and the GPUs it goes to.

Knows what `from_pretrained` is to be told. Which GPUs a rank sees was settled before (`runner.machine.placement`),
which packages quantising needs is checked before any rank starts (`runner.inputs.quantization`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psutil
import torch
import transformers

from rankdeck.runner.engine import packed_linear
from rankdeck.runner.protocol.config import RunConfig

WEIGHTS_SHARE = 0.9
"""Of each GPU's free memory so much may hold weights, where a model is spread over several."""


@dataclass(frozen=True)
class Loaded:
    """A model on its device, and its tokenizer."""

    model: Any
    tokenizer: Any
    device: torch.device


def choose_dtype(name: str, device: torch.device, checkpoint: torch.dtype | None) -> torch.dtype:
    """`auto`: float32 on a CPU, else the checkpoint's own.

    On a CPU half types round more, and are slower where there are no instructions for them; with those (AVX512-BF16)
    bfloat16 is faster, for whoever asks for it.
    """
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cpu":
        return torch.float32
    return checkpoint if isinstance(checkpoint, torch.dtype) else torch.float16


def load(config: RunConfig, model_path: str, device: torch.device) -> Loaded:
    """Load model and tokenizer, the model onto `device` or spread from there on.

    Raises:
        RuntimeError: the model is to be spread over GPUs, and they do not hold it.
    """
    model_config = transformers.AutoConfig.from_pretrained(model_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_path, padding_side="left")
    if tokenizer.pad_token_id is None:
        # Padding is masked and never counted: any token will do.
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    dtype = choose_dtype(config.dtype, device, getattr(model_config, "dtype", None))
    frees = []
    if device.type == "cuda" and config.gpus_per_rank > 1:
        frees = [torch.cuda.mem_get_info(index)[0] for index in range(config.gpus_per_rank)]
    arguments = {**placed(device, frees), **quantised(config.quantization, dtype)}
    if config.attention != "auto":
        arguments["attn_implementation"] = config.attention
    model = transformers.AutoModelForCausalLM.from_pretrained(model_path, dtype=dtype, **arguments)
    refuse_offloading(getattr(model, "hf_device_map", None) or {}, config.gpus_per_rank)
    # Not moved any more: it is where it belongs, and a quantised or spread model would not let itself be moved.
    model = model.eval()
    if device.type == "cpu" and not config.compile:  # the compiler has products of its own
        packed_linear.pack(model)
    return Loaded(model, tokenizer, device)


def placed(device: torch.device, frees: Sequence[int]) -> dict[str, Any]:
    """Where `from_pretrained` is to put a model: on a CPU, on one GPU, or evenly on those of which `frees` are free.

    Straight onto the device: N ranks would otherwise hold N copies in the host's memory first. A spread
    model gets no room in the host's memory or on disk, where each token would have to fetch it from.
    """
    if device.type != "cuda":
        return {}
    if len(frees) < 2:
        return {"device_map": {"": device}}
    # `balanced` is what `auto` does; by that name transformers does not take it for a mistake of a distributed run.
    return {
        "device_map": "balanced",
        "max_memory": {index: int(WEIGHTS_SHARE * free) for index, free in enumerate(frees)},
    }


def refuse_offloading(device_map: dict[str, Any], gpus: int) -> None:
    """Raise RuntimeError where parts of a model that was to be spread over GPUs are outside of them."""
    outside = sorted(part for part, where in device_map.items() if str(where) in ("cpu", "disk", "meta"))
    if outside and gpus > 1:
        raise RuntimeError(
            f"the model does not fit {gpus} GPUs ({len(outside)} of its parts are left over, {outside[0]} first): "
            "give each rank more with --gpus-per-rank, or make it smaller with --quantization"
        )


def quantised(quantization: str, dtype: torch.dtype) -> dict[str, Any]:
    """What tells `from_pretrained` to quantise the weights as it loads them; nothing for `none`.

    Raises:
        ImportError: the package it needs is not here, or cannot be used.
    """
    if quantization == "bnb-8bit":
        return {"quantization_config": transformers.BitsAndBytesConfig(load_in_8bit=True)}
    if quantization == "bnb-4bit":
        # NF4 holds more of a model's quality than FP4, the default (Dettmers et al., "QLoRA", 2023).
        settings = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype}
        return {"quantization_config": transformers.BitsAndBytesConfig(load_in_4bit=True, **settings)}
    if quantization == "int8":
        from torchao.quantization import Int8WeightOnlyConfig

        return {"quantization_config": transformers.TorchAoConfig(Int8WeightOnlyConfig())}
    return {}


def dtype_text(model: Any, quantization: str) -> str:
    """A model's dtype for people, and how its weights are quantised: `bfloat16`, `bfloat16 int8`, `float16 gptq`."""
    found = getattr(model.config, "quantization_config", None)
    if quantization == "none" and found is not None:
        method = found.get("quant_method") if isinstance(found, dict) else getattr(found, "quant_method", None)
        quantization = str(getattr(method, "value", method) or "none")
    dtype = str(model.dtype).removeprefix("torch.")
    return dtype if quantization == "none" else f"{dtype} {quantization}"


def devices_of(model: Any, device: torch.device) -> list[torch.device]:
    """The devices that hold `model`, the one to which its inputs go first."""
    if device.type != "cuda":
        return [device]
    holding = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    others = sorted((other for other in holding if other.index != (device.index or 0)), key=lambda other: other.index)
    return [device, *others]


def synchronise(devices: Sequence[torch.device]) -> None:
    """Wait until the GPUs among `devices` have done what they were given."""
    for device in devices:
        if device.type == "cuda":
            torch.cuda.synchronize(device)


def reset_peaks(devices: Sequence[torch.device]) -> None:
    """Begin anew with `peak_bytes`."""
    for device in devices:
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(devices: Sequence[torch.device]) -> int | None:
    """The most bytes this process had allocated since `reset_peaks`, each GPU's own peak added up; None on a CPU."""
    if devices[0].type != "cuda":
        return None
    return sum(torch.cuda.max_memory_allocated(device) for device in devices)


def free_and_total(devices: Sequence[torch.device]) -> tuple[int, int]:
    """Free and all bytes of the GPUs together, or of the host for a CPU; other processes' use counted."""
    if devices[0].type != "cuda":
        host = psutil.virtual_memory()
        return host.available, host.total
    both = [torch.cuda.mem_get_info(device) for device in devices]
    return sum(free for free, _ in both), sum(total for _, total in both)


def stored_bytes(tensor: Any) -> int:
    """Bytes that a parameter takes as it is stored: a quantised one has another size than its dtype says."""
    if hasattr(tensor, "__tensor_flatten__"):  # torchao: packed values, scales, zero points
        names, _ = tensor.__tensor_flatten__()
        return sum(stored_bytes(getattr(tensor, name)) for name in names)
    scales = getattr(getattr(tensor, "quant_state", None), "absmax", None)  # bitsandbytes, 4 bits
    if scales is None:
        scales = getattr(tensor, "SCB", None)  # bitsandbytes, 8 bits
    extra = scales.numel() * scales.element_size() if isinstance(scales, torch.Tensor) else 0
    return int(tensor.numel() * tensor.element_size()) + extra
