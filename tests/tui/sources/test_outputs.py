"""The book of answers: which are kept, in which orders, and what their serial numbers promise to readers."""

from rankdeck.runner.protocol import OutputRecord
from rankdeck.tui.sources.outputs import KEPT, ListOrder, OutputBook
from tests.tui.panels.test_listing import answer


def book_of(*indexes: int, kept: int = 10) -> OutputBook:
    book = OutputBook(kept=kept)
    for index in indexes:
        book.add(answer(index))
    return book


def indexes(book: OutputBook, order: ListOrder) -> list[int]:
    return [book.key(position, order) for position in range(len(book))]


def again(index: int) -> OutputRecord:
    return OutputRecord(
        index=index, id=str(index), prompt="p", text="another", prompt_tokens=1, output_tokens=1, finish_reason="stop"
    )


def test_twenty_thousand_answers_can_be_listed() -> None:
    assert (OutputBook()._kept, KEPT) == (20_000, 20_000)


def test_answers_are_listed_as_they_came_and_in_input_order() -> None:
    book = book_of(7, 2, 9, 4)
    assert indexes(book, "arrival") == [7, 2, 9, 4]
    assert indexes(book, "input") == [2, 4, 7, 9]
    assert [record.index for record in book.newest(2)] == [9, 4], "the newest last"
    assert book.newest(0) == []
    assert [record.index for record in book.newest(9)] == [7, 2, 9, 4]
    assert (book.get(9), book.get(3)) == (answer(9), None)


def test_beyond_a_tenth_more_than_are_kept_the_oldest_are_forgotten_at_once() -> None:
    book = book_of(*range(100, 111), kept=10)
    assert (len(book), book.first, book.end) == (11, 0, 11)
    book.add(answer(0))
    assert (len(book), book.first, book.end) == (10, 2, 12)
    assert indexes(book, "arrival") == [*range(102, 111), 0]
    assert indexes(book, "input") == [0, *range(102, 111)]
    assert (book.get(101), book.position(101, "arrival"), book.position(101, "input")) == (None, None, None)
    assert (book.position(102, "arrival"), book.position(102, "input")) == (0, 1)


def test_a_serial_number_is_that_of_one_answer_as_long_as_it_is_kept() -> None:
    book = book_of(*range(50), kept=10)
    assert book.end == 50
    for serial in range(book.first, book.end):
        assert book.by_serial(serial) == answer(serial)
        assert book.serial(serial) == serial
    assert book.loads == 0


def test_a_second_answer_takes_the_place_of_the_first_and_the_same_one_changes_nothing() -> None:
    book = book_of(1, 2)
    version = book.version
    book.add(answer(1))
    assert (book.version, len(book), book.get(1)) == (version, 2, answer(1))
    book.add(again(1))
    assert (book.version, len(book), book.get(1)) == (version + 1, 2, again(1))
    assert indexes(book, "arrival") == [1, 2]
    assert book.end == 2


def test_each_new_answer_is_a_new_version() -> None:
    assert (book_of().version, book_of(4).version, book_of(4, 5, 6).version) == (0, 1, 3)


def test_answers_from_before_come_first_and_those_that_came_meanwhile_stay_the_newest() -> None:
    book = book_of(8, 3, 5)
    version = book.version
    book.load([answer(1), answer(3), answer(9)])
    assert indexes(book, "arrival") == [1, 3, 9, 8, 5]
    assert indexes(book, "input") == [1, 3, 5, 8, 9]
    assert (book.first, book.end, book.loads) == (0, 5, 1), "readers begin again"
    assert book.version > version
    assert [book.by_serial(serial).index for serial in range(5)] == [1, 3, 9, 8, 5]
    assert book.position(8, "arrival") == 3


def test_of_more_answers_on_disk_than_are_kept_the_newest_are_listed() -> None:
    book = book_of(500, kept=10)
    book.load(answer(index) for index in range(30))
    assert indexes(book, "arrival") == [*range(21, 30), 500]
    assert (book.first, book.end) == (21, 31)
    assert book.get(20) is None
    book.load([again(500)])
    assert (len(book), book.first, book.get(500)) == (10, 0, again(500)), "what is on disk is the newer record"


def test_what_is_loaded_wins_over_what_was_there() -> None:
    book = book_of(1)
    book.load([again(1)])
    assert book.get(1) == again(1)
