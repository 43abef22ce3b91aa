"""What the tour says: what to look at, what each setting brought, what was best and by how much."""

from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from rankdeck.runner.advice.tour import Measured, Tour, Why
from rankdeck.runner.advice.tour_limits import Setting
from rankdeck.tui.panels.tour import tour_lines
from rankdeck.tui.words.text import line_width, plain
from rankdeck.tui.words.tour import captions, result_words


def tour(
    now: tuple[int, int], *done: tuple[int, int, float], ranks: int = 2, on_cpu: bool = False, **end: object
) -> Tour:
    return Tour(
        ranks=ranks,
        on_cpu=on_cpu,
        continuous=False,
        start=Setting(ranks, 2),
        now=Setting(*now),
        before=Setting(*now),
        number=0,
        done=tuple(Measured(setting=Setting(active, size), rate=rate) for active, size, rate in done),
        **end,  # type: ignore[arg-type]
    )


FIRST = (1, 2, 82.0)


def test_each_step_says_what_to_look_at() -> None:
    assert captions(tour((1, 2)))[0] == "1 of 2 ranks at batch size 2: the baseline for all the others"
    two = "2 of 2 ranks at batch size 2: tok/s should nearly double; "
    assert captions(tour((2, 2), FIRST))[0] == two + "if not, the ranks share something"
    assert captions(tour((2, 2), FIRST, on_cpu=True))[0] == two + "on one CPU they share its cores and memory"
    assert "should be near 1.5x" in captions(tour((3, 2), (2, 2, 1.0), ranks=3))[0]
    assert "does tok/s still rise by 5%?" in captions(tour((2, 4), FIRST, (2, 2, 100.0)))[0]


def test_each_result_is_set_beside_the_one_before() -> None:
    assert result_words(tour((1, 2), FIRST)) == "batch size 2 x 1 rank: 82 tok/s"
    assert result_words(tour((2, 2), FIRST, (2, 2, 123.0))) == (
        "batch size 2 x 2 ranks: 123 tok/s, 1.50x that of batch size 2 x 1 rank"
    )


def test_the_end_says_what_was_best_by_how_much_and_why_it_is_the_end() -> None:
    over = tour((2, 32), FIRST, (2, 16, 214.0), (2, 32, 210.0), why="gain")
    assert captions(over)[0] == (
        "over; best: batch size 16 x 2 ranks, 214 tok/s, 2.6x its first setting; all answers are kept "
        "(batch size 32 brought less than 5% more)"
    )
    assert captions(tour((1, 2), FIRST, ranks=1, why="prompts"))[1] == (
        "over; best so far: batch size 2 x 1 rank, 82 tok/s, its first setting "
        "(too few prompts are left for the next setting)"
    )


def test_the_end_says_where_it_leaves_the_knobs_if_nothing_was_compared() -> None:
    over = tour((2, 2), FIRST, ranks=4, why="capped", rests=Setting(4, 2))
    assert captions(over)[0] == (
        "the tour ends: batch size 2 did not fit in memory; back to batch size 2 x 4 ranks, where it began"
    )
    gone = captions(tour((1, 2), why="ran out", rests=Setting(1, 2)))
    assert gone[0] == "the tour ends: the prompts ran out, and no best setting was found"
    assert "failed" in captions(tour((1, 2), why="run failed", rests=Setting(1, 2)))[0]


def test_whoever_takes_over_reads_where_the_knobs_stand() -> None:
    assert captions(tour((2, 4), FIRST, taken="by hand", rests=Setting(2, 4)))[0] == (
        "the tour ends here: you have the knobs"
    )
    assert captions(tour((1, 2), taken="elsewhere", rests=Setting(2, 2)))[0] == (
        "the tour ends here, with 2 ranks active again: somebody else turned a knob"
    )
    assert captions(tour((1, 2), taken="left", rests=Setting(2, 2)))[0] == (
        "the tour ends here, at batch size 2 x 2 ranks: where it began"
    )
    assert captions(tour((2, 4), FIRST, (2, 2, 123.0), taken="left", rests=Setting(2, 2)))[0] == (
        "the tour ends here, at batch size 2 x 2 ranks: the best so far, 123 tok/s"
    )


def test_every_form_of_the_end_has_a_reason_and_one_fits_a_small_terminal() -> None:
    for why in get_args(Why):
        for done in ((), (FIRST, (2, 32, 706.0))):
            forms = captions(tour((2, 64), *done, why=why, rests=Setting(2, 2)))
            assert len(forms[-1]) <= 49, forms
            assert all("(" in form or ": " in form for form in forms)
    forms = captions(tour((2, 32), FIRST, (2, 32, 706.0), why="prompts", rests=Setting(2, 32)))
    shown = next(form for form in forms if len(form) <= 76 - len("▸ tour  "))
    assert shown == "over; best so far: 32 x 2, 706 tok/s, 8.6x (too few prompts left)"


@given(st.integers(20, 200), st.booleans())
def test_the_line_fits_and_has_the_longest_caption_that_does(width: int, under_way: bool) -> None:
    said = captions(tour((2, 2), FIRST))
    (line,) = tour_lines(said, width, under_way=under_way)
    assert line_width(line) <= max(width, len("▸ tour  "))
    wider = plain(tour_lines(said, 200, under_way=under_way))
    assert said[0] in wider
    assert wider.endswith("T ends it") == under_way
    assert tour_lines((), width) == []
