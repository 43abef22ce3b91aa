"""Samples what the GPUs and the ranks' processes are doing.

Knows how to open NVML, which GPUs a job's environment lets it use, and what to say if there are none. Does not know
when to sample (the supervisor does), how a GPU is sampled (`runner.machine.gpu`), nor which rank runs on which GPU
(`runner.state.rank_gpus`).
"""

import os
from collections.abc import Mapping
from typing import NamedTuple

import psutil

from rankdeck.runner.machine.check import counted
from rankdeck.runner.machine.gpu import Device, Gpu
from rankdeck.runner.machine.nvml import (
    NO_GPU,
    NvmlApi,
    NvmlFailure,
    only_nvml_is_missing,
    why_no_nvml,
)
from rankdeck.runner.machine.nvml_library import PynvmlApi
from rankdeck.runner.machine.placement import COUNTED
from rankdeck.runner.machine.visible_gpus import (
    VISIBLE,
    entries,
    gpu_numbers,
    places_to_sample,
    visible_places,
    whole_gpus_left_out,
)
from rankdeck.runner.protocol import DeviceSample, ProcessSample

CONTAINER_CURE = "start the container with the GPUs that it needs, as in docker run --gpus all"


class VisibleGpu(NamedTuple):
    """A device that a run may use; `gpu` is its index in NVML's order, as in nvidia-smi."""

    gpu: int
    uuid: str
    name: str

    @property
    def is_mig(self) -> bool:
        return self.uuid.startswith("MIG-")


class Telemetry:
    """Samples the GPUs and the ranks' processes. Not thread-safe.

    `not_ours` is the number of GPUs that NVML lists and this process may not open, `left_out` that of whole GPUs which
    a job does not get because it gets MIG devices. With `uncounted` CUDA may have GPUs though NVML is missing.
    """

    def __init__(self, api: NvmlApi | None, devices: list[Device], reason: str | None) -> None:
        self._api = api
        self._devices = devices
        self._processes: dict[int, _Process] = {}
        self.gpus = len(devices)
        self.reason = reason
        self.not_ours = 0
        self.left_out = 0
        self.uncounted = False

    @classmethod
    def open(cls, environ: Mapping[str, str] = os.environ, api: NvmlApi | None = None) -> "Telemetry":
        """Telemetry for a job under `environ`. Never raises: without NVML `reason` says why, in one line."""
        api = PynvmlApi() if api is None else api
        try:
            listed = _start(api)
        except Exception as error:
            none = cls(None, [], why_no_nvml(error))
            none.uncounted = only_nvml_is_missing(error)
            return none
        gpus = _ours(listed)
        names = [gpu.names for gpu in gpus]
        places = places_to_sample(environ, names, {gpu.name for gpu in gpus if not gpu.broken})
        reason = None if places else _why_no_gpu(listed, gpus, environ.get(VISIBLE))
        opened = cls(api, [Device(api, gpus[place.gpu], place.mig) for place in places], reason)
        opened.not_ours = len(listed) - len(gpus)
        opened.left_out = whole_gpus_left_out(environ.get(VISIBLE), names)
        return opened

    def sample_devices(self) -> list[DeviceSample]:
        """A sample of every GPU. A figure that cannot be read is None, with its reason; nothing is raised."""
        return [device.sample() for device in self._devices]

    def sample_processes(self, pids: Mapping[int, int]) -> list[ProcessSample]:
        """CPU since the last sample and resident memory of each rank's process; `pids` by rank.

        The first sample of a process has no CPU figure; a process that has ended has no figures.
        """
        watched: dict[int, _Process] = {}
        for rank, pid in pids.items():
            known = self._processes.get(rank)
            watched[rank] = known if known is not None and known.pid == pid else _Process(pid)
        self._processes = watched
        return [process.sample(rank) for rank, process in sorted(watched.items())]

    def close(self) -> None:
        """Shut NVML down. May be called twice."""
        if self._api is None:
            return
        for device in self._devices:
            device.close()
        _stop(self._api)
        self._api, self._devices = None, []


def visible_gpus(environ: Mapping[str, str], api: NvmlApi | None = None) -> list[VisibleGpu]:
    """The devices that a run under `environ` may use, in CUDA's order; none without NVML.

    If CUDA_VISIBLE_DEVICES has ordinals, the number of devices is certain; which GPU each is only under
    CUDA_DEVICE_ORDER=PCI_BUS_ID.
    """
    return _visible(environ.get(VISIBLE), _look(api))


def count_visible_gpus(environ: Mapping[str, str], api: NvmlApi | None = None) -> int:
    """How many devices a run under `environ` may use; 0 without NVML."""
    return len(visible_gpus(environ, api))


def why_no_gpu(environ: Mapping[str, str], api: NvmlApi | None = None) -> str | None:
    """Why a run under `environ` has no GPU, in one line; None if it has."""
    opened = Telemetry.open(environ, api)
    opened.close()
    if opened.reason is None and not visible_gpus(environ, api):
        return "every GPU is lost or cannot be opened: reset them (nvidia-smi --gpu-reset), or reboot"
    return opened.reason


