"""What the benchmarks compute themselves: prompts, samples of nvidia-smi, ratios, the figures of a journal."""

import dataclasses
from pathlib import Path

import pytest

from rankdeck.runner import protocol, run_directory
from rankdeck.runner.protocol import BatchResult, DeviceSample
from rankdeck.runner.protocol.config import RunConfig
from tests.benchmarks import mixed, nvidia_smi, on_gpu, sides


def test_the_mixed_file_is_the_same_every_time_and_has_short_and_long_prompts() -> None:
    prompts = mixed.prompts()
    assert prompts == mixed.prompts()
    words = sorted(len(prompt.split()) for prompt in prompts)
    assert len(words) == 200
    assert words[0] <= 5
    assert words[100] <= 30
    assert words[-1] >= 150
    assert not any("{" in prompt for prompt in prompts)


def test_a_line_of_nvidia_smi_is_read_and_what_is_no_number_is_left_out() -> None:
    at, figures = nvidia_smi.parsed("2026/11/22 10:20:30.500, 97, 2, 412.33, [N/A]") or (0.0, {})
    assert at % 1 == 0.5
    assert figures == {"busy_percent": 97, "memory_used_bytes": 2 * 2**20, "power_watts": 412.33}
    assert nvidia_smi.parsed("No devices were found") is None


def test_means_of_samples_are_those_between_two_times() -> None:
    samples = [(at, {"power_watts": 100.0 * at}) for at in (1.0, 2.0, 3.0, 9.0)]
    assert nvidia_smi.means(samples, 2.0, 4.0) == {"power_watts": 250.0, "samples": 2}
    assert nvidia_smi.means(samples, 5.0, 6.0) == {}


def test_settings_become_flags_and_those_that_are_off_are_left_out() -> None:
    settings = {"batch_size": 16, "ignore_eos": True, "chat": False, "limit": None}
    assert sides.flags(settings) == ["--batch-size", "16", "--ignore-eos"]


def test_sides_take_turns_in_beginning_and_are_compared_within_a_round() -> None:
    begun: list[str] = []

    def side(name: str, rate: float) -> sides.Figures:
        begun.append(name)
        return {"tokens_per_second": rate * len(begun), "output_tokens": 10, "seconds": 1.0}

    done = sides.rounds({"plain": lambda: side("plain", 1), "ours": lambda: side("ours", 2)}, 2)
    assert begun == ["plain", "ours", "ours", "plain"]
    assert sides.compared(done, "plain")["ratios"] == {"ours": [4.0, 1.5]}


def test_another_number_of_tokens_is_other_work_at_fixed_length_and_within_bounds_at_natural(tmp_path: Path) -> None:
    figures = {"one": {"prompts": 4, "output_tokens": 100}, "two": {"prompts": 4, "output_tokens": 101}}
    natural = sides.Job(model="", prompts=tmp_path, new_tokens=1)
    sides.check_same_work(figures, natural, 0.02)
    with pytest.raises(AssertionError, match="not the same work"):
        sides.check_same_work(figures, dataclasses.replace(natural, fixed=True), 0.02)


def test_one_rank_comes_before_several_and_of_those_the_most_first() -> None:
    planned = on_gpu.cases(["7B"], [16], [1, 2, 4])
    assert planned[0].engine == "article"
    ranks = [case.ranks for case in planned]
    assert ranks == sorted(ranks, key=lambda count: (count > 1, -count))


def test_a_journal_gives_the_gpu_s_figures_between_first_batch_and_last_result(tmp_path: Path) -> None:
    def device(at: float) -> DeviceSample:
        watts = 300.0 if 10 <= at <= 20 else 50.0
        return DeviceSample(
            index=0,
            uuid="GPU-a",
            name="H200",
            busy_percent=90,
            power_watts=watts,
            energy_joules=300 * at,
            dram_percent=40,
        )

    ready = protocol.RankReady(
        at=5, rank=0, device="cuda:0", device_name="H200", device_uuid="a", dtype="bfloat16", engine="static",
        seconds=1, parameters=1, weight_read_bytes=10**9, kv_bytes_per_token=1000,
    )  # fmt: skip
    result = BatchResult(
        rows=16, prompt_tokens=160, output_tokens=1600, slots=1760, padded_slots=0, steps=101,
        prefill_seconds=0.1, decode_seconds=9.0, seconds=9.5,
    )  # fmt: skip
    events = [
        protocol.RunStarted(name="r", directory="d", config=RunConfig(prompts="p"), prompts=16),
        ready,
        protocol.BatchStarted(at=10, rank=0, batch=1, rows=16),
        *(protocol.Tick(at=at, devices=[device(at)]) for at in (5.0, 12.0, 18.0, 25.0)),
        protocol.BatchFinished(at=20, rank=0, batch=1, result=result),
    ]
    (tmp_path / "events.jsonl").write_bytes(b"".join(protocol.encode_line(event) for event in events))
    assert list(run_directory.read_events(tmp_path))
    told = on_gpu.from_journal(tmp_path, [(15.0, {"power_watts": 310.0})], 1e12)
    assert told["journal"] == {"busy_percent": 90, "power_watts": 300, "samples": 2}
    assert told["gpm"] == {"dram_percent": 40}
    assert told["nvidia_smi"] == {"power_watts": 310, "samples": 1}
    assert told["tokens_per_joule"] == pytest.approx(1600 / 10 / 300)
    assert told["mbu"] == pytest.approx(100 * (1e9 + 1000 * (1760 - 16 * 101 / 2)) / 9 / 4.8e12, rel=1e-3)
