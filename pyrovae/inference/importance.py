"""Importance weights of draws from q."""

import math
from collections.abc import Callable
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from ..capture import Capture
from ..families import Family
from .chunking import points_at_once
from .elbo import ELBO
from .frozen import evaluating
from .objective import scored_sites


def log_weights(
    model: nn.Module, family: Family, x: Tensor, params: Tensor, num_samples: int, chunk_size: int | None = None
) -> Tensor:
    r"""Log importance weights of draws from q, (K, B), in nats; takes no gradient.

    .. math:: \log w_{ki} = \log p(x_i, z_{ki}) - \log q(z_{ki} \mid x_i), \qquad z_{ki} \sim q(z \mid x_i)

    Their mean is the ELBO, and the mean of :math:`w_{ki}` is p(x_i).

    Args:
        model: Pyro model of plate `"data"`.
        family: Turns λ into q.
        x: Data (B, *x_shape).
        params: λ (B, P).
        num_samples: K.
        chunk_size: Draws of every datapoint scored at a time. By default a pass takes as many datapoints and draws as
            fit the caches, or on a GPU the memory.

    Raises:
        ValueError: A number below 1.
    """
    for name, value in (("num_samples", num_samples), ("chunk_size", chunk_size)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}")
    if chunk_size is None:
        rows, draws = _shape_of_pass(model, family, x, params, num_samples)
    else:
        rows, draws = len(x), min(chunk_size, num_samples)
    num_passes = math.ceil(num_samples / draws)
    capture = Capture(_weigh(model, family, draws), model, family, name="the importance weights")
    # Filled in place: small results kept between large ones that go would break up the heap.
    found = params.new_empty(num_passes * draws, len(x))
    start = 0
    with evaluating(model), evaluating(family):
        while start < len(x):
            part = slice(start, start + rows)
            try:
                weigh = capture.bind(x[part], params[part], calls=num_passes * math.ceil(len(x) / rows))
                for block in found.split(draws):
                    block[:, part] = weigh(x[part], params[part])[0]
            except torch.OutOfMemoryError:
                if rows == 1:
                    raise
                rows = math.ceil(rows / 2)
                torch.cuda.empty_cache()
                continue
            start += rows
    return found[:num_samples]


def _shape_of_pass(model: nn.Module, family: Family, x: Tensor, params: Tensor, num_samples: int) -> tuple[int, int]:
    """Datapoints and draws of a pass: about as many of one as of the other, all of equal size."""

    def score(draws: int) -> None:
        _weigh(model, family, draws)(x[:1], params[:1])

    points = points_at_once(score, x.device)
    rows = min(len(x), max(math.isqrt(points), points // num_samples))
    draws = min(num_samples, max(1, points // max(1, rows)))
    # Evened out, and the last pass has as many draws as the others: one graph serves them all.
    return math.ceil(len(x) / math.ceil(len(x) / rows)), math.ceil(num_samples / math.ceil(num_samples / draws))


def _weigh(model: nn.Module, family: Family, draws: int) -> Callable[[Tensor, Tensor], tuple[Tensor]]:
    """(x, λ) to the log weights of so many draws, (draws, B), as a function to capture."""

    def weigh(x: Tensor, params: Tensor) -> tuple[Tensor]:
        with torch.no_grad(), pyro.validation_enabled(False):
            traces = ELBO(num_particles=draws, path_gradient=False).traces(model, lambda x: family.sample(params), x)
            return (log_weights_of(*traces, draws, x.shape[0]),)

    return weigh


def log_weights_of(model_trace: Any, guide_trace: Any, num_particles: int, batch: int) -> Tensor:
    """log p(x, z) - log q(z | x) from `Objective.traces`, per draw and datapoint, (S, B)."""
    total: Any = 0.0
    for _, site in scored_sites(model_trace):
        total = total + site["log_prob"]
    for _, site in scored_sites(guide_trace):
        if not site["is_observed"]:
            total = total - site["log_prob"]
    return total.reshape(num_particles, batch)
