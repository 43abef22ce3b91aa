"""A turn of a knob in words, before it is measured: every form of every case, longest first."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankdeck.runner.forecast.turn_effect import Coming, Provisional
from rankdeck.runner.protocol import TurnRefused
from rankdeck.runner.state import RunState
from rankdeck.tui.words.turn import _coming, _seen, refusal_words


@pytest.mark.parametrize(
    ("coming", "longest", "shortest"),
    [
        (Coming(until="batch ends", batch=14, seconds=2.1), "takes effect when batch #14 ends, in ~3 s", "in ~3 s"),
        (Coming(until="batch ends", batch=14, seconds=0.0), "takes effect when batch #14 ends, in ~1 s", "in ~1 s"),
        (Coming(until="batch ends", batch=14, seconds=125), "takes effect when batch #14 ends, in ~02:05", "in ~02:05"),
        (Coming(until="batch ends", batch=14), "takes effect when batch #14 ends", "after #14"),
        (Coming(until="rows end"), "takes effect as rows end", "as rows end"),
        (Coming(until="next step"), "takes effect with the next step", "next step"),
        (Coming(until="run goes on"), "takes effect once the run resumes", "when resumed"),
        (Coming(until="next batch"), "takes effect with the next batch", "next batch"),
    ],
)
def test_what_a_turn_waits_for(coming: Coming, longest: str, shortest: str) -> None:
    forms = _coming(coming)
    assert (forms[0], forms[-1]) == (longest, shortest)


def seen(**changes: object) -> Provisional:
    values = {"tokens_per_second": 163.2, "steps": 12, "ranks_with_steps": 2, "active": 2, "batch": 15}
    return Provisional(**{**values, "seconds_left": 5.5, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("found", "was", "longest", "shortest"),
    [
        (seen(), 118.0, "~163 tok/s so far, 12 steps; was 118; measured in ~6 s", "~163"),
        (seen(), None, "~163 tok/s so far, 12 steps; measured in ~6 s", "~163"),
        (seen(steps=1, ranks_with_steps=1), 118.0,
         "~163 tok/s so far, 1 step on 1 of 2 ranks; was 118; measured in ~6 s", "~163"),
        (seen(seconds_left=None), 118.0, "~163 tok/s so far, 12 steps; was 118", "~163"),
        (seen(steps=0), 118.0, "~163 tok/s so far; was 118; measured in ~6 s", "~163"),
        (seen(tokens_per_second=None), 118.0,
         "batch #15 has begun; was 118 tok/s; measured in ~6 s", "in #15, was 118"),
        (seen(tokens_per_second=None, batch=None, seconds_left=None), None,
         "its first rows are under way", "under way"),
    ],
)  # fmt: skip
def test_what_its_first_steps_show(found: Provisional, was: float | None, longest: str, shortest: str) -> None:
    forms = _seen(found, was)
    assert (forms[0], forms[-1]) == (longest, shortest)


@given(
    st.none() | st.floats(0, 1e6),
    st.integers(0, 500),
    st.integers(1, 8),
    st.none() | st.floats(0, 1e5),
    st.none() | st.floats(0.1, 1e6),
)
def test_the_forms_get_shorter_and_no_figure_looks_measured(rate, steps, ranks, left, was) -> None:
    found = seen(tokens_per_second=rate, steps=steps, ranks_with_steps=ranks, active=8, seconds_left=left)
    forms = _seen(found, was)
    assert all(len(longer) >= len(shorter) for longer, shorter in pairwise(forms))
    assert rate is None or all(form.startswith("~") for form in forms)


def test_a_refusal_is_news_for_ten_seconds_and_its_reason_is_shortened_at_its_colon() -> None:
    state = RunState(now=100.0, refusal=TurnRefused(at=95.0, reason="no prompt is left: 2 are in hand\x1b"))
    assert refusal_words(state) == [
        "refused: no prompt is left: 2 are in hand␛", "refused: no prompt is left", "no prompt is left"
    ]  # fmt: skip
    assert refusal_words(RunState(now=105.0, refusal=state.refusal)) == []
    assert refusal_words(RunState()) == []
