"""The static engine's rows: how they are padded, prefilled and let go, where the device is a GPU, too."""

import time

import pytest
import torch

from rankdeck.runner.engine import rows
from rankdeck.runner.engine.decoding.forward import Forward
from rankdeck.runner.engine.generation import by_generate
from rankdeck.runner.engine.generation.by_generate import ByGenerate
from rankdeck.runner.engine.generation.cache_rows import KeptRows
from tests.runner.engine.tiny import BOTH_WAYS, TEXTS, ending_early, make, prompts, side_by_side

EQUAL = ("first", "other", "third", "maybe")


def on_gpu(engine):
    """The engine, as far as its choices go."""
    engine.device = torch.device("cuda")
    return engine


@pytest.mark.parametrize(
    ("rows", "left"),
    [(64, [32, 16, 8, 4, 2, 1]), (7, [3, 1]), (3, [1]), (2, [1]), (1, [])],
)  # fmt: skip
def test_on_a_gpu_rows_leave_when_half_of_them_have_ended_down_to_the_last(model, rows, left):
    engine, seen = on_gpu(make(model)), []
    while rows := rows - engine._leaving(rows):
        seen.append(rows)
    assert seen == left


def test_on_a_cpu_a_row_leaves_as_it_ends(model):
    assert [make(model)._leaving(rows) for rows in (1, 2, 50, 64, 128)] == [1, 1, 1, 1, 2]


def test_another_forward_pass_costs_a_gpu_more_slots_the_smaller_the_model(model):
    assert rows.group_slots("cpu", 32, 7_000_000_000) == 64
    assert 1_000 <= rows.group_slots("cuda", 32, 6_700_000_000) <= 2_400
    assert rows.group_slots("cuda", 80, 70_000_000_000) < 512 < 2_400 < rows.group_slots("cuda", 16, 1_200_000_000)


class Layer:
    """A layer of a cache; the meta device stands in for another GPU."""

    def __init__(self, device):
        self.keys, self.given = torch.zeros(4, 1, 1, 1, device=device), None

    def reorder_cache(self, index):
        self.given = index


def test_the_index_of_rows_that_stay_goes_to_each_device_once_whatever_the_layers(monkeypatch):
    copies = []
    moved = torch.Tensor.to
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, device: copies.append(device) or moved(tensor, device))
    layers = [Layer(device) for device in ("cpu", "cpu", "meta", "meta", "meta")]
    cache = type("Cache", (), {"layers": layers})
    KeptRows([0, 2]).take_out(cache)
    assert [layer.given.device.type for layer in layers] == ["cpu", "cpu", "meta", "meta", "meta"]
    assert [device.type for device in copies] == ["cpu", "meta"]
    assert layers[0].given.tolist() == [0, 2]


@pytest.fixture
def masks(monkeypatch):
    """The attention masks of prompts, as `generate` is called or the decode loop prefills them; there None for none."""
    seen = []
    call, prefill = ByGenerate._call, Forward.prefill
    monkeypatch.setattr(
        ByGenerate, "_call", lambda one, ids, mask, *more: seen.append(mask) or call(one, ids, mask, *more)
    )
    monkeypatch.setattr(
        Forward, "prefill", lambda one, ids, mask, *more: seen.append(mask) or prefill(one, ids, mask, *more)
    )
    return seen


@BOTH_WAYS
@pytest.mark.parametrize("texts", [EQUAL, ("a lone prompt",)])
def test_prompts_that_are_equally_long_are_not_padded_and_need_no_mask(model, masks, texts, way):
    one = side_by_side(make(model, ignore_eos=True, way=way))
    masks.clear()
    result = one.generate(prompts(*texts)).result
    (mask,) = masks
    assert mask is None if way == "loop" else mask.all()
    assert result.padded_slots == 0


@BOTH_WAYS
def test_prompts_of_unlike_lengths_are_padded_to_a_multiple_of_8(model, masks, way):
    one = side_by_side(make(model, ignore_eos=True, way=way))
    masks.clear()
    one.generate(prompts("first", "second", "3"))
    assert [mask.shape for mask in masks] == [(3, 8)]
    assert sorted(masks[0].sum(dim=1).tolist()) == [2, 6, 7]


@BOTH_WAYS
@pytest.mark.parametrize("texts", [EQUAL, ("first", "second")])
def test_a_padding_token_in_a_prompt_is_text_there(model, texts, way):
    pad = ord("s") + 3
    answers = [make(model, {"pad_token_id": own}, way=way).generate(prompts(*texts)).records for own in (0, pad)]
    assert answers[0] == answers[1]


@BOTH_WAYS
def test_unpadded_rows_leave_and_the_others_go_on_as_if_nothing_had_happened(model, way):
    written = "".join(record.text for record in make(model, ignore_eos=True).generate(prompts(*EQUAL)).records)
    common = max(filter(str.isascii, written), key=written.count)
    stays, leaves = (make(model, {"eos_token_id": ord(common) + 3}, way=how) for how in (None, way))
    stays.why_rows_stay = "the test wants it"
    whole, thinned = stays.generate(prompts(*EQUAL)), leaves.generate(prompts(*EQUAL))
    assert thinned.records == whole.records
    assert len({record.output_tokens for record in whole.records}) > 1, "the test needs a row that ends early"
    assert thinned.result.row_steps < whole.result.row_steps, "and leaves"


@BOTH_WAYS
@pytest.mark.parametrize("kind", ["static", "dynamic", "offloaded", "quantized"])
def test_whatever_cache_a_checkpoint_wants_its_rows_leave(model, kind, way):
    early = ending_early(model).generation.eos_token_id
    own = {"eos_token_id": early, "cache_implementation": kind}
    one, plain = make(model, own, way=way), make(model, {"eos_token_id": early})
    assert one.why_rows_stay is None
    assert one.generate(prompts(*TEXTS)).records == plain.generate(prompts(*TEXTS)).records


def test_joining_groups_frees_their_own_caches_layer_by_layer(model, monkeypatch):
    monkeypatch.setitem(rows.GROUP_SLOTS, "cpu", 8)
    one, join, given = make(model, ignore_eos=True, way="generate"), by_generate.join, []
    monkeypatch.setattr(by_generate, "join", lambda caches, lacking: given.extend(caches) or join(caches, lacking))
    one.generate(prompts("a", "b" * 60, "c" * 30))
    assert len(given) == 3
    held = [part for cache in given[1:] for layer in cache.layers for part in (layer.keys, layer.values)]
    assert held == [None] * 8


@BOTH_WAYS
def test_the_time_of_decoding_is_without_records_and_progress_on_the_host(model, monkeypatch, way):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def takes(seconds):
        def advance(*_, **__):
            now[0] += seconds

        return advance

    hook = model.register_forward_hook(takes(1.0))
    one = ending_early(model, way=way)
    monkeypatch.setattr(one.tokenizer, "decode", lambda *_, **__: takes(64.0)() or "text")
    now[0], texts = 0.0, ("a", "bb bb", "zz")
    output = one.generate(prompts(*texts), on_records=takes(4096.0), on_step=takes(512.0), measure=True)
    hook.remove()
    result = output.result
    assert result.prefill_seconds == 1.0
    assert result.decode_seconds == result.steps - 1 == sum(result.step_seconds)
    assert result.seconds > 3 * 64 + 4096


def test_what_a_group_costs_is_asked_of_the_device_and_the_model(model):
    assert make(model)._group_slots == rows.GROUP_SLOTS["cpu"]
