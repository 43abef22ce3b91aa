"""What engine code uses of transformers beyond its documented interface, and a check that it is there.

transformers promises nothing about these names from one release to the next. So they are listed here, and every rank
looks for them before it loads a model: a release that has dropped one is refused by its name, not in the middle of a
batch. torch's unpublished operators are probed where they are used (`runner.engine.packed_linear`), since a build may
have a name and lack the kernel.
"""

import dataclasses
import importlib
import inspect
from collections.abc import Sequence
from typing import NamedTuple

import transformers

OLDEST, NEWEST = "5.17", "5.24"
"""The releases of transformers that the engines are tested with (`make versions`), and those between them."""


class Name(NamedTuple):
    """A name that engine code uses: its module and class, and the attribute, which an object may get only later."""

    module: str
    owner: str
    attribute: str

    def __str__(self) -> str:
        return f"{self.owner}.{self.attribute}"


def _names(module: str, owner: str, *attributes: str) -> tuple[Name, ...]:
    return tuple(Name(f"transformers.{module}", owner, attribute) for attribute in attributes)


_OUTPUT = {field.name for field in dataclasses.fields(transformers.generation.GenerateDecoderOnlyOutput)}
CACHE = "cache" if "cache" in _OUTPUT else "past_key_values"
"""The name under which `generate` takes and returns the key and value cache: `cache` since 5.24."""

_BATCHING = "generation.continuous_batching"

STATIC = (
    *_names("cache_utils", "Cache", "layers"),
    *_names("cache_utils", "DynamicLayer", "keys", "values", "reorder_cache"),
    *_names("cache_utils", "CacheLayerMixin", "keys", "values", "is_initialized", "lazy_initialization", "update"),
    *_names("cache_utils", "CacheLayerMixin", "get_mask_sizes", "get_seq_length", "get_max_length"),
    *_names("generation.utils", "GenerateDecoderOnlyOutput", "sequences", CACHE),
    *_names("generation.configuration_utils", "GenerationConfig", "to_diff_dict"),
    *_names("generation.utils", "GenerationMixin", "_optimize_model_for_decode"),
    *_names("configuration_utils", "PreTrainedConfig", "_attn_implementation"),
    *_names("modeling_utils", "PreTrainedModel", "_supports_attention_backend"),
)

CONTINUOUS = (
    *_names("generation.utils", "GenerationMixin", "_get_logits_processor", "init_continuous_batching"),
    *_names("generation.logits_process", "LogitsProcessor", "supports_continuous_batching"),
    *_names("modeling_utils", "PreTrainedModel", "set_attn_implementation"),
    *_names("configuration_utils", "PreTrainedConfig", "_attn_implementation"),
    *_names("generation.configuration_utils", "ContinuousBatchingConfig", "num_blocks", "max_batch_tokens", "seed"),
    *_names("generation.configuration_utils", "ContinuousBatchingConfig", "max_memory_percent", "return_logprobs"),
    *_names(f"{_BATCHING}.continuous_api", "ContinuousBatchingManager", "warmup", "start", "stop", "is_running"),
    *_names(f"{_BATCHING}.continuous_api", "ContinuousBatchingManager", "add_requests", "get_result", "current_batch"),
    *_names(f"{_BATCHING}.continuous_api", "ContinuousBatchingManager", "batch_processor", "background_thread_status"),
    *_names(f"{_BATCHING}.continuous_api", "BackgroundThreadStatus", "fatal_error", "local_status", "DONT_STOP"),
    *_names(f"{_BATCHING}.continuous_api", "ContinuousBatchProcessor", "scheduler", "cache"),
    *_names(f"{_BATCHING}.scheduler", "Scheduler", "active_requests"),
    *_names(f"{_BATCHING}.requests", "RequestState", "generated_len"),
    *_names(f"{_BATCHING}.requests", "GenerationOutput", "request_id", "error", "generated_tokens", "timestamps"),
    *_names(f"{_BATCHING}.requests", "GenerationOutput", "logprobs"),
    *_names("modeling_utils", "PreTrainedModel", "_is_stateful", "_supports_flash_attn"),
)
"""Of these, `runner.engine.continuous` reads the cache's figures only where they are there."""

SHARING = (
    *_names(f"{_BATCHING}.cache", "PagedAttentionCache", "evict_cached_blocks"),
    *_names(f"{_BATCHING}.continuous_api", "ContinuousBatchingManager", "pause"),
)
"""For sharing blocks among rows with the continuous engine; not in 5.17."""


def missing(names: Sequence[Name]) -> list[Name]:
    """Those that this transformers does not have."""
    return [name for name in names if not _is_there(name)]


def why_unusable(names: Sequence[Name], what: str) -> str | None:
    """Why `what` cannot work with this transformers, and what to do; None if all `names` are there."""
    if not (lacking := missing(names)):
        return None
    return (
        f"transformers {transformers.__version__} has no {', '.join(map(str, lacking))}, which {what} needs: "
        f"rankdeck is tested with transformers {OLDEST} to {NEWEST}; install one of these, for example with "
        f"pip install 'transformers=={NEWEST}.*'"
    )


def require_static() -> None:
    """Raise RuntimeError where the static engine cannot work."""
    if (said := why_unusable(STATIC, "the static engine")) is not None:
        raise RuntimeError(said)


def _is_there(name: Name) -> bool:
    try:
        owner = getattr(importlib.import_module(name.module), name.owner)
    except (ImportError, AttributeError):
        return False
    if dataclasses.is_dataclass(owner) and name.attribute in {field.name for field in dataclasses.fields(owner)}:
        return True
    return hasattr(owner, name.attribute) or any(_sets(kind, name.attribute) for kind in inspect.getmro(owner))


def _sets(kind: type, attribute: str) -> bool:
    """Whether a method of this class, usually its constructor, mentions `attribute`."""
    functions = (inspect.unwrap(member) for member in vars(kind).values() if inspect.isfunction(member))
    return any(attribute in function.__code__.co_names for function in functions)
