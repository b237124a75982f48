"""Importance weights of draws from q, the bounds they give, and how far to trust them."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pyro
import torch
from pyro.ops.stats import fit_generalized_pareto
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..capture import Capture, isolated, noise_state, programs_of, set_noise_state
from ..families import Family
from ..validation import PositiveInt, validated
from .elbo import ELBO, evaluating, sampler
from .objectives import log_weights_of

# Entries of all results of a pass, views among them: several times what is held at once. A CPU is fastest where
# overhead is hidden and caches still serve. No function of the number of threads, or so would be the draws from a seed.
CPU_FLOATS = 2**23
CUDA_FLOATS = 2**29


class _Count(TorchDispatchMode):
    """Counts the entries of all results inside."""

    def __init__(self) -> None:
        super().__init__()
        self.entries = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.entries += sum(leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor))
        return result


def points_at_once(program: Callable[[int], Any], device: torch.device) -> int:
    """How many points, a draw of z for a datapoint each, to score in one pass, at least 1.

    Small enough for the caches of a CPU, large enough to keep a GPU busy. What a point costs is counted in two runs of
    `program`, with 2 and with 4 points; the generator goes back to where it was, and no Pyro handler sees them.

    >>> points_at_once(lambda size: torch.zeros(size, 1000) + 1, torch.device("cpu"))  # two results a point
    4194
    """
    state, entries = noise_state(device), []
    for size in (2, 4):
        with _Count() as count, torch.no_grad(), isolated():
            program(size)
        entries.append(count.entries)
    set_noise_state(state, device)
    budget = CUDA_FLOATS if device.type == "cuda" else CPU_FLOATS
    return max(1, 2 * budget // max(1, entries[1] - entries[0]))


@validated
def log_weights(
    model: nn.Module, family: Family, x: Tensor, params: Tensor, num_samples: PositiveInt,
    chunk_size: PositiveInt | None = None,
) -> Tensor:  # fmt: skip
    r"""Log importance weights of draws from q, (K, B), in nats; takes no gradient.

    .. math:: \log w_{ki} = \log p(x_i, z_{ki}) - \log q(z_{ki} \mid x_i), \qquad z_{ki} \sim q(z \mid x_i)

    Their mean is the ELBO, and the mean of :math:`w_{ki}` is p(x_i).

    Args:
        model, family, x, params: As in `elbo_terms`.
        num_samples: K.
        chunk_size: Draws of every datapoint scored at a time. By default a pass takes as many datapoints and draws as
            fit the caches, or on a GPU the memory.

    Raises:
        ValueError: A family without density.

    >>> import pyrovae as pv
    >>> model, family = pv.models.mlp((4,), z_dim=2), pv.DiagonalNormal(2)
    >>> log_weights(model, family, torch.ones(8, 4), torch.zeros(8, 4), num_samples=50).shape
    torch.Size([50, 8])
    """
    if family.density == "none":
        raise ValueError(f"importance weights need the density of q, which {type(family).__name__} lacks")
    rows, draws = len(x), min(chunk_size or 0, num_samples)
    if chunk_size is None:
        rows, draws = _shape_of_pass(model, family, x, params, num_samples)
    num_passes = math.ceil(num_samples / draws)

    def make() -> Capture:
        return Capture(_weigh(model, family, draws), model, family, name="the importance weights")

    capture, start = programs_of(model).get(make, (family,), "weights", draws), 0
    # Filled in place: small results kept between large ones that go would break up the heap.
    found = params.new_empty(num_passes * draws, len(x))
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

    points = points_at_once(lambda draws: _weigh(model, family, draws)(x[:1], params[:1]), x.device)
    rows = min(len(x), max(math.isqrt(points), points // num_samples))
    draws = min(num_samples, max(1, points // max(1, rows)))
    # Evened out, and the last pass has as many draws as the others: one graph serves them all.
    return math.ceil(len(x) / math.ceil(len(x) / rows)), math.ceil(num_samples / math.ceil(num_samples / draws))


def _weigh(model: nn.Module, family: Family, draws: int) -> Callable[[Tensor, Tensor], tuple[Tensor]]:
    """(x, λ) to the log weights of so many draws, (draws, B), as a function to capture."""

    def weigh(x: Tensor, params: Tensor) -> tuple[Tensor]:
        with torch.no_grad(), pyro.validation_enabled(False):
            traces = ELBO(num_particles=draws, path_gradient=False).traces(model, sampler(family, params), x)
            return (log_weights_of(*traces, draws, x.shape[0]),)

    return weigh


MIN_DRAWS_FOR_TAIL, MIN_TAIL = 25, 5  # of which a fifth, 5, are the tail


def iwae_bounds(log_weights: Tensor, ks: Sequence[int]) -> Tensor:
    r"""The importance-weighted bounds L_k for each k of `ks`, (len(ks), B), in nats, from log weights (K, B).

    .. math:: L_k = E \log \frac1k \sum_{j=1}^k w_j

    The expectation is the mean over the K // k groups of k draws; at k = K there is one.

    Raises:
        ValueError: A k below 1 or above K.

    Reference:
        Importance Weighted Autoencoders (Burda et al., 2016), arXiv:1509.00519

    >>> iwae_bounds(torch.tensor([[0.0], [2.0]]), [1, 2])  # the mean, and the log of the mean weight
    tensor([[1.0000],
            [1.4338]])
    """
    num, batch = log_weights.shape
    bounds = []
    for k in ks:
        if not 1 <= k <= num:
            raise ValueError(f"k must be between 1 and the number of draws, {num}, got {k}; draw more")
        groups = log_weights[: num // k * k].reshape(-1, k, batch)
        bounds.append(groups.logsumexp(1).mean(0) - math.log(k))
    return torch.stack(bounds)


def effective_sample_size(log_weights: Tensor) -> Tensor:
    r"""How many draws from the posterior K weighted ones are worth, (B,), from 1 to K, from log weights (K, B).

    .. math:: \big(\sum_j w_j\big)^2 / \sum_j w_j^2

    Reference:
        Sequential imputations and Bayesian missing data problems (Kong, Liu & Wong, 1994), JASA 89(425)

    >>> effective_sample_size(torch.zeros(10, 1))  # equal weights
    tensor([10.])
    """
    return (2 * log_weights.logsumexp(0) - (2 * log_weights).logsumexp(0)).exp()


def pareto_k(log_weights: Tensor) -> Tensor:
    r"""k̂, the shape of the weights' upper tail, per datapoint (B,), from log weights (K, B).

    Weights have moments of order below 1 / k. Above 0.7, averages of them are not to be trusted at any practical
    number of draws: q misses a part of the posterior. The tail is the largest min(K / 5, 3 √K) weights, and a
    generalised Pareto distribution is fitted to it by Zhang & Stephens' method. Weights that are all equal have no
    tail, k̂ = 0; a tail of which fewer than 5 weights count at all beside the largest, because the others tie or
    underflow, has k̂ = inf; a weight that is not finite makes it NaN.

    Raises:
        ValueError: Fewer than 25 draws.

    Reference:
        Pareto Smoothed Importance Sampling (Vehtari et al., 2024), arXiv:1507.02646

    >>> pareto_k(torch.zeros(100, 1)), pareto_k(1000.0 * torch.arange(100)[:, None])
    (tensor([0.]), tensor([inf]))
    """
    num = log_weights.shape[0]
    if num < MIN_DRAWS_FOR_TAIL:
        raise ValueError(f"pareto_k needs at least {MIN_DRAWS_FOR_TAIL} draws, got {num}")
    size = math.ceil(min(num / 5, 3 * math.sqrt(num)))
    largest = log_weights.double().topk(size + 1, dim=0).values.T.cpu()  # (B, size + 1), the last the threshold
    top, threshold = largest[:, :1], largest[:, -1:]
    excess = (largest[:, :-1] - top).exp() - (threshold - top).exp()
    # Differences of this size are rounding of log-densities.
    rounding = 100 * torch.finfo(log_weights.dtype).eps * top.abs().clamp_min(1)
    equal = ((top - threshold) <= rounding)[:, 0]
    finite = log_weights.isfinite().all(0).cpu()
    shapes = [
        (0.0 if flat else _tail_shape(row)) if good else math.nan
        for row, flat, good in zip(excess, equal.tolist(), finite.tolist(), strict=True)
    ]
    return log_weights.new_tensor(shapes)


def _tail_shape(excess: Tensor) -> float:
    """k̂ of one datapoint's excesses over the threshold, of which those that tie with it, or underflow, are zero."""
    excess = excess[excess > 1e-300]  # the fit divides by them
    return fit_generalized_pareto(excess)[0] if len(excess) >= MIN_TAIL else math.inf


def iwae(
    model: nn.Module, family: Family, x: Tensor, params: Tensor, num_samples: int = 1000, chunk_size: int | None = None
) -> Tensor:
    r"""The bound of `IWAE` per datapoint, (B,), in nats; takes no gradient.

    It grows with k = `num_samples` to log p(x), from the ELBO at k = 1. Arguments and errors are those of
    `log_weights`.

    >>> import pyrovae as pv
    >>> model, family = pv.models.mlp((4,), z_dim=2), pv.DiagonalNormal(2)
    >>> iwae(model, family, torch.ones(8, 4), torch.zeros(8, 4), num_samples=10).shape
    torch.Size([8])
    """
    return iwae_bounds(log_weights(model, family, x, params, num_samples, chunk_size), [num_samples])[0]
