"""Linear layers whose weights are laid out once for the CPU's own matrix kernels (oneDNN), not at every product.

A decode step multiplies few rows by every weight of the model, and torch's ordinary product on a CPU lays the weights
out anew each time. Laid out beforehand the products of a 135 M parameter model take less: 0.78 of the time for 1 row,
0.58 for 16, 0.71 for 50, 0.91 for 400 (measured, AMD EPYC, one thread, float32). The results are those of the ordinary
product up to the order of its sums. The price is memory: packed weights are a rank's own, where ranks share the file
that they came from (0.5 GiB a rank for this model in float32); the file's pages stay counted as long as the input
embedding is read from it, but the system may take them back.

Knows torch's linear layer; nothing of models, engines or batches.
"""

from typing import Any

import torch

ROWS = 64
"""For so many rows the kernels are asked to lay weights out; 16 and 512 were measured, and gave the same."""

CLOSE = 2e-2
"""A probe whose results differ by more than this (in absolute terms, and in share of the value) was not computed by the
same product; two roundings of bfloat16 differ by less than half of it."""


class PackedLinear(torch.nn.Module):
    """What a linear layer computes, from weights in the kernel's own layout; for inference only.

    `weight` tells shape, dtype and size as before; unless other modules use it too, it holds no memory.
    """

    def __init__(self, linear: torch.nn.Linear, *, shared: bool) -> None:
        super().__init__()
        weight = linear.weight.detach()
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)  # [out, in], opaque
        self.in_features, self.out_features, self.bias = linear.in_features, linear.out_features, linear.bias
        self.weight = linear.weight if shared else torch.nn.Parameter(weight.to("meta"), requires_grad=False)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """[..., in] to [..., out]."""
        return torch.ops.mkldnn._linear_pointwise(rows, self._packed, self.bias, "none", [], "")


def pack(model: torch.nn.Module) -> int:
    """Replace the linear layers of a model on the CPU; returns how many were, 0 where this torch or CPU cannot.

    Quantised layers and those of other kinds stay as they are.
    """
    layers = [
        (name, module)
        for name, module in model.named_modules()
        if type(module) is torch.nn.Linear and type(module.weight) is torch.nn.Parameter and _packable(module.weight)
    ]
    if not layers or not all(has_kernels(dtype) for dtype in {layer.weight.dtype for _, layer in layers}):
        return 0
    uses: dict[int, int] = {}
    for _, parameter in model.named_parameters(remove_duplicate=False):
        uses[id(parameter)] = uses.get(id(parameter), 0) + 1
    for name, layer in layers:
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, PackedLinear(layer, shared=uses[id(layer.weight)] > 1))
    return len(layers)


def _packable(weight: Any) -> bool:
    return weight.device.type == "cpu" and weight.dtype in (torch.float32, torch.bfloat16)


def has_kernels(dtype: torch.dtype) -> bool:
    """Whether this build and CPU have the kernels: they are no public part of torch, so they are tried, not trusted."""
    if not torch.backends.mkldnn.is_available():
        return False
    # The same probe every time, so that no rank decides otherwise, and none of the run's own luck is used up.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = torch.nn.Linear(48, 32, dtype=dtype)
        rows = torch.randn(3, 5, 48, dtype=dtype)
    try:
        with torch.inference_mode():
            return torch.allclose(PackedLinear(layer, shared=True)(rows), layer(rows), atol=CLOSE, rtol=CLOSE)
    except (RuntimeError, AttributeError):  # the build has no such operator, or the CPU no such instructions
        return False
