"""Logits that are no numbers are a finding once there are several, with the dtype, the model and the cure."""

import msgspec
import pytest

from rankdeck.runner import protocol
from rankdeck.runner.advice.findings import findings
from rankdeck.runner.protocol import UNUSABLE_LOGITS, Output
from rankdeck.runner.state import RunState, apply
from tests import scripted


def after(errors: list[str], dtype: str = "float16") -> RunState:
    """A run of two ranks in this dtype, with one answer and these errors."""
    state = scripted.running(2).state
    ranks = [
        msgspec.structs.replace(rank, ready=msgspec.structs.replace(rank.ready, dtype=dtype)) for rank in state.ranks
    ]
    state = apply(msgspec.structs.replace(state, ranks=tuple(ranks)), Output(at=20.0, record=scripted.record(90)))
    for index, error in enumerate(errors):
        record = msgspec.structs.replace(scripted.record(index), finish_reason="error", error=error, text="")
        state = apply(state, Output(at=20.0, record=record))
    return state


NAN = f"{UNUSABLE_LOGITS}NaN at new token 3, in float16: try another"


@pytest.mark.parametrize(
    ("dtype", "cure"),
    [
        ("float16", "It ends at 65,504: try --dtype bfloat16 or float32."),
        ("float16 gptq", "It ends at 65,504: try --dtype bfloat16 or float32."),
        ("bfloat16", "Try --dtype float32."),
        ("float32", "Its weights are damaged: fetch them again."),
    ],
)
def test_several_prompts_whose_logits_are_nan_name_dtype_model_and_cure(dtype, cure):
    before = scripted.running(2).state
    state = after([NAN, f"UnusableLogitsError: {NAN}", NAN, "does not fit"], dtype)
    assert state.unusable_logits == 3
    (found,) = [finding for finding in findings(state) if finding.kind == "logits"]
    assert found.text.startswith(
        f"3 of {before.done + 5:,} prompts ended in NaN logits: {state.model_label} computes in {dtype}. {cure}"
    )


def test_a_few_such_prompts_or_other_errors_are_none():
    assert not [
        found for found in findings(after([NAN, NAN, "does not fit", "does not fit"])) if found.kind == "logits"
    ]


def test_the_count_travels_with_the_state():
    state = after([NAN])
    assert msgspec.json.decode(msgspec.json.encode(state), type=RunState).unusable_logits == 1
    assert protocol.UNUSABLE_LOGITS in NAN
