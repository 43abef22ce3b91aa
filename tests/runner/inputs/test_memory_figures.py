"""Every figure of an estimate, worked out by hand for a model of small round numbers."""

from typing import Any

import pytest

from rankdeck.runner.inputs import memory_estimate
from rankdeck.runner.inputs.memory_estimate import MemoryEstimate, PromptSizes, doubt, estimate
from rankdeck.runner.inputs.memory_room import Room, Share, gib
from rankdeck.runner.inputs.model_config import DEMO, ModelShape
from rankdeck.runner.protocol.config import RunConfig

GIB = 2**30
SHAPE = ModelShape(1_000_000, 2, 3, 5, 7, 11, 13, 100, "bfloat16", embedding_parameters=100_000)
CUDA, CPU, PARENT, LEAST = int(0.6 * GIB), int(0.1 * GIB), int(0.3 * GIB), int(0.05 * GIB)
PER_TOKEN = 2 * 2 * 3 * 5
"""Values of keys and values, of two layers, three heads and a head of five."""
WORKING = 2 * 40 * (4 * 7 + 2 * 11)
"""Values that a row of 40 tokens has in work, twice."""


def made(
    room: Room, shape: ModelShape = SHAPE, tokens: int = 40, prompts: int = 1000, **settings: Any
) -> MemoryEstimate:
    usual = {"batch_size": 4, "max_new_tokens": 50, "ranks": 1, "decoding": "generate"}
    if settings.get("engine") == "continuous":
        del usual["decoding"]
    config = RunConfig(prompts="p", **{**usual, **settings})
    return estimate(shape, config, PromptSizes(prompts, tokens), room)


ONE_GPU = Room((GIB,), 64 * GIB)
HOST = Room((), 64 * GIB)


def test_the_measured_figures_are_those_of_the_documentation() -> None:
    assert memory_estimate.CUDA_PROCESS_BYTES == CUDA
    assert (memory_estimate.CPU_PROCESS_BYTES, memory_estimate.PARENT_BYTES) == (CPU, PARENT)
    assert memory_estimate.SURE_PROCESS_BYTES == LEAST
    assert DEMO.parameters == 134_515_008
    assert (DEMO.layers, DEMO.kv_heads, DEMO.head_size, DEMO.hidden, DEMO.intermediate) == (30, 3, 64, 576, 1536)
    assert (DEMO.vocabulary, DEMO.context, DEMO.dtype, DEMO.embedding_parameters) == (
        49152,
        8192,
        "float32",
        49152 * 576,
    )
    assert (DEMO.counted, DEMO.quantised, DEMO.stored_bytes, DEMO.tied) == (True, False, None, True)


def test_a_rank_on_a_gpu_has_weights_cache_working_memory_and_a_context() -> None:
    found = made(ONE_GPU)
    assert (found.weights, found.cache, found.working) == (2_000_000, PER_TOKEN * 2 * 90 * 4, WORKING * 2 * 4)
    assert (found.process, found.shared) == (CUDA, 0)
    assert found.needed == found.per_rank == 2_000_000 + CUDA + 4 * (PER_TOKEN * 180 + WORKING * 2)
    assert (found.ranks, found.devices, found.on_gpu, found.free) == (1, 1, True, GIB)
    assert (found.batch_size, found.auto, found.takes_the_rest, found.refusal) == (4, False, False, None)
    assert found.largest == (GIB - 2_000_000 - CUDA) // (PER_TOKEN * 180 + WORKING * 2)


def test_ranks_that_share_a_gpu_need_it_together_and_a_rank_of_several_gpus_a_part_of_each() -> None:
    alone = made(ONE_GPU)
    assert made(ONE_GPU, ranks=3).needed == 3 * alone.needed
    spread = made(Room((GIB, GIB, GIB), 64 * GIB), gpus_per_rank=2)
    assert (spread.devices, spread.ranks, spread.per_rank) == (2, 1, alone.per_rank)
    assert spread.needed == CUDA + 1_000_000 + 2 * (PER_TOKEN * 180 + WORKING * 2)


