"""Sampling that depends on a prompt alone: noise by a hash of seed, prompt, position and token, then the largest score.

The token with the largest score + g, where g = -log(-log(u)) and u is uniform, is drawn as the softmax of the scores
says (Gumbel-max). u is no generator's next number: so neither the batch, its order, the rank nor what was drawn before
changes an answer. Knows torch's integers and logits processors; knows no engines, and nothing of what scores mean.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import transformers

SPREAD = 0x9E3779B9 - 2**32
"""2**32 over the golden ratio, odd, as an int32: multiples of it lie evenly over 32 bits (Knuth, TAOCP 3, 6.4)."""

MIXING = ((16, 0x21F0AAAD), (15, 0xD35A2D97 - 2**32))
LAST_SHIFT = 15
"""A finaliser of 32 bits, one to one: shifts, and factors as int32. The numbers are those of two rounds with the least
bias in the list of github.com/skeeto/hash-prospector (public domain): 0.11 as measured there."""

SCALE = (1 - 2**-24) * 2**-31
"""Brings numbers of 31 bits into (0, 1): the largest, as a float32 2**31, to the largest float32 below 1."""

PART = 2**16
"""Scores that a CPU computes at once: they and their bits stay in its cache from one operation to the next."""

FEW = 1 / 16
"""Share of scores that are candidates up to which a CPU gathers them: noise for all costs more than finding them."""


def row_keys(seed: int, indexes: Sequence[int], device: torch.device, sample: int = 0) -> torch.Tensor:
    """A key per prompt index, [rows] int32 on `device`, of which all noise of its answer number `sample` is made.

    Indexes from 0 to 2**32 - 1 have different keys. Those of another seed or sample are unrelated.
    """
    digest = hashlib.sha256(f"{seed} {sample}".encode()).digest()
    first, second = (int.from_bytes(digest[at : at + 4], "little", signed=True) for at in (0, 4))
    keys = torch.tensor(indexes, dtype=torch.int64).to(torch.int32)  # the low 32 bits
    keys = _mixed(_mixed(keys.bitwise_xor_(first)).bitwise_xor_(second))
    return keys.to(device)


def add_noise(
    scores: torch.Tensor, keys: torch.Tensor, step: torch.Tensor | int, *, at_once: bool = False
) -> torch.Tensor:
    """Scores, [rows, vocabulary], plus noise, as float32; the largest of a row is its token. `scores` stay as they are.

    `keys`, [rows], are of `row_keys`; `step` is the number of the new token from 0 on, for all rows or [rows]. Scores
    of minus infinity or NaN stay that. On a GPU, and with `at_once` anywhere, the host reads nothing, so that a CUDA
    graph can be captured of it.
    """
    keys = _keys_at(keys, step)
    if at_once or scores.device.type != "cpu":
        return _at_once(scores, keys)
    candidates = scores > -torch.inf
    if int(candidates.count_nonzero()) <= FEW * candidates.numel():
        return _to_candidates(scores, keys, candidates)
    return _in_parts(scores, keys)


class GumbelNoise(transformers.LogitsProcessor):
    """Adds noise to the rows of one call of `generate`, the last processor, so that the likeliest token is a draw.

    `keys`, [rows], are theirs; their prompts are padded to `width`.
    """

    def __init__(self, keys: torch.Tensor, width: int) -> None:
        self._keys, self._width = keys, width

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """[rows, width so far] and [rows, vocabulary] to [rows, vocabulary]."""
        return add_noise(scores, self._keys, input_ids.shape[1] - self._width)


@dataclass(frozen=True)
class BatchNoise:
    """The noise of a batch's rows, by position: of a run's seed, and of each prompt's index in the run."""

    seed: int
    indexes: Mapping[int, int]
    device: torch.device

    def keys(self, rows: Sequence[int]) -> torch.Tensor:
        """The keys of these rows, [rows]."""
        return row_keys(self.seed, [self.indexes[row] for row in rows], self.device)

    def for_rows(self, rows: Sequence[int], width: int) -> GumbelNoise:
        """The noise for a call of `generate` on these rows, with prompts padded to `width`."""
        return GumbelNoise(self.keys(rows), width)


def _at_once(scores: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Noise for all scores, all rows at once."""
    tokens = torch.arange(scores.shape[1], dtype=torch.int32, device=scores.device).mul_(SPREAD)
    return _noise(tokens ^ keys[:, None]).add_(scores)


def _in_parts(scores: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Noise for all scores, as many rows at once as a core's cache has room for."""
    noisy = torch.empty(scores.shape, dtype=torch.float32)
    rows = max(1, PART // scores.shape[1])
    for part in zip(noisy.split(rows), scores.split(rows), keys.split(rows), strict=True):
        part[0].copy_(_at_once(*part[1:]))
    return noisy


def _to_candidates(scores: torch.Tensor, keys: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """Noise for some scores only, those that are `candidates`, [rows, vocabulary]."""
    noisy = scores.to(torch.float32, copy=True)
    rows, tokens = candidates.nonzero(as_tuple=True)
    found = _noise(tokens.to(torch.int32).mul_(SPREAD).bitwise_xor_(keys[rows]))
    noisy[rows, tokens] = found.add_(scores[rows, tokens])
    return noisy


def _keys_at(keys: torch.Tensor, step: torch.Tensor | int) -> torch.Tensor:
    """The keys of a position, [rows]. The position is mixed first: no row's keys are another's, shifted."""
    if isinstance(step, int):
        step = keys.new_full((), step)
    return _mixed(keys ^ _mixed(step.to(torch.int32) * SPREAD))


def _mixed(bits: torch.Tensor) -> torch.Tensor:
    """`bits`, int32, mixed in place."""
    for shift, factor in MIXING:
        _fold(bits, shift).mul_(factor)
    return _fold(bits, LAST_SHIFT)


def _fold(bits: torch.Tensor, shift: int) -> torch.Tensor:
    # A shift of an int32 brings its sign in from the left: the mask takes it out again.
    return bits.bitwise_xor_((bits >> shift).bitwise_and_((1 << (32 - shift)) - 1))


def _noise(bits: torch.Tensor) -> torch.Tensor:
    """Gumbel noise, float32, of unmixed `bits`, int32 of the same shape, which are overwritten.

    What is drawn is 1 - u, of 31 bits: a float32 is finest near 0, and there the noise is large, and decides.
    """
    drawn = _mixed(bits).bitwise_and_(2**31 - 1)
    return drawn.to(torch.float32).add_(0.5).mul_(-SCALE).log1p_().neg_().log_().neg_()
