"""The runs that are waited for last, to which the name of this file sees: they are slow to start.

`--compile` takes a minute or more the first time; the continuous engine takes nearly all memory that it finds, and so
starts once all others are over. Each run has one test, so that one which is too slow fails that test alone.
"""

from rankdeck.runner.protocol import LogLine
from tests.gpu.marked.flights import ON_A_GPU, PROMPTS, check_answers_and_engine

pytestmark = ON_A_GPU


def test_compiled_steps_answer_every_prompt_as_the_cpu_does(flights):
    compiled = flights["compiled"]
    check_answers_and_engine(compiled, flights["cpu"], "static")
    assert [record.index for record in compiled.records] == list(range(len(PROMPTS)))
    assert compiled.causes == [None], compiled.said
    # Said of the second compiled batch of a shape, which has the cache and the code of the first.
    assert any("compiling batches of 8 x" in line.text for line in compiled.events if isinstance(line, LogLine))


def test_the_continuous_engine_answers_as_the_cpu_does(flights):
    continuous = flights["continuous"]
    check_answers_and_engine(continuous, flights["cpu"], "continuous")
    assert continuous.causes == [None], continuous.said