def test_ranks_on_a_cpu_have_laid_out_weights_each_and_their_parent_and_a_mapped_file_once() -> None:
    row = PER_TOKEN * 4 * 90 + WORKING * 4
    mapped = made(HOST, SHAPE._replace(dtype="float32"), ranks=3)
    assert (mapped.shared, mapped.weights) == (4_000_000, 4_000_000 + 3_600_000), "all but the embedding is laid out"
    assert mapped.needed == PARENT + 4_000_000 + 3 * (CPU + 3_600_000 + 4 * row)
    tied = made(HOST, SHAPE._replace(dtype="float32", tied=True))
    assert tied.weights == 8_000_000, "the last layer has the embedding's weight, and is laid out"
    half = made(HOST, SHAPE._replace(dtype="float16"), dtype="float16")
    assert (half.shared, half.weights) == (2_000_000, 2_000_000), "kernels take none of these"
    converted = made(HOST, ranks=3)
    assert (converted.shared, converted.weights) == (0, 400_000 + 3_600_000), "what was read is given back but for it"
    assert converted.needed == PARENT + 3 * (CPU + 4_000_000 + 4 * row)
    assert (converted.ranks, converted.devices, converted.on_gpu, converted.free) == (3, 1, False, 64 * GIB)


@pytest.mark.parametrize(
    ("settings", "shared", "weights"),
    [
        ({"dtype": "bfloat16"}, 2_000_000, 2_000_000 + 1_800_000),
        ({"dtype": "float16"}, 0, 2_000_000),
        ({"quantization": "int8"}, 0, 900_000 + 400_000),
        ({"quantization": "bnb-8bit"}, 0, 900_000 + 400_000),
        ({"quantization": "bnb-4bit"}, 0, 504_000 + 400_000),
    ],
    ids=str,
)
def test_weights_on_a_cpu_are_mapped_where_the_file_has_them_and_laid_out_where_kernels_take_them(
    settings: dict[str, Any], shared: int, weights: int
) -> None:
    found = made(HOST, **settings)
    assert (found.shared, found.weights) == (shared, weights)


@pytest.mark.parametrize(
    ("dtype", "asked", "size"),
    [
        ("bfloat16", "auto", 2), ("float32", "auto", 4), ("float16", "auto", 2), ("float64", "auto", 8),
        ("float8_e4m3fn", "auto", 1), (None, "auto", 2), ("of tomorrow", "auto", 2),
        ("bfloat16", "float32", 4), ("float32", "bfloat16", 2), ("float32", "float16", 2),
    ],
)  # fmt: skip
def test_a_parameter_has_the_bytes_of_the_dtype_that_was_asked_for_else_of_the_checkpoints(
    dtype: str | None, asked: str, size: int
) -> None:
    found = made(ONE_GPU, SHAPE._replace(dtype=dtype), dtype=asked)
    assert found.weights == 1_000_000 * size
    assert found.cache == PER_TOKEN * size * 90 * 4
    on_cpu = made(HOST, SHAPE._replace(dtype=dtype), dtype=asked)
    assert on_cpu.cache == PER_TOKEN * (4 if asked == "auto" else size) * 90 * 4


def test_a_quantised_checkpoint_is_as_large_as_it_is_stored_wherever_it_runs() -> None:
    shape = SHAPE._replace(quantised=True, stored_bytes=777)
    for room in (ONE_GPU, HOST):
        assert (made(room, shape).weights, made(room, shape).shared) == (777, 0)


def test_a_prompt_and_its_answer_take_no_more_than_the_models_context_but_an_answer_always_has_room() -> None:
    def tokens(**settings: Any) -> float:
        return made(ONE_GPU, **settings).cache / (PER_TOKEN * 2 * 4)

    assert tokens(tokens=49) == 99
    assert tokens(tokens=50) == tokens(tokens=51) == tokens(tokens=9999) == 100
    assert tokens(tokens=9999, max_new_tokens=150) == 150
    assert tokens(tokens=200, shape=SHAPE._replace(context=None)) == 250


def test_working_memory_is_the_larger_of_a_layers_values_and_the_logits_twice() -> None:
    assert made(ONE_GPU).working == 2 * 4 * 40 * (28 + 22) * 2
    wide = SHAPE._replace(vocabulary=100_000)
    assert made(ONE_GPU, wide).working == 2 * 4 * 4 * 100_000


def test_the_cache_of_a_continuous_rank_on_a_cpu_is_for_128_rows_or_one_long_one_within_a_quarter() -> None:
    def cache(host: int | None = 64 * GIB, shape: ModelShape = SHAPE, **settings: Any) -> int:
        return made(Room((), host), shape, engine="continuous", **settings).cache

    row = PER_TOKEN * 4
    assert cache() == row * 128 * (50 + 256)
    assert cache(batch_size=128) == cache(batch_size=None) == cache()
    assert cache(batch_size=129) == row * 129 * (50 + 256)
    assert cache(host=None) == cache()
    assert cache(host=8_000_000, ranks=2) == 1_000_000, "a quarter of what is free, for both"
    found = made(HOST, engine="continuous")
    fixed = PARENT + CPU + 4_000_000 + row * 128 * 306
    assert found.needed == fixed + 4 * WORKING * 4
    assert found.largest == (64 * GIB - fixed) // (WORKING * 4)
    assert not found.takes_the_rest


