"""Ranks on real GPUs: several on one, one on each, one on several."""

import subprocess

import pytest

from rankdeck.runner import protocol
from tests.benchmarks import sides
from tests.gpu.marked.flights import NEW_TOKENS, ON_A_GPU, ON_TWO_GPUS, PROMPTS, first_gpu_alone

pytestmark = ON_A_GPU


def test_two_ranks_on_one_gpu_come_through_the_start_and_share_the_work(flights):
    shared = flights["shared"]
    assert shared.wait() == 0, shared.said
    assert [record.output_tokens for record in shared.records] == [NEW_TOKENS] * len(PROMPTS)
    assert {record.rank for record in shared.records} == {0, 1}
    assert not any(isinstance(event, protocol.RankLost) for event in shared.events)


def test_ranks_are_matched_to_their_gpu_by_uuid_and_say_what_memory_they_took(flights):
    shared = flights["shared"]
    assert shared.wait() == 0, shared.said
    assert [device.ranks for device in shared.state.devices if device.ranks] == [(0, 1)]
    assert all(rank.peak_memory_bytes > 0 for rank in shared.state.ranks)


def test_two_ranks_greet_on_one_gpu(environ):
    with first_gpu_alone():
        hello = [*sides.RANKDECK, "hello", "--ranks", "2"]
        done = subprocess.run(hello, capture_output=True, text=True, timeout=100, env=environ)
    assert done.returncode == 0, done.stderr
    assert [line.split(" on ")[0] for line in done.stdout.splitlines()] == ["rank 0 of 2", "rank 1 of 2"]


@ON_TWO_GPUS
def test_two_ranks_on_two_gpus_have_one_each(flights):
    own = flights["own"]
    assert own.wait() == 0, own.said
    assert sorted(device.ranks for device in own.state.devices if device.ranks) == [(0,), (1,)]


@ON_TWO_GPUS
def test_a_rank_may_be_spread_over_two_gpus(flights):
    spread = flights["spread"]
    assert spread.wait() == 0, spread.said
    assert [record.output_tokens for record in spread.records] == [NEW_TOKENS] * len(PROMPTS)
    (ready,) = (event for event in spread.events if isinstance(event, protocol.RankReady))
    assert len(set(ready.device_uuids)) == 2


@pytest.mark.parametrize("name", ["shared", "beyond", "sweep"])
def test_ranks_that_were_told_to_leave_have_ended_by_themselves(flights, name):
    assert flights[name].causes == [None], flights[name].said
