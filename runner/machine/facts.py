"""What a machine has, as values: GPUs, cores, memory, packages, terminal, places on disk. Pure.

`runner.machine.examine` finds them out, `runner.machine.doctor` judges them. None means not found out, never 0.
"""

from collections.abc import Sequence

import msgspec

from rankdeck.runner.inputs.flash_attention import FlashFound
from rankdeck.runner.inputs.memory_room import Room
from rankdeck.runner.protocol import DeviceSample


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Host, cores and memory, and the GPUs that a run under this environment would watch.

    `seen` lists the devices that a run may use, in CUDA's order, each as a position in `gpus`, or None if it is not
    known which GPU it is. `no_gpu` says why there are none. `not_ours` is the number of GPUs that the driver lists and
    this process may not open, `left_out` that of whole GPUs which a run does not get because it gets MIG devices.
    """

    host: str = ""
    cores: int = 1
    memory_free_bytes: int | None = None
    memory_total_bytes: int | None = None
    gpus: tuple[DeviceSample, ...] = ()
    seen: tuple[int | None, ...] = ()
    no_gpu: str | None = None
    not_ours: int = 0
    left_out: int = 0
    by_number: bool = False
    """CUDA_VISIBLE_DEVICES, set or not, can name these GPUs by nvidia-smi's numbers."""
    uncounted: bool = False
    """CUDA may have GPUs, but NVML is missing, which would count them."""
    driver: str | None = None
    cuda: tuple[int, int] | None = None
    """The newest CUDA that the driver runs, major and minor."""

    @property
    def visible(self) -> int:
        """The number of devices that a run may use."""
        return len(self.seen)

    @property
    def free(self) -> Room:
        """Free memory of each device that a run would see, and of the host."""
        return self._room([None if gpu.lost else gpu.memory_free_bytes for gpu in self.gpus], self.memory_free_bytes)

    @property
    def whole(self) -> Room:
        """The memory that each device has in all, likewise."""
        return self._room([None if gpu.lost else gpu.memory_total_bytes for gpu in self.gpus], self.memory_total_bytes)

    def _room(self, figures: Sequence[int | None], host: int | None) -> Room:
        mig = any(gpu.is_mig for gpu in self.gpus)
        known = [position for position in self.seen if position is not None]
        if len(known) == self.visible:
            numbers = () if mig else tuple(self.gpus[position].index for position in known)
            in_order = tuple(figures[position] for position in known)
            return Room(in_order, host, numbers=numbers, by_number=self.by_number, mig=mig)
        # Of a run that sees all GPUs the figures are known, though not in which order CUDA counts them.
        sees_all = len(figures) == self.visible
        return Room(tuple(figures) if sees_all else (None,) * self.visible, host, ordered=False, mig=mig)


class TorchFound(msgspec.Struct, frozen=True, kw_only=True):
    """What torch said about CUDA in a separate process. `error` is why it said nothing."""

    available: bool = False
    cuda: str | None = None
    """The CUDA it was built for; None for a CPU build."""
    devices: tuple[str, ...] = ()
    uuids: tuple[str, ...] = ()
    capabilities: tuple[tuple[int, int], ...] = ()
    """Compute capability of each device, major and minor."""
    error: str | None = None


class WritablePlace(msgspec.Struct, frozen=True, kw_only=True):
    """A directory that rankdeck writes to, or would make. `error` says why it cannot."""

    path: str
    free_bytes: int | None = None
    error: str | None = None


class Terminal(msgspec.Struct, frozen=True, kw_only=True):
    """The terminal for the dashboard. `size` is columns and rows; None without a terminal."""

    size: tuple[int, int] | None = None
    term: str = ""
    colours: str = ""
    encoding: str = ""
    no_colour: bool = False
    over_ssh: bool = False
    tmux_clipboard: str | None = None
    """The value of tmux's set-clipboard; None outside of tmux."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that `rankdeck doctor` examined."""

    machine: Machine = Machine()
    python: str = ""
    packages: dict[str, str] = {}
    environ: dict[str, str] = {}
    torch: TorchFound | None = None
    runs: WritablePlace = WritablePlace(path="")
    cache: WritablePlace = WritablePlace(path="")
    runtime: WritablePlace = WritablePlace(path="")
    socket_bytes: int = 0
    shared_memory_bytes: int | None = None
    open_files: int | None = None
    demo_cached: bool = False
    pip: bool = False
    flash: FlashFound = FlashFound()
    vllm: str | None = None
    """The vLLM that is installed, and what it was built for."""
    accelerate_config: str | None = None
    terminal: Terminal = Terminal()
