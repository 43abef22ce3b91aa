"""Loads a model from its folder: dtype, quantisation, and the GPUs it goes to.

Knows the arguments of `from_pretrained`. Which GPUs a rank sees is settled before (`runner.machine.placement`), and
the packages that quantising needs are checked before any rank starts (`runner.inputs.quantization`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers

from rankdeck.runner.engine import weights
from rankdeck.runner.engine.generation import settings, vocabulary
from rankdeck.runner.engine.trials import packing
from rankdeck.runner.engine.trials.findings import NOTHING_KEPT, Findings, files_of, findings_on
from rankdeck.runner.protocol.config import RunConfig

WEIGHTS_SHARE = 0.9
"""Share of each GPU's free memory that weights may take, where a model is spread over several."""


@dataclass(frozen=True)
class Loaded:
    """A model on its device, and its tokenizer; `notes` are lines for people on how it was loaded.

    `findings` are what is known of it from earlier trials.
    """

    model: Any
    tokenizer: Any
    device: torch.device
    notes: tuple[str, ...] = ()
    findings: Findings = NOTHING_KEPT


class Parts(NamedTuple):
    """A model but for its weights; `generation` is its generation config, `notes` are lines for people."""

    config: Any
    tokenizer: Any
    generation: Any
    dtype: torch.dtype
    notes: list[str]


def parts_of(config: RunConfig, model_path: str, device: torch.device) -> Parts:
    """All of a model that is not weights, as its folder has it.

    Raises:
        ValueError: its generation config is none.
    """
    code = {"trust_remote_code": config.trust_remote_code}
    model_config = transformers.AutoConfig.from_pretrained(model_path, **code)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_path, padding_side="left", **code)
    notes = vocabulary.settle_config(model_config)
    generation, set_aside = settings.read(model_path)
    dtype = choose_dtype(config.dtype, device, getattr(model_config, "dtype", None))
    return Parts(model_config, tokenizer, generation, dtype, [*set_aside, *notes])


def choose_dtype(name: str, device: torch.device, checkpoint: torch.dtype | None) -> torch.dtype:
    """The dtype of this name; `auto` is float32 on a CPU, else the checkpoint's own.

    On a CPU half types round more, and are slower without instructions for them; with those (AVX512-BF16) bfloat16 is
    faster, but has to be asked for.
    """
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cpu":
        return torch.float32
    return checkpoint if isinstance(checkpoint, torch.dtype) else torch.float16


def load(config: RunConfig, model_path: str, device: torch.device, trials: Path | None = None) -> Loaded:
    """Load model and tokenizer, the model onto `device` or spread over several GPUs from there on.

    `trials` is the folder of what earlier trials have found out; without one every trial is made.

    Raises:
        RuntimeError: the model was to be spread over GPUs, and does not fit them.
        WrongWeightsError: the weights are not all there, or not of this model.
        ValueError: its generation config is none.
    """
    code = {"trust_remote_code": config.trust_remote_code}
    # A model's own code may do anything, and so depend on anything.
    kept = trials if device.type == "cpu" and not config.trust_remote_code else None
    files = [] if kept is None else files_of(Path(model_path))
    parts = parts_of(config, model_path, device)
    dtype, notes = parts.dtype, list(parts.notes)
    devices = devices_for(config, device)
    frees = [torch.cuda.mem_get_info(each)[0] for each in devices] if len(devices) > 1 else []
    arguments = {**placed(device, frees), **quantised(config.quantization, dtype), **code}
    if config.attention != "auto":
        arguments["attn_implementation"] = config.attention
    if parts.generation is not None:
        arguments["generation_config"] = parts.generation
    model, found = transformers.AutoModelForCausalLM.from_pretrained(
        model_path,
        config=parts.config,
        dtype=dtype,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # so that they are told, with all others that are wrong
        **arguments,
    )
    notes += weights.checked(model, found, model_path)
    refuse_offloading(getattr(model, "hf_device_map", None) or {}, config.gpus_per_rank)
    # The model is on its device already; a quantised or spread model could not be moved.
    model = model.eval()
    if vars(model).pop("generate", None) is not None:
        notes.append(
            "the model brings its own custom_generate, which is ignored: rankdeck decodes with transformers' own"
        )
    settings_of_trials = (str(dtype), config.attention, config.quantization)
    findings = findings_on(Path(model_path), files, settings_of_trials, kept)
    if device.type == "cpu":
        notes += filter(None, [packing.pack(model, parts.tokenizer, findings)])
    return Loaded(model, parts.tokenizer, device, tuple(notes), findings)


