"""How much memory a run will need: the formula, how ranks share devices, and what is read of a model's files."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankdeck.runner.inputs import frozen_prompts as prompts
from rankdeck.runner.inputs import model_shape
from rankdeck.runner.inputs.memory_estimate import (
    CPU_PROCESS_BYTES,
    CUDA_PROCESS_BYTES,
    PARENT_BYTES,
    MemoryEstimate,
    PromptSizes,
    estimate,
)
from rankdeck.runner.inputs.memory_room import Room
from rankdeck.runner.inputs.model_config import DEMO, ModelShape, shape_from_config
from rankdeck.runner.protocol.config import RunConfig

GIB = 2**30
PROMPTS = PromptSizes(prompts=1000, tokens=100)
H100 = Room(gpus=(78 * GIB,) * 8, host=500 * GIB)
LAPTOP = Room(gpus=(), host=21 * GIB)
LLAMA_8B = ModelShape(8_030_261_248, 32, 8, 128, 4096, 14336, 128256, 131072, "bfloat16")


def made(
    shape: ModelShape = DEMO, room: Room = LAPTOP, prompts: PromptSizes = PROMPTS, **settings: object
) -> MemoryEstimate:
    values: dict = {"ranks": 2, "batch_size": 16, **settings}
    return estimate(shape, RunConfig(prompts="x", **values), prompts, room)


def test_weights_are_parameters_times_bytes_and_keys_and_values_go_by_the_formula() -> None:
    found = made(LLAMA_8B, H100, ranks=1, batch_size=4, max_new_tokens=28)
    assert found.weights == 8_030_261_248 * 2
    assert found.cache == 2 * 32 * 8 * 128 * 2 * (100 + 28) * 4
    assert found.process == CUDA_PROCESS_BYTES


def test_on_a_cpu_auto_is_float32_and_all_ranks_share_one_memory() -> None:
    found = made(ranks=2)
    assert found.weights == 2 * 134_515_008 * 4, "as the file has them, and laid out for the kernels"
    assert found.process == CPU_PROCESS_BYTES
    assert not found.on_gpu
    assert (found.ranks, found.devices, found.free) == (2, 1, 21 * GIB)
    assert found.shared == 134_515_008 * 4
    once = found.shared - PARENT_BYTES
    assert found.needed == pytest.approx(2 * found.per_rank - once, rel=1e-6), "one mapped file, one parent"


@pytest.mark.parametrize(
    ("stored", "settings"),
    [("float16", {"dtype": "float16"}), ("float32", {"dtype": "float16"}), ("float32", {"quantization": "int8"})],
    ids=["half", "converted to half", "quantised"],
)
def test_weights_that_are_left_alone_on_a_cpu_are_there_once(stored: str, settings: dict) -> None:
    found = made(DEMO._replace(dtype=stored), **settings)
    once = 134_515_008 * 2 if settings.get("dtype") == "float16" else 134_515_008 * 4
    assert found.weights <= once
    assert (found.shared > 0) is (stored == settings.get("dtype"))


def test_converted_weights_are_given_back_as_they_are_laid_out() -> None:
    found = made(LLAMA_8B._replace(embedding_parameters=525_336_576), Room((), 500 * GIB))
    assert found.shared == 0
    assert found.weights == 8_030_261_248 * 4, "the input embedding, and the linear layers laid out"
    mapped = made(LLAMA_8B._replace(embedding_parameters=525_336_576), Room((), 500 * GIB), dtype="bfloat16")
    assert mapped.shared == 8_030_261_248 * 2
    assert mapped.weights == mapped.shared + (8_030_261_248 - 525_336_576) * 2


def test_on_a_gpu_nothing_is_laid_out() -> None:
    found = made(room=H100)
    assert (found.weights, found.shared) == (134_515_008 * 4, 0)


def test_a_rank_of_the_demo_model_takes_what_was_measured() -> None:
    static = made(prompts=PromptSizes(16, 24), ranks=1, batch_size=16, max_new_tokens=100)
    assert static.per_rank / GIB == pytest.approx(1.20, abs=0.1)
    continuous = made(prompts=PromptSizes(16, 24), ranks=1, max_new_tokens=100, batch_size=None, engine="continuous")
    assert continuous.per_rank / GIB == pytest.approx(3.11, abs=0.1)


def test_where_memory_is_short_the_continuous_ranks_of_a_cpu_share_what_their_caches_may_take() -> None:
    def cache(ranks: int, host: int) -> int:
        return made(room=Room((), host), ranks=ranks, batch_size=None, engine="continuous").cache

    wanted = cache(1, 500 * GIB)
    assert cache(4, 500 * GIB) == wanted
    short = 2 * wanted
    assert [cache(ranks, short) for ranks in (1, 2, 4)] == [short // 4, short // 8, short // 16]


def test_ranks_go_round_the_gpus_and_the_fullest_counts() -> None:
    assert made(room=H100, ranks=8).ranks == 1
    assert made(room=H100, ranks=9).ranks == 2
    shared = made(room=H100, ranks=16, ranks_per_gpu=2)
    assert (shared.ranks, shared.devices) == (2, 8)
    assert shared.needed == pytest.approx(2 * shared.per_rank, rel=1e-6)


def test_the_fullest_of_the_gpus_that_are_used_decides() -> None:
    uneven = Room(gpus=(78 * GIB, 10 * GIB, 2 * GIB), host=500 * GIB)
    assert made(room=uneven, ranks=1).free == 78 * GIB
    assert made(room=uneven, ranks=2).free == 10 * GIB
    assert made(room=uneven, ranks=3).free == 2 * GIB


def test_a_gpu_in_use_of_which_nothing_is_known_may_be_the_fullest() -> None:
    room = Room(gpus=(78 * GIB, None, 2 * GIB), host=4 * GIB)
    assert made(room=room, ranks=1).free == 78 * GIB
    assert made(room=room, ranks=2).free is None
    hidden = made(LLAMA_8B, Room(gpus=(None,), host=4 * GIB), ranks=1)
    assert hidden.fits, "it is a GPU's memory that is not known: the host's is not what decides"


def test_where_all_gpus_are_used_the_fullest_decides_whichever_it_is() -> None:
    unordered = Room(gpus=(20 * GIB, 10 * GIB), host=4 * GIB, ordered=False)
    assert made(room=unordered, ranks=2).free == made(room=unordered, ranks=5).free == 10 * GIB
    assert made(room=unordered, ranks=1).free is None, "it may be the other one that is used"
    assert made(room=unordered, ranks=1, gpus_per_rank=2).free == 10 * GIB


def test_a_rank_of_several_gpus_is_spread_over_them() -> None:
    alone = made(LLAMA_8B, H100, ranks=1)
    spread = made(LLAMA_8B, H100, ranks=1, gpus_per_rank=4)
    assert spread.devices == 4
    assert spread.needed - CUDA_PROCESS_BYTES == pytest.approx((alone.needed - CUDA_PROCESS_BYTES) / 4, rel=1e-6)


def test_what_does_not_fit_is_said_with_the_largest_batch_size_that_would() -> None:
    tight = Room(gpus=(24 * GIB,), host=64 * GIB)
    found = made(LLAMA_8B, tight, ranks=1, batch_size=4096, max_new_tokens=1000)
    assert not found.fits
    assert found.largest is not None
    assert made(LLAMA_8B, tight, ranks=1, batch_size=found.largest, max_new_tokens=1000).fits
    assert not made(LLAMA_8B, tight, ranks=1, batch_size=found.largest + 1, max_new_tokens=1000).fits


def test_a_model_that_does_not_fit_at_all_has_no_largest_batch_size() -> None:
    found = made(LLAMA_8B, Room(gpus=(8 * GIB,), host=64 * GIB), ranks=1, batch_size=1)
    assert not found.fits
    assert found.largest is None


def test_without_a_figure_for_what_is_free_nothing_is_claimed() -> None:
    found = made(room=Room(gpus=(), host=None))
    assert found.fits
    assert found.largest is None


@pytest.mark.parametrize(("quantization", "share"), [("int8", 0.6), ("bnb-4bit", 0.4)])
def test_quantising_makes_the_weights_smaller_but_not_the_embedding(quantization: str, share: float) -> None:
    shape = shape_from_config(LLAMA_CONFIG, 8_030_261_248)
    plain, small = made(shape, H100, ranks=1), made(shape, H100, ranks=1, quantization=quantization)
    assert small.weights / plain.weights < share


def test_a_checkpoint_that_is_quantised_counts_as_it_is_stored() -> None:
    config = {**LLAMA_CONFIG, "quantization_config": {"quant_method": "awq"}}
    assert made(shape_from_config(config, 2_000_000_000, 5 * GIB), H100, ranks=1).weights == 5 * GIB


@given(
    ranks=st.integers(1, 64),
    batch_size=st.integers(1, 4096),
    new_tokens=st.integers(1, 4096),
    gpus=st.integers(0, 8),
    engine=st.sampled_from(["auto", "static", "continuous"]),
)
def test_more_of_anything_never_needs_less(
    ranks: int, batch_size: int, new_tokens: int, gpus: int, engine: str
) -> None:
    room = Room(gpus=(78 * GIB,) * gpus, host=500 * GIB)
    first = made(LLAMA_8B, room, ranks=ranks, batch_size=batch_size, max_new_tokens=new_tokens, engine=engine)
    assert first.needed > 0
    assert first.fits == (first.needed <= (first.free or 0))
    larger = made(LLAMA_8B, room, ranks=ranks, batch_size=batch_size + 1, max_new_tokens=new_tokens, engine=engine)
    assert larger.needed >= first.needed


@pytest.mark.parametrize(("room", "first"), [(LAPTOP, 50), (H100, 100)], ids=["cpu", "gpu"])
def test_auto_is_estimated_at_the_size_that_it_starts_with(room: Room, first: int) -> None:
    found = made(room=room, ranks=2, batch_size=None, prompts=PromptSizes(200, 100))
    assert (found.batch_size, found.auto) == (first, True)
    assert found.cache == made(room=room, ranks=2, batch_size=first).cache


def test_auto_is_not_estimated_at_a_size_that_memory_does_not_hold() -> None:
    narrow = Room(gpus=(18 * GIB,), host=500 * GIB)
    found = made(LLAMA_8B, narrow, ranks=1, batch_size=None, prompts=PromptSizes(100_000, 1000))
    assert found.batch_size == found.largest
    assert found.fits


# --- the shape of a model, from its files -----------------------------------------------------------

LLAMA_CONFIG = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "torch_dtype": "bfloat16",
}


def test_parameters_are_worked_out_where_the_weights_are_not_there() -> None:
    shape = shape_from_config(LLAMA_CONFIG, None)
    assert not shape.counted
    assert shape.parameters == pytest.approx(8_030_261_248, rel=0.001)


def test_a_config_of_another_kind_says_what_is_missing() -> None:
    with pytest.raises(ValueError, match="num_hidden_layers"):
        shape_from_config({"hidden_size": 8}, None)


def folder_with(path: Path, config: object, **shapes: list[int]) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    if shapes:
        header = json.dumps(
            {"__metadata__": {"format": "pt"}, **{name: {"shape": shape} for name, shape in shapes.items()}}
        )
        (path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header.encode())
    return path


def test_the_parameters_of_a_folder_are_counted_in_the_headers_of_its_weights(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "m", LLAMA_CONFIG, first=[10, 20], second=[7], scale=[])
    shape = model_shape.shape_of(str(folder))
    assert (shape.parameters, shape.counted) == (208, True)


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, (5).to_bytes(8, "little") + b"[1,2]", b"\x02\0\0\0\0\0\0\0{}"])
def test_weights_that_are_no_safetensors_are_not_believed(tmp_path: Path, content: bytes) -> None:
    folder = folder_with(tmp_path / "m", LLAMA_CONFIG)
    (folder / "model.safetensors").write_bytes(content)
    assert model_shape.shape_of(str(folder)).parameters in (0, shape_from_config(LLAMA_CONFIG, None).parameters)


def test_weights_of_which_some_are_missing_are_worked_out(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "m", LLAMA_CONFIG, first=[10])
    (folder / "model.safetensors").rename(folder / "here.safetensors")
    index = {"weight_map": {"first": "here.safetensors", "second": "not-here.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert not model_shape.shape_of(str(folder)).counted


@pytest.mark.parametrize("config", [[], {}, {"hidden_size": "many"}, {"hidden_size": -1}])
def test_a_folder_that_does_not_tell_is_unknown_with_the_reason(tmp_path: Path, config: object) -> None:
    with pytest.raises(model_shape.Unknown, match="unknown"):
        model_shape.shape_of(str(folder_with(tmp_path / "m", config)))


def test_a_hub_model_is_unknown_until_it_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    for model in ("nobody/has-this-model", "no hub id at all", ""):
        with pytest.raises(model_shape.Unknown, match="until the model is fetched"):
            model_shape.shape_of(model)


def test_the_demo_model_is_known_before_it_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert model_shape.shape_of("demo") == DEMO


def test_prompts_are_counted_and_their_longest_is_measured(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_text("short\n" + "x" * 350 + "\nlast")
    assert model_shape.sizes_of(str(path)) == PromptSizes(3, 100, whole=True)
    assert model_shape.sizes_of(str(path), limit=2).prompts == 2
    assert not model_shape.sizes_of(str(tmp_path / "nowhere.txt")).whole
    assert not model_shape.sizes_of(str(tmp_path)).whole


@pytest.mark.parametrize(
    ("name", "text", "column", "found"),
    [
        ("p.txt", "one\ntwo\nthree", None, 3),
        ("p.txt", "a\x0bform feed\x0cis text\u2028too\n", None, 1),
        ("p.jsonl", '{"prompt": "one"}\n\n  \n{"prompt": "two"}\n', None, 2),
        ("p.csv", 'id,text\n1,"of two\nlines"\n2,"of\n\nthree"\n', "text", 2),
        ("p.csv", "id,text\n1,one\n", "prompt", None),
        ("p.json", '["one", "two"]', None, None),
        ("p.txt", "one\ntwo\n\n  \n", None, 2),
        ("p.tsv", "id\ttext\n1\tone\n", "text", 1),
        ("p.txt.gz", "not read to be counted", None, None),
        ("p.txt", "x\n" * 2**21 + "y\n", None, None),
    ],
    ids=[
        "lines",
        "one_line",
        "blank_lines",
        "rows_of_lines",
        "no_such_column",
        "one_document",
        "blank_end",
        "tabs",
        "gz",
        "long",
    ],
)
def test_what_is_counted_exactly_is_what_the_reader_of_prompts_finds_or_nothing(
    tmp_path: Path, name: str, text: str, column: str | None, found: int | None
) -> None:
    path = tmp_path / name
    path.write_text(text)
    assert model_shape.count_of(str(path), column) == found
    assert model_shape.count_of(str(path), column, 1) == (found and 1)
    if found is not None:
        assert prompts.freeze(str(path), tmp_path / "frozen", column=column, limit=None, chat=False).count == found
