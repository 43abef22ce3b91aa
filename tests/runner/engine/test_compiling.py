"""`--compile`: the first batch is the yardstick, the first compiled one pays, and then it is said whether it pays."""

import transformers

from rankdeck.runner.engine.compiling import Compiling


def said_after(*batches: tuple[int, int, int, float]) -> list[str]:
    said: list[str] = []
    one = Compiling(said.append)
    for batch in batches:
        one.learn(*batch)
    return said


def test_nothing_is_said_until_a_shape_has_come_twice():
    assert said_after((16, 164, 101, 10.0), (16, 164, 101, 80.0)) == []
    assert said_after((16, 164, 101, 10.0), (16, 164, 101, 80.0), (8, 164, 101, 70.0)) == []


def test_a_gain_is_said_with_the_batches_after_which_it_has_paid_for_the_compiler():
    assert said_after((16, 164, 101, 10.0), (16, 164, 101, 65.0), (16, 164, 101, 5.0), (16, 164, 101, 5.0)) == [
        "compiling batches of 16 x 164 took 60.0 s; a step takes 50.0 ms instead of 100.0 ms: "
        "it pays from 13 batches on"
    ]


def test_no_gain_is_said_as_plainly():
    assert said_after((16, 164, 101, 10.0), (16, 164, 101, 80.0), (16, 164, 101, 11.0)) == [
        "compiling batches of 16 x 164 took 69.0 s; a step takes 110.0 ms, no less than without (100.0 ms): "
        "leave --compile out"
    ]


def test_the_first_batch_runs_as_it_is_and_the_next_are_compiled():
    one, generation = Compiling(lambda _: None), transformers.GenerationConfig()
    one.prepare(generation, 16, 164)
    assert generation.cache_implementation is None
    one.learn(16, 164, 101, 10.0)
    one.prepare(generation, 16, 164)
    assert generation.cache_implementation == "static"
