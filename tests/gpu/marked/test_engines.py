"""What the static engine answers on a real GPU, greedy in float32, beside the same on the CPU."""

from rankdeck.runner import protocol
from tests.gpu.marked.flights import BEYOND, ON_A_GPU, PROMPTS, SLOWER_STEPS, check_answers_and_engine

pytestmark = ON_A_GPU


def test_two_ranks_on_a_gpu_answer_as_the_cpu_does(flights):
    check_answers_and_engine(flights["shared"], flights["cpu"], "static")


def test_steps_of_the_decode_loop_are_captured(flights):
    shared = flights["shared"]
    assert shared.wait() == 0, shared.said
    lines = [event.text for event in shared.events if isinstance(event, protocol.LogLine)]
    assert not [line for line in lines if any(slower in line for slower in SLOWER_STEPS)]


def test_batches_by_generate_answer_every_prompt_as_the_cpu_does(flights):
    generate = flights["generate"]
    check_answers_and_engine(generate, flights["cpu"], "static")
    assert [record.index for record in generate.records] == list(range(len(PROMPTS)))
    assert generate.causes == [None], generate.said


def test_a_token_that_the_model_has_no_embedding_for_costs_its_prompt_alone_and_no_rank(flights):
    beyond = flights["beyond"]
    assert beyond.wait() == 1, "some prompts ended in an error"
    failed = [record for record in beyond.records if record.finish_reason == "error"]
    assert [BEYOND in record.prompt for record in failed] == [True]
    assert not any(isinstance(event, protocol.RankLost) for event in beyond.events), beyond.said
    assert [record.prompt for record in beyond.records if not record.error] == PROMPTS[:5]
