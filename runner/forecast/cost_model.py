"""What a batch will cost: a model with few parameters, fitted to measured batches. Pure.

Knows the seconds of batches by rows, steps and active ranks. Does not know how many steps a batch will take
(`runner.forecast.answer_lengths`) nor how a job is cut into batches (`runner.forecast.plan`).

seconds of a batch = prefill(prompt slots) + (steps - 1) x step(rows in it) + rest(rows), each a straight line with base
and slope of at least 0: a forward pass reads the weights once whatever the rows (base) and computes for each row
(slope); the rest is tokenizing, decoding text and the trip between queue and rank. In short: a + b x rows x steps,
and prefill. Ranks share cores and memory bandwidth, above all on CPUs, so each number of active ranks has its own
lines; for a number that was not measured the nearest one is used, and the prediction is marked.

For a step the straight line is used as long as it fits, since it averages out noise. It is replaced by straight pieces
through the measured points if it misses them by more than 5 % and the pieces predict each inner point from its
neighbours no worse than the line does. Beyond what was measured a cost climbs as it did last, or by what the device
needs to compute a token (`runner.forecast.compute_floor`), whichever is steeper: a step is bound by memory with few
rows and by compute with many. If all rows are about equal there is no slope: then a batch costs the same whatever its
rows, but for that floor, or, if another number of ranks shows a shape, that shape scaled.
"""

from collections.abc import Iterable

import msgspec

from rankdeck.runner.forecast.compute_floor import ComputeFloor
from rankdeck.runner.forecast.line_fit import Line, Sample, fitted_curve, fitted_line, spread, steeper_beyond
from rankdeck.runner.state.costs import CostPoint, with_batch

SATURATION = 4
"""A point of this many batches has half the full weight: more batches lower the noise, but not the lines' misfit."""

LEAST_SECONDS = 1e-6
"""Less than this is no measurement, and its relative error means nothing."""

TOLERANCE = 1.1
"""A prediction up to this factor beyond the measured rows is not extrapolated: even rounds vary the rows a little."""


class RankCosts(msgspec.Struct, frozen=True, kw_only=True):
    """What a batch costs with `active_ranks` at work, and the smallest and largest measured rows.

    `scale` is a factor on the whole cost. `active_ranks` of 0 stands for any number: a cost given by hand.
    """

    active_ranks: int
    rows: tuple[int, int]
    prefill: Line
    step: Line
    rest: Line
    scale: float = 1.0

    def seconds(self, rows: float, steps: float, prompt_slots: float, step_rows: float) -> float:
        decode = self.step.at(step_rows) * max(0.0, steps - 1)
        return self.scale * (self.prefill.at(prompt_slots) + decode + self.rest.at(rows))


class CostModel(msgspec.Struct, frozen=True, kw_only=True):
    """Predicts the seconds of a batch. `residual` is the relative error, root mean square over the measured batches.

    `fits` has one entry per measured number of active ranks, fewest first; `slots_per_row` is the padded prompt width.
    `rows_leave`: in the measured batches, rows left when they ended. `cold`: all of them were cold, so later ones will
    be faster.
    """

    fits: tuple[RankCosts, ...]
    slots_per_row: float = 0.0
    residual: float | None = None
    batches: int = 0
    rows_leave: bool = False
    cold: bool = False

    def seconds(
        self,
        rows: float,
        steps: float,
        active_ranks: int,
        prompt_slots: float | None = None,
        *,
        tokens_per_row: float | None = None,
    ) -> float:
        """Seconds of a batch from being handed out to its last result.

        Without `prompt_slots`, prompts have their usual width. With `tokens_per_row`, if rows leave when they end, a
        step has rows x tokens / steps rows.
        """
        if rows <= 0:
            return 0.0
        slots = self.slots_per_row * rows if prompt_slots is None else prompt_slots
        leave = self.rows_leave and tokens_per_row is not None and steps > 0
        step_rows = min(rows, rows * tokens_per_row / steps) if leave and tokens_per_row is not None else rows
        return self._fit(active_ranks).seconds(rows, steps, slots, step_rows)

    def why_extrapolated(self, rows: float, active_ranks: int) -> str | None:
        """Why a prediction lies outside what was measured, or None if it does not."""
        fit = self._fit(active_ranks)
        reasons = []
        if fit.active_ranks not in (0, active_ranks):
            measured = ", ".join(str(one.active_ranks) for one in self.fits)
            reasons.append(f"{_count(active_ranks, 'rank')} not measured (measured: {measured})")
        low, high = fit.rows
        if not low / TOLERANCE <= rows <= high * TOLERANCE:
            span = f"{low}" if low == high else f"{low} to {high}"
            reasons.append(f"batches of {rows:.0f} not measured (measured: {span})")
        return "; ".join(reasons) or None

    @property
    def measured_ranks(self) -> list[int]:
        return [fit.active_ranks for fit in self.fits if fit.active_ranks]

    @property
    def measured_rows(self) -> tuple[int, int]:
        """The smallest and the largest rows that were measured, with any number of ranks."""
        return min(fit.rows[0] for fit in self.fits), max(fit.rows[1] for fit in self.fits)

    def _fit(self, active_ranks: int) -> RankCosts:
        # Of two equally near, the one with more ranks: they share more, so it promises less.
        return min(self.fits, key=lambda fit: (abs(fit.active_ranks - active_ranks), -fit.active_ranks))


