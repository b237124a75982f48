"""Ranks of true values among draws of a posterior, and whether they are uniform."""

from typing import Any

import torch
from scipy.stats import kstest
from torch import Tensor

from .findings import estimate

LEVELS = (0.5, 0.8, 0.9, 0.95)  # of the central intervals that are reported


def spread_ranks(truth: Tensor, draws: Tensor) -> Tensor:
    r"""Ranks as numbers between 0 and 1, (N, D), uniform if the draws come from the same posterior as the truth.

    .. math:: u = (r + v) / (L + 1), \qquad r = \#\{l : z_l < z\}, \quad v \sim \mathcal{U}(0, 1)

    Among L draws there are L + 1 equally probable ranks; spread evenly over its bin, a rank has a continuous uniform
    distribution, so that tests for such hold exactly.

    Args:
        truth: z (N, D).
        draws: Draws of q (L, N, D).

    Reference:
        Validating Bayesian Inference Algorithms with Simulation-Based Calibration (Talts et al., 2018),
        arXiv:1804.06788
    """
    ranks = (draws < truth).sum(0).double()
    return (ranks + torch.rand_like(ranks)) / (len(draws) + 1)


def uniformity(ranks: Tensor) -> dict[str, Any]:
    """The Kolmogorov-Smirnov test of each dimension of `spread_ranks` (N, D), and of all by Bonferroni's correction."""
    p_values = [float(kstest(column, "uniform").pvalue) for column in ranks.cpu().numpy().T]
    return {"p_value": min(1.0, min(p_values) * len(p_values)), "p_value_per_dim": p_values}


def coverage(ranks: Tensor) -> dict[str, dict[str, Any]]:
    """Shares of `spread_ranks` (N, D) within central intervals, by nominal level; standard errors over datapoints.

    Over datapoints, for the dimensions of one are not independent.
    """
    found = {}
    for level in LEVELS:
        inside = covered(ranks, level)
        found[str(level)] = {**estimate(inside.mean(1)), "per_dim": inside.mean(0).tolist()}
    return found


def covered(ranks: Tensor, level: float) -> Tensor:
    """Whether each of `spread_ranks` lies in the central interval of that level, as zeros and ones."""
    return ((ranks - 0.5).abs() <= level / 2).double()