def test_the_cache_for_one_long_row_counts_at_most_8192_tokens_of_context(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_estimate, "CONTINUOUS_ROWS", 1)

    def tokens(context: int | None) -> float:
        found = made(HOST, SHAPE._replace(context=context), engine="continuous", batch_size=None)
        return found.cache / (PER_TOKEN * 4)

    assert tokens(8191) == 8241
    assert tokens(8192) == tokens(10**6) == 8242
    assert tokens(None) == 306


def test_a_continuous_rank_takes_the_rest_of_a_gpu_and_no_other() -> None:
    for room, engine in ((ONE_GPU, "continuous"), (ONE_GPU, "static"), (HOST, "continuous"), (HOST, "static")):
        assert made(room, engine=engine).takes_the_rest == (room is ONE_GPU and engine == "continuous")


def test_a_batch_fits_to_the_last_byte() -> None:
    row = PER_TOKEN * 180 + WORKING * 2
    fixed = 2_000_000 + CUDA
    for free, largest, fits in (
        (fixed, None, False),
        (fixed + row - 1, None, False),
        (fixed + row, 1, False),
        (fixed + 4 * row - 1, 3, False),
        (fixed + 4 * row, 4, True),
    ):
        found = made(Room((free,), None))
        assert (found.largest, found.fits) == (largest, fits)


