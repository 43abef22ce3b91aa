"""What the tour says: what to look at, what each setting brought, what was best and by how much."""

from hypothesis import given
from hypothesis import strategies as st

from rankdeck.runner.advice.tour import Measured, Setting, Tour, taken_over
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
        now=Setting(*now),
        before=Setting(*now),
        number=0,
        done=tuple(Measured(setting=Setting(active, size), rate=rate) for active, size, rate in done),
        **end,  # type: ignore[arg-type]
    )


FIRST = (1, 2, 82.0)


def test_each_step_says_what_to_look_at() -> None:
    assert captions(tour((1, 2)))[0] == "1 of 2 ranks at batch size 2: the figure that all others are compared with"
    two = "2 of 2 ranks at batch size 2: tokens/s should near double; "
    assert captions(tour((2, 2), FIRST))[0] == two + "if not, the ranks share something"
    assert captions(tour((2, 2), FIRST, on_cpu=True))[0] == two + "on one CPU they share its cores and memory"
    assert "should near 1.5 x" in captions(tour((3, 2), (2, 2, 1.0), ranks=3))[0]
    assert "does tokens/s still rise by 5%?" in captions(tour((2, 4), FIRST, (2, 2, 100.0)))[0]


def test_each_result_is_set_beside_the_one_before() -> None:
    assert result_words(tour((1, 2), FIRST)) == "1 rank at batch size 2: 82 tok/s"
    assert result_words(tour((2, 2), FIRST, (2, 2, 123.0))) == (
        "2 ranks at batch size 2: 123 tok/s, 1.50 x that of 1 rank at batch size 2"
    )


def test_the_end_says_what_was_best_by_how_much_and_why_it_is_the_end() -> None:
    over = tour((2, 32), FIRST, (2, 16, 214.0), (2, 32, 210.0), why="gain")
    assert captions(over)[0] == (
        "best: batch size 16 x 2 ranks, 214 tok/s, 2.6 x the first setting; the answers are all kept "
        "(batch size 32 brought less than 5% more)"
    )
    assert captions(tour((1, 2), FIRST, why="prompts"))[1] == (
        "best: batch size 2 x 1 rank, 82 tok/s, the first setting; the answers are all kept"
    )
    assert "no setting was measured" in captions(tour((1, 2), why="ran out"))[0]
    assert captions(taken_over(tour((2, 2), FIRST)))[0] == "the tour ends here: you have the knobs"


@given(st.integers(20, 200), st.booleans())
def test_the_line_fits_and_has_the_longest_caption_that_does(width: int, under_way: bool) -> None:
    said = captions(tour((2, 2), FIRST))
    (line,) = tour_lines(said, width, under_way=under_way)
    assert line_width(line) <= max(width, len("▸ tour  "))
    wider = plain(tour_lines(said, 200, under_way=under_way))
    assert said[0] in wider
    assert wider.endswith("T ends it") == under_way
    assert tour_lines((), width) == []
