"""What the engines answer on a real GPU, greedy in float32, beside the same on the CPU."""

import pytest

from rankdeck.runner import protocol
from rankdeck.runner.protocol import OutputRecord
from tests.gpu.marked.flights import BEYOND, ON_A_GPU, PROMPTS

pytestmark = ON_A_GPU

ALIKE = 0.9
"""Of the answers. Two words that are as good may change places where sums are rounded in another order, and from there
on an answer is another one."""


def answers(records: list[OutputRecord]) -> dict[int, tuple[str, int]]:
    return {record.index: (record.text, record.output_tokens) for record in records}


@pytest.mark.parametrize("name", ["shared", "compiled", "continuous"])
def test_an_engine_on_a_gpu_answers_as_the_cpu_does(flights, name):
    flight, cpu = flights[name], flights["cpu"]
    assert flight.wait() == 0, flight.said
    assert cpu.wait() == 0, cpu.said
    expected, found = answers(cpu.records), answers(flight.records)
    assert len(set(expected.values())) > len(expected) / 2, "the answers tell the prompts apart"
    differing = [index for index, answer in found.items() if answer != expected[index]]
    assert len(differing) <= (1 - ALIKE) * len(found), f"{len(differing)} of {len(found)} answers differ: {differing}"


def test_each_run_had_the_engine_that_was_asked_for(flights):
    for name, engine in (("shared", "static"), ("continuous", "continuous"), ("compiled", "static")):
        ready = [event for event in flights[name].events if isinstance(event, protocol.RankReady)]
        assert {event.engine for event in ready} == {engine}, flights[name].said
        assert {event.device.partition(":")[0] for event in ready} == {"cuda"}


def test_compiled_steps_answer_every_prompt(flights):
    compiled = flights["compiled"]
    assert compiled.wait() == 0, compiled.said
    assert [record.index for record in compiled.records] == list(range(16))
    assert not [record.error for record in compiled.records if record.error]


def test_a_token_that_the_model_has_no_embedding_for_costs_its_prompt_alone_and_no_rank(flights):
    beyond = flights["beyond"]
    assert beyond.wait() == 1, "some prompts ended in an error"
    failed = [record for record in beyond.records if record.finish_reason == "error"]
    assert [BEYOND in record.prompt for record in failed] == [True]
    assert not any(isinstance(event, protocol.RankLost) for event in beyond.events), beyond.said
    assert [record.prompt for record in beyond.records if not record.error] == PROMPTS[:5]
