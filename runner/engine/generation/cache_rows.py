"""The rows of a cache: taking out those that have ended, and joining the rows of several caches.

Knows transformers' cache layers: keys and values, sliding windows, the states of recurrent layers.
"""

from collections.abc import Sequence
from typing import Any

import torch


class KeptRows:
    """The rows of a batch that stay, as an index on every device that asks for it.

    A CPU index would work on tensors of any device, but torch would copy it again for every layer's keys and values.
    """

    def __init__(self, rows: list[int]) -> None:
        self._host = torch.tensor(rows)
        self._on: dict[torch.device, torch.Tensor] = {}

    def on(self, device: torch.device) -> torch.Tensor:
        """The index, [rows that stay], on `device`: copied there once."""
        if device not in self._on:
            self._on[device] = self._host.to(device)
        return self._on[device]

    def take_out(self, cache: Any) -> None:
        """Keep only these rows of a cache. The layers of a spread model are on several devices.

        Each layer reorders all that it holds of a row; `batch_select_indices` would leave recurrent states as they are.
        """
        for layer in cache.layers:
            layer.reorder_cache(self._on_device_of(layer))

    def _on_device_of(self, layer: Any) -> torch.Tensor:
        held = getattr(layer, "keys", None)
        device = held.device if held is not None else getattr(layer, "device", None)
        return self._host if device is None else self.on(device)


def join(caches: Sequence[Any], lacking: Sequence[int]) -> Any:
    """The first cache, with the rows of all, each shifted to the right by as many slots as it lacks.

    The others are empty then. Only for plain lists of keys and values: a window, or a state, cannot be shifted.
    """
    for place, layer in enumerate(caches[0].layers):
        for name in ("keys", "values"):
            parts = (
                torch.nn.functional.pad(getattr(cache.layers[place], name), (0, 0, less, 0))
                for cache, less in zip(caches, lacking, strict=True)
            )  # each [rows, heads, width, head width]
            setattr(layer, name, torch.cat(list(parts)))
            for cache in caches[1:]:  # freed layer by layer: prompts may fill most of a GPU's memory
                setattr(cache.layers[place], name, None)
    return caches[0]


def stacked(parts: Sequence[torch.Tensor], lacking: Sequence[int], filling: int) -> torch.Tensor:
    """These rows, each [rows, width], below each other, filled on the left where their widths are lacking."""
    padded = (
        torch.nn.functional.pad(part, (less, 0), value=filling) for part, less in zip(parts, lacking, strict=True)
    )
    return torch.cat(list(padded))
