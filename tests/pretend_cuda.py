"""A CUDA device that this machine does not have: values are computed on the CPU, devices are those of a GPU.

Within `PretendCuda` a tensor made on `cuda`, or moved there, reports that device and works only with tensors of its own
device, as on a GPU; whatever the host reads from it, or sends to it, is counted. It says nothing about speed, memory
or kernels. It knows torch's dispatch; it knows no engine.

torch's FakeTensorMode has devices without GPUs as well, but no values: at every step `generate` looks whether all rows
have ended, and there is no answer to that.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

aten = torch.ops.aten
READS = (
    aten._local_scalar_dense.default,
    aten.item.default,
    aten.is_nonzero.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.equal.default,
)
"""What waits for the device, since its result is a number on the host or a shape."""

INDEXING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)
"""What takes indices from the host, too: they are copied at every call."""

CPU = torch.device("cpu")


class OnDevice(torch.Tensor):
    """A tensor on a simulated device; `host` has its values."""

    host: torch.Tensor

    @staticmethod
    def __new__(cls, host: torch.Tensor, device: torch.device) -> "OnDevice":
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            host.shape,
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            device=CPU,
        )
        made.host, made.place = host, device
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @property
    def device(self) -> torch.device:
        return self.place

    @property
    def is_cuda(self) -> bool:
        return True

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} outside of PretendCuda")

    def __repr__(self) -> str:
        return f"OnDevice({self.host!r})"


class _Moves(TorchFunctionMode):
    """Calls that name a device, before torch itself looks for it."""

    def __init__(self, mode: "PretendCuda") -> None:
        self._mode = mode

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", str(func))
        if func is torch.device and isinstance(args[0], int):
            return _device(args[0])
        if name in ("tolist", "numpy") and isinstance(args[0], OnDevice):
            self._mode.reads[name] += 1
            return func(args[0].host)
        if name in ("to", "cuda", "cpu") and args and isinstance(args[0], torch.Tensor):
            return self._to(func, name, args, kwargs)
        asked = kwargs.pop("device", None)
        if asked is None or (isinstance(asked, torch.device) and asked.type == "meta"):
            return func(*args, **kwargs, **({} if asked is None else {"device": asked}))
        device = _device(asked)
        if device.type == "cpu":
            return func(*args, **kwargs, device=CPU)
        if name in ("tensor", "as_tensor", "new_tensor"):
            self._mode.copies[name] += 1  # a list of the host's
        made = func(*args, **kwargs, device=CPU)
        return made if isinstance(made, OnDevice) else OnDevice(made, device)

    def _to(self, func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        tensor, *others = args
        places = [value for value in (*others, kwargs.get("device")) if _names_device(value)]
        if name != "to":
            places = [torch.device("cuda", 0) if name == "cuda" else CPU]
        if others and isinstance(others[0], torch.Tensor):
            places = [others[0].device]
            others = [others[0].dtype]
        if not places:
            return func(*args, **kwargs)
        device = _device(places[0])
        rest = [value for value in others if not _names_device(value)]
        kwargs.pop("device", None)
        values = tensor.host if isinstance(tensor, OnDevice) else tensor
        if rest or kwargs:
            values = torch.Tensor.to(values, *rest, **kwargs)
        if device.type == "cpu":
            if isinstance(tensor, OnDevice):
                self._mode.reads["to"] += 1
            return values
        if isinstance(tensor, OnDevice) and tensor.device == device:
            return tensor if values is tensor.host else OnDevice(values, device)
        self._mode.copies["to"] += 1
        return OnDevice(values.clone(), device)


def _names_device(value: Any) -> bool:
    return isinstance(value, str | torch.device) or (isinstance(value, int) and not isinstance(value, bool))


def _device(named: str | int | torch.device) -> torch.device:
    device = torch.device("cuda", named) if isinstance(named, int) else torch.device(named)
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else device


class PretendCuda(TorchDispatchMode):
    """Within it `cuda` is a device. `reads` counts by operator what the host waited for, `copies` what it sent."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: Counter[str] = Counter()
        self.copies: Counter[str] = Counter()
        self._moves = _Moves(self)

    def forget(self) -> None:
        """Reset the counts."""
        self.reads.clear()
        self.copies.clear()

    def place(self, model: torch.nn.Module, device: str = "cuda") -> torch.nn.Module:
        """The model with its weights on the device: in place, as `to` would, which cannot take these tensors."""
        for module in model.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    module._parameters[name] = torch.nn.Parameter(parameter.detach().to(device), requires_grad=False)
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = buffer.to(device)
        return model

    def spread(self, model: torch.nn.Module, devices: Mapping[str, str]) -> torch.nn.Module:
        """The model with each named module on its own device, to which its inputs are moved, as accelerate does."""
        for name, device in devices.items():
            module = self.place(model.get_submodule(name), device)
            module.register_forward_pre_hook(
                lambda _, args, kwargs, device=device: tree_map(
                    lambda value: value.to(device) if isinstance(value, torch.Tensor) else value, (args, kwargs)
                ),
                with_kwargs=True,
            )
        first = next(iter(devices.values()))
        model.get_output_embeddings().register_forward_hook(lambda _, args, logits: logits.to(first))
        return model

    def __enter__(self) -> "PretendCuda":
        self._moves.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._moves.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = (args, kwargs or {})
        tensors = [value for value in tree_flatten(given)[0] if isinstance(value, torch.Tensor)]
        ours = [value for value in tensors if isinstance(value, OnDevice)]
        host_args, host_kwargs = tree_map(lambda value: value.host if isinstance(value, OnDevice) else value, given)
        result = func(*host_args, **host_kwargs)
        if not ours:
            return result
        self._look(func, args, tensors, {value.device for value in ours})
        owners = {id(value.host): value for value in ours}
        if func is aten.copy_.default and not isinstance(args[0], OnDevice):
            return args[0]

        def placed(value: Any) -> Any:
            if not isinstance(value, torch.Tensor) or isinstance(value, OnDevice):
                return value
            return owners[id(value)] if id(value) in owners else OnDevice(value, ours[0].device)

        return tree_map(placed, result)

    def _look(self, func: Any, args: Any, tensors: list[torch.Tensor], devices: set[torch.device]) -> None:
        """Count what meets the host, and refuse what a GPU would refuse."""
        name = func.__name__
        if func in READS:
            self.reads[name] += 1
        strangers = [value for value in tensors if not isinstance(value, OnDevice) and value.dim() > 0]
        if len(devices) == 1 and not strangers:
            return
        if func in INDEXING and isinstance(args[0], OnDevice):
            self.copies[name] += len(strangers)
        elif func is aten.copy_.default:
            (self.copies if isinstance(args[0], OnDevice) else self.reads)[name] += 1
        else:
            met = sorted({str(value.device) for value in tensors})
            raise RuntimeError(f"{name}: tensors on {' and '.join(met)} meet")
