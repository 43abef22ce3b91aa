"""What a batch of the decode loop leaves behind, and how it ends early: for whoever comes after it."""

import gc
import weakref

import pytest

from rankdeck.runner.engine import rows
from rankdeck.runner.engine.decoding.graphs import CaptureError, Graphs
from rankdeck.runner.engine.rows import Cancelled
from rankdeck.runner.supervisor.talk.claims import check_result
from tests.runner.engine.decoding.captured import capture
from tests.runner.engine.lone import MIXED, VOCABULARY, alone, static, texts_of, tiny
from tests.runner.engine.tiny import prompts

SYSTEM = "You are a retired pirate who teaches. "


@pytest.fixture(autouse=True)
def in_groups(monkeypatch):
    monkeypatch.setitem(rows.GROUP_SLOTS, "cpu", 4)


@pytest.fixture
def engine():
    return static(tiny(num_key_value_heads=2))


def test_what_a_captured_step_reads_is_there_for_as_long_as_its_graph(monkeypatch):
    model = tiny(num_key_value_heads=2)
    model.generation_config.suppress_tokens = [10, 11]
    engine = static(model)
    graphs: Graphs = engine._workspace.graphs
    read = []
    capture(engine, monkeypatch, lambda size, step, reads: (read.append(reads), step()))
    engine.generate(prompts(*MIXED))
    eos, (suppress,) = read[0]
    there = [weakref.ref(eos), weakref.ref(suppress.suppress_tokens)]
    graphs._graphs[1, 128] = object(), read[0]
    del eos, suppress
    read.clear()
    gc.collect()
    assert all(one() is not None for one in there)
    graphs.forget()
    gc.collect()
    assert all(one() is None for one in there)


def test_layers_that_attend_by_the_distance_of_slots_go_by_generate():
    model = tiny("gpt_neo", num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]], window_size=100)
    engine = static(model)
    assert not engine.in_loop
    assert any("distance of slots" in note for note in engine.take_notes())
    texts = [SYSTEM * 3 + rest for rest in MIXED]
    assert texts_of(engine, texts) == alone(model, texts)


@pytest.mark.parametrize("begin", ["", SYSTEM * 3])
def test_a_batch_whose_steps_turn_out_not_to_be_captured_accounts_for_all_that_was_computed(monkeypatch, begin):
    model = tiny(num_key_value_heads=2)
    texts = [begin + rest for rest in MIXED]
    ends = "".join(text[:1] for text in alone(model, texts)[:2])
    model.generation_config.eos_token_id = [2, *(VOCABULARY.index(letter) for letter in ends)]
    expected = alone(model, texts)
    engine = static(model)
    steps = []

    def run(_size, step, _reads):
        steps.append(step())
        if len(steps) == 4:
            raise CaptureError("no")

    capture(engine, monkeypatch, run)
    found = engine.generate(prompts(*texts))
    assert [record.text for record in found.records] == expected
    result = found.result
    assert bool(result.shared_tokens) == bool(begin)
    real = result.prompt_tokens - result.shared_tokens + result.output_tokens
    assert result.padded_slots == result.slots - real > 0
    check_result(result, rows=len(MIXED), tokens=12 * len(MIXED), seconds=1e6)


@pytest.mark.parametrize("new", [1, 12])
def test_a_batch_is_abandoned_between_the_prefills_of_its_groups(new):
    engine = static(tiny(num_key_value_heads=2), max_new_tokens=new)
    asked = []
    texts = [*MIXED, *(SYSTEM + rest for rest in MIXED)]
    with pytest.raises(Cancelled):
        engine.generate(prompts(*texts), cancelled=lambda: asked.append(True) or len(asked) == 3)
    assert texts_of(engine, texts) == alone(engine.model, texts, new)


def test_of_many_prefixes_only_few_outlive_their_prefill(engine):
    many = [letter * 40 + rest for letter in "abcdefgh" for rest in ("x", "yy")]
    expected = alone(engine.model, many)
    kept = []
    found = engine.generate(prompts(*many), on_step=lambda _: kept.append(len(engine._workspace.prefixes)))
    assert [record.text for record in found.records] == expected
    assert found.result.shared_tokens == 8 * 40
    assert set(kept) == {4}


def test_a_trial_of_a_sweep_pays_for_its_own_prefixes(engine):
    texts = [SYSTEM + rest for rest in MIXED]
    accounts = [engine.generate(prompts(*texts), measure=True).result for _ in range(3)]
    assert len({account.slots for account in accounts}) == 1
    alone_again = [engine.generate(prompts(texts[0]), measure=True).result.shared_tokens for _ in range(3)]
    assert alone_again == [0, 0, 0]


def test_keys_and_values_take_little_more_than_their_slots(engine):
    texts = ["x" * (17 + 100)]
    engine.generate(prompts(*texts))
    for layer in engine._workspace._arena.layers:
        keys, values = layer.keys, layer.values
        slots = values.shape[2]
        assert slots == 117 + 12
        assert keys.shape[0] * keys.shape[4] < slots + 32
