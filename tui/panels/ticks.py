"""Where an axis has its ticks, and their labels. Pure arithmetic."""

import math

import msgspec

LEAST_TOP = 1e-9
"""If the largest value is below this, the axis is drawn up to 1: there is nothing to see."""


LEAST_SPAN = 0.1
"""An axis spans at least this share of its largest value, so that small differences are not blown up."""


class Ticks(msgspec.Struct, frozen=True):
    """Values in even steps of 1, 2 or 5 times a power of ten, the last at or above the largest value.

    The first is zero or, on an axis fitted to its values, at or below the smallest of them.
    """

    values: list[float]
    decimals: int

    def label(self, value: float) -> str:
        return f"{value:,.{self.decimals}f}"


def nice_ticks(top: float, most: int = 6, *, whole: bool = False) -> Ticks:
    """Ticks for values from 0 to `top`, in at most `most` steps (2 or more), which are whole numbers with `whole`."""
    if not LEAST_TOP <= top < math.inf:
        top = 1.0
    exponent = math.floor(math.log10(top / most)) - 1
    if whole:
        exponent = max(0, exponent)
    while True:
        for mantissa in (1, 2, 5):
            count = _steps(top, mantissa, exponent)
            if count <= most:
                values = [_value(place, mantissa, exponent) for place in range(count + 1)]
                return Ticks(values, max(0, -exponent))
        exponent += 1


def fitted_ticks(low: float, high: float, most: int = 6) -> Ticks:
    """Ticks that enclose `low` to `high`, both at least 0, with at most `most` steps (2 or more)."""
    ticks = nice_ticks(max(high - low, high * LEAST_SPAN), most)
    while True:
        step = ticks.values[1]
        first, last = math.floor(low / step), math.ceil(high / step)
        if last - first <= most:
            last = max(last, first + 1)
            return Ticks([round(place * step, ticks.decimals) for place in range(first, last + 1)], ticks.decimals)
        # Both ends fall between ticks, so there is a step too many: take the next larger step.
        ticks = nice_ticks(step * most * 1.5, most)


def _value(place: int, mantissa: int, exponent: int) -> float:
    # One correctly rounded operation: 3 x 0.1 would be 0.30000000000000004.
    return float(place * mantissa * 10**exponent) if exponent >= 0 else place * mantissa / 10**-exponent


def _steps(top: float, mantissa: int, exponent: int) -> int:
    """The smallest number of steps that reach `top`."""
    count = max(1, math.ceil(top / _value(1, mantissa, exponent)))
    while count > 1 and _value(count - 1, mantissa, exponent) >= top:
        count -= 1
    while _value(count, mantissa, exponent) < top:
        count += 1
    return count
