"""What a model keeps of a call in its own modules, outside any cache, and making it forget that.

A few recurrent models do (RecurrentGemma): a prompt of one token, which looks like a step, would go on from the prompt
before. Rotary positions that go by the longest text (dynamic) do: they stay stretched for the texts after a long one.
Knows torch's modules; knows no models.
"""

from typing import Any

import torch

Kept = None | bool | int | float | torch.Tensor


class OwnState:
    """The plain values and tensors that hang on a model's modules now, and which buffers they have; no parameters."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model
        self._hold()

    def _hold(self) -> None:
        model = self._model
        self._held = [(vars(module), _values(module)) for module in model.modules()]
        buffers = ((module, dict(module.named_buffers(recurse=False))) for module in model.modules())
        self._buffers = [(module, held) for module, held in buffers if held]
        self._weights = [(weight, _version(weight)) for weight in model.parameters()]

    def restore(self) -> bool:
        """Put them back as they were; returns whether any was another, or new.

        A model that has changed its weights has noted that, too (RWKV, which scales them at its first call, once): then
        what it has now is what is kept.
        """
        if any(_version(weight) != version for weight, version in self._weights):
            self._hold()
            return False
        changed = False
        for now, before in self._held:
            for name in [name for name, value in now.items() if _is_value(name, value) or name in before]:
                if name not in before:
                    del now[name]
                elif now[name] is before[name]:
                    continue
                else:
                    now[name] = before[name]
                changed = True
        for module, buffers in self._buffers:
            for name, buffer in buffers.items():
                if getattr(module, name, None) is not buffer:
                    setattr(module, name, buffer)
                    changed = True
        return changed


def _values(module: torch.nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if _is_value(name, value)}


def _version(weight: torch.Tensor) -> int | None:
    """Goes up with each change in place; None for tensors made in inference mode, which have none."""
    return None if weight.is_inference() else weight._version


def _is_value(name: str, value: Any) -> bool:
    return not name.startswith("_") and isinstance(value, Kept)
