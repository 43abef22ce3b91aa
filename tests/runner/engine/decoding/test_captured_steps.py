"""A step that is to be captured reads nothing on the host, moves no storage, and comes in few sizes."""

import pytest

from rankdeck.runner.engine.static import BY_TEXT, NOT_CAPTURED
from tests.runner.engine.decoding.captured import Operations, capture
from tests.runner.engine.lone import MIXED, VOCABULARY, static, texts_of, tiny
from tests.runner.engine.tiny import prompts

READS = ("_local_scalar_dense", "nonzero", "masked_select", "_unique", "equal.default", "is_nonzero")
"""Operations that make the host wait for the device, or whose result has a size that only the device knows."""

EARLY = [2, *(VOCABULARY.index(letter) for letter in "eY5")]
KINDS = ("llama", "qwen3", "gemma", "phi", "gpt_neox", "olmo", "granite")


def shape(kind):
    return {"head_dim": 8, "num_key_value_heads": 2} if kind in ("qwen3", "gemma") else {}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", [{}, {"do_sample": True, "seed": 1, "top_k": 7, "top_p": 0.9, "temperature": 0.8}])
def test_no_step_reads_on_the_host(kind, settings, monkeypatch):
    seen = Operations()

    def run(_size, step, _reads):
        with seen:
            step()

    engine = capture(static(tiny(kind, **shape(kind)), **settings), monkeypatch, run)
    engine.generate(prompts(*MIXED))
    assert seen.names
    assert [name for name in seen.names if any(read in name for read in READS)] == []


def test_what_a_captured_step_works_on_stays_where_it_is(monkeypatch):
    """From batch to batch, as rows leave, and whatever the size."""
    places: dict[object, set[tuple[int, ...]]] = {}
    model = tiny(num_key_value_heads=2)
    model.generation_config.eos_token_id = EARLY
    engine = static(model)
    workspace = engine._workspace

    def run(size, step, _reads):
        step()
        state = workspace._state
        held = [*state._held(), state.at, state.number, *workspace._arena.held()]
        places.setdefault(size, set()).add(tuple(part.data_ptr() for part in held))

    capture(engine, monkeypatch, run)
    first = texts_of(engine)
    assert texts_of(engine) == first
    assert len(places) > 1
    assert {len(found) for found in places.values()} == {1}
    assert len({place for found in places.values() for place in found}) == 1


def test_steps_have_few_sizes_and_rows_leave_when_the_others_fit_a_smaller_one(monkeypatch):
    sizes = []
    model = tiny(num_key_value_heads=2)
    model.generation_config.eos_token_id = EARLY
    engine = static(model)
    exactly = engine.generate(prompts(*MIXED)).result.slots_read
    capture(engine, monkeypatch, lambda size, step, _: (sizes.append(size), step()))
    found = engine.generate(prompts(*MIXED))
    rows = [rows for rows, _ in sizes]
    assert rows[0] == 8
    assert rows == sorted(rows, reverse=True)
    assert set(rows) <= {8, 4, 2, 1}
    assert {slots for _, slots in sizes} == {128}
    # The unused rows of a step are padding; what it has to read is what its real rows have.
    assert found.result.row_steps == len(MIXED) + sum(rows)
    assert exactly <= found.result.slots_read < 128 * sum(rows)
    real = found.result.prompt_tokens + found.result.output_tokens
    assert found.result.padded_slots == found.result.slots - real > 0


def test_a_longer_batch_or_one_of_more_rows_has_a_new_place_and_no_graph_of_the_old_one(monkeypatch):
    engine = capture(static(tiny(num_key_value_heads=2)), monkeypatch)
    workspace = engine._workspace
    engine.generate(prompts("a", "b"))
    small = workspace._arena
    engine.generate(prompts("c"))
    assert workspace._arena is small
    forgotten = []
    monkeypatch.setattr(workspace.graphs, "forget", lambda: forgotten.append(True))
    engine.generate(prompts(*"abc"))
    assert workspace._arena.rows == 4
    assert forgotten


def test_where_steps_cannot_be_captured_that_is_said_once_and_the_batch_is_answered_all_the_same(monkeypatch):
    from rankdeck.runner.engine.decoding.graphs import CaptureError

    engine = static(tiny(num_key_value_heads=2))
    expected = texts_of(engine)

    def fail(_size, _step, _reads):
        raise CaptureError("operation not permitted when stream is capturing")

    capture(engine, monkeypatch, fail)
    assert texts_of(engine) == expected
    assert [note for note in engine.take_notes() if "CUDA graphs" in note] == [
        "decode steps are not captured as CUDA graphs, so they are slower: "
        "operation not permitted when stream is capturing"
    ]
    assert texts_of(engine) == expected
    assert engine.take_notes() == []


def test_that_steps_are_captured_is_said_once(monkeypatch):
    engine = capture(static(tiny(num_key_value_heads=2)), monkeypatch)
    graphs = engine._workspace.graphs
    engine.generate(prompts("a"))
    assert engine.take_notes() == []
    monkeypatch.setitem(graphs._graphs, (1, 128), "a graph")
    for _ in range(2):
        engine.generate(prompts("a"))
    assert engine.take_notes() == ["decode steps are captured as CUDA graphs, each launched as one"]


def test_settings_that_need_a_rows_very_text_are_not_captured(monkeypatch):
    model = tiny(num_key_value_heads=2)
    model.generation_config.no_repeat_ngram_size = 2
    engine = static(model)
    sizes = []
    capture(engine, monkeypatch, lambda size, step, _: (sizes.append(size), step()))
    for _ in range(2):
        engine.generate(prompts(*MIXED))
    assert sizes == []
    assert [note for note in engine.take_notes() if "not captured" in note] == [f"{NOT_CAPTURED}: {BY_TEXT}"]


def test_a_closed_engine_keeps_nothing(monkeypatch):
    engine = capture(static(tiny(num_key_value_heads=2)), monkeypatch)
    engine.generate(prompts("a"))
    engine.close()
    assert engine._workspace._arena is None
    assert len(engine._workspace.graphs) == 0
