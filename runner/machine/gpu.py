"""One watched GPU: its identity, and a sample of its figures.

Knows which NVML call gives which figure, in which unit, which figures a MIG device lacks, and that a lost GPU is
left alone. Does not know when to sample, which GPUs to watch, nor which rank runs where.
"""

import contextlib
import math
import os
from pathlib import Path
from typing import NamedTuple

import msgspec

from rankdeck.runner.machine.check import OF_THE_WHOLE_GPU
from rankdeck.runner.machine.gpu_metrics import GPM_FIELDS, Gpm, Metric, Missing, Reading, figure, throttle_words
from rankdeck.runner.machine.nvml import (
    NO_PERMISSION,
    NOT_FOUND,
    BusySample,
    Handle,
    Memory,
    NvmlApi,
    NvmlFailure,
)
from rankdeck.runner.machine.visible_gpus import GpuNames, MigNames
from rankdeck.runner.protocol import DeviceSample

_BUSY_FIELDS = ("busy_percent", "busy_min_percent", "busy_max_percent")
_MEMORY_FIELDS = ("memory_used_bytes", "memory_total_bytes", "memory_free_bytes")
_POWER_FIELDS = ("power_watts", "power_limit_watts", "energy_joules")

DEVICE_FILES = Path("/dev")


class MigDevice(NamedTuple):
    """A MIG device of a GPU; `instances` are the ids of its GPU instance and compute instance, if known."""

    handle: Handle
    uuid: str
    name: str
    instances: tuple[int, int] | None


class Gpu:
    """One GPU by its NVML index, with its identity; whatever could not be read is asked for again."""

    def __init__(self, api: NvmlApi, index: int) -> None:
        self._api = api
        self.index = index
        self.handle: Handle | None = None
        self.uuid = ""
        self.name = ""
        self.pci_bus_id: str | None = None
        self.lost = False
        self.forbidden = False
        """NVML lists it, but this process may not open it: in a container, it was given to others. CUDA skips it."""
        self._has_no_uuid = False
        self.failure: NvmlFailure | None = None
        """Why it has no handle or no UUID."""
        self.mig_mode = False
        self.mig_devices: list[MigDevice] = []

    def identify(self) -> NvmlFailure | None:
        """Fill in what is not known yet; returns the last failure, if there was one."""
        last_failure: NvmlFailure | None = None
        for learn in (self._open, self._learn_uuid, self._learn_name, self._learn_pci_bus_id):
            try:
                learn()
            except NvmlFailure as failure:
                last_failure = failure
                if not self.uuid and learn in (self._open, self._learn_uuid):
                    self.failure = failure
                self.lost = self.lost or failure.lost
                self.forbidden = self.forbidden or failure.forbidden
                if self.handle is None or self.lost:
                    break
        return last_failure

    def _open(self) -> None:
        if self.handle is None:
            handle = self._api.gpu(self.index)
            if not self._device_file_opens(handle):
                raise NvmlFailure(NO_PERMISSION)
            self.handle = handle

    def _device_file_opens(self, handle: Handle) -> bool:
        """Whether this process may open /dev/nvidia<N>; True where GPUs have no such files, as in WSL."""
        try:
            own = DEVICE_FILES / f"nvidia{self._api.minor_number(handle)}"
        except NvmlFailure:
            return True
        return os.access(own, os.R_OK | os.W_OK) or not any(DEVICE_FILES.glob("nvidia[0-9]*"))

    def _learn_uuid(self) -> None:
        try:
            self.uuid = self.uuid or self._api.uuid(self.handle)
        except NvmlFailure as failure:
            self._has_no_uuid = failure.lasting
            raise
        self._has_no_uuid = not self.uuid

    def _learn_name(self) -> None:
        self.name = self.name or self._api.name(self.handle)

    def _learn_pci_bus_id(self) -> None:
        self.pci_bus_id = self.pci_bus_id or self._api.pci_bus_id(self.handle)

    def find_mig_devices(self) -> None:
        """Read MIG mode, and the MIG devices with their names; a GPU or driver without MIG has none."""
        if self.handle is None:
            return
        try:
            self.mig_mode = self._api.mig_mode(self.handle)
            handles = self._api.mig_devices(self.handle) if self.mig_mode else []
        except NvmlFailure as failure:
            self.lost = self.lost or failure.lost
            return
        for handle in handles:
            # Skip one that has been removed since it was listed.
            with contextlib.suppress(NvmlFailure):
                self.mig_devices.append(self._mig_device(handle))

    def _mig_device(self, handle: Handle) -> MigDevice:
        instances = None
        with contextlib.suppress(NvmlFailure):
            instances = self._api.mig_instances(handle)
        return MigDevice(handle, self._api.uuid(handle), self._api.name(handle), instances)

    @property
    def broken(self) -> bool:
        """Lost, or it does not open or tell its UUID though it should. CUDA, which has to open it too, cannot use it.

        A GPU or driver that has no UUIDs at all is none of these.
        """
        nameless = self.handle is None or not (self.uuid or self._has_no_uuid)
        return self.lost or (nameless and not self.forbidden)

    @property
    def names(self) -> GpuNames:
        return GpuNames(
            self.uuid, self.broken, self.mig_mode, tuple(MigNames(mig.uuid, mig.instances) for mig in self.mig_devices)
        )


