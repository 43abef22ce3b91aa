"""How the Overview divides its height: the fullest form of its tables that leaves enough room for the charts. Pure."""

from typing import NamedTuple

from rankdeck.runner.protocol import DeviceSample, ProcessSample
from rankdeck.runner.state import DeviceState, RankState, RunState
from rankdeck.tui.panels.overview.devices import DeviceForm, device_lines
from rankdeck.tui.panels.overview.gpu_cells import GAP, LEAST_CELL
from rankdeck.tui.panels.overview.gpu_ranks import least_width, one_to_one
from rankdeck.tui.panels.overview.ranks import RankForm, on_the_way, rank_lines

TAIL_FROM = 21
"""The newest answers are shown if this many lines are left after the tables: the chart comes first."""

CHARTS = ((34, 14), (19, 11), (0, 7))
"""Pairs: in a terminal of at least this many lines, the charts get at least that many."""


SIDE_BY_SIDE_FROM = 5
"""Ranks may stand side by side from this number on; fewer gain nothing."""


class OverviewPlan(NamedTuple):
    """The forms of the two tables, and the `height` in lines of everything but the charts.

    If `devices` is None the GPUs are left out; if `merged` they share rows with the ranks.
    """

    devices: DeviceForm | None
    ranks: RankForm
    merged: bool = False
    tail: bool = False
    height: int = 0


def outline(state: RunState) -> RunState:
    """The state as a plan sees it: what the tables have rows for, without the figures that every tick changes."""
    return RunState(
        phase=state.phase,
        ready_at=state.ready_at,
        first_batch_at=state.first_batch_at,
        ended=state.ended,
        telemetry_reason=state.telemetry_reason,
        ranks=tuple(RankState(rank=rank.rank) for rank in state.ranks),
        devices=tuple(
            DeviceState(sample=DeviceSample(index=device.sample.index, uuid="", name=""), ranks=device.ranks)
            for device in state.devices
        ),
        processes=tuple(
            ProcessSample(rank=process.rank, cpu_percent=None, rss_bytes=None) for process in state.processes
        ),
    )


def plan_overview(state: RunState, width: int, height: int, border: int, spare: bool, taken: int) -> OverviewPlan:
    """The plan for panels `width` cells wide inside, in `height` lines of which `taken` are already used.

    A panel's border, with its title, takes `border` more lines. With `spare` the GPUs are the first to be left out.
    """
    charts = next((need for least, need in CHARTS if height >= least), CHARTS[-1][1])
    plans = _candidates(state, width, spare=spare)
    plans = [plan._replace(height=taken + _height(state, width, plan, border)) for plan in plans]
    for plan in plans:
        if height - plan.height >= charts:
            return plan._replace(tail=height - plan.height >= TAIL_FROM)
    return min(plans, key=lambda plan: plan.height)


def _candidates(state: RunState, width: int, *, spare: bool) -> list[OverviewPlan]:
    """Plans from the fullest to the densest."""
    forms: list[DeviceForm] = ["cells"]
    if len(state.devices) > 1:
        side_by_side = len(state.devices) > 2 and width >= 2 * LEAST_CELL + GAP
        cells: list[DeviceForm] = ["cells"] if len(state.devices) < 4 else []
        grid: list[DeviceForm] = ["grid"] if side_by_side else []
        forms = [*cells, *grid, "rows", "tiny"]
    full, dense = forms[:-1] or forms, forms[-1]
    found = [OverviewPlan(form, "table") for form in full]
    if one_to_one(state) and width >= least_width(state):
        found.append(OverviewPlan(None, "table", merged=True))
    found.append(OverviewPlan(dense, "table"))
    if len(state.ranks) >= SIDE_BY_SIDE_FROM:
        grids: tuple[RankForm, RankForm] = ("grid", "small grid")
        found += [OverviewPlan(form, grid) for form in forms for grid in grids]
    if spare:
        found = [*found, *(plan._replace(devices=None) for plan in found if not plan.merged)]
    return found


def _height(state: RunState, width: int, plan: OverviewPlan, border: int) -> int:
    ranks = rank_lines(state, width, plan.ranks)
    if plan.merged and on_the_way(state):
        return len(ranks) + border
    devices = device_lines(state, width, plan.devices) if plan.devices is not None else None
    return len(ranks) + border + (len(devices) + border if devices is not None else 0)
