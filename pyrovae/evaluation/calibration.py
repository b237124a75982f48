"""Does q mean what it says? Checked where the truth is known: on data from the model itself."""

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..inference import simulate
from .draws import posterior_draws
from .findings import Findings, estimate
from .ranks import coverage, covered, spread_ranks, uniformity
from .subject import Subject

SIGNIFICANCE = 0.01
NUM_BINS = 20
CHUNK_SIZE = 500  # datapoints whose posteriors are drawn from at a time


def calibration(subject: Subject, num_simulated: int = 1000, num_draws: int = 99) -> Findings:
    r"""Simulation-based calibration and coverage of q, on data simulated from the model.

    For z ~ p(z) and x ~ p(x | z), the rank of z_d among draws of the exact p(z | x) is uniform. Ranks that pile up at
    both ends say that q is too narrow, in the middle that it is too wide, at one end that it is off to one side.

    The control is a q that must fail: the same draws, pulled half-way to their mean.

    Args:
        subject: Its model and guide are checked; its data give shapes alone.
        num_simulated: Pairs (z, x), N.
        num_draws: Of q for each, L.

    Raises:
        ValueError: A number too low.

    Reference:
        Validating Bayesian Inference Algorithms with Simulation-Based Calibration (Talts et al., 2018),
        arXiv:1804.06788
    """
    if num_simulated < 2:
        raise ValueError(f"num_simulated must be >= 2, got {num_simulated}")
    if num_draws < 2:
        raise ValueError(f"num_draws must be >= 2, got {num_draws}; 99 make a hundred ranks")
    truth, x = simulate(subject.model, subject.x, num_simulated, getattr(subject.family, "sites", None))
    simulated = Subject.of("simulated", subject.model, subject.guide, x)
    ranks, control = _ranks(simulated, simulated.params, truth, num_draws)
    curves = {"λ_K" if simulated.refines else "q": ranks, "control": control}
    numbers: dict[str, Any] = {
        "num_simulated": num_simulated,
        "num_draws": num_draws,
        "significance": SIGNIFICANCE,
        **_verdict(ranks),
        "control": _verdict(control),
    }
    numbers["control"]["rejected"] = not numbers["control"].pop("calibrated")
    if simulated.refines:
        curves["λ₀"], _ = _ranks(simulated, simulated.init, truth, num_draws)
        numbers["init"] = _verdict(curves["λ₀"])
    warnings = []
    if numbers["calibrated"] and not numbers["control"]["rejected"]:
        warnings.append(
            f"calibration: {num_simulated} simulations are too few to tell q from one with half its spread "
            f"(p = {numbers['control']['p_value']:.2g}); raise num_simulated"
        )
    return Findings({"calibration": numbers}, figures={"calibration": calibration_figure(curves)}, warnings=warnings)


def _ranks(subject: Subject, params: Tensor, truth: Tensor, num_draws: int) -> tuple[Tensor, Tensor]:
    """Ranks of the truth (N, D) among draws of q, and among the control's."""
    found, control = [], []
    for row, z in zip(params.split(CHUNK_SIZE), truth.split(CHUNK_SIZE), strict=True):
        draws = posterior_draws(subject.family, row, num_draws)  # (L, B, D)
        found.append(spread_ranks(z, draws))
        control.append(spread_ranks(z, 0.5 * (draws + draws.mean(0))))
    return torch.cat(found), torch.cat(control)


def _verdict(ranks: Tensor) -> dict[str, Any]:
    tested = uniformity(ranks)
    return {**tested, "calibrated": tested["p_value"] > SIGNIFICANCE, "coverage": coverage(ranks)}


def calibration_figure(curves: dict[str, Tensor]) -> Figure:
    """Histograms of ranks (N, D) by name, all dimensions pooled, and coverage against nominal level."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    histogram, levels = figure.subplots(1, 2)
    edges = torch.linspace(0, 1, NUM_BINS + 1, dtype=torch.float64)
    for name, ranks in curves.items():
        style = {"color": "C3", "linestyle": "--"} if name == "control" else {}
        label = "control: q at half its spread" if name == "control" else name
        density = torch.histogram(ranks.cpu().flatten(), edges, density=True).hist
        histogram.stairs(density.numpy(), edges.numpy(), label=label, **style)
        grid = np.linspace(0.02, 0.98, 49)
        levels.plot(grid, [covered(ranks, level).mean().item() for level in grid], label=label, **style)
    errors = _bin_errors(next(iter(curves.values())), edges)
    band = 2.576 * NUM_BINS * sum(errors) / len(errors)
    histogram.axhspan(1 - band, 1 + band, color="0.5", alpha=0.25, label="99% band of uniform ranks")
    histogram.axhline(1, color="0.5", linewidth=0.8)
    histogram.set(xlabel="rank of the true z_d among draws of q, as a share", ylabel="density", xlim=(0, 1))
    histogram.set_ylim(bottom=0)
    histogram.set_title("Flat where q is calibrated")
    histogram.legend(fontsize=7)
    levels.plot([0, 1], [0, 1], color="0.5", linewidth=0.8)
    levels.set(xlabel="nominal level of the central interval", ylabel="share of true z_d inside", xlim=(0, 1))
    levels.set(ylim=(0, 1), title="Below the line q is over-confident")
    levels.grid(alpha=0.3)
    return figure


def _bin_errors(ranks: Tensor, edges: Tensor) -> list[float]:
    """Standard errors of the shares of ranks in each bin; over datapoints, whose dimensions are not independent."""
    n = len(ranks)
    least = ((1 / NUM_BINS) * (1 - 1 / NUM_BINS) / (n * ranks.shape[1])) ** 0.5
    bins = torch.bucketize(ranks.cpu(), edges[1:-1])
    return [max(least, estimate((bins == k).double().mean(1))["se"]) for k in range(NUM_BINS)]
