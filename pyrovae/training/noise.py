"""Noise as a function of where training is."""

from typing import Literal

import numpy as np
import torch

Stream = Literal["train", "eval", "pictures", "evaluation"]
_STREAMS = ("train", "eval", "pictures", "evaluation")


def seed_noise(device: torch.device, seed: int, stream: Stream, step: int, rank: int) -> None:
    """Seeds the generators of the CPU and of `device` from (seed, stream, step, rank), and from nothing before.

    That makes a resumed run repeat the uninterrupted one, and ranks draw different noise.

    >>> seed_noise(torch.device("cpu"), 0, "train", step=7, rank=0)
    >>> first = torch.randn(3)
    >>> seed_noise(torch.device("cpu"), 0, "train", step=7, rank=0)
    >>> torch.equal(first, torch.randn(3))
    True
    """
    key = (_STREAMS.index(stream), step, rank)
    _seed(device, int(np.random.SeedSequence(seed, spawn_key=key).generate_state(1, np.uint64)[0]))


def _seed(device: torch.device, value: int) -> None:
    # Not torch.manual_seed: without CUDA it records a stack trace for a later initialisation, at every call.
    torch.default_generator.manual_seed(value)
    if device.type == "cuda":
        torch.cuda.manual_seed(value)
    elif device.type == "mps":
        torch.mps.manual_seed(value)
