"""Noise as a function of where training is."""

from typing import Literal, get_args

import numpy as np
import torch

from ..capture import seed_generators

Stream = Literal["train", "eval", "pictures", "evaluation"]


def seed_noise(device: torch.device, seed: int, stream: Stream, step: int, rank: int) -> None:
    """Seeds the generators of the CPU and of `device` from (seed, stream, step, rank), and from nothing before.

    That makes a resumed run repeat the uninterrupted one, and ranks draw different noise.

    >>> seed_noise(torch.device("cpu"), seed=0, stream="train", step=7, rank=0)
    """
    key = (get_args(Stream).index(stream), step, rank)
    seed_generators(device, int(np.random.SeedSequence(seed, spawn_key=key).generate_state(1, np.uint64)[0]))