def test_what_will_hardly_fit_is_said_with_its_figures_and_what_a_search_finds_is_not() -> None:
    row, fixed = PER_TOKEN * 180 + WORKING * 2, 2_000_000 + CUDA
    three = Room((fixed + 3 * row,), None)
    assert doubt(made(three)) == "batch size 4 would not fit in memory, by estimate: 3 would"
    assert doubt(made(three, batch_size=3)) is None
    assert doubt(made(three, batch_size=None)) is None
    none = Room((GIB // 2,), None)
    for size in (4, None):
        assert doubt(made(none, batch_size=size)) == (
            "the run would not fit in memory, by estimate, even at batch size 1: 0.6 GiB are needed, 0.5 are free"
        )
    assert doubt(made(Room((None,), None))) is None


@pytest.mark.parametrize(("prompts", "ranks", "rows"), [(7, 2, 4), (8, 2, 4), (9, 2, 5), (1, 2, 1)])
def test_without_a_batch_size_a_rank_begins_with_its_share_of_few_prompts(prompts: int, ranks: int, rows: int) -> None:
    found = made(Room((GIB, GIB), GIB), prompts=prompts, ranks=ranks, batch_size=None)
    assert (found.batch_size, found.auto) == (rows, True)


# --- how ranks share devices ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ranks", "gpus", "per_rank", "devices", "on_fullest"),
    [
        (1, 1, 1, 1, 1), (2, 1, 1, 1, 2), (1, 4, 1, 1, 1), (4, 4, 1, 4, 1), (5, 4, 1, 4, 2), (8, 4, 1, 4, 2),
        (9, 4, 1, 4, 3), (1, 4, 2, 2, 1), (2, 4, 2, 4, 1), (3, 4, 2, 4, 1), (1, 4, 3, 3, 1), (2, 0, 1, 1, 2),
    ],
)  # fmt: skip
def test_ranks_go_round_the_gpus_or_have_several_each(
    ranks: int, gpus: int, per_rank: int, devices: int, on_fullest: int
) -> None:
    share = Share.of(
        RunConfig(prompts="p", device="cuda", ranks=ranks, gpus_per_rank=per_rank), Room((GIB,) * gpus, None)
    )
    assert (share.all_ranks, share.gpus, share.gpus_per_rank, share.on_gpu) == (ranks, gpus, per_rank, True)
    assert (share.devices, share.ranks) == (devices, on_fullest)
    assert share.on_device(60.0) == 60 * on_fullest / per_rank


@pytest.mark.parametrize(
    ("device", "gpus", "on_gpu"),
    [("cuda", 0, True), ("cuda", 1, True), ("cpu", 1, False), ("auto", 1, True), ("auto", 0, False)],
)
def test_auto_is_a_gpu_where_there_is_one(device: str, gpus: int, on_gpu: bool) -> None:
    config = RunConfig(prompts="p", device=device, ranks=0, gpus_per_rank=0)  # type: ignore[arg-type]
    share = Share.of(config, Room((GIB,) * gpus, 5))
    assert share.on_gpu == on_gpu
    assert (share.all_ranks, share.gpus_per_rank) == (1, 1), "nonsense is refused elsewhere"


def test_on_a_cpu_all_ranks_share_the_host() -> None:
    share = Share(5, False, 3, 2)
    assert (share.devices, share.ranks, share.on_device(10.0)) == (1, 5, 50.0)
    assert share.least_of(Room((1, 2, 3), 99)) == 99


@pytest.mark.parametrize(
    ("gpus", "ordered", "ranks", "place"),
    [
        ((5, 3, 4), True, 3, 1),
        ((5, 3, 4), True, 1, 0),
        ((5, 3, 4), True, 2, 1),
        ((3, 3), True, 2, 0),
        ((5, 3, 4), False, 3, 1),
        ((5, 3, 4), False, 2, None),
        ((5, None, 4), True, 1, 0),
        ((5, None, 4), True, 2, None),
        ((None,), True, 1, None),
        ((), True, 1, None),
    ],
)
def test_the_fullest_device_is_the_one_in_use_with_least_if_all_of_them_are_known(
    gpus: tuple[int | None, ...], ordered: bool, ranks: int, place: int | None
) -> None:
    share, room = Share(ranks, True, len(gpus), 1), Room(gpus, 99, ordered=ordered)
    assert share.fullest_of(room) == place
    assert share.least_of(room) == (None if place is None else gpus[place])


def test_gibibytes_have_one_place() -> None:
    assert [gib(number) for number in (0, GIB // 10, GIB, 1536 * 2**20, 10**9)] == ["0.0", "0.1", "1.0", "1.5", "0.9"]


def test_the_decode_loop_of_a_gpu_has_room_for_whole_steps() -> None:
    """Rows by doubling, 128 slots at a time: 90 tokens of 3 rows have the room of 128 tokens of 4."""
    found = made(ONE_GPU, decoding="auto", batch_size=3)
    assert found.cache == PER_TOKEN * 2 * 128 * 4
    assert found.needed == 2_000_000 + CUDA + found.cache + 3 * WORKING * 2
    assert made(HOST, decoding="auto", batch_size=3).cache == PER_TOKEN * 4 * 90 * 3


def test_the_largest_batch_is_one_whose_steps_fit_or_the_next_smaller_step_filled() -> None:
    row, work, fixed = PER_TOKEN * 2 * 128, WORKING * 2, 2_000_000 + CUDA
    for rows, working, largest in ((4, 4, 4), (8, 5, 4), (8, 8, 8), (1, 1, 1)):
        found = made(Room((fixed + rows * row + working * work,), None), decoding="auto", batch_size=largest)
        assert found.largest == largest
        assert found.fits


def test_a_rank_of_vllm_has_its_share_of_a_gpu_and_no_more() -> None:
    whole, free = Room((80 * GIB,), 64 * GIB), Room((79 * GIB,), 64 * GIB)

    def of(**more: Any) -> MemoryEstimate:
        settings = {"batch_size": 4, "max_new_tokens": 50, "engine": "vllm", **more}
        return estimate(SHAPE, RunConfig(prompts="p", **settings), PromptSizes(1000, 40), free, whole)

    assert (of().free, of().gpu_share, of().takes_the_rest) == (72 * GIB, 0.9, True)
    assert (of(gpu_memory_share=0.5).free, of(gpu_memory_share=0.5).gpu_share) == (40 * GIB, 0.5)
    assert of(gpu_memory_share=1.0).free == 79 * GIB, "it cannot take more than there is"
    assert (of(engine="continuous").free, of(engine="continuous").gpu_share) == (79 * GIB, None)
    assert made(free, engine="vllm", decoding="auto").gpu_share is None, "how much there is in all is not known"


def test_on_a_cpu_it_has_weights_and_a_copy_of_them_and_a_cache_of_whole_blocks() -> None:
    found = made(HOST, engine="vllm", decoding="auto")
    assert found.weights == 4_000_000 + 3_600_000, "all of them, and linear layers packed"
    assert (found.cache, found.shared) == (PER_TOKEN * 4 * 128 * 384, 0)
    assert not found.takes_the_rest