def given(batch_seconds: float, batch_size: int, active_ranks: int = 0) -> CostModel:
    """A model given by hand: any batch of up to `batch_size` rows costs the same (`active_ranks` 0: any number)."""
    fit = RankCosts(
        active_ranks=active_ranks, rows=(1, batch_size), prefill=Line(), step=Line(), rest=Line(batch_seconds)
    )
    return CostModel(fits=(fit,))


def fit(points: Iterable[CostPoint], floor: ComputeFloor | None = None) -> CostModel | None:
    """The model that fits the measured batches best; None if there are none. Cold ones count if there are no others.

    `floor` is what a token takes at least: more rows than were measured cost no less.
    """
    known = tuple(point for point in points if point.batches > 0 and point.rows > 0 and point.seconds > LEAST_SECONDS)
    warm = tuple(point for point in known if not point.cold)
    cold, known = not warm, warm or known
    if not known:
        return None
    if len({(point.active_ranks, point.rows) for point in known}) < len(known):
        merged: tuple[CostPoint, ...] = ()
        for point in known:
            merged = with_batch(merged, point)
        known = merged
    groups: dict[int, list[CostPoint]] = {}
    for point in sorted(known, key=lambda point: (point.active_ranks, point.rows)):
        groups.setdefault(point.active_ranks, []).append(point)
    fits = {ranks: _rank_costs(ranks, group, floor.at(ranks) if floor else 0.0) for ranks, group in groups.items()}
    shaped = [ranks for ranks in fits if spread([float(point.rows) for point in groups[ranks]])]
    for ranks in set(fits) - set(shaped) if shaped else ():
        nearest = min(shaped, key=lambda other: (abs(other - ranks), -other))
        fits[ranks] = _scaled(fits[nearest], groups[ranks])
    batches = sum(point.batches for point in known)
    errors = sum(point.batches * _error(fits[point.active_ranks], point) ** 2 for point in known)
    return CostModel(
        fits=tuple(fits.values()),
        slots_per_row=sum(point.prompt_slots for point in known) / sum(point.rows * point.batches for point in known),
        residual=(errors / batches) ** 0.5,
        batches=batches,
        cold=cold,
        rows_leave=any(point.row_steps and point.row_steps < point.rows * point.steps for point in known),
    )


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _predicted(costs: RankCosts, point: CostPoint) -> float:
    steps, slots = point.steps / point.batches, point.prompt_slots / point.batches
    return costs.seconds(point.rows, steps, slots, point.step_rows)


def _error(costs: RankCosts, point: CostPoint) -> float:
    return _predicted(costs, point) * point.batches / point.seconds - 1


def _scaled(shape: RankCosts, group: list[CostPoint]) -> RankCosts:
    predicted = sum(_predicted(shape, point) * point.batches for point in group)
    scale = sum(point.seconds for point in group) / predicted if predicted > 0 else 1.0
    rows = (group[0].rows, group[-1].rows)
    return msgspec.structs.replace(shape, active_ranks=group[0].active_ranks, rows=rows, scale=scale)


def _rank_costs(active_ranks: int, group: list[CostPoint], token_seconds: float) -> RankCosts:
    """The lines for one number of active ranks, from its points in order of rows."""
    prefill, step, rest = [], [], []
    for point in group:
        weight = point.batches / (point.batches + SATURATION)
        if point.prefill_seconds > LEAST_SECONDS:
            mean = point.prefill_seconds / point.batches
            prefill.append(Sample(point.prompt_slots / point.batches, mean, weight / mean**2))
        if point.steps > point.batches and point.decode_seconds > LEAST_SECONDS:
            mean = point.decode_seconds / (point.steps - point.batches)
            step.append(Sample(point.step_rows, mean, weight / mean**2))
        # The rest is small and noisy, so its error is taken relative to the whole batch.
        mean, whole = point.prefill_seconds + point.decode_seconds, point.seconds / point.batches
        rest.append(Sample(point.rows, max(0.0, whole - mean / point.batches), weight / whole**2))
    return RankCosts(
        active_ranks=active_ranks,
        rows=(group[0].rows, group[-1].rows),
        prefill=steeper_beyond(fitted_line(prefill), prefill, token_seconds),
        step=steeper_beyond(
            fitted_curve(sorted({sample.x: sample for sample in step}.values(), key=lambda sample: sample.x)),
            step,
            token_seconds,
        ),
        rest=fitted_line(rest),
    )
