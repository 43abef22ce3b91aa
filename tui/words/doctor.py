"""The findings of `rankdeck doctor` as lines: grouped, one line each, with the cure below if there is one. Pure."""

from collections.abc import Mapping, Sequence

from rankdeck.runner.machine.check import Check
from rankdeck.runner.machine.doctor import worst
from rankdeck.tui.words.text import Line, pad, some, visible, wrap

MARKS = {"ok": "✓", "warn": "!", "bad": "✗", "cure": "→"}
WORDS = {"ok": "ok", "warn": "warn", "bad": "bad", "cure": "->"}
"""The same in ASCII, for output that may be read anywhere."""

STYLES = {"ok": "good", "warn": "warn", "bad": "bad"}

NAME_WIDTH = 16


def doctor_lines(checks: Sequence[Check], width: int, marks: Mapping[str, str] = MARKS) -> list[Line]:
    """Every finding under the name of its group."""
    lines: list[Line] = []
    group = ""
    first = max(map(len, marks.values())) + 4
    indent = first + NAME_WIDTH
    for check in checks:
        if check.group != group:
            group = check.group
            lines.extend([(), ((group, "strong"),)] if lines else [((group, "strong"),)])
        mark = ("  " + pad(marks[check.status], first - 2), STYLES[check.status])
        found = wrap(visible(check.found), max(20, width - indent))
        style = "" if check.status == "ok" else STYLES[check.status]
        lines.append((mark, (pad(visible(check.name), NAME_WIDTH), ""), (found[0], style)))
        lines.extend(((" " * indent, ""), (part, style)) for part in found[1:])
        if check.cure is not None:
            arrow = marks["cure"] + " "
            cure = wrap(visible(check.cure), max(20, width - indent - len(arrow)))
            starts = (arrow, *[" " * len(arrow)] * (len(cure) - 1))
            lines.extend(
                ((" " * indent + start, "key"), (part, "key")) for start, part in zip(starts, cure, strict=True)
            )
    return lines


def worst_first(checks: Sequence[Check]) -> list[Check]:
    """The checks with the worst groups first, as a small screen shows only the top."""
    groups = list(dict.fromkeys(check.group for check in checks))
    gravity = {group: worst(check for check in checks if check.group == group) for group in groups}
    order = sorted(groups, key=lambda group: ("bad", "warn", "ok").index(gravity[group]))
    return sorted(checks, key=lambda check: order.index(check.group))


def verdict(checks: Sequence[Check]) -> Line:
    """One sentence that sums up all checks."""
    bad = sum(check.status == "bad" for check in checks)
    warn = sum(check.status == "warn" for check in checks)
    worse = f"{some(bad, 'thing')} would not work" if bad else ""
    loss = f"{some(warn, 'thing')} could be better" if warn else ""
    if not (bad or warn):
        return (("Nothing stands in the way.", "good"),)
    return (("; ".join(filter(None, (worse, loss))) + ".", "bad" if bad else "warn"),)
