"""The decode loop as it is on a GPU, on a CPU: the sizes of its steps, the host a step behind; but no graph."""

from collections.abc import Callable

from torch.utils._python_dispatch import TorchDispatchMode

from rankdeck.runner.engine.decoding import loop
from rankdeck.runner.engine.static import StaticEngine


class Behind:
    """What the host sees a step behind, of a tensor that can be read at once."""

    def __init__(self, status):
        self._status, self._before = status, None

    def look(self):
        before, self._before = self._before, self._status.tolist()
        return before

    def forget(self):
        self._before = None


class Operations(TorchDispatchMode):
    """Notes the operations of a step, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.names.append(str(operation))
        return operation(*args, **(kwargs or {}))


def as_it_is(_size, step: Callable[[], None], _reads: object) -> None:
    """Run a step that would be replayed."""
    step()


def capture(engine: StaticEngine, monkeypatch, run=as_it_is) -> StaticEngine:
    """Have the engine run its steps as if they were captured: each is run as it would be recorded, by `run`."""
    monkeypatch.setattr(loop, "LooksBehind", Behind)
    if engine._workspace is not None:
        engine._captures = True
        engine._workspace.by_lookup = False  # which a GPU has not
        engine._workspace.close()
        engine._workspace.graphs.run = run
    return engine
