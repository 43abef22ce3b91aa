"""Noise by a hash: distributed as it should be, independent, and a prompt's own whatever is computed beside it."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rankdeck.runner.engine.generation import gumbel
from rankdeck.runner.engine.generation.gumbel import BatchNoise, add_noise, row_keys
from rankdeck.runner.protocol.config import MAX_SEED

CPU = torch.device("cpu")
INF, NAN = float("inf"), float("nan")
VOCABULARY = 4096


def noise(seed=1, indexes=range(16), step=0, sample=0, vocabulary=VOCABULARY):
    """What is added to scores, [rows, vocabulary]."""
    keys = row_keys(seed, indexes, CPU, sample)
    return add_noise(torch.zeros(len(indexes), vocabulary), keys, step)


def uniform(gumbel_noise):
    """The uniform numbers that noise was made of, from its distribution function."""
    return torch.exp(-torch.exp(-gumbel_noise.double()))


# --- the distribution ---


@pytest.mark.parametrize(("seed", "step"), [(0, 0), (1, 0), (MAX_SEED, 0), (1, 1), (1, 100_000)])
def test_noise_has_the_gumbel_distribution(seed, step):
    drawn = uniform(noise(seed, range(32), step)).flatten().sort().values
    count = len(drawn)
    due = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    farthest = (drawn - due).abs().max().item() + 0.5 / count
    assert farthest * math.sqrt(count) < 1.95, "Kolmogorov and Smirnov: 1 in 1,000 are farther off"


def test_large_noise_which_decides_among_many_tokens_is_as_common_as_it_should_be():
    drawn = torch.cat([noise(step=step, vocabulary=49_152).flatten() for step in range(20)])
    for least in (8.0, 10.0, 12.0):
        due = len(drawn) * -math.expm1(-math.exp(-least))
        assert abs(int((drawn > least).sum()) - due) < 3.3 * math.sqrt(due)


@pytest.mark.parametrize("bits", [0, 1, -1, 2**31 - 1, -(2**31), 2**30])
def test_noise_is_a_number_whatever_the_hash(monkeypatch, bits):
    monkeypatch.setattr(gumbel, "_mixed", lambda bits: bits)
    made = gumbel._noise(torch.tensor([bits], dtype=torch.int32))
    assert made.isfinite().all()
    assert -3 < made.item() < 23


# --- independence ---


def correlation(one, other):
    """The correlation of two sets of numbers, in standard deviations of what chance makes of it."""
    one, other = (uniform(part).flatten() - 0.5 for part in (one, other))
    return abs((one * other).mean().item() * 12 * math.sqrt(len(one)))


@pytest.mark.parametrize("apart", [1, 2, 3, 64, 1000])
def test_noise_of_one_token_says_nothing_of_that_of_another(apart):
    made = noise()
    assert correlation(made[:, :-apart], made[:, apart:]) < 3.3


@pytest.mark.parametrize("apart", [1, 2, 7, 256])
def test_noise_of_one_position_says_nothing_of_that_of_another(apart):
    assert correlation(noise(step=5), noise(step=5 + apart)) < 3.3


@pytest.mark.parametrize("apart", [1, 2, 16, 10_000_000])
def test_noise_of_one_prompt_says_nothing_of_that_of_another(apart):
    assert (
        correlation(noise(indexes=range(0, 40 * apart, 2 * apart)), noise(indexes=range(apart, 41 * apart, 2 * apart)))
        < 3.3
    )


@pytest.mark.parametrize("other", [{"seed": 2}, {"seed": 0}, {"seed": MAX_SEED}, {"sample": 1}, {"sample": 2}])
def test_noise_of_one_seed_or_sample_says_nothing_of_that_of_another(other):
    assert correlation(noise(), noise(**other)) < 3.3


@pytest.mark.parametrize("bit", range(32))
def test_keys_that_differ_in_one_bit_have_unrelated_noise(bit):
    keys = row_keys(1, range(16), CPU)
    flipped = keys ^ torch.tensor(1 << bit).to(torch.int32)
    scores = torch.zeros(16, VOCABULARY)
    made, other = gumbel._in_parts(scores, keys), gumbel._in_parts(scores, flipped)
    assert correlation(made, other) < 4
    assert (made == other).float().mean() < 1e-4


def test_every_prompt_of_three_million_and_of_the_most_there_may_be_has_a_key_of_its_own():
    keys = row_keys(7, range(3_000_000), CPU)
    assert len(keys.unique()) == 3_000_000
    last = row_keys(7, range(2**32 - 1000, 2**32), CPU)
    assert len(torch.cat([keys[:1000], last]).unique()) == 2000


def test_at_one_position_no_two_prompts_have_the_same_key_nor_one_prompt_at_two_positions():
    keys = row_keys(7, range(100_000), CPU)
    assert len(gumbel._keys_at(keys, 3).unique()) == 100_000
    assert len(gumbel._keys_at(keys[:1], torch.arange(100_000)).unique()) == 100_000


# --- what is drawn ---

PROBABILITIES = (0.4, 0.3, 0.2, 0.07, 0.03)


def chi_square(tokens, probabilities):
    """How far counts of tokens are from these probabilities."""
    counts = torch.bincount(tokens, minlength=len(probabilities)).double()
    due = torch.tensor(probabilities, dtype=torch.float64) * len(tokens)
    return ((counts - due) ** 2 / due).sum().item()


CHANCE = 18.5
"""With five tokens, 1 in 1,000 are farther off."""


@pytest.mark.parametrize("over", ["prompts", "positions", "seeds"])
def test_tokens_are_drawn_as_the_softmax_of_their_scores_says(over):
    scores = torch.tensor(PROBABILITIES).log() + 3
    count = 20_000
    if over == "seeds":
        keys, step = torch.cat([row_keys(seed, [5], CPU) for seed in range(count)]), 2
    elif over == "positions":
        keys, step = row_keys(3, [5] * count, CPU), torch.arange(count)
    else:
        keys, step = row_keys(3, range(count), CPU), 2
    tokens = add_noise(scores.expand(count, -1), keys, step).argmax(dim=-1)
    assert chi_square(tokens, PROBABILITIES) < CHANCE


def test_what_one_position_draws_says_nothing_of_what_the_next_draws():
    scores, keys = torch.zeros(20_000, 3), row_keys(3, range(20_000), CPU)
    first, second = (add_noise(scores, keys, step).argmax(dim=-1) for step in (0, 1))
    assert chi_square(first * 3 + second, [1 / 9] * 9) < 26.1, "1 in 1,000 are farther off"


# --- the same whatever is computed beside it ---


def few_and_many(rows=6):
    """Scores of all tokens, and of few: the rest are minus infinity."""
    scores = torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(5)) * 3
    few = scores.masked_fill(scores < scores.topk(9).values[:, -1:], -INF)
    return scores, few


@pytest.mark.parametrize("which", [0, 1])
def test_a_row_has_the_noise_that_it_has_alone(which):
    scores, keys = few_and_many()[which], row_keys(3, range(6), CPU)
    together = add_noise(scores, keys, 4)
    for row in range(6):
        assert torch.equal(add_noise(scores[row : row + 1], keys[row : row + 1], 4)[0], together[row])
    order = torch.tensor([4, 0, 5, 2])
    assert torch.equal(add_noise(scores[order], keys[order], 4), together[order])


def test_rows_at_different_positions_have_the_noise_of_their_own():
    scores, keys = few_and_many()[0], row_keys(3, range(6), CPU)
    steps = torch.tensor([3, 0, 7, 1, 1, 250])
    together = add_noise(scores, keys, steps)
    for row, step in enumerate(steps.tolist()):
        assert torch.equal(add_noise(scores[row : row + 1], keys[row : row + 1], step)[0], together[row])
    assert torch.equal(add_noise(scores, keys, torch.tensor(3)), add_noise(scores, keys, 3))


@pytest.mark.parametrize("step", range(5))
def test_all_three_ways_to_compute_it_agree_to_the_bit(step):
    keys = gumbel._keys_at(row_keys(3, range(6), CPU), step)
    for scores in few_and_many():
        in_parts = gumbel._in_parts(scores, keys)
        assert torch.equal(gumbel._to_candidates(scores, keys, scores > -INF), in_parts)
        assert torch.equal(gumbel._at_once(scores, keys), in_parts)


def test_where_few_tokens_are_left_only_they_are_computed(monkeypatch):
    taken = []
    for name in ("_in_parts", "_to_candidates"):
        made = getattr(gumbel, name)
        monkeypatch.setattr(gumbel, name, lambda *given, made=made, name=name: taken.append(name) or made(*given))
    for scores in few_and_many():
        add_noise(scores, row_keys(3, range(6), CPU), 0)
    assert taken == ["_in_parts", "_to_candidates"]


@pytest.mark.parametrize("few", [True, False])
def test_scores_that_are_minus_infinity_or_no_numbers_stay_and_the_given_ones_are_not_changed(few):
    scores = torch.full((2, 64), -INF if few else 1.0)
    scores[0, 3], scores[0, 4], scores[1, 5] = 2.0, -INF, NAN
    before = scores.clone()
    made = add_noise(scores, row_keys(1, [0, 1], CPU), 0)
    assert made.isneginf().tolist() == before.isneginf().tolist()
    assert made.isnan().tolist() == before.isnan().tolist()
    assert torch.equal(scores.nan_to_num(), before.nan_to_num())
    assert made[0, 3] != 2.0


def test_scores_of_half_precision_get_noise_in_float32():
    scores, keys = few_and_many()[0].bfloat16(), row_keys(3, range(6), CPU)
    made = add_noise(scores, keys, 0)
    assert made.dtype == torch.float32
    assert torch.equal(made, add_noise(scores.float(), keys, 0))


# --- on a GPU ---


class Seen(TorchDispatchMode):
    """Notes every operation by its name."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("step", [3, torch.tensor(3), torch.tensor([3] * 6)], ids=["number", "scalar", "rows"])
