"""The ids of prompts: which given ones are also the index of a prompt without one."""

import pytest

from rankdeck.runner.inputs.prompts.ids import Ids


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
