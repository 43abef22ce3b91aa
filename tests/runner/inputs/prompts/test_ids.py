"""The ids of prompts: which are given twice, and which given ones are also the index of a prompt without one."""

import json

import pytest

from rankdeck.runner.inputs.prompts import ids as module
from rankdeck.runner.inputs.prompts.ids import Ids
from tests.runner.inputs.freezing import complaint, freeze_here


def ids(*given: str | None) -> Ids:
    made = Ids()
    assert [made.add(id_, place) for place, id_ in enumerate(given, 1)] == [
        str(index) if id_ is None else id_ for index, id_ in enumerate(given)
    ]
    return made


@pytest.mark.parametrize(
    ("given", "shared"),
    [
        (("1", None), ["1"]),
        ((None, "0"), ["0"]),
        (("2", None), []),  # as many as there are prompts: the index of none
        (("9", None), []),
        (("1", "b"), []),
        (("0", None), []),
        (("01", None), []),
    ],
)
def test_an_id_that_is_given_counts_as_an_index_only_where_another_prompt_has_it(
    given: tuple[str | None, ...], shared: list[str]
) -> None:
    said = ids(*given).words()
    assert [line.partition(" is given, ")[0] for line in said] == [f"id '{number}'" for number in shared]


@pytest.mark.parametrize("given", ["9" * 9, "9" * 10, "9" * 40, "٣", "²", "-1", "1.0", " 1"])
def test_any_number_may_be_an_id_and_only_one_as_an_index_is_written_is_taken_for_one(given: str) -> None:
    assert ids(given, None, None, None, None).words() == []


def test_what_is_said_of_ids_that_are_indices_too_names_the_first_and_counts_the_rest() -> None:
    def words(*given: str | None) -> str:
        return " ".join(ids(*given).words())

    end = "; `index` tells the outputs apart"
    assert words(None, None, "1") == f"id '1' is given, and is also that of a prompt without one, its index{end}"
    assert words(None, None, "1", "0") == (
        f"id '1' is given, and is also that of a prompt without one, its index, as are 1 more{end}"
    )
    many = [None] * 1002 + [str(number) for number in range(1002)]
    assert f"id '0' is given, and is also that of a prompt without one, its index, as are 1,001 more{end}" == words(
        *many
    )


@pytest.mark.parametrize(("times", "listed"), [(2, "1, 2"), (5, "1, 2, 3, 4, 5"), (6, "1, 2, 3, 4, 5 …")])
def test_an_id_that_is_given_often_is_named_with_its_first_places(times: int, listed: str) -> None:
    rows = [{"id": "same", "prompt": "x"}] * times + [{"id": "other", "prompt": "x"}]
    said = f"id 'same' appears more than once, on {{}} {listed}"
    assert complaint("p.jsonl", "\n".join(map(json.dumps, rows))) == f"p.jsonl:2: {said.format('lines')}"
    assert complaint("p.json", json.dumps(rows)) == f"p.json: item 2: {said.format('items')}"


def test_an_id_out_of_a_file_is_made_harmless_where_it_is_said() -> None:
    rows = json.dumps([{"id": "\x1b[2J" + "x" * 99, "prompt": "x"}] * 2)
    said = complaint("p.json", rows)
    assert "\x1b" not in said
    assert "x" * 40 not in said


def test_ids_that_only_share_their_hash_are_not_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DIGEST_MASK", 0)
    rows = [{"id": "a", "prompt": "x"}, {"prompt": "x"}, {"id": "b", "prompt": "x"}]
    assert freeze_here("p.json", json.dumps(rows)).count == 3
    assert complaint("p.json", json.dumps([*rows, rows[0]])).endswith("'a' appears more than once, on items 1, 4")
