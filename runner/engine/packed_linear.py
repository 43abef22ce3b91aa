"""Linear layers whose weights are packed once for the CPU's matrix kernels (oneDNN), not at every product.

A decode step multiplies few rows by every weight of the model, and torch's ordinary product on a CPU packs the weights
anew each time. With packed weights the products of a 135 M parameter model take less time: 0.78 of it for 1 row, 0.58
for 16, 0.71 for 50, 0.91 for 400 (measured, AMD EPYC, one thread, float32). The results equal those of the ordinary
product up to the order of the sums. The price is memory: ranks share the pages of the weights' file, but each has its
own packed copy (0.5 GiB a rank for this model in float32). The file's pages stay counted while the input embedding is
read from them, but the system may reclaim them.

Knows torch's linear layer; knows no models, engines or batches.
"""

from collections.abc import Callable
from typing import Any

import torch

ROWS = 64
"""Weights are packed for this many rows; 16 and 512 measured the same."""

DTYPES = (torch.float32, torch.bfloat16)
"""Types of weights that can be packed, if the CPU has the kernels."""

CLOSE = 2e-2
"""A probe that differs by more than this, absolutely and relatively, was not the same product; two roundings of
bfloat16 differ by less than half of it."""


class PackedLinear(torch.nn.Module):
    """A linear layer with packed weights, for inference only.

    It counts its parameters as before; `weight` takes no memory unless other modules share it.
    """

    def __init__(self, linear: torch.nn.Linear, *, shared: bool) -> None:
        super().__init__()
        weight = linear.weight.detach()
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)  # [out, in], opaque
        self.in_features, self.out_features, self.bias = linear.in_features, linear.out_features, linear.bias
        counted = linear.weight if shared else torch.nn.Parameter(weight.to("meta"), requires_grad=False)
        self._parameters["weight"] = counted  # not as an attribute: that is `weight` below

    @property
    def weight(self) -> torch.Tensor:
        """[out, in], for code that reads it beside calling the layer: laid out anew each time, unless it is shared."""
        counted = self._parameters["weight"]
        assert counted is not None
        return self._packed.to_dense() if counted.is_meta else counted

    def unpacked(self) -> torch.nn.Linear:
        """The layer as it was."""
        layer = torch.nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        weight = self.weight
        layer.weight = weight if isinstance(weight, torch.nn.Parameter) else torch.nn.Parameter(weight, False)
        layer.bias = self.bias
        return layer.eval()

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """[..., in] to [..., out]."""
        return torch.ops.mkldnn._linear_pointwise(rows, self._packed, self.bias, "none", [], "")


def pack(model: torch.nn.Module, leave: Callable[[str], bool] = lambda name: False) -> int:
    """Replace the linear layers of a model on the CPU. Returns how many: 0 where torch or the CPU lack the kernels.

    Quantised layers, other kinds of layers, and those whose name `leave` is true of, stay as they are.
    """
    layers = [(name, layer) for name, layer in packable(model).items() if not leave(name)]
    if not layers or not all(has_kernels(dtype) for dtype in {layer.weight.dtype for _, layer in layers}):
        return 0
    uses: dict[int, int] = {}
    for _, parameter in model.named_parameters(remove_duplicate=False):
        uses[id(parameter)] = uses.get(id(parameter), 0) + 1
    for name, layer in layers:
        put(model, name, PackedLinear(layer, shared=uses[id(layer.weight)] > 1))
    return len(layers)


def unpack(model: torch.nn.Module) -> None:
    """Put the linear layers back that `pack` has replaced."""
    for name, module in list(model.named_modules()):
        if isinstance(module, PackedLinear):
            put(model, name, module.unpacked())


def packable(model: torch.nn.Module) -> dict[str, torch.nn.Linear]:
    """The layers that can be packed, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if type(module) is torch.nn.Linear and type(module.weight) is torch.nn.Parameter and _packable(module.weight)
    }


def put(model: torch.nn.Module, name: str, layer: torch.nn.Module) -> None:
    """Put a layer in the place of the one of this name."""
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, layer)


def _packable(weight: Any) -> bool:
    return weight.device.type == "cpu" and weight.dtype in DTYPES


def has_kernels(dtype: torch.dtype) -> bool:
    """Whether this build and CPU have the kernels. They are not public in torch, so a probe is computed."""
    if not torch.backends.mkldnn.is_available():
        return False
    # A fixed seed, so that all ranks decide alike; forked, so that the run's own random numbers stay the same.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = torch.nn.Linear(48, 32, dtype=dtype)
        rows = torch.randn(3, 5, 48, dtype=dtype)
    try:
        with torch.inference_mode():
            packed = PackedLinear(layer, shared=False)
            same = torch.allclose(packed(rows), layer(rows), atol=CLOSE, rtol=CLOSE)
            return same and torch.equal(packed.weight, layer.weight)
    except (RuntimeError, AttributeError):  # the build has no such operator, or the CPU no such instructions
        return False
