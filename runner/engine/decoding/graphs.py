"""Steps captured as CUDA graphs: launched as one, where launching some 1,400 kernels is what a step of a GPU waits for.

Knows how a graph is captured and replayed; knows nothing of what a step does, but that it is all on the device and that
its tensors stay where they are.
"""

from collections.abc import Callable, Hashable
from typing import Any

import torch

from rankdeck.runner.engine import errors, memory
from rankdeck.runner.engine.decoding.clock import Figures


class CaptureError(RuntimeError):
    """A step cannot be captured; the text is why, in one line. `figures` are what was computed until then."""

    figures: Figures | None = None


def _first(error: BaseException) -> BaseException:
    """The error that came first: ending a capture that has failed is an error again."""
    while error.__context__ is not None:
        error = error.__context__
    return error


class Graphs:
    """Captured steps, each of its own size, with one pool of memory: none keeps anything there between two steps."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._graphs: dict[Hashable, tuple[Any, Any]] = {}  # with what each reads that its maker might let go
        self._seen: set[Hashable] = set()
        self._pool: Any = None

    def __len__(self) -> int:
        return len(self._graphs)

    def run(self, size: Hashable, step: Callable[[], None], reads: Any) -> None:
        """Do a step of this size: the first as it is, which is also the first use of its kernels; then by its graph.

        A graph reads the tensors that it was captured with: `reads` holds those that do not outlive this batch. They
        are kept with it, and have to be the same for all batches.

        Raises:
            CaptureError: it does something that cannot be captured.
        """
        if size not in self._seen:
            self._seen.add(size)
            step()
            return
        if size not in self._graphs:
            self._graphs[size] = self._captured(step), reads
        self._graphs[size][0].replay()

    def _captured(self, step: Callable[[], None]) -> Any:
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads of a rank ask CUDA for memory figures meanwhile, which is no part of the step.
            # A capture that fails may leave its own stream behind: the outer one is back whatever happens.
            with (
                torch.cuda.stream(torch.cuda.current_stream(self._device)),
                torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"),
            ):
                step()
        except Exception as error:
            if errors.is_out_of_memory(error) or memory.is_lost(error, [self._device]):
                raise
            raise CaptureError(errors.in_one_line(_first(error))) from error
        return graph

    def forget(self) -> None:
        """Drop all graphs: what they read and wrote is gone."""
        self._graphs.clear()
        self._seen.clear()
        self._pool = None
