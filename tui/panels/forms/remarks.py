"""What is said beside the fields of a new run: mistakes, doubts, and what a folded form does not show. Pure."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from rankdeck.runner.inputs.memory_estimate import MemoryEstimate
from rankdeck.runner.protocol.config import Problem
from rankdeck.tui.panels.forms.run_form import FIRST_VALUES, LABELS, MORE, in_the_forms_words, name_of, set_values
from rankdeck.tui.words.text import visible

MORE_SETTINGS = frozenset(field.setting for field in MORE)


class Remark(NamedTuple):
    """Words about a setting: a mistake if `wrong`, else a doubt, which forbids nothing."""

    words: str
    wrong: bool

    @property
    def marked(self) -> str:
        return f"{'✗' if self.wrong else '▲'} {visible(self.words)}"


def remarks(
    problems: Sequence[Problem],
    estimate: MemoryEstimate | str | None,
    values: Mapping[str, str],
    touched: Collection[str],
) -> dict[str, Remark]:
    """By setting, the first problem of each; without any problem, the doubt whether the run fits in memory.

    An empty field that was never typed into is not a mistake.
    """
    if not problems:
        return _doubt(estimate)
    said = {
        problem.setting: in_the_forms_words(problem.message, values.get(problem.setting, ""))
        for problem in reversed(problems)
    }
    untouched = {name for name, value in values.items() if not value and name not in touched}
    return {name: Remark(words, wrong=True) for name, words in said.items() if name not in untouched}


def _doubt(estimate: MemoryEstimate | str | None) -> dict[str, Remark]:
    """The setting to change where the run does not fit in memory; a mistake where it cannot be started at all."""
    if not isinstance(estimate, MemoryEstimate):
        return {}
    if (problem := estimate.refusal) is not None:
        return {problem.setting: Remark(in_the_forms_words(problem.message), wrong=True)}
    if estimate.fits:
        return {}
    if estimate.largest is None:
        return {"model": Remark("would not fit in memory, by estimate, even at batch size 1", wrong=False)}
    words = f"{estimate.batch_size} would not fit: {estimate.largest} would, by estimate"
    return {"batch_size": Remark(words, wrong=False)}


def unseen_mistakes(said: Mapping[str, Remark], *, more: bool) -> str:
    """The remarks on settings that have no field, or a further one while those are not shown (`more` is False)."""
    return "; ".join(
        f"{name_of(name)}: {remark.words}"
        for name, remark in said.items()
        if name not in LABELS or (name in MORE_SETTINGS and not more)
    )


def unseen_settings(values: Mapping[str, str], *, more: bool) -> str:
    """The further settings that were changed, while they are not shown."""
    changed = set_values({name: values[name] for name in MORE_SETTINGS}, FIRST_VALUES)
    return f"also: {', '.join(changed)}" if changed and not more else ""