def gpus_are_uncounted(api: NvmlApi | None = None) -> bool:
    """Whether CUDA may have GPUs that nothing here can count, because NVML is missing: then only the ranks know."""
    opened = Telemetry.open({}, api)
    opened.close()
    return opened.uncounted


def rank_variables(environ: Mapping[str, str], api: NvmlApi | None = None) -> dict[str, str]:
    """What the ranks of a run under `environ` are told about its devices: which are visible, and all UUIDs.

    Nothing without NVML. The UUIDs let a rank compare what torch sees with what NVML has counted: all, or none.
    """
    value, gpus = environ.get(VISIBLE), _look(api)
    visible = _visible(value, gpus)
    if not visible:
        return {}
    named = entries(value, [gpu.names for gpu in gpus])
    told = {} if named is None else {VISIBLE: ",".join(named)}
    uuids = [gpu.uuid for gpu in visible]
    return {**told, COUNTED: ",".join(uuids)} if all(uuids) else told


def _visible(value: str | None, gpus: list[Gpu]) -> list[VisibleGpu]:
    seen: list[VisibleGpu] = []
    for place in visible_places(value, [gpu.names for gpu in gpus]):
        gpu = gpus[place.gpu]
        one = gpu if place.mig is None else gpu.mig_devices[place.mig]
        if not gpu.broken:
            seen.append(VisibleGpu(gpu.index, one.uuid, one.name))
    return seen


def _look(api: NvmlApi | None) -> list[Gpu]:
    """The GPUs that this process may use; none without NVML, which is stopped again."""
    api = PynvmlApi() if api is None else api
    try:
        gpus = _start(api)
    except Exception:
        return []
    _stop(api)
    return _ours(gpus)


def _ours(gpus: list[Gpu]) -> list[Gpu]:
    """Those that this process may open, broken ones included. CUDA numbers only these."""
    return [gpu for gpu in gpus if not gpu.forbidden]


def _start(api: NvmlApi) -> list[Gpu]:
    """Start NVML and list the GPUs of this machine; NVML is stopped again if that fails."""
    api.start()
    try:
        gpus = [Gpu(api, index) for index in range(api.gpu_count())]
        for gpu in gpus:
            gpu.identify()
            gpu.find_mig_devices()
    except BaseException:
        _stop(api)
        raise
    return gpus


def _stop(api: NvmlApi) -> None:
    try:
        api.stop()
    except NvmlFailure:
        # The driver was unloaded meanwhile: there is nothing left to shut down.
        return


def _why_no_gpu(listed: list[Gpu], gpus: list[Gpu], visible: str | None) -> str:
    if not listed:
        return NO_GPU
    if not gpus:
        them = "any" if len(listed) > 1 else "it"
        return f"the driver lists {counted(len(listed), 'GPU')}, and this process may not open {them}: {CONTAINER_CURE}"
    if visible is None:
        return "every GPU is in MIG mode, and none has a MIG device"
    if not visible.strip():
        return f"{VISIBLE} is empty, which hides every GPU"
    names = [entry.strip() for entry in visible.split(",")]
    if len(set(names)) < len(names):
        return f"{VISIBLE}={visible!r} names a GPU twice, which hides them all; to share one, use --ranks-per-gpu"
    if sliced := gpu_numbers(visible.strip(), [gpu.names for gpu in gpus]):
        # CUDA has no use for a GPU in MIG mode but its MIG devices, and the GPUs that are named have none.
        them = " and ".join(f"GPU {gpus[number].index}" for number in sliced)
        have = "has" if len(sliced) == 1 else "have"
        return f"{VISIBLE}={visible!r} names {them} in MIG mode, which {have} no MIG device; see nvidia-smi mig -cgi"
    return f"{VISIBLE}={visible!r} names no GPU of this machine"


class _Process:
    """One watched process. psutil needs the same object from one sample to the next for a CPU figure."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._has_been_seen = False
        self._process: psutil.Process | None = None
        try:
            self._process = psutil.Process(pid)
        except (psutil.Error, OSError):
            return

    def sample(self, rank: int) -> ProcessSample:
        gone = ProcessSample(rank=rank, cpu_percent=None, rss_bytes=None)
        # is_running() also notices when a later process has the same pid.
        if self._process is None or not self._process.is_running():
            return gone
        try:
            if self._process.status() == psutil.STATUS_ZOMBIE:
                return gone
            cpu_percent = self._process.cpu_percent()
            rss_bytes = self._process.memory_info().rss
        except (psutil.Error, OSError):
            return gone
        first_look, self._has_been_seen = not self._has_been_seen, True
        return ProcessSample(rank=rank, cpu_percent=None if first_look else cpu_percent, rss_bytes=rss_bytes)
