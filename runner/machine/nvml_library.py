"""NVML through its real bindings: `pynvml`, of the distribution nvidia-ml-py.

Knows their functions, and how they say that there is no value. Every failure comes out as an NvmlFailure.
"""

import contextlib
from collections.abc import Sequence
from typing import Any, ClassVar

import pynvml

from rankdeck.runner.machine.nvml import (
    FUNCTION_NOT_FOUND,
    NO_DATA,
    NO_PERMISSION,
    NOT_FOUND,
    BusySample,
    GpmBuffer,
    Handle,
    Memory,
    NvmlFailure,
)


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
