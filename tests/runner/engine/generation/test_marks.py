"""Logits that are no numbers end a row in an error that says so, and cost no other row its answer."""

import copy

import pytest
import torch
import transformers

from rankdeck.runner.engine import rows
from rankdeck.runner.engine.continuous import UnusableLogitsError
from rankdeck.runner.engine.generation import marks
from rankdeck.runner.engine.generation.marks import DrawableLogits, LogitCheck, Marks, words
from rankdeck.runner.engine.rows import Row
from rankdeck.runner.protocol import UNUSABLE_LOGITS
from tests.runner.engine.lone import MIXED, VOCABULARY, alone, engine, static, tiny
from tests.runner.engine.tiny import BOTH_WAYS, prompts

NAN = float("nan")


@pytest.fixture(scope="module")
def sound():
    return tiny(num_key_value_heads=2)


def broken(sound, char, value=NAN):
    """A model whose weights are damaged where this character is read."""
    model = copy.deepcopy(sound)
    model.model.embed_tokens.weight.data[VOCABULARY.index(char), 3] = value
    return model


@BOTH_WAYS
@pytest.mark.parametrize("settings", [{}, {"do_sample": True, "seed": 1, "top_k": 1}])
def test_only_rows_whose_logits_are_nan_end_in_an_error(sound, settings, way):
    expected = alone(sound)
    output = static(broken(sound, "!"), way, **settings).generate(prompts(*MIXED))
    records, result = output.records, output.result
    assert result.row_steps == result.output_tokens + 1, "such a row leaves at once"
    with_it = ["!" in text for text in MIXED]
    assert [record.error is not None for record in records] == with_it
    said = "the model's logits are NaN at new token 1, in float32: the weights or the model is damaged"
    assert {record.error for record in records if record.error} == {said}
    assert {(record.text, record.output_tokens) for record in records if record.error} == {("", 0)}
    assert [record.text for record in records if not record.error] == [
        text for text, bad in zip(expected, with_it, strict=True) if not bad
    ]


@BOTH_WAYS
def test_what_was_no_number_in_one_batch_leaves_nothing_to_the_next(sound, monkeypatch, way):
    monkeypatch.setitem(rows.GROUP_SLOTS, "cpu", 8)  # the short text is prefilled by itself, and padded afterwards
    one, (short, *_, long) = static(broken(sound, "!"), way), MIXED
    first = one.generate(prompts(long, "!" + long[1:])).records
    assert [record.error is None for record in first] == [True, False]
    assert [record.text for record in one.generate(prompts(long, short)).records] == alone(sound, [long, short])


@pytest.mark.parametrize(("way", "rows_stay"), [("loop", False), ("generate", False), ("generate", True)])
def test_the_token_at_which_it_began_is_named(sound, way, rows_stay):
    expected = alone(sound)[0]
    at = expected.index(expected[6])
    one = static(broken(sound, expected[at]), way)
    one.why_rows_stay = "the test wants it" if rows_stay else None
    record = one.generate(prompts(*MIXED)).records[0]
    assert f"are NaN at new token {at + 2}," in record.error, "its own logits were still numbers"


def test_a_row_that_has_ended_before_has_its_answer(sound):
    expected = alone(sound)[1]
    model = broken(sound, expected[2])
    model.generation_config = transformers.GenerationConfig(eos_token_id=VOCABULARY.index(expected[2]), pad_token_id=0)
    one = static(model, "generate")
    one.why_rows_stay = "the test wants it"
    record = one.generate(prompts(MIXED[1], MIXED[4])).records[0]
    assert (record.error, record.finish_reason, record.output_tokens) == (None, "stop", 3)


@BOTH_WAYS
@pytest.mark.parametrize("value", [float("inf"), -float("inf")])
def test_infinite_logits_are_no_answer_either_unless_the_model_has_them_replaced(sound, value, way):
    class Head(torch.nn.Module):
        def forward(self, hidden):
            logits = sound.lm_head(hidden)
            return torch.full_like(logits, value) if value < 0 else logits.index_fill(-1, torch.tensor([7]), value)

    model = copy.deepcopy(sound)
    model.lm_head = Head()
    model.lm_head.weight = sound.lm_head.weight
    said = f"{UNUSABLE_LOGITS}infinite at new token"
    for sampled in (False, True):
        records = static(model, way, do_sample=sampled).generate(prompts(*MIXED)).records
        assert {record.error[: len(said)] for record in records} == {said}
    model.generation_config = transformers.GenerationConfig(eos_token_id=2, pad_token_id=0, remove_invalid_values=True)
    assert [record.text for record in static(model, way).generate(prompts(*MIXED)).records] == alone(model)


