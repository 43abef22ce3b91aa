"""The form of a new run as data: text becomes settings, and settings become text."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankdeck.runner.protocol import config as settings
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.tui.panels.forms.run_form import ALL, FIELDS, FIRST_VALUES, NO_YES, read_config, set_values, values_of
from rankdeck.tui.panels.forms.start_lines import taken_words
from rankdeck.tui.words.text import line_width

words = st.text(st.characters(codec="utf-8"), min_size=1).map(str.strip).filter(bool)
configs = st.builds(
    RunConfig,
    prompts=words,
    model=words,
    ranks=st.integers(),
    batch_size=st.none() | st.integers(1, 65536),
    max_new_tokens=st.integers(),
    dispatch=st.sampled_from(get_args(settings.Dispatch)),
    engine=st.sampled_from(get_args(settings.EngineName)),
    dtype=st.sampled_from(get_args(settings.DtypeName)),
    chat=st.booleans(),
    do_sample=st.booleans(),
    temperature=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    top_k=st.none() | st.integers(),
    limit=st.none() | st.integers(),
    column=st.none() | words,
)


@given(configs)
def test_settings_survive_the_way_through_the_form(config: RunConfig) -> None:
    assert read_config(values_of(config)) == (config, [])


@given(st.fixed_dictionaries({field.setting: st.text() for field in ALL if not field.options}))
def test_any_text_gives_settings_or_problems_of_known_settings(typed: dict[str, str]) -> None:
    _, problems = read_config(typed)
    assert all(problem.setting in FIRST_VALUES for problem in problems)


def test_every_setting_of_a_run_but_the_sweep_is_a_field() -> None:
    assert set(FIRST_VALUES) == set(RunConfig.__struct_fields__) - {"sweep"}


def test_first_values_are_those_of_a_run() -> None:
    config, problems = read_config({"prompts": "x.txt"})
    assert config == RunConfig(prompts="x.txt")
    assert problems == []


def test_the_name_and_the_copy_of_a_run_are_not_taken_over() -> None:
    values = values_of(RunConfig(prompts="x", name="mine", output="/tmp/copy.jsonl"))
    assert (values["name"], values["output"]) == ("", "")


@pytest.mark.parametrize(
    ("setting", "typed", "said"),
    [
        ("ranks", "", "needs a whole number"),
        ("ranks", "two", "must be a whole number, not 'two'"),
        ("temperature", "warm", "must be a number, not 'warm'"),
        ("temperature", "nan", "must be a number"),
        ("limit", "1.5", "must be a whole number"),
        ("batch_size", "0", "must be from 1 to"),
        ("prompts", "  ", "name a file of prompts"),
    ],
)
def test_mistakes_are_explained_for_people(setting: str, typed: str, said: str) -> None:
    _, problems = read_config({"prompts": "x.txt", setting: typed})
    (problem,) = problems
    assert problem.setting == setting
    assert said in problem.message


def test_hints_fit_beside_the_labels_of_a_small_terminal() -> None:
    assert all(len(field.hint) <= 28 for field in FIELDS)
    assert all(field.first in field.options for field in ALL if field.options and field.options != NO_YES)


def test_settings_are_named_as_in_a_sentence() -> None:
    assert set_values({"gpus_per_rank": "2", "top_k": "5", "prompts": "p.txt"}, FIRST_VALUES) == [
        "top-k 5",
        "GPUs per rank 2",
        "prompt file p.txt",
    ]


@given(
    st.text(), st.lists(st.text(min_size=1), min_size=1), st.sampled_from(["f5", "ctrl+shift+f12"]), st.integers(0, 250)
)
def test_settings_taken_over_are_named_within_the_room_and_the_key_is_dropped_last(
    name: str, settings: list[str], key: str, room: int
) -> None:
    words = taken_words(name, settings, key, room)
    assert line_width(((words, ""),)) <= room
    if room >= len(f"{key}: defaults"):
        assert f"{key}: defaults" in words or words.endswith(f"; {key} puts back the defaults")


@pytest.mark.parametrize(
    ("room", "words"),
    [
        (60, "from an-old-run: limit 4, fixed length yes; f5: defaults"),
        (40, "from an-old-run: limit 4,…; f5: defaults"),
        (30, "from an-old-run; f5: defaults"),
        (20, "f5: defaults"),
        (5, "f5:…"),
    ],
)
def test_in_little_room_settings_are_dropped_before_the_run(room: int, words: str) -> None:
    assert taken_words("an-old-run", ["limit 4", "fixed length yes"], "f5", room) == words
