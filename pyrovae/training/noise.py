"""Noise as a function of where training is."""

from typing import Literal

import numpy as np
import torch

from ..capture import seed_generators

_STREAMS = ("train", "eval", "pictures", "evaluation")


def seed_noise(
    device: torch.device, seed: int, stream: Literal["train", "eval", "pictures", "evaluation"], step: int, rank: int
) -> None:
    """Seeds the generators of the CPU and of `device` from (seed, stream, step, rank), and from nothing before.

    That makes a resumed run repeat the uninterrupted one, and ranks draw different noise.
    """
    key = (_STREAMS.index(stream), step, rank)
    value = int(np.random.SeedSequence(seed, spawn_key=key).generate_state(1, np.uint64)[0])
    seed_generators(device, value)
