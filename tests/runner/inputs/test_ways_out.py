"""A run that cannot fit is refused with ways out that are there: another GPU, fewer ranks, several GPUs for a rank."""

import pytest

from rankdeck.runner.inputs.impossible_run import Weights, why_impossible, why_too_many_ranks
from rankdeck.runner.inputs.memory_room import Room, Share

GIB = 2**30


def said(
    free: list[int], *, weights: int, ranks: int, gpus_per_rank: int = 1, most: int = 0, total: int = 80, **room: object
) -> str:
    """What is said about a run on GPUs of `total` GiB; a rank has `weights` GiB, the fullest GPU room for `most`."""
    share = Share(ranks, True, len(free), gpus_per_rank)
    has = Room(tuple(each * GIB for each in free), None, **room)  # type: ignore[arg-type]
    whole = has._replace(gpus=(total * GIB,) * len(free))
    on_device = int(share.on_device(weights * GIB))
    return str(why_impossible(Weights(weights * GIB, on_device, most, counted=True), share, has, whole))


NUMBERED = {"numbers": (0, 1, 2, 3), "by_number": True}


@pytest.mark.parametrize(
    ("ranks", "room", "way"),
    [
        (3, NUMBERED, "GPU 0 has 8.0 of 80.0 GiB free; leave it out with CUDA_VISIBLE_DEVICES=1,2,3, or see with "),
        (1, NUMBERED, "GPU 0 has 8.0 of 80.0 GiB free; leave it out with CUDA_VISIBLE_DEVICES=1,2,3, or see with "),
        (4, NUMBERED, "GPU 0 has 8.0 of 80.0 GiB free; leave it out with CUDA_VISIBLE_DEVICES=1,2,3 and --ranks 3, "),
        (3, {**NUMBERED, "by_number": False}, "GPU 0 has 8.0 of 80.0 GiB free; leave it out of CUDA_VISIBLE_DEVICES, "),
        (4, {"ordered": False}, "the fullest GPU has 8.0 of 80.0 GiB free; leave it out of CUDA_VISIBLE_DEVICES and "),
    ],
)
def test_of_a_gpu_that_somebody_fills_the_run_is_told_to_do_without_it(
    ranks: int, room: dict[str, object], way: str
) -> None:
    found = said([8, 70, 79, 79], weights=15, ranks=ranks, **room)
    assert f"and {way}" in found
    assert "or see with nvidia-smi who holds it; make the weights smaller" in found
    assert "spread" not in found


def test_where_nobody_else_has_room_only_who_holds_the_gpu_is_of_use() -> None:
    assert "GPU 0 has 8.0 of 80.0 GiB free; see with nvidia-smi who holds it; make" in said(
        [8], weights=15, ranks=1, numbers=(0,), by_number=True
    )
    assert "who holds it" not in said([22], weights=30, ranks=1, total=24), "it would not fit if it were empty"


def test_a_rank_is_spread_only_over_gpus_that_are_there() -> None:
    def way(gpus: int, **settings: int) -> str:
        return said([79] * gpus, weights=131, **settings)

    assert "(--gpus-per-rank 2)" in way(4, ranks=2)
    assert "(--gpus-per-rank 2 --ranks 2)" in way(4, ranks=4)
    assert "(--gpus-per-rank 2 --ranks 2)" in way(5, ranks=3)
    assert "--gpus-per-rank" not in way(1, ranks=1)
    assert "--gpus-per-rank" not in said([79] * 4, weights=131, ranks=4, mig=True), "a rank has one MIG device"


def test_one_rank_would_fit() -> None:
    assert "; 1 rank in all would fit (--ranks);" in said([78], weights=50, ranks=2, most=1)
    assert "; 2 ranks in all would fit (--ranks);" in said([78, 78], weights=50, ranks=4, most=1)


# --- when a run cannot be, and the whole of what is said -----------------------------------------------

ANYWAY = " This is an estimate: --ignore-memory starts it anyway"
SMALLER = "make the weights smaller (--quantization, --dtype), or choose a smaller model."


def refused(
    weights: Weights, share: Share, free: int | None, total: int | None, host: tuple[int, int] = (0, 0)
) -> bool:
    rooms = [
        Room((size,) * share.gpus if share.on_gpu else (), on_host)
        for size, on_host in zip((free, total), host, strict=True)
    ]
    return why_impossible(weights, share, *rooms) is not None


ONE_GPU, ON_CPU = Share(1, True, 1, 1), Share(1, False, 0, 1)


@pytest.mark.parametrize(("counted", "most"), [(True, 110), (False, 154)])
def test_weights_may_be_a_little_more_than_what_is_free_now_and_calculated_ones_more(counted: bool, most: int) -> None:
    for size, impossible in ((most, False), (most + 1, True)):
        assert refused(Weights(size, size, 0, counted), ONE_GPU, 100, 10**6) == impossible
        assert Weights(size, size, 0, counted).fits_in(100) != impossible
    assert not Weights(0, 0, 0, True).fits_in(None)


