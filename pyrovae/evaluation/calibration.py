"""Does q mean what it says? Checked where the truth is known: on data from the model itself."""

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.stats import kstest
from torch import Tensor

from ..inference import simulate
from ..validation import ArgumentError
from .measurement import Measurement, estimate
from .subject import Subject, posterior_draws

SIGNIFICANCE = 0.01
LEVELS = (0.5, 0.8, 0.9, 0.95)  # of the central intervals that are reported
NUM_BINS = 20
CHUNK_SIZE = 500  # datapoints whose posteriors are drawn from at a time


def calibration(subject: Subject, num_simulated: int = 1000, num_draws: int = 99) -> Measurement:
    r"""Simulation-based calibration and coverage of q, on data simulated from the model.

    For z ~ p(z) and x ~ p(x | z), the rank of z_d among draws of the exact p(z | x) is uniform. Ranks that pile up at
    both ends say that q is too narrow, in the middle that it is too wide, at one end that it is off to one side.

    The control is a q that must fail: the same draws, pulled half-way to their mean.

    Of the subject only model and guide count; `num_simulated` pairs (z, x), N, have `num_draws` of q each, L.

    Reference:
        Validating Bayesian Inference Algorithms with Simulation-Based Calibration (Talts et al., 2018),
        arXiv:1804.06788
    """
    for name, value in (("num_simulated", num_simulated), ("num_draws", num_draws)):
        if value < 2:
            raise ArgumentError(f"{name} must be >= 2, got {value}")
    truth, x = simulate(subject.model, subject.x, num_simulated, getattr(subject.family, "sites", None))
    simulated = Subject.of("simulated", subject.model, subject.guide, x)
    ranks, control = _ranks(simulated, simulated.params, truth, num_draws)
    curves = {"λ_K" if simulated.refines else "q": ranks, "control": control}
    found, rejected = verdict(ranks), verdict(control)
    rejected["rejected"] = not rejected.pop("calibrated")
    numbers = {"num_simulated": num_simulated, "num_draws": num_draws, "significance": SIGNIFICANCE, **found}
    numbers["control"] = rejected
    if simulated.refines:
        curves["λ₀"], _ = _ranks(simulated, simulated.init, truth, num_draws)
        numbers["init"] = verdict(curves["λ₀"])
    measured = Measurement({"calibration": numbers})
    measured.draw("calibration", calibration_figure, curves)
    if found["calibrated"] and not rejected["rejected"]:
        measured.warnings.append(
            f"calibration: {num_simulated} simulations are too few to tell q from one with half its spread "
            f"(p = {rejected['p_value']:.2g}); raise num_simulated"
        )
    return measured


def _ranks(subject: Subject, params: Tensor, truth: Tensor, num_draws: int) -> tuple[Tensor, Tensor]:
    """Ranks of the truth (N, D) among draws of q, and among the control's."""
    found, control = [], []
    for row, z in zip(params.split(CHUNK_SIZE), truth.split(CHUNK_SIZE), strict=True):
        draws = posterior_draws(subject.family, row, num_draws)  # (L, B, D)
        found.append(spread_ranks(z, draws))
        control.append(spread_ranks(z, 0.5 * (draws + draws.mean(0))))
    return torch.cat(found), torch.cat(control)


def spread_ranks(truth: Tensor, draws: Tensor) -> Tensor:
    r"""Ranks of z (N, D) among draws (L, N, D) as numbers between 0 and 1, uniform if both are of one posterior.

    .. math:: u = (r + v) / (L + 1), \qquad r = \#\{l : z_l < z\}, \quad v \sim \mathcal{U}(0, 1)

    Spread evenly over its bin, a rank has a continuous uniform distribution, so that tests for such hold exactly.
    """
    ranks = (draws < truth).sum(0).double()
    return (ranks + torch.rand_like(ranks)) / (len(draws) + 1)


def covered(ranks: Tensor, level: float) -> Tensor:
    """Whether each of `spread_ranks` lies in the central interval of that level, as zeros and ones."""
    return ((ranks - 0.5).abs() <= level / 2).double()


def verdict(ranks: Tensor) -> dict[str, Any]:
    """Whether `spread_ranks` (N, D) are uniform, and the shares of them within central intervals, by nominal level.

    By the Kolmogorov-Smirnov test of each dimension, and of all by Bonferroni's correction. Standard errors are over
    datapoints, for the dimensions of one are not independent.
    """
    p_values = [float(kstest(column, "uniform").pvalue) for column in ranks.cpu().numpy().T]
    p_value, coverage = min(1.0, min(p_values) * len(p_values)), {}
    for level in LEVELS:
        inside = covered(ranks, level)
        coverage[str(level)] = {**estimate(inside.mean(1)), "per_dim": inside.mean(0).tolist()}
    calibrated = p_value > SIGNIFICANCE
    return {"p_value": p_value, "p_value_per_dim": p_values, "calibrated": calibrated, "coverage": coverage}


def calibration_figure(curves: dict[str, Tensor]) -> Figure:
    """Histograms of ranks (N, D) by name, all dimensions pooled, and coverage against nominal level."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    histogram, levels = figure.subplots(1, 2)
    edges, grid = torch.linspace(0, 1, NUM_BINS + 1, dtype=torch.float64), np.linspace(0.02, 0.98, 49)
    for name, ranks in curves.items():
        style = {"color": "C3", "linestyle": "--"} if name == "control" else {}
        label = "control: q at half its spread" if name == "control" else name
        density = torch.histogram(ranks.cpu().flatten(), edges, density=True).hist
        histogram.stairs(density.numpy(), edges.numpy(), label=label, **style)
        levels.plot(grid, [covered(ranks, level).mean().item() for level in grid], label=label, **style)
    bins = torch.bucketize(next(iter(curves.values())).cpu(), edges[1:-1])
    # Over datapoints, whose dimensions are not independent.
    band = 2.576 * sum(estimate((bins == k).double().mean(1))["se"] for k in range(NUM_BINS))
    histogram.axhspan(1 - band, 1 + band, color="0.5", alpha=0.25, label="99 % band of uniform ranks")
    histogram.axhline(1, color="0.5", linewidth=0.8)
    histogram.set(xlabel="rank of the true z_d among draws of q, as a share", ylabel="density", xlim=(0, 1))
    histogram.set(ylim=(0, None), title="Flat where q is calibrated")
    histogram.legend(fontsize=7)
    levels.plot([0, 1], [0, 1], color="0.5", linewidth=0.8)
    levels.set(xlabel="nominal level of the central interval", ylabel="share of true z_d inside", xlim=(0, 1))
    levels.set(ylim=(0, 1), title="Below the line q is over-confident")
    levels.grid(alpha=0.3)
    return figure
