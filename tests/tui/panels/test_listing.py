"""Which answers are listed and selected, as answers arrive and are dropped and the query changes."""

import dataclasses
import itertools

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from rankdeck.runner.protocol import OutputRecord
from rankdeck.tui.panels.outputs.listing import ANSWERS, AnswerQuery, Listing, Selection, listing_title, nothing_listed
from rankdeck.tui.sources.outputs import OutputBook
from rankdeck.tui.words.text import plain
from tests import scripted

EVEN = ANSWERS.parse("rank:0")


def answer(index: int) -> OutputRecord:
    return scripted.record(index, rank=index % 2)


def listed(listing: Listing, order: str) -> list[int]:
    return [listing.key(position, order) for position in range(len(listing))]  # type: ignore[arg-type]


def test_answers_that_were_dropped_before_they_were_tested_are_passed_over() -> None:
    book = OutputBook(kept=10)
    listing = Listing(book, EVEN)
    for index in range(40):
        book.add(answer(index))
    assert book.first > 0
    assert listing.catch_up(seconds=60)
    kept = [record.index for record in book.newest(len(book)) if record.rank == 0]
    assert listed(listing, "arrival") == listed(listing, "input") == kept


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 60)),
        st.tuples(st.just("load"), st.integers(0, 60)),
        st.tuples(st.just("catch up"), st.just(0)),
    ),
    max_size=80,
)


@given(STEPS, st.sampled_from(["", "rank:0", "rank:1 #>10"]))
def test_a_listing_has_the_answers_of_its_book_that_match(steps: list[tuple[str, int]], asked: str) -> None:
    query = ANSWERS.parse(asked)
    book = OutputBook(kept=20)
    listing = Listing(book, query)
    for step, number in steps:
        if step == "add":
            book.add(answer(number))
        elif step == "load":
            book.load(answer(index) for index in range(number, number + 9))
        else:
            listing.catch_up()
        for position in range(len(listing)):  # between two looks everything listed is still there
            assert book.get(listing.key(position, "arrival")) is not None
            assert book.get(listing.key(position, "input")) is not None
    while not listing.catch_up():
        pass
    everything = [book.key(position, "arrival") for position in range(len(book))]
    wanted = [index for index in everything if query.matches(answer(index))]
    assert listed(listing, "arrival") == wanted
    assert listed(listing, "input") == sorted(wanted)
    for order in ("arrival", "input"):
        for position, index in enumerate(listed(listing, order)):
            assert listing.place(index, order) == (position, True)  # type: ignore[arg-type]


@given(st.lists(st.integers(0, 200), unique=True))
def test_a_book_knows_the_position_of_each_answer(indexes: list[int]) -> None:
    book = OutputBook(kept=50)
    for index in indexes:
        book.add(answer(index))
    for order in ("arrival", "input"):
        for position in range(len(book)):
            assert book.position(book.key(position, order), order) == position  # type: ignore[arg-type]
    assert book.position(1000, "arrival") is None


def test_each_answer_is_tested_once() -> None:
    tested: list[int] = []
    query = counting(tested)
    book = OutputBook()
    for index in range(10):
        book.add(answer(index))
    listing = Listing(book, query)
    listing.catch_up()
    book.add(answer(10))
    listing.catch_up()
    listing.catch_up()
    assert tested == list(range(11))


def counting(tested: list[int]) -> AnswerQuery:
    def test(record: OutputRecord) -> bool:
        tested.append(record.index)
        return True

    return dataclasses.replace(EVEN, tests=(test,))


def test_many_answers_are_tested_in_slices() -> None:
    book = OutputBook()
    for index in range(100):
        book.add(answer(index))
    listing = Listing(book, EVEN)
    ticks = itertools.count()
    assert not listing.catch_up(9, lambda: next(ticks))
    assert 0 < len(listing) < 50
    assert not listing.complete
    assert "so far" in plain([listing_title(selection_of(listing), 80)])
    while not listing.catch_up(9, lambda: next(ticks)):
        pass
    assert len(listing) == 50


def selection_of(listing: Listing) -> Selection:
    selection = Selection()
    selection.listing = listing
    return selection


def test_the_cursor_follows_the_newest_listed_answer_until_it_is_moved() -> None:
    book = OutputBook()
    for index in range(10):
        book.add(answer(index))
    selection = Selection()
    selection.open(book, EVEN)
    selection.listing.catch_up()
    selection.settle()
    assert (selection.cursor, selection.position, len(selection)) == (8, 4, 5)
    assert selection.step(-2)
    for index in (11, 12):
        book.add(answer(index))
    selection.listing.catch_up()
    selection.settle()
    assert (selection.cursor, selection.following) == (4, False)
    selection.follow()
    assert (selection.cursor, selection.following) == (12, True)
    assert not selection.step(1)


def test_a_cursor_whose_answer_is_filtered_out_moves_to_the_nearest() -> None:
    book = OutputBook()
    for index in range(10):
        book.add(answer(index))
    selection = Selection()
    selection.open(book, ANSWERS.parse(""))
    selection.settle()
    selection.go(5)
    selection.open(book, EVEN)
    selection.listing.catch_up()
    selection.settle()
    assert selection.cursor == 6
    selection.open(book, ANSWERS.parse("rank:9"))
    selection.listing.catch_up()
    selection.settle()
    assert (selection.cursor, selection.record, selection.position) == (None, None, None)
    assert not selection.step(1)


def test_the_title_shows_counts_and_query_and_shrinks_in_a_narrow_panel() -> None:
    book = OutputBook()
    for index in range(64):
        book.add(answer(index))
    selection = Selection()
    selection.open(book, ANSWERS.parse("rank:1 tokens:>40"))
    selection.listing.catch_up()
    title = plain([listing_title(selection, 100)])
    assert title == f"64 answers, {len(selection)} shown: rank:1 tokens:>40; as they came, following the newest"
    for width in range(50, 100):
        assert len(plain([listing_title(selection, width)])) <= width
    assert plain([listing_title(selection, 50)]).startswith("64 answers,")
    selection.turn_order()
    assert "in input order" in plain([listing_title(selection, 90)])


def test_an_empty_list_says_why() -> None:
    selection = Selection()
    assert nothing_listed(selection, 60) == "answers are listed here as they arrive"
    assert nothing_listed(selection, 60, thrown_away=True) == "trials throw answers away; 4 shows what they measured"
    keys = {"view.sweep": "f4"}
    assert "; f4 shows what they" in nothing_listed(selection, 60, keys, thrown_away=True)
    selection.listing.book.add(replace(answer(0), rank=0))
    selection.open(selection.listing.book, ANSWERS.parse("rank:77"))
    assert nothing_listed(selection, 60) == "looking through 1 answer"
    selection.listing.catch_up()
    assert nothing_listed(selection, 60) == "no answer matches rank:77; esc clears"


def test_an_answer_that_was_lost_and_given_again_takes_the_place_of_the_first() -> None:
    book = OutputBook()
    for index in (1, 0):
        book.add(answer(index))
    version = book.version
    book.add(answer(1))
    assert book.version == version, "the same again is no news"
    book.add(replace(answer(1), text="another"))
    assert [record.text for record in book.newest(2)] == ["another", answer(0).text]
    assert book.version == version + 1
