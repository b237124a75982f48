"""The ELBO's terms from many draws."""

import torch
from torch import Tensor, nn

from ..capture import Capture
from ..families import Family
from .elbo import Terms, common_noise
from .frozen import frozen
from .programs import Programs
from .safeguard import captured_score

DRAWS = 25  # in a pass; alike for all, so that one graph serves
# Floats of data in a pass: more leave a CPU's cache, and fewer keep a GPU waiting.
FLOATS_CPU, FLOATS_GPU = 1_000_000, 64_000_000

_programs: Programs[Capture] = Programs()


def precise_terms(
    model: nn.Module, family: Family, x: Tensor, *params: Tensor, num_particles: int = 100
) -> list[Terms]:
    """`common_noise_terms` for many draws and datapoints, in passes of bounded memory.

    The several λ of a datapoint meet the same draws; another call meets others.

    Args:
        model: Pyro model of plate `"data"`.
        family: Turns λ into q.
        x: Data (B, *x_shape).
        params: λ (B, P), each.
        num_particles: Draws of z a datapoint.

    Raises:
        ValueError: `num_particles` below 1.
    """
    if num_particles < 1:
        raise ValueError(f"num_particles must be >= 1, got {num_particles}")
    draws = min(num_particles, DRAWS)
    passes = [min(draws, num_particles - first) for first in range(0, num_particles, draws)]
    budget = FLOATS_GPU if x.is_cuda else FLOATS_CPU
    rows = max(1, budget // (draws * (x[:1].numel() + params[0].shape[-1])))
    found = []
    # Out of inference mode, whose tensors a graph would not take; frozen, for one graph whoever asks.
    with torch.inference_mode(False), torch.no_grad(), frozen(model), frozen(family):
        for part, *at in zip(_split(x, rows), *(_split(row, rows) for row in params), strict=True):
            terms = [_score(model, family, part, at, count) for count in passes]
            found.append([_weighted_mean(one, passes) for one in zip(*terms, strict=True)])
    return [Terms(*map(torch.cat, zip(*one, strict=True))) for one in zip(*found, strict=True)]


def _split(tensor: Tensor, rows: int) -> tuple[Tensor, ...]:
    return (tensor.clone() if tensor.is_inference() else tensor.detach()).split(rows)


def _score(model: nn.Module, family: Family, x: Tensor, params: list[Tensor], draws: int) -> list[Terms]:
    """One pass."""
    score = _programs.get(lambda: captured_score(model, family, draws), (model, family), draws)
    scored = score.bind(x, params[0], calls=len(params))
    return common_noise(lambda row: Terms(*scored(x, row)), *params)


def _weighted_mean(terms: tuple[Terms, ...], counts: list[int]) -> Terms:
    """The mean of terms from so many draws each."""
    weights = torch.tensor(counts, dtype=terms[0].kl.dtype, device=terms[0].kl.device)
    return Terms(*(weights @ torch.stack(side) / weights.sum() for side in zip(*terms, strict=True)))
