"""Random numbers that are a function of what they are for, and of nothing drawn before.

Datapoint n at draw j gets the word at place n · num + j of a SplitMix64 sequence that a key starts; the same whatever
the batch, the process and the device.

Reference:
    Fast splittable pseudorandom number generators (Steele, Lea & Flood, 2014), doi:10.1145/2714064.2660195
"""

import math

import numpy as np
import torch
from torch import Tensor

_GOLDEN, _MIX, _SHIFTS = 0x9E3779B97F4A7C15, (0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 1), (30, 27, 31)


def key(seed: int, *stream: int) -> int:
    """A start of a sequence, of 64 bits; SeedSequence makes neighbouring streams unrelated."""
    return int(np.random.SeedSequence(seed, spawn_key=stream).generate_state(1, np.uint64)[0])


def words(start: int, numbers: Tensor, num: int) -> Tensor:
    """64 random bits, (B, num) int64, for each of the datapoints numbered `numbers` (B,)."""
    if _by_numpy(numbers):
        bits = numbers.numpy().astype(np.uint64)[:, None] * np.uint64(num) + np.arange(1, num + 1, dtype=np.uint64)
        bits *= np.uint64(_GOLDEN)
        bits += np.uint64(start)
        for shift, factor in zip(_SHIFTS, _MIX, strict=True):
            bits ^= bits >> np.uint64(shift)
            bits *= np.uint64(factor)
        return torch.from_numpy(bits.view(np.int64))
    x = numbers[:, None] * num + torch.arange(1, num + 1, device=numbers.device)  # torch's integers have signs
    x.mul_(_signed(_GOLDEN)).add_(_signed(start))
    for shift, factor in zip(_SHIFTS, _MIX, strict=True):
        x ^= (x >> shift) & ((1 << (64 - shift)) - 1)  # torch shifts in copies of the sign
        x *= _signed(factor)
    return x


def _by_numpy(x: Tensor) -> bool:
    return x.device.type == "cpu"  # there numpy's integers are three times as fast as torch's


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


def uniform(start: int, numbers: Tensor, num: int) -> Tensor:
    """Numbers in [0, 1), (B, num) float32, for each of the datapoints numbered `numbers` (B,)."""
    return ((words(start, numbers, num) >> 40) & 0xFFFFFF).float() * 2**-24


def binary(start: int, numbers: Tensor, x: Tensor) -> Tensor:
    """Zeros and ones, float32: each entry of `x` (B, *x_shape) is one with probability `x`, or `x` / 255 if uint8.

    By 16 random bits an entry: 0 stays zero and 1 one, in between probabilities are off by 2⁻¹⁶ at most, those of
    floats by 1.5 · 2⁻¹⁶, as they are rounded.
    """
    size = math.prod(x.shape[1:])
    bits = words(start, numbers, math.ceil(size / 4))  # (B, W), each for four entries
    # One, where bits <= 257 x, and that is with probability (257 x + 1) / 2¹⁶; x = 0 needs a word of its own.
    if _by_numpy(x):
        grey, pixels = x.numpy(), x.dtype == torch.uint8
        level = np.multiply(grey, np.uint16(257), dtype=np.uint16) if pixels else (grey * 65535).round().astype("u2")
        ones = bits.numpy().view(np.uint16)[:, :size].reshape(level.shape) <= level
        ones &= grey > 0
        return torch.from_numpy(ones.astype(np.float32))
    of = x.long() * 257 if x.dtype == torch.uint8 else (x * (2**16 - 1)).round().long()
    shorts = bits.view(torch.int16)[:, :size].reshape(of.shape)
    return ((shorts.long() & 0xFFFF) <= of).logical_and_(x > 0).float()
