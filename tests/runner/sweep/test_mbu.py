"""MBU of decode steps: what they must read, on which devices, and why there may be none."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankdeck.runner.protocol import Experts
from rankdeck.runner.supervisor.trial_meter import TrialMeter
from rankdeck.runner.sweep.mbu import Reading, mbu, mbu_of, reading_of, unread_expert_bytes, why_no_mbu
from tests.runner.sweep.test_sweep_figures import batch, ready, sample

PEAK = {0: 1e6, 1: 1e6}


def test_keys_and_values_of_rows_that_have_left_are_not_read() -> None:
    # Ten decode steps in one second, four rows in the first two and one in the others, of prompts ten slots wide.
    read = 4 * (11 + 12) + sum(10 + step for step in range(3, 11))
    left = batch(row_steps=4 * 3 + 8, slots=4 * 10 + 20, slots_read=read)
    assert mbu([ready(0)], {0: [left]}, PEAK) == pytest.approx((10 * 1000 + 2 * read) / 1e6)


def test_an_older_journal_does_not_say_what_was_read_so_the_mean_of_the_cache_counts() -> None:
    assert batch().cache_slots == 10 * (84 - 22)
    assert mbu([ready(0)], {0: [batch()]}, PEAK) == pytest.approx((10 * 1000 + 2 * 10 * 62) / 1e6)


def test_a_batch_of_one_step_reads_nothing_after_its_prefill() -> None:
    assert batch(steps=1).cache_slots == 0
    both = mbu([ready(0)], {0: [batch(), batch(steps=1, decode_seconds=0.0)]}, PEAK)
    assert both == mbu([ready(0)], {0: [batch()]}, PEAK)


@pytest.mark.parametrize(("rows", "read"), [(1, 0.25), (2, 1 - 0.75**2), (64, 1.0), (0, 0.0)])
def test_a_step_reads_the_experts_that_its_rows_are_routed_to(rows: int, read: float) -> None:
    experts = Experts(bytes=800, count=8, per_token=2)
    assert 800 - unread_expert_bytes(experts, rows) == pytest.approx(800 * read)
    assert 800 - unread_expert_bytes(experts, rows) <= 100 * 2 * rows, "never more than each row's own"


def test_experts_that_no_row_uses_are_not_part_of_mbu() -> None:
    mixture = ready(0, experts=Experts(bytes=800, count=8, per_token=2))
    one = batch(1)
    dense = mbu([ready(0)], {0: [one]}, PEAK)
    assert dense is not None
    assert mbu([mixture], {0: [one]}, PEAK) == pytest.approx(dense - 10 * 600 / 1e6)


def test_a_rank_over_several_gpus_is_held_against_all_of_them() -> None:
    one = mbu([ready(0)], {0: [batch()]}, PEAK)
    assert one is not None
    spread = [ready(0, device_uuids=["a", "b"]), ready(1, device_uuids=["c", "d"])]
    assert mbu(spread[:1], {0: [batch()]}, PEAK) == pytest.approx(one / 2)
    assert mbu(spread, {0: [batch()], 1: [batch()]}, PEAK) == pytest.approx(one / 2)


def test_the_power_of_all_gpus_of_a_spread_rank_counts_for_its_tokens_per_joule() -> None:
    meter = TrialMeter([ready(0, device_uuid="uuid-0", device_uuids=["uuid-0", "uuid-1"])], started=0.0)
    meter.add_batch(0, 0.0, 2.0, batch())
    meter.add_samples(1.0, [sample(0, power_watts=100.0), sample(1, power_watts=300.0), sample(2, power_watts=700.0)])
    found = meter.result({})
    assert found.power_watts == 400
    assert found.tokens_per_joule == pytest.approx(found.tokens_per_second / 400)


@pytest.mark.parametrize(
    ("rank", "facts", "why"),
    [
        (0, {"engine": "continuous"}, "decode steps of the continuous engine hold prefills of other rows"),
        (3, {"device_name": "New GPU"}, "the memory bandwidth of New GPU is not known"),
        (0, {"kv_bytes_per_token": None}, "how many bytes a decode step of this model reads is not known"),
        (
            0,
            {"experts": Experts(bytes=0, count=8, per_token=None)},
            "how many of this model's experts a token uses is not known",
        ),
    ],
)
def test_where_there_is_no_mbu_the_reason_is_known(rank: int, facts: dict[str, object], why: str) -> None:
    ranks = [ready(1), ready(rank, **facts)]
    assert why_no_mbu(ranks, PEAK) == why
    assert mbu(ranks, {each.rank: [batch()] for each in ranks}, PEAK) is None
    assert why_no_mbu(ranks[:1], PEAK) is None


def test_a_rank_whose_decode_took_no_time_has_no_mbu() -> None:
    assert mbu([ready(0)], {0: [batch(decode_seconds=0.0)]}, PEAK) is None
    assert mbu([], {}, PEAK) is None


# --- sums in the place of batches ---

BATCHES = st.lists(
    st.builds(
        lambda rows, steps, seconds: batch(rows, steps=steps, decode_seconds=seconds),
        st.integers(1, 64),
        st.integers(2, 500),
        st.floats(0.01, 100),
    ),
    min_size=1,
    max_size=5,
)


@given(BATCHES, BATCHES)
def test_what_is_summed_up_over_batches_is_all_that_mbu_needs(first, second) -> None:
    ranks, batches = [ready(0), ready(1)], {0: first, 1: second}
    sums: dict[int, Reading] = {}
    for rank in ranks:
        for one in batches[rank.rank]:
            reading = reading_of(rank, one)
            assert reading is not None
            sums[rank.rank] = reading.plus(sums.get(rank.rank, Reading()))
    assert mbu_of(ranks, sums, PEAK) == pytest.approx(mbu(ranks, batches, PEAK))


def test_a_reading_is_the_bytes_of_a_batchs_decode_steps_and_their_seconds() -> None:
    assert reading_of(ready(0), batch()) == Reading(10 * 1000 + 2 * 10 * 62, 1.0)
    assert Reading(1.0, 2.0).plus(Reading(10.0, 20.0)) == Reading(11.0, 22.0)
    assert msgspec.json.encode(Reading(1.5, 2.5)) == b"[1.5,2.5]", "as a list, in a state that travels"


@pytest.mark.parametrize(
    "facts",
    [
        {"engine": "continuous"},
        {"weight_read_bytes": None},
        {"kv_bytes_per_token": None},
        {"experts": Experts(bytes=0, count=8, per_token=None)},
    ],
)
def test_what_a_step_reads_may_be_unknown(facts: dict[str, object]) -> None:
    assert reading_of(ready(0, **facts), batch()) is None


def test_a_rank_whose_peak_is_not_known_has_a_reading_all_the_same() -> None:
    unknown = ready(3, device_name="New GPU")
    reading = reading_of(unknown, batch())
    assert reading is not None
    assert mbu_of([unknown], {3: reading}, PEAK) is None


def test_before_every_rank_has_read_something_there_is_no_mbu() -> None:
    reading = Reading(1000.0, 1.0)
    assert mbu_of([ready(0), ready(1)], {0: reading}, PEAK) is None
    assert mbu_of([ready(0), ready(1)], {0: reading, 1: Reading()}, PEAK) is None
    assert mbu_of([ready(0)], {0: reading}, PEAK) == pytest.approx(0.001)


def test_ranks_on_one_cpu_add_up_against_what_one_of_them_copies() -> None:
    cpus = [ready(rank, device="cpu", device_uuid=None) for rank in (0, 1)]
    assert mbu_of(cpus, {0: Reading(6e5, 1.0), 1: Reading(6e5, 1.0)}, PEAK) == pytest.approx(1.2)
