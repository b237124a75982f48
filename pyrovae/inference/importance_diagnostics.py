"""What importance weights tell: bounds, and how far to trust them."""

import math
from collections.abc import Sequence

import torch
from pyro.ops.stats import fit_generalized_pareto
from torch import Tensor

MIN_DRAWS_FOR_TAIL = 25  # of which a fifth, 5, are the tail


def iwae_bounds(log_weights: Tensor, ks: Sequence[int]) -> Tensor:
    r"""The importance-weighted bounds L_k for each k of `ks`, (len(ks), B), in nats, from log weights (K, B).

    .. math:: L_k = E \log \frac1k \sum_{j=1}^k w_j

    The expectation is the mean over the K // k groups of k draws; at k = K there is one.

    Raises:
        ValueError: A k below 1 or above K.

    Reference:
        Importance Weighted Autoencoders (Burda et al., 2016), arXiv:1509.00519
    """
    num, batch = log_weights.shape
    bounds = []
    for k in ks:
        if not 1 <= k <= num:
            raise ValueError(f"k must be between 1 and the number of draws, {num}, got {k}; draw more")
        groups = log_weights[: num // k * k].reshape(num // k, k, batch)
        bounds.append(groups.logsumexp(1).mean(0) - math.log(k))
    return torch.stack(bounds)


def effective_sample_size(log_weights: Tensor) -> Tensor:
    r"""How many draws from the posterior K weighted ones are worth, (B,), from 1 to K, from log weights (K, B).

    .. math:: \big(\sum_j w_j\big)^2 / \sum_j w_j^2

    Reference:
        Sequential imputations and Bayesian missing data problems (Kong, Liu & Wong, 1994), JASA 89(425)
    """
    return (2 * log_weights.logsumexp(0) - (2 * log_weights).logsumexp(0)).exp()


def pareto_k(log_weights: Tensor) -> Tensor:
    r"""k̂, the shape of the weights' upper tail, per datapoint (B,), from log weights (K, B).

    Weights have moments of order below 1 / k. Above 0.7, averages of them are not to be trusted at any practical
    number of draws: q misses a part of the posterior. The tail is the largest min(K / 5, 3 √K) weights, and a
    generalised Pareto distribution is fitted to it by Zhang & Stephens' method. Weights that are all equal have no
    tail, k̂ = 0; a weight that is not finite makes it NaN.

    Raises:
        ValueError: Fewer than 25 draws.

    Reference:
        Pareto Smoothed Importance Sampling (Vehtari et al., 2024), arXiv:1507.02646
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
        (0.0 if flat else fit_generalized_pareto(row)[0]) if good else math.nan
        for row, flat, good in zip(excess, equal.tolist(), finite.tolist(), strict=True)
    ]
    return log_weights.new_tensor(shapes)
