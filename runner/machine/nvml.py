"""NVML, the library behind nvidia-smi, as a narrow typed interface.

Knows which calls rankdeck makes, and what their errors mean to a person. Any call may fail alone, for example because
the library lacks its symbol. Values keep NVML's units. Does not know the bindings (`runner.machine.nvml_library`), nor
when to sample what.
"""

import ctypes
from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeAlias

NOT_SUPPORTED = 3
NO_PERMISSION = 4
NOT_FOUND = 6
DRIVER_NOT_LOADED = 9
LIBRARY_NOT_FOUND = 12
FUNCTION_NOT_FOUND = 13
GPU_IS_LOST = 15
RESET_REQUIRED = 16
LIB_RM_VERSION_MISMATCH = 18
NO_DATA = 21
ARGUMENT_VERSION_MISMATCH = 25
DEPRECATED = 26
GPU_NOT_FOUND = 28

GPM_SM_PERCENT = 2
GPM_OCCUPANCY_PERCENT = 3
GPM_TENSOR_PERCENT = 5
GPM_DRAM_PERCENT = 10

_WORDS = {
    NOT_SUPPORTED: "not supported by this GPU",
    NO_PERMISSION: "no permission",
    FUNCTION_NOT_FOUND: "this driver does not have it",
    GPU_IS_LOST: "the GPU is lost: it fell off the bus or stopped answering",
    RESET_REQUIRED: "the GPU needs a reset",
    NO_DATA: "the driver gave no reading",
    ARGUMENT_VERSION_MISMATCH: "this driver does not have it",
    DEPRECATED: "this driver no longer has it",
}

NO_GPU = "the NVIDIA driver is there, but has no GPU"

_NO_NVML = {
    NO_PERMISSION: "no permission to ask the NVIDIA driver: check the rights on /dev/nvidiactl, "
    "or the container's access to GPUs",
    DRIVER_NOT_LOADED: "the NVIDIA driver is installed but not loaded: load it (modprobe nvidia) or reboot",
    LIBRARY_NOT_FOUND: "no NVIDIA driver: libnvidia-ml.so.1 cannot be loaded "
    "(a container must be started with access to GPUs)",
    GPU_IS_LOST: "a GPU is lost: it fell off the bus or stopped answering; reboot",
    LIB_RM_VERSION_MISMATCH: "the NVIDIA library and the loaded driver have different versions "
    "(an update since the last boot): reboot, or reload the driver",
    GPU_NOT_FOUND: NO_GPU,
}

NVML_IS_MISSING = (
    "NVML is missing: libnvidia-ml.so.1 cannot be loaded, and CUDA's libcuda.so.1 can "
    "(a container needs NVIDIA_DRIVER_CAPABILITIES=compute,utility)"
)

Handle: TypeAlias = object
"""A device, as the library hands it out."""

GpmBuffer: TypeAlias = object
"""A snapshot of GPM counters; two of them make a reading."""


class NvmlFailure(Exception):
    """A call that NVML refused; `code` is its nvmlReturn_t, the text is for people."""

    def __init__(self, code: int, text: str | None = None) -> None:
        super().__init__(_WORDS.get(code) or text or f"NVML error {code}")
        self.code = code

    @property
    def lasting(self) -> bool:
        """Whether asking again is useless: this GPU, or this driver, does not have it."""
        return self.code in (NOT_SUPPORTED, FUNCTION_NOT_FOUND, ARGUMENT_VERSION_MISMATCH, DEPRECATED)

    @property
    def lost(self) -> bool:
        """Whether the whole GPU is gone until it is reset."""
        return self.code in (GPU_IS_LOST, RESET_REQUIRED)

    @property
    def forbidden(self) -> bool:
        """Whether permission was denied: for a GPU, that it was given to others."""
        return self.code == NO_PERMISSION


def why_no_nvml(error: Exception) -> str:
    """Why there is no NVML at all, and the cure if there is one, in one line."""
    if only_nvml_is_missing(error):
        return NVML_IS_MISSING
    if isinstance(error, NvmlFailure):
        return _NO_NVML.get(error.code, f"NVML does not start: {error}")
    return " ".join(f"NVML does not start: {error or type(error).__name__}".split())


def only_nvml_is_missing(error: Exception) -> bool:
    """Whether CUDA may have GPUs, as its part of the driver is there: JetPack, or a container without `utility`."""
    return isinstance(error, NvmlFailure) and error.code == LIBRARY_NOT_FOUND and cuda_driver_loads()


def cuda_driver_loads() -> bool:
    """Whether the library that torch's CUDA cannot do without is there. Loading it touches no GPU."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


class BusySample(NamedTuple):
    """The share of one of the driver's sampling periods in which some kernel ran; the clock is the driver's."""

    microseconds: int
    percent: float


class Memory(NamedTuple):
    """Device memory in bytes. Where the driver says what it reserves for itself, that is neither used nor free."""

    used: int
    total: int
    free: int


class NvmlApi(Protocol):
    """The NVML calls that rankdeck makes. Every method raises NvmlFailure if NVML returns an error."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def driver_version(self) -> str: ...
    def cuda_version(self) -> int: ...
    def gpu_count(self) -> int: ...
    def gpu(self, index: int) -> Handle: ...
    def name(self, handle: Handle) -> str: ...
    def uuid(self, handle: Handle) -> str: ...
    def pci_bus_id(self, handle: Handle) -> str: ...
    def minor_number(self, handle: Handle) -> int: ...
    def mig_mode(self, handle: Handle) -> bool: ...
    def mig_devices(self, handle: Handle) -> list[Handle]: ...
    def mig_instances(self, handle: Handle) -> tuple[int, int]: ...
    def busy_samples(self, handle: Handle, since_microseconds: int) -> list[BusySample]: ...
    def busy_percent(self, handle: Handle) -> int: ...
    def memory(self, handle: Handle) -> Memory: ...
    def memory_v1(self, handle: Handle) -> Memory: ...
    def power_milliwatts(self, handle: Handle) -> int: ...
    def power_limit_milliwatts(self, handle: Handle) -> int: ...
    def energy_millijoules(self, handle: Handle) -> int: ...
    def sm_clock_mhz(self, handle: Handle) -> int: ...
    def sm_clock_max_mhz(self, handle: Handle) -> int: ...
    def temperature_celsius(self, handle: Handle) -> int: ...
    def temperature_celsius_v1(self, handle: Handle) -> int: ...
    def slowdown_celsius(self, handle: Handle) -> int: ...
    def clocks_event_reasons(self, handle: Handle) -> int: ...
    def clocks_throttle_reasons(self, handle: Handle) -> int: ...
    def gpm_supported(self, handle: Handle) -> bool: ...
    def gpm_allocate(self) -> GpmBuffer: ...
    def gpm_free(self, buffer: GpmBuffer) -> None: ...
    def gpm_fill(self, handle: Handle, buffer: GpmBuffer) -> None: ...
    def gpm_fill_mig(self, handle: Handle, gpu_instance: int, buffer: GpmBuffer) -> None: ...
    def gpm_compare(
        self, before: GpmBuffer, after: GpmBuffer, metrics: Sequence[int]
    ) -> dict[int, float | NvmlFailure]: ...