def dtype_note_of(model: Any, device: torch.device) -> str | None:
    """A line for people if `model` computes in a dtype in which its GPU is slow; see `float32_note`."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return None
    if model.dtype == torch.bfloat16 and torch.cuda.get_device_capability(device) < (8, 0):
        return "the weights are bfloat16, which this GPU's tensor cores do not support: --dtype float16 is far faster"
    if model.dtype != torch.float32:
        return None
    return float32_note(torch.cuda.get_device_capability(device), torch.get_float32_matmul_precision() != "highest")


def float32_note(capability: tuple[int, int], tf32: bool) -> str | None:
    """What float32 costs on a GPU of this compute capability, and the cure; None where it costs little.

    Tensor cores for float16 came with 7.0, those for bfloat16 and TF32 (float32 with the mantissa of float16) with
    8.0. torch leaves TF32 off, and so does a run: it changes answers.
    """
    if capability < (7, 0) or tf32:
        return None
    if capability < (8, 0):
        return "the weights are float32, which this GPU's tensor cores do not support: --dtype float16 is far faster"
    return (
        "the weights are float32, and torch does not use this GPU's tensor cores for float32: --dtype bfloat16 "
        "is far faster, in half the memory; TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1 in the environment keeps float32 "
        "and rounds inside products only (TF32)"
    )


def placed(device: torch.device, frees: Sequence[int]) -> dict[str, Any]:
    """Arguments that tell `from_pretrained` where to put a model: on a CPU, on one GPU, or evenly on several.

    `frees` are the free bytes of those several. The model goes straight onto the device: otherwise N ranks would hold N
    copies in the host's memory first. A spread model may use neither host memory nor disk, from where every token
    would have to fetch it.
    """
    if device.type != "cuda":
        return {}
    if len(frees) < 2:
        return {"device_map": {"": device}}
    # `balanced` does the same as `auto`, which transformers takes for a mistake in a distributed run.
    return {
        "device_map": "balanced",
        "max_memory": {index: int(WEIGHTS_SHARE * free) for index, free in enumerate(frees)},
    }


def refuse_offloading(device_map: dict[str, Any], gpus: int) -> None:
    """Raise RuntimeError if parts of a model that was spread over GPUs ended up outside them."""
    outside = sorted(part for part, where in device_map.items() if str(where) in ("cpu", "disk", "meta"))
    if outside and gpus > 1:
        raise RuntimeError(
            f"the model does not fit {gpus} GPUs ({len(outside)} of its parts are left over, {outside[0]} first): "
            "give each rank more with --gpus-per-rank, or make it smaller with --quantization"
        )


def quantised(quantization: str, dtype: torch.dtype) -> dict[str, Any]:
    """Arguments that tell `from_pretrained` to quantise the weights as it loads them; none for `none`.

    Raises:
        ImportError: the package that this needs is missing or unusable.
    """
    if quantization == "bnb-8bit":
        return {"quantization_config": transformers.BitsAndBytesConfig(load_in_8bit=True)}
    if quantization == "bnb-4bit":
        # NF4 keeps more of a model's quality than FP4, the default (Dettmers et al., "QLoRA", 2023).
        settings = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype}
        return {"quantization_config": transformers.BitsAndBytesConfig(load_in_4bit=True, **settings)}
    if quantization == "int8":
        from torchao.quantization import Int8WeightOnlyConfig

        return {"quantization_config": transformers.TorchAoConfig(Int8WeightOnlyConfig())}
    return {}


def dtype_text(model: Any, quantization: str) -> str:
    """A model's dtype and quantisation for people: `bfloat16`, `bfloat16 int8`, `float16 gptq`."""
    found = getattr(model.config, "quantization_config", None)
    if quantization == "none" and found is not None:
        method = found.get("quant_method") if isinstance(found, dict) else getattr(found, "quant_method", None)
        quantization = str(getattr(method, "value", method) or "none")
    dtype = str(model.dtype).removeprefix("torch.")
    return dtype if quantization == "none" else f"{dtype} {quantization}"


def devices_for(config: RunConfig, device: torch.device) -> list[torch.device]:
    """The devices that a model goes to: `device`, or all GPUs of a rank that has several."""
    if device.type != "cuda" or config.gpus_per_rank < 2:
        return [device]
    return [torch.device("cuda", index) for index in range(config.gpus_per_rank)]


def devices_of(model: Any, device: torch.device) -> list[torch.device]:
    """The devices that hold `model`; the first is the one its inputs go to."""
    if device.type != "cuda":
        return [device]
    holding = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    others = sorted((other for other in holding if other.index != (device.index or 0)), key=lambda other: other.index)
    return [device, *others]
