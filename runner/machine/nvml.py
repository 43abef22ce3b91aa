"""NVML, the library behind nvidia-smi, as a narrow typed interface.

Knows the `pynvml` bindings (distribution nvidia-ml-py) and what their errors mean to a person. Any call may fail alone,
for example because the library lacks its symbol. Values keep NVML's units. Does not know when to sample what.
"""

import contextlib
import ctypes
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, TypeAlias

import pynvml

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


def clean(text: str | bytes) -> str:
    """A driver's string that is safe to show: decoded, without control characters."""
    decoded = text.decode(errors="replace") if isinstance(text, bytes) else text
    return "".join(character for character in decoded if character.isprintable()).strip()


# How the driver says "no value" in a call that succeeds: -1 as an unsigned number.
_NO_VALUE = (2**32 - 1, 2**64 - 1)


def _call(function: str, *arguments: object) -> Any:
    """Call one function of the bindings, and raise every failure as NvmlFailure."""
    if not hasattr(pynvml, function):
        raise NvmlFailure(FUNCTION_NOT_FOUND)
    try:
        return getattr(pynvml, function)(*arguments)
    except pynvml.NVMLError as error:
        raise NvmlFailure(error.value, str(error)) from None
    except UnicodeDecodeError as error:
        # The bindings decode strings strictly; `clean` decodes what it can of the bytes.
        return error.object


def _number(function: str, *arguments: object) -> int:
    value = int(_call(function, *arguments))
    if value in _NO_VALUE:
        raise NvmlFailure(NO_DATA)
    return value