def test_but_on_a_cpu_nothing_is_read_by_the_host(step):
    """The meta device has no numbers at all: what would read one there is an error."""
    scores, keys = torch.zeros(6, 64, device="meta"), torch.zeros(6, dtype=torch.int32, device="meta")
    step = step if isinstance(step, int) else step.to("meta")
    with Seen() as seen:
        made = add_noise(scores, keys, step)
    assert (made.shape, made.dtype, made.device.type) == ((6, 64), torch.float32, "meta")
    assert not {"_local_scalar_dense", "nonzero", "is_nonzero", "equal"} & set(seen.names)
    with Seen() as seen:
        add_noise(torch.zeros(6, 64), row_keys(1, range(6), CPU), 3)
    assert "_local_scalar_dense" in seen.names, "the test sees what is read"


# --- beside a call of generate ---


def test_the_noise_of_a_call_is_of_its_rows_and_counts_positions_from_the_end_of_their_prompts():
    scores = torch.zeros(3, 50)
    batch = BatchNoise(9, {0: 40, 1: 41, 2: 42, 3: 43}, CPU)
    rows = batch.for_rows([2, 0, 3], width=8)
    for new in range(3):
        expected = add_noise(scores, row_keys(9, [42, 40, 43], CPU), new)
        assert torch.equal(rows(torch.zeros(3, 8 + new, dtype=torch.long), scores), expected)
    narrower = batch.for_rows([2, 0, 3], width=5)
    assert torch.equal(narrower(torch.zeros(3, 7, dtype=torch.long), scores), expected)


def test_keys_are_what_they_were_in_an_earlier_version():
    """A run may be resumed by a newer rankdeck: a change here is a change of answers."""
    assert row_keys(1, [0, 1, 10_000_000], CPU).tolist() == [-2076146755, -630459915, 1724776271]
    made = noise(seed=1, indexes=[1], step=2, vocabulary=4)[0].tolist()
    assert made == pytest.approx([1.737502, -0.658181, 0.489969, 0.205008], abs=1e-5)
