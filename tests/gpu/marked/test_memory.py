"""Running out of memory on a real GPU, and the share of it that a rank keeps to."""

import asyncio

from rankdeck.runner import protocol, start
from rankdeck.runner.machine.telemetry import Telemetry
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.tui.sources.client import SocketSource
from tests.gpu.marked.flights import ALL_BY, DEVICE, ON_A_GPU, Flight, figures, first_gpu_alone

pytestmark = ON_A_GPU

LOGITS_BYTES = 2 * 4 * 2**20
"""Per prompt, in a model with a million rows: the output layer's logits, and `generate`'s copy."""

WANTED = 0.7
"""Share of the GPU's memory for one batch of one of two ranks."""


def memory_of_the_gpu() -> int:
    watching = Telemetry.open()
    try:
        samples = watching.sample_devices()[:1]
    finally:
        watching.close()
    return int(figures(samples, "memory_total_bytes")[0])


async def with_one_rank_at_work(started: start.Started) -> None:
    """Follow the run to its end; its other rank keeps its model loaded, and its share of the memory."""
    source = SocketSource(started.directory, started.died)
    await source.send(protocol.SetActiveRanks(active_ranks=1))
    async for _ in source.events():
        pass


def test_a_batch_beyond_a_rank_s_share_of_the_gpu_is_halved_and_every_prompt_is_answered(began, wide_model, tmp_path):
    total = memory_of_the_gpu()
    rows = int(WANTED * total / LOGITS_BYTES)
    source = tmp_path / "p.txt"
    source.write_text("a\n" * rows)
    with first_gpu_alone():
        config = RunConfig(
            prompts=str(source),
            model=str(wide_model),
            device=DEVICE,
            dtype="float32",
            engine="static",
            ranks=2,
            ranks_per_gpu=2,
            batch_size=rows,
            max_new_tokens=2,
            ignore_eos=True,
            max_restarts=0,
        )
        flight = Flight(start.launch(config, run_dir=tmp_path / "run"), began + ALL_BY)
    try:
        asyncio.run(asyncio.wait_for(with_one_rank_at_work(flight.started), 90))
        assert flight.wait() == 0, flight.said
    finally:
        flight.end()
    capped = [event for event in flight.events if isinstance(event, protocol.RankCapped)]
    assert [event.rank for event in capped][:1] == [0], "70 % of the GPU is more than the half that is the rank's"
    assert not any(isinstance(event, protocol.RankLost) for event in flight.events), flight.said
    assert len(flight.records) == rows
    assert not [record.error for record in flight.records if record.error][:3]
    finished = [event.result for event in flight.events if isinstance(event, protocol.BatchFinished)]
    assert max(result.peak_memory_bytes for result in finished) <= total / 2
