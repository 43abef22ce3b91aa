"""The run that is waited for last, to which the name of this file sees: it is slow to start.

The continuous engine takes nearly all memory that it finds, and so starts once all others are over.
"""

from tests.gpu.marked.flights import ON_A_GPU, check_answers_and_engine

pytestmark = ON_A_GPU


def test_the_continuous_engine_answers_as_the_cpu_does(flights):
    continuous = flights["continuous"]
    check_answers_and_engine(continuous, flights["cpu"], "continuous")
    assert continuous.causes == [None], continuous.said