class PynvmlApi:
    """NVML through the real bindings, which stays initialised from the first start to the end of the process.

    NVML counts its inits, and with the last shutdown it lets go of the GPUs. Without persistence mode each of them is
    then brought up anew at the next start, which takes seconds, and a command starts NVML several times before it runs.
    So the process holds one init of its own.
    """

    _held: ClassVar[object] = None
    """The library, as the bindings have loaded it, that is held."""

    def start(self) -> None:
        _call("nvmlInit")
        if PynvmlApi._held is not pynvml.nvmlLib:
            with contextlib.suppress(NvmlFailure):
                _call("nvmlInit")
                PynvmlApi._held = pynvml.nvmlLib

    def stop(self) -> None:
        _call("nvmlShutdown")

    def driver_version(self) -> str:
        return clean(_call("nvmlSystemGetDriverVersion"))

    def cuda_version(self) -> int:
        # The newest CUDA that the driver runs: 12080 is 12.8.
        return int(_call("nvmlSystemGetCudaDriverVersion_v2"))

    def gpu_count(self) -> int:
        return int(_call("nvmlDeviceGetCount"))

    def gpu(self, index: int) -> Handle:
        handle: Handle = _call("nvmlDeviceGetHandleByIndex", index)
        return handle

    def name(self, handle: Handle) -> str:
        return clean(_call("nvmlDeviceGetName", handle))

    def uuid(self, handle: Handle) -> str:
        return clean(_call("nvmlDeviceGetUUID", handle))

    def pci_bus_id(self, handle: Handle) -> str:
        # In NVML's own format, from its numbers: a GPU is always function 0 of its PCI device.
        info = _call("nvmlDeviceGetPciInfo", handle)
        return f"{info.domain:08X}:{info.bus:02X}:{info.device:02X}.0"

    def minor_number(self, handle: Handle) -> int:
        return _number("nvmlDeviceGetMinorNumber", handle)

    def mig_mode(self, handle: Handle) -> bool:
        current, _pending = _call("nvmlDeviceGetMigMode", handle)
        return bool(current)

    def mig_devices(self, handle: Handle) -> list[Handle]:
        devices: list[Handle] = []
        for slot in range(_number("nvmlDeviceGetMaxMigDeviceCount", handle)):
            try:
                devices.append(_call("nvmlDeviceGetMigDeviceHandleByIndex", handle, slot))
            except NvmlFailure as failure:
                # An empty slot, or another container's device: the ones after it may be taken, and ours.
                if failure.code not in (NOT_FOUND, NO_PERMISSION):
                    raise
        return devices

    def mig_instances(self, handle: Handle) -> tuple[int, int]:
        return _number("nvmlDeviceGetGpuInstanceId", handle), _number("nvmlDeviceGetComputeInstanceId", handle)

    def busy_samples(self, handle: Handle, since_microseconds: int) -> list[BusySample]:
        kind, samples = _call("nvmlDeviceGetSamples", handle, pynvml.NVML_GPU_UTILIZATION_SAMPLES, since_microseconds)
        field = _VALUE_FIELDS.get(kind)
        if field is None:
            raise NvmlFailure(NO_DATA)
        return [BusySample(sample.timeStamp, float(getattr(sample.sampleValue, field))) for sample in samples]

    def busy_percent(self, handle: Handle) -> int:
        return int(_call("nvmlDeviceGetUtilizationRates", handle).gpu)

    def memory(self, handle: Handle) -> Memory:
        return _memory(_call("nvmlDeviceGetMemoryInfo", handle, pynvml.nvmlMemory_v2))

    def memory_v1(self, handle: Handle) -> Memory:
        return _memory(_call("nvmlDeviceGetMemoryInfo", handle))

    def power_milliwatts(self, handle: Handle) -> int:
        return _number("nvmlDeviceGetPowerUsage", handle)

    def power_limit_milliwatts(self, handle: Handle) -> int:
        return _number("nvmlDeviceGetEnforcedPowerLimit", handle)

    def energy_millijoules(self, handle: Handle) -> int:
        return _number("nvmlDeviceGetTotalEnergyConsumption", handle)

    def sm_clock_mhz(self, handle: Handle) -> int:
        return _number("nvmlDeviceGetClockInfo", handle, pynvml.NVML_CLOCK_SM)

    def sm_clock_max_mhz(self, handle: Handle) -> int:
        return _number("nvmlDeviceGetMaxClockInfo", handle, pynvml.NVML_CLOCK_SM)

    def temperature_celsius(self, handle: Handle) -> int:
        return _number("nvmlDeviceGetTemperatureV", handle, pynvml.NVML_TEMPERATURE_GPU)

    def temperature_celsius_v1(self, handle: Handle) -> int:
        return _number("nvmlDeviceGetTemperature", handle, pynvml.NVML_TEMPERATURE_GPU)

    def slowdown_celsius(self, handle: Handle) -> int:
        return _number("nvmlDeviceGetTemperatureThreshold", handle, pynvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN)

    def clocks_event_reasons(self, handle: Handle) -> int:
        return int(_call("nvmlDeviceGetCurrentClocksEventReasons", handle))

    def clocks_throttle_reasons(self, handle: Handle) -> int:
        return int(_call("nvmlDeviceGetCurrentClocksThrottleReasons", handle))

    def gpm_supported(self, handle: Handle) -> bool:
        return bool(_call("nvmlGpmQueryDeviceSupport", handle).isSupportedDevice)

    def gpm_allocate(self) -> GpmBuffer:
        buffer: GpmBuffer = _call("nvmlGpmSampleAlloc")
        return buffer

    def gpm_free(self, buffer: GpmBuffer) -> None:
        _call("nvmlGpmSampleFree", buffer)

    def gpm_fill(self, handle: Handle, buffer: GpmBuffer) -> None:
        _call("nvmlGpmSampleGet", handle, buffer)

    def gpm_fill_mig(self, handle: Handle, gpu_instance: int, buffer: GpmBuffer) -> None:
        _call("nvmlGpmMigSampleGet", handle, gpu_instance, buffer)

    def gpm_compare(
        self, before: GpmBuffer, after: GpmBuffer, metrics: Sequence[int]
    ) -> dict[int, float | NvmlFailure]:
        request = pynvml.c_nvmlGpmMetricsGet_t()
        request.version = pynvml.NVML_GPM_METRICS_GET_VERSION
        request.numMetrics = len(metrics)
        request.sample1, request.sample2 = before, after
        for position, metric in enumerate(metrics):
            request.metrics[position].metricId = metric
        _call("nvmlGpmMetricsGet", request)
        readings: dict[int, float | NvmlFailure] = {}
        for position, metric in enumerate(metrics):
            answer = request.metrics[position]
            readings[metric] = NvmlFailure(answer.nvmlReturn) if answer.nvmlReturn else float(answer.value)
        return readings


# The field of nvmlValue_t that holds a value, by its nvmlValueType_t.
_VALUE_FIELDS = dict(enumerate(("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")))


def _memory(info: Any) -> Memory:
    if info.used in _NO_VALUE or info.total in _NO_VALUE:
        raise NvmlFailure(NO_DATA)
    return Memory(int(info.used), int(info.total), int(info.free))