def test_weights_and_processes_may_take_all_that_a_device_has_and_no_byte_more() -> None:
    for size, processes, impossible in ((100, 0, False), (101, 0, True), (60, 40, False), (60, 41, True)):
        weights = Weights(size, size, 0, True, processes)
        assert refused(weights, ONE_GPU, 99, 100) == impossible
        assert refused(weights, ON_CPU, None, None, (1, 100)) == impossible, "whatever is free"
    assert refused(Weights(141, 141, 0, False), ONE_GPU, None, 100)
    assert not refused(Weights(140, 140, 0, False), ONE_GPU, None, 100)
    assert not refused(Weights(10**9, 10**9, 0, True), ONE_GPU, None, None)


def test_a_rank_on_a_cpu_is_told_what_it_needs_of_what_the_machine_has() -> None:
    def problem(weights: Weights, ranks: int = 1) -> str:
        return str(why_impossible(weights, Share(ranks, False, 2, 1), Room((), 3 * GIB), Room((), 8 * GIB)))

    has = "this machine has 3.0 of 8.0 GiB free"
    assert problem(Weights(9 * GIB, 9 * GIB, 0, True)) == (
        f"--model: a rank needs 9.0 GiB for the weights alone, and {has}; {SMALLER}{ANYWAY}"
    )
    assert problem(Weights(9 * GIB, 9 * GIB, 0, True, GIB)) == (
        f"--model: a rank needs at least 10.0 GiB, 9.0 for weights and 1.0 for processes, and {has}; {SMALLER}{ANYWAY}"
    )
    assert problem(Weights(GIB, GIB, 5, True, 9 * GIB), ranks=7) == (
        f"--ranks: 7 ranks need at least 10.0 GiB, 1.0 for weights and 9.0 for processes, and {has}; "
        f"5 ranks in all would fit (--ranks).{ANYWAY}"
    )
    assert problem(Weights(0, 0, 1, True, 9 * GIB), ranks=7) == (
        f"--ranks: 7 ranks need at least 9.0 GiB for their processes, without any model, and {has}; "
        f"1 rank in all would fit (--ranks).{ANYWAY}"
    )
    assert problem(Weights(5 * GIB, 5 * GIB, 0, True, 5 * GIB), ranks=2).startswith("--model: 2 ranks need"), (
        "fewer ranks would not do"
    )
    assert SMALLER in problem(Weights(5 * GIB, 5 * GIB, 0, True, 5 * GIB), ranks=2)
    assert "in all would fit" not in problem(Weights(9 * GIB, 9 * GIB, 7, True), ranks=7), "as many as there are"


@pytest.mark.parametrize(
    ("numbers", "gpus", "device"),
    [((5,), 1, "GPU 5"), ((), 1, "a GPU"), ((), 2, "the fullest GPU"), ((4, 6), 2, "GPU 6")],
)
def test_the_device_that_is_too_small_is_named_as_far_as_it_is_known(
    numbers: tuple[int, ...], gpus: int, device: str
) -> None:
    weights, share = Weights(20 * GIB, 20 * GIB, 0, True), Share(gpus, True, gpus, 1)
    free = Room((12 * GIB, 11 * GIB)[-gpus:], None, numbers=numbers)
    whole = Room((16 * GIB,) * gpus, None)
    needs = "--model: a rank needs 20.0 GiB for the weights alone"
    assert str(why_impossible(weights, share, free, whole)).startswith(
        f"{needs}, and {device} has 11.0 of 16.0 GiB free; "
    )
    assert str(why_impossible(weights, share, free, Room((), None))).startswith(
        f"{needs}, and {device} has 11.0 GiB free;"
    )


def test_a_rank_is_spread_over_as_many_gpus_as_hold_it_with_a_tenth_to_spare() -> None:
    def ways(weights: int, gpus: int = 8, ranks: int = 1, per_rank: int = 1, **room: object) -> str:
        share = Share(ranks, True, gpus, per_rank)
        free = Room((100,) * gpus, None, **room)  # type: ignore[arg-type]
        return str(why_impossible(Weights(weights, int(weights / per_rank), 0, True), share, free, free))

    assert "spread a rank over 2 GPUs (--gpus-per-rank 2)" in ways(180)
    assert "spread a rank over 3 GPUs (--gpus-per-rank 3)" in ways(181)
    assert "(--gpus-per-rank 8)" in ways(720)
    assert "--gpus-per-rank" not in ways(721)
    assert "(--gpus-per-rank 3 --ranks 2)" in ways(181, ranks=3)
    assert "(--gpus-per-rank 3)" in ways(181, ranks=2)
    assert "(--gpus-per-rank 4)" in ways(330, per_rank=2)
    assert "--gpus-per-rank" not in ways(180, mig=True)


def test_so_many_ranks_are_counted_by_what_is_free_and_refused_by_what_there_is() -> None:
    def problem(ranks: int, free: int | None, total: int | None) -> str:
        return str(why_too_many_ranks(ranks, 10, Room((), free), Room((), total)))

    assert problem(10, 55, 100) == problem(11, 55, None) == "None"
    assert "--ranks: 11 ranks need" in problem(11, 55, 100)
    assert "; 5 ranks in all would fit (--ranks)" in problem(11, 59, 100)
    assert "in all would fit" not in problem(11, None, 100)
    assert problem(11, 9, 100).startswith("--model: "), "not one has room: hardly the ranks' number"