class Device:
    """A watched GPU or MIG device.

    A MIG device has its own memory, and its GPU instance's GPM figures. Clocks, temperature and what lowers the clocks
    are its GPU's, and hold for it too. Power and energy are its GPU's as well, and say nothing about it.
    """

    def __init__(self, api: NvmlApi, gpu: Gpu, mig: int | None) -> None:
        self._api = api
        self._gpu = gpu
        self._mig = None if mig is None else gpu.mig_devices[mig]
        self._metrics: list[Metric] = []
        self._gpm: Gpm | None = None
        self._last_busy_sample: int | None = None

    def sample(self) -> DeviceSample:
        """A sample of the device. Never raises NvmlFailure."""
        gpu = self._gpu
        failure = None if gpu.lost else gpu.identify()
        values: dict[str, object] = {}
        if not gpu.lost and gpu.handle is not None:
            if not self._metrics:
                self._metrics = self._list_metrics(gpu.handle)
            try:
                for metric in self._metrics:
                    values.update(metric.read())
            except NvmlFailure as lost:
                gpu.lost, failure = True, lost
        if gpu.lost or gpu.handle is None:
            reason = "the GPU is lost" if gpu.lost else f"the GPU cannot be opened: {failure}"
            values = dict.fromkeys(METRIC_FIELDS, Missing(reason))
        unavailable = {field: value.reason for field, value in values.items() if isinstance(value, Missing)}
        if gpu.broken and not gpu.lost:
            unavailable["uuid"] = str(gpu.failure)
        if gpu.pci_bus_id is None:
            unavailable["pci_bus_id"] = str(failure) if failure else "the GPU is lost"
        one = gpu if self._mig is None else self._mig
        identity = DeviceSample(index=gpu.index, uuid=one.uuid, name=one.name or f"GPU {gpu.index}")
        return msgspec.structs.replace(
            identity,
            pci_bus_id=gpu.pci_bus_id,
            lost=gpu.lost,
            unavailable=unavailable,
            **{field: value for field, value in values.items() if not isinstance(value, Missing)},
        )

    def close(self) -> None:
        if self._gpm is not None:
            self._gpm.close()

    def _list_metrics(self, handle: Handle) -> list[Metric]:
        api, mig = self._api, self._mig
        memory_handle = handle if mig is None else mig.handle
        whole = [
            Metric(_BUSY_FIELDS, lambda: self._read_busy_samples(handle), lambda: self._read_busy(handle)),
            # From Ampere on (but not on an A100) NVML's power is a mean over the last second.
            figure("power_watts", lambda: api.power_milliwatts(handle) / 1000),
            figure("power_limit_watts", lambda: api.power_limit_milliwatts(handle) / 1000),
            figure("energy_joules", lambda: api.energy_millijoules(handle) / 1000),
        ]
        return [
            *(whole if mig is None else [Metric((*_BUSY_FIELDS, *_POWER_FIELDS), reason=OF_THE_WHOLE_GPU)]),
            Metric(
                _MEMORY_FIELDS,
                lambda: _memory_reading(api.memory(memory_handle)),
                lambda: _memory_reading(api.memory_v1(memory_handle)),
            ),
            figure("sm_clock_mhz", lambda: api.sm_clock_mhz(handle)),
            figure("sm_clock_max_mhz", lambda: api.sm_clock_max_mhz(handle)),
            figure(
                "temperature_celsius",
                lambda: api.temperature_celsius(handle),
                lambda: api.temperature_celsius_v1(handle),
            ),
            figure("slowdown_celsius", lambda: api.slowdown_celsius(handle)),
            figure(
                "throttle_reasons",
                lambda: throttle_words(api.clocks_event_reasons(handle)),
                lambda: throttle_words(api.clocks_throttle_reasons(handle)),
            ),
            self._gpm_metric(handle),
        ]

    def _gpm_metric(self, handle: Handle) -> Metric:
        fields = tuple(GPM_FIELDS.values())
        if self._mig is None:
            self._gpm = Gpm(self._api, handle)
        elif self._mig.instances is None:
            return Metric(fields, reason=OF_THE_WHOLE_GPU)
        else:
            self._gpm = Gpm(self._api, handle, gpu_instance=self._mig.instances[0])
        return Metric(fields, self._gpm.read)

    def _read_busy_samples(self, handle: Handle) -> Reading:
        since = self._last_busy_sample
        # The driver also returns unused and garbled slots of its ring buffer: they are no samples.
        samples = [
            sample
            for sample in self._list_busy_samples(handle)
            if sample.microseconds > (since or 0) and 0 <= sample.percent <= 100
        ]
        self._last_busy_sample = max((sample.microseconds for sample in samples), default=since or 0)
        # At the first call the ring buffer holds samples from before, of any age.
        if not samples or since is None:
            raise NvmlFailure(NOT_FOUND, "no samples since the last look")
        percents = [sample.percent for sample in samples]
        return {
            "busy_percent": math.fsum(percents) / len(percents),
            "busy_min_percent": min(percents),
            "busy_max_percent": max(percents),
        }

    def _list_busy_samples(self, handle: Handle) -> list[BusySample]:
        try:
            return self._api.busy_samples(handle, self._last_busy_sample or 0)
        except NvmlFailure as failure:
            if failure.code == NOT_FOUND:  # NVML's way to say there are none.
                return []
            raise

    def _read_busy(self, handle: Handle) -> Reading:
        # An idle GPU writes no samples; then there is only this one reading, without a spread.
        one_reading = Missing("the driver has no samples since the last look, only one reading")
        return {
            **dict.fromkeys(_BUSY_FIELDS, one_reading),
            "busy_percent": float(self._api.busy_percent(handle)),
        }


METRIC_FIELDS = tuple(
    field
    for field in DeviceSample.__struct_fields__
    if field not in ("index", "uuid", "name", "pci_bus_id", "lost", "unavailable")
)
"""The fields of a DeviceSample that are figures: each has a value, or a reason in `unavailable`."""


def _memory_reading(memory: Memory) -> Reading:
    return {
        "memory_used_bytes": memory.used,
        "memory_total_bytes": memory.total,
        "memory_free_bytes": memory.free,
    }
