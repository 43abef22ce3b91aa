"""One watched GPU: its identity, and a sample of its figures.

Knows which NVML call gives which figure, in which unit, and that a lost GPU is left alone. Does not
know when to sample, which GPUs to watch, nor which rank runs where.
"""

import math

import msgspec

from rankdeck.runner.machine.gpu_metrics import GPM_FIELDS, Gpm, Metric, Missing, Reading, figure, throttle_words
from rankdeck.runner.machine.nvml import NOT_FOUND, BusySample, Handle, Memory, NvmlApi, NvmlFailure
from rankdeck.runner.machine.visible_gpus import GpuNames
from rankdeck.runner.protocol import DeviceSample

_BUSY_FIELDS = ("busy_percent", "busy_min_percent", "busy_max_percent")
_MEMORY_FIELDS = ("memory_used_bytes", "memory_total_bytes")


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
        self.mig_mode = False
        self.mig_devices: list[tuple[Handle, str, str]] = []

    def identify(self) -> NvmlFailure | None:
        """Fill in what is not known yet; returns the last failure, if there was one."""
        last_failure: NvmlFailure | None = None
        for learn in (self._open, self._learn_uuid, self._learn_name, self._learn_pci_bus_id):
            try:
                learn()
            except NvmlFailure as failure:
                last_failure = failure
                self.lost = self.lost or failure.lost
                if self.handle is None or self.lost:
                    break
        return last_failure

    def _open(self) -> None:
        if self.handle is None:
            self.handle = self._api.gpu(self.index)

    def _learn_uuid(self) -> None:
        self.uuid = self.uuid or self._api.uuid(self.handle)

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
            if self.mig_mode:
                self.mig_devices = [
                    (device, self._api.uuid(device), self._api.name(device))
                    for device in self._api.mig_devices(self.handle)
                ]
        except NvmlFailure as failure:
            self.lost = self.lost or failure.lost

    @property
    def names(self) -> GpuNames:
        return GpuNames(self.uuid, self.mig_mode, tuple(uuid for _, uuid, _ in self.mig_devices))


class Device:
    """A watched GPU or MIG device. A MIG device has its own memory figures, and its GPU's for the rest."""

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
        if gpu.pci_bus_id is None:
            unavailable["pci_bus_id"] = str(failure) if failure else "the GPU is lost"
        _, uuid, name = self._mig or (None, gpu.uuid, gpu.name)
        identity = DeviceSample(index=gpu.index, uuid=uuid, name=name or f"GPU {gpu.index}")
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
        api = self._api
        memory_handle = self._mig[0] if self._mig else handle
        self._gpm = Gpm(api, handle)

        return [
            Metric(_BUSY_FIELDS, lambda: self._read_busy_samples(handle), lambda: self._read_busy(handle)),
            Metric(
                _MEMORY_FIELDS,
                lambda: _memory_reading(api.memory(memory_handle)),
                lambda: _memory_reading(api.memory_v1(memory_handle)),
            ),
            figure("power_watts", lambda: api.power_milliwatts(handle) / 1000),
            figure("power_limit_watts", lambda: api.power_limit_milliwatts(handle) / 1000),
            figure("energy_joules", lambda: api.energy_millijoules(handle) / 1000),
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
            Metric(tuple(GPM_FIELDS.values()), self._gpm.read),
        ]

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
    return {"memory_used_bytes": memory.used, "memory_total_bytes": memory.total}
