"""What only a machine with an NVIDIA GPU can show; skipped elsewhere."""

import os

import pytest

from rankdeck.runner import run_directory, start
from rankdeck.runner.machine import telemetry
from rankdeck.runner.machine.telemetry import Telemetry
from rankdeck.runner.protocol.config import RunConfig
from tests.runner.supervisor.test_supervisor import watch
from tests.whole.test_real_runs import demo_model, tiny_model  # noqa: F401  (fixtures)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(telemetry.count_visible_gpus(os.environ) == 0, reason="no NVIDIA GPU on this machine"),
]


def test_the_figures_of_a_real_gpu_make_sense():
    watching = Telemetry.open()
    try:
        for _ in range(2):
            samples = watching.sample_devices()
        for sample in samples:
            assert sample.memory_total_bytes > sample.memory_used_bytes > 0
            assert 0 <= sample.busy_percent <= 100
            assert 0 < sample.power_watts < 2000
            assert 0 < sample.temperature_celsius < 120
    finally:
        watching.close()


@pytest.mark.parametrize("ranks", [1, 2])
async def test_ranks_on_a_gpu_answer_and_are_matched_to_their_gpu(tiny_model, tmp_path, ranks):  # noqa: F811
    source = tmp_path / "p.txt"
    source.write_text("".join(f"Prompt number {number}\n" for number in range(64)))
    config = RunConfig(
        prompts=str(source),
        model=tiny_model,
        device="cuda",
        ranks=ranks,
        batch_size=8,
        max_new_tokens=64,
        ignore_eos=True,
    )
    started = start.launch(config, run_dir=tmp_path / "run")
    state, _ = await watch(started)
    assert started.process.wait(60) == 0
    assert {record.output_tokens for record in run_directory.read_outputs(tmp_path / "run")} == {64}
    assert sorted(rank for device in state.devices for rank in device.ranks) == list(range(ranks)), "mapped by UUID"
    assert all(rank.peak_memory_bytes > 0 for rank in state.ranks)
