"""One figure of a GPU: the calls that can give it, and what to report when they fail.

Knows that an unsupported call is not made again, that a call that failed for a moment is made again next
time, and that a missing value has a reason. Does not know which figures there are, except GPM's, which come
from comparing two samples.
"""

import contextlib
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from rankdeck.runner.machine.nvml import (
    GPM_DRAM_PERCENT,
    GPM_OCCUPANCY_PERCENT,
    GPM_SM_PERCENT,
    GPM_TENSOR_PERCENT,
    NOT_SUPPORTED,
    GpmBuffer,
    Handle,
    NvmlApi,
    NvmlFailure,
)

THROTTLE_REASONS = {
    0x1: "idle",
    0x2: "application clocks",
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "thermal slowdown (software)",
    0x40: "thermal slowdown (hardware)",
    0x80: "power brake",
    0x100: "display clocks",
    0x200: "board limit",
    0x400: "reliability",
}
"""NVML's clocks event reasons (nvmlClocksEventReason…), by bit. `idle` is harmless."""

GPM_FIELDS = {
    GPM_SM_PERCENT: "sm_percent",
    GPM_OCCUPANCY_PERCENT: "occupancy_percent",
    GPM_TENSOR_PERCENT: "tensor_percent",
    GPM_DRAM_PERCENT: "dram_percent",
}


class Missing(NamedTuple):
    """Stands for a value that is missing this time, with the reason."""

    reason: str


Reading = Mapping[str, object]
"""Fields of a DeviceSample to their values, or to Missing."""


class Metric:
    """One figure (or several from one call), and the calls that can give it, best first."""

    def __init__(self, fields: tuple[str, ...], *routes: Callable[[], Reading], reason: str = "") -> None:
        """`reason` is why the figure is missing, if there is no call for it."""
        self.fields = fields
        self._routes = list(routes)
        self._reason = reason

    def read(self) -> Reading:
        """The value of each field, or why it is missing. Raises NvmlFailure only for a lost GPU."""
        for route in list(self._routes):
            try:
                return route()
            except NvmlFailure as failure:
                if failure.lost:
                    raise
                if failure.lasting:
                    self._routes.remove(route)
                self._reason = str(failure)
        return dict.fromkeys(self.fields, Missing(self._reason))


def figure(field: str, *routes: Callable[[], object]) -> Metric:
    """A Metric of a single field, from calls that return its value."""

    def naming(route: Callable[[], object]) -> Callable[[], Reading]:
        return lambda: {field: route()}

    return Metric((field,), *map(naming, routes))


class Gpm:
    """GPU Performance Monitoring, Hopper and later: averages between this sample and the last.

    With `gpu_instance` they are for that GPU instance; a MIG device is all or part of one.
    """

    def __init__(self, api: NvmlApi, handle: Handle, gpu_instance: int | None = None) -> None:
        self._api = api
        self._handle = handle
        self._gpu_instance = gpu_instance
        self._supported = False
        self._before: GpmBuffer | None = None

    def read(self) -> Reading:
        if not self._supported:
            if not self._api.gpm_supported(self._handle):
                raise NvmlFailure(NOT_SUPPORTED)
            self._supported = True
        after = self._api.gpm_allocate()
        try:
            self._fill(after)
        except NvmlFailure:
            self._api.gpm_free(after)
            raise
        before, self._before = self._before, after
        if before is None:
            return dict.fromkeys(GPM_FIELDS.values(), Missing("needs a second look"))
        try:
            readings = self._api.gpm_compare(before, after, list(GPM_FIELDS))
        finally:
            self._api.gpm_free(before)
        return {GPM_FIELDS[metric]: _gpm_value(reading) for metric, reading in readings.items()}

    def _fill(self, buffer: GpmBuffer) -> None:
        if self._gpu_instance is None:
            self._api.gpm_fill(self._handle, buffer)
        else:
            self._api.gpm_fill_mig(self._handle, self._gpu_instance, buffer)

    def close(self) -> None:
        before, self._before = self._before, None
        if before is not None:
            with contextlib.suppress(NvmlFailure):  # A driver that was unloaded took its buffers with it.
                self._api.gpm_free(before)


def throttle_words(reasons: int) -> list[str]:
    """The clocks event reasons of a bit mask, as words; an unknown bit, of a newer driver, as a number."""
    words = [word for bit, word in THROTTLE_REASONS.items() if reasons & bit]
    unknown = reasons & ~sum(THROTTLE_REASONS)
    return [*words, f"unknown ({unknown:#x})"] if unknown else words


def _gpm_value(reading: float | NvmlFailure) -> object:
    if isinstance(reading, NvmlFailure):
        return Missing(str(reading))
    # Between two samples that are too close the counters give no ratio.
    return reading if math.isfinite(reading) else Missing("no reading between these two looks")
