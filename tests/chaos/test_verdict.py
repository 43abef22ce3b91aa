"""The judge of a run under chaos sees each kind of loss."""

from pathlib import Path

import pytest

from rankdeck.runner import protocol
from rankdeck.runner.protocol import OutputRecord
from tests.chaos.verdict import judge

PROMPTS = ["zero", "one", "two"]


def line(index: int, *, text: str = "right", error: str | None = None) -> bytes:
    return protocol.encode_line(
        OutputRecord(
            index=index,
            id=str(index),
            prompt=PROMPTS[index % 3],
            text=text,
            prompt_tokens=1,
            output_tokens=1,
            finish_reason="error" if error else "stop",
            error=error,
        )
    )


def counts(directory: Path, outputs: bytes) -> dict[str, int]:
    (directory / "outputs.jsonl").write_bytes(outputs)
    verdict = judge(directory, PROMPTS, lambda index, text: "right")
    found = {kind: count for kind, count in verdict.counts().items() if count}
    assert bool(verdict) == (not found)
    return found


ALL = [line(0), line(1), line(2)]


@pytest.mark.parametrize(
    ("outputs", "found"),
    [
        (ALL, {}),
        (ALL[:2], {"lost": 1}),
        ([], {"lost": 3}),
        ([*ALL, ALL[2]], {"doubled": 1}),
        ([ALL[0], ALL[2], ALL[1]], {"unordered": 1}),
        ([*ALL[:2], ALL[2][:-1]], {"lost": 1, "torn": 1}),
        ([*ALL[:2], ALL[2][:-9]], {"lost": 1, "torn": 1}),
        ([ALL[0], ALL[1][:9], ALL[1], ALL[2]], {"lost": 1, "torn": 1}),
        ([ALL[0], b"\xff\xff\n", ALL[1], ALL[2]], {"torn": 1}),
        ([ALL[0], b"\n", ALL[1], ALL[2]], {"torn": 1}),
        ([*ALL[:2], line(2, text="another")], {"wrong": 1}),
        ([*ALL[:2], line(2, error="no answer")], {"wrong": 1}),
        ([*ALL, line(3)], {"wrong": 1}),
    ],
)
def test_each_kind_of_loss_is_seen(tmp_path, outputs, found):
    assert counts(tmp_path, b"".join(outputs)) == found


def test_outputs_that_are_gone_are_every_prompt_lost(tmp_path):
    assert judge(tmp_path, PROMPTS, lambda index, text: "right").lost == [0, 1, 2]
