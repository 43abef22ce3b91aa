"""The configs of a model's layers, where they are not all alike.

transformers refuses to say of the whole model what differs from layer to layer (Gemma 4's heads). Knows configs alone.
"""

from collections.abc import Sequence
from typing import Any


def layer_configs(text: Any) -> Sequence[Any]:
    """A config for each layer; the model's own for all, where it makes no difference between them."""
    if getattr(text, "is_heterogeneous", False):
        return list(text.per_layer_config)
    return [text] * (getattr(text, "num_hidden_layers", None) or 0)


def value_of(config: Any, name: str) -> Any:
    """What a config has under a name; None if nothing, or something else for each layer."""
    try:
        return getattr(config, name, None)
    except RuntimeError:  # transformers' AmbiguousGlobalPerLayerAttributeError, which is no AttributeError
        return None
