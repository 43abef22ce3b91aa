"""Stands in for torch.cuda where a rank waits for its GPU, asks for memory, and frees it. Nothing is computed on it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch

from rankdeck.runner.engine import memory

GIB = 2**30


@dataclass
class FakeCuda:
    """GPUs that are alike. `broken` has what synchronize raises, call by call; after the last one it returns."""

    gpus: int = 1
    total: int = 80 * GIB
    free: int = 80 * GIB
    reserved: int = 0
    allocated: int = 0
    out_of_memory: int = 0
    broken: Iterator[Exception] = field(default_factory=lambda: iter(()))
    empty_cache_raises: Exception | None = None
    calls: list[str] = field(default_factory=list)
    fractions: dict[str, float] = field(default_factory=dict)

    def synchronize(self, device: object = None) -> None:
        self.calls.append(f"synchronize {device}")
        for error in self.broken:
            raise error

    def empty_cache(self) -> None:
        self.calls.append("empty_cache")
        if self.empty_cache_raises is not None:
            raise self.empty_cache_raises

    def mem_get_info(self, device: object = None) -> tuple[int, int]:
        self.calls.append(f"mem_get_info {device}")
        return self.free, self.total

    def set_per_process_memory_fraction(self, fraction: float, device: object = None) -> None:
        self.fractions[str(device)] = fraction

    def install(self, monkeypatch: pytest.MonkeyPatch) -> "FakeCuda":
        stubs: dict[str, Callable[..., object]] = {
            "is_available": lambda: True,
            "init": lambda: None,
            "memory_stats": lambda device: {"num_ooms": self.out_of_memory},
            "get_device_properties": lambda device: SimpleNamespace(name="Fake", uuid=f"fake-{device}"),
            "device_count": lambda: self.gpus,
            "memory_reserved": lambda device=None: self.reserved,
            "max_memory_reserved": lambda device=None: self.reserved,
            "max_memory_allocated": lambda device=None: self.allocated,
        }
        own = "synchronize", "empty_cache", "mem_get_info", "set_per_process_memory_fraction"
        for name, stub in {**stubs, **{name: getattr(self, name) for name in own}}.items():
            monkeypatch.setattr(torch.cuda, name, stub)
        monkeypatch.setattr(memory, "_allocate", lambda device: None)
        return self
