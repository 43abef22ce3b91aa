"""Which packages a quantised model, or a kind of attention, needs, and whether they are installed; imports none.

Knows the values of `--quantization`, what transformers requires for each, and where a model's config.json says that it
is quantised already. `runner.engine.loading` does the quantising.
"""

import importlib.util
import re
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from rankdeck.runner.protocol.config import Problem


class Package(NamedTuple):
    """A package: the module to import, the name for pip, and the oldest version that transformers 5 accepts."""

    module: str
    pip: str
    least: str = "0"


BITSANDBYTES = Package("bitsandbytes", "bitsandbytes", "0.46.1")
TORCHAO = Package("torchao", "torchao", "0.15.0")

ON_LOADING: dict[str, Package] = {"bnb-8bit": BITSANDBYTES, "bnb-4bit": BITSANDBYTES, "int8": TORCHAO}
"""The package for each way to quantise a model as it is loaded."""

OF_CHECKPOINTS: dict[str, tuple[Package, ...]] = {
    "aqlm": (Package("aqlm", "aqlm[gpu,cpu]"),),
    "auto-round": (Package("auto_round", "auto-round", "0.5.0"),),
    "awq": (Package("gptqmodel", "gptqmodel"),),
    "bitsandbytes": (BITSANDBYTES,),
    "compressed-tensors": (Package("compressed_tensors", "compressed-tensors"),),
    "eetq": (Package("kernels", "kernels"),),
    "fbgemm_fp8": (Package("fbgemm_gpu", "fbgemm-gpu"),),
    "fp_quant": (Package("fp_quant", "fp_quant"),),
    "gptq": (Package("gptqmodel", "gptqmodel"), Package("optimum", "optimum")),
    "higgs": (Package("flute", "flute-kernel"), Package("fast_hadamard_transform", "fast_hadamard_transform")),
    "hqq": (Package("hqq", "hqq", "0.2.1"),),
    "quanto": (Package("optimum.quanto", "optimum-quanto"),),
    "quark": (Package("quark", "amd-quark"),),
    "sinq": (Package("sinq", "sinq"),),
    "spqr": (Package("spqr_quant", "spqr_quant[gpu]"),),
    "torchao": (TORCHAO,),
    "vptq": (Package("vptq", "vptq"),),
}
"""The packages that a checkpoint of each `quant_method` needs. Methods not listed need none, or are too new."""

Version = Callable[[Package], str | None]
"""From a package to its installed version (`?` if it has none), or None."""


def check(
    quantization: str, model_config: dict[str, Any], version: Version | None = None, *, by_vllm: bool = False
) -> list[Problem]:
    """Why a model with this config.json (empty if unknown) cannot be loaded with `quantization`.

    vLLM brings what it needs for a checkpoint that is quantised, and says which it does not know.
    """
    version = version or installed
    method = quantised_by(model_config)
    if method is not None:
        needed = () if by_vllm else OF_CHECKPOINTS.get(method, ())
        problems = _lacking(f"the model is quantised by {method}, which", needed, version)
        found = [Problem("model", said) for said in problems]
        if quantization != "none":
            found.append(Problem("quantization", f"the model is quantised already, by {method}; leave it out"))
        return found
    packages = (ON_LOADING[quantization],) if quantization in ON_LOADING else ()
    return [Problem("quantization", said) for said in _lacking(quantization, packages, version)]


FLASH = {
    "flash_attention_2": ("flash_attn", "flash-attn --no-build-isolation"),
    "flash_attention_3": ("flash_attn_interface", "kernels"),
}
"""The module of each attention that needs a package, and what to tell pip; the package `kernels` brings both, too."""


def check_attention(attention: str, version: Version | None = None) -> list[Problem]:
    """Why this `--attention` cannot be used."""
    version = version or installed
    if attention not in FLASH:
        return []
    module, pip = FLASH[attention]
    if version(Package(module, module)) or version(Package("kernels", "kernels")):
        return []
    return [Problem("attention", f"{attention} needs a package of its own: pip install {pip}")]


def quantised_by(model_config: dict[str, Any]) -> str | None:
    """The `quant_method` in a config.json; None for a model that is not quantised."""
    nested = model_config.get("text_config")
    for values in (model_config, nested if isinstance(nested, dict) else {}):
        found = values.get("quantization_config")
        if isinstance(found, dict):
            method = found.get("quant_method")
            if method is None and (found.get("load_in_8bit") or found.get("load_in_4bit")):
                method = "bitsandbytes"
            return None if method is None else str(method)
    return None


def read_model_config(folder: str) -> dict[str, Any]:
    """The config.json in a model's folder; empty if it cannot be read: the ranks will say what is wrong."""
    try:
        values = msgspec.json.decode((Path(folder).expanduser() / "config.json").read_bytes())
    except (OSError, RuntimeError, ValueError):  # RuntimeError: an unknown ~user
        return {}
    return values if isinstance(values, dict) else {}


def installed(package: Package) -> str | None:
    """The installed version of `package`, `?` if it has none, None if it is not installed."""
    try:
        if importlib.util.find_spec(package.module) is None:
            return None
    except (ImportError, ValueError):
        return None
    try:
        return metadata.version(package.pip.partition("[")[0])
    except metadata.PackageNotFoundError:
        return "?"


def _lacking(who: str, packages: tuple[Package, ...], version: Version) -> list[str]:
    """Sentences on the packages that are missing or too old, each with what to do."""
    said = []
    missing = [package for package in packages if version(package) is None]
    if missing:
        names = " and ".join(package.pip.partition("[")[0] for package in missing)
        words = "package" if len(missing) == 1 else "packages"
        # Brackets have to be quoted for a shell.
        wanted = " ".join(f"'{package.pip}'" if "[" in package.pip else package.pip for package in missing)
        said.append(f"{who} needs the {words} {names}: pip install {wanted}")
    for package in packages:
        here = version(package)
        if here is not None and here != "?" and numbers(here) < numbers(package.least):
            said.append(
                f"{who} needs {package.pip} {package.least} or later, here is {here}: pip install -U {package.pip}"
            )
    return said


def numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: `0.46.1.dev0+cu128` as (0, 46, 1)."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()
