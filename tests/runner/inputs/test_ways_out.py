"""A run that cannot fit is refused with ways out that are there: another GPU, fewer ranks, several GPUs for a rank."""

import pytest

from rankdeck.runner.inputs.impossible_run import Weights, why_impossible
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