@pytest.mark.parametrize("settings", [{}, {"do_sample": True, "seed": 1}])
def test_in_a_continuous_batch_they_spread_to_other_rows_so_the_batch_fails_and_each_prompt_is_tried_alone(
    sound, settings
):
    one, why = engine(broken(sound, "!"), "continuous", **settings)
    assert why == ""
    with pytest.raises(UnusableLogitsError, match="are NaN at new token 1,"):
        one.generate(prompts(*MIXED))
    for prompt in prompts(*MIXED):
        if "!" in prompt.text:
            with pytest.raises(UnusableLogitsError, match="are NaN at new token 1,"):
                one.generate([prompt])
        else:
            assert one.generate([prompt]).records[0].text, "nothing of it is left in the cache"
    one.close()


def test_rows_that_ended_before_have_their_answers_when_a_continuous_batch_fails(sound):
    one, _ = engine(broken(sound, "!"), "continuous")

    def all_ended():
        found = []
        while one.in_flight:
            found += one.ended(0.05)
        return found

    one.submit([Row("good", [VOCABULARY.index("a")])], max_new_tokens=2)
    good = all_ended()
    one.submit([Row("bad", [VOCABULARY.index("!")])], max_new_tokens=2)
    with pytest.raises(UnusableLogitsError):
        all_ended()
    assert [key for key, *_ in good] == ["good"]
    assert one.in_flight == 0


def test_a_model_that_is_nan_throughout_is_loaded_and_every_prompt_says_so(sound):
    model = copy.deepcopy(sound)
    model.model.norm.weight.data[:] = NAN
    one, why = engine(model, "continuous")
    assert one.name == "static"
    assert "other probabilities" in why
    assert all("are NaN at new token 1," in record.error for record in one.generate(prompts(*MIXED)).records)


def test_a_row_that_no_token_could_be_drawn_from_becomes_zeros_and_the_others_stay():
    logits = torch.tensor([[1.0, NAN, 2.0], [1.0, 2.0, 3.0], [-float("inf")] * 3, [0.0, float("inf"), 1.0]])
    check = LogitCheck(sampled=True, infinite_is_replaced=False)
    check.marks, check.step = Marks(4, torch.device("cpu")), 5
    made = check(None, logits)
    assert made.tolist() == [[0.0] * 3, [1.0, 2.0, 3.0], [0.0] * 3, [0.0] * 3]
    assert [marks.read(mark) for mark in check.marks.values.tolist()] == [
        (5, "NaN"), (None, "stop string"), (5, "infinite"), (5, "infinite"),
    ]  # fmt: skip


def test_a_token_whose_probability_is_no_number_tells_even_where_nothing_is_drawn():
    drawable = DrawableLogits(torch.device("cpu"))
    assert drawable.first_unusable([-0.5, NAN, -0.1]) == 2
    assert drawable.first_unusable([-0.5, -0.1]) is None


def test_marks_are_set_in_their_place():
    """Where a captured step has found them, and where another tensor begins."""
    values = torch.zeros(3, dtype=torch.long)
    first = Marks(2, torch.device("cpu"), values[:2])
    first.set(torch.tensor([False, True]), torch.tensor([5]), "infinite")
    assert [marks.read(mark) for mark in values.tolist()] == [
        (None, "stop string"), (5, "infinite"), (None, "stop string"),
    ]  # fmt: skip


def test_a_row_keeps_its_first_mark():
    both = Marks(2, torch.device("cpu"))
    both.set(torch.tensor([True, False]), 3, "stop string")
    both.set(torch.tensor([True, True]), 4, "NaN")
    assert [marks.read(mark) for mark in both.values.tolist()] == [(3, "stop string"), (4, "NaN")]
    assert both.set_at.tolist() == [3, 4]


@pytest.mark.parametrize(
    ("dtype", "cure"),
    [
        (torch.float16, "float16 ends at 65,504, so try --dtype bfloat16 or float32"),
        (torch.bfloat16, "try --dtype float32"),
        (torch.float32, "the weights or the model is damaged"),
    ],
)
def test_what_is_said_names_the_dtype_and_a_wider_one(dtype, cure):
    said = words("NaN", 1_234, dtype)
    assert said.startswith(f"{UNUSABLE_LOGITS}NaN at new token 1,234, in {str(dtype)[6:]}: {cure}")


DAMAGED = "; if they still are, the weights are damaged"


@pytest.mark.parametrize(
    ("kind", "dtype", "said"),
    [
        ("NaN", torch.float16, f"in float16: float16 ends at 65,504, so try --dtype bfloat16 or float32{DAMAGED}"),
        ("infinite", torch.bfloat16, f"in bfloat16: try --dtype float32{DAMAGED}"),
        ("infinite", torch.float64, "in float64: the weights or the model is damaged"),
    ],
)
def test_what_is_said_of_a_row_is_whole(kind, dtype, said):
    assert words(kind, 2, dtype) == f"the model's logits are {kind} at new token 2, {said}"


def test_without_probabilities_no_token_is_told_apart():
    drawable = DrawableLogits(torch.device("cpu"))
    drawable(None, torch.full((1, 4), NAN))
    assert drawable.first_unusable(None) is None
