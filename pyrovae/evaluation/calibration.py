"""Does q mean what it says, where the truth is known? And do the model's data look like the data?"""

from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import torch
from matplotlib.figure import Figure
from pydantic import Field
from scipy.stats import ks_2samp, kstest
from torch import Tensor

from ..inference import simulate
from ..models import can_decode
from ..validation import PositiveInt, validated
from .subject import CHUNK_SIZE, NO_DECODE, Amount, Measurement, Subject, estimate, panels, posterior_draws

SIGNIFICANCE = 0.01
LEVELS = (0.5, 0.8, 0.9, 0.95)  # of the central intervals that are reported
NUM_BINS = 20
EXTREME = 0.025  # of either tail
CHUNK_ENTRIES = 2**23  # of replicated data held at a time
NAMES = {"mean": "mean", "contrast": "contrast (sd)", "log_likelihood": "log p(x | z)", "roughness": "roughness"}
Several = Annotated[int, Field(ge=2)]


@validated
def calibration(subject: Subject, num_simulated: Several = 1000, num_draws: Several = 99) -> Measurement:
    r"""Simulation-based calibration and coverage of q, on data simulated from the model.

    For z ~ p(z) and x ~ p(x | z), the rank of z_d among draws of the exact p(z | x) is uniform. Ranks that pile up at
    both ends say that q is too narrow, in the middle that it is too wide, at one end that it is off to one side.

    The control is a q that must fail: the same draws, pulled half-way to their mean. Of the subject only model and
    guide count; `num_simulated` pairs (z, x), N, have `num_draws` of q each, L.

    Reference:
        Validating Bayesian Inference Algorithms with Simulation-Based Calibration (Talts et al., 2018),
        arXiv:1804.06788
    """
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
        text = f"calibration: {num_simulated} simulations are too few to tell q from one with half its spread"
        measured.warnings.append(f"{text} (p = {rejected['p_value']:.2g}); raise num_simulated")
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
    """Whether `spread_ranks` (N, D) are uniform, by Kolmogorov-Smirnov and Bonferroni; their shares in intervals."""
    p_values = [float(kstest(column, "uniform").pvalue) for column in ranks.cpu().numpy().T]
    p_value, inside = min(1.0, min(p_values) * len(p_values)), {level: covered(ranks, level) for level in LEVELS}
    coverage = {str(k): estimate(row.mean(1)) | {"per_dim": row.mean(0).tolist()} for k, row in inside.items()}
    calibrated = p_value > SIGNIFICANCE
    return {"p_value": p_value, "p_value_per_dim": p_values, "calibrated": calibrated, "coverage": coverage}


def calibration_figure(curves: dict[str, Tensor]) -> Figure:
    """Histograms of ranks (N, D) by name, all dimensions pooled, and coverage against nominal level."""
    figure, (histogram, levels) = panels(8, 3.6, 2)
    edges, grid = torch.linspace(0, 1, NUM_BINS + 1, dtype=torch.float64), np.linspace(0.02, 0.98, 49)
    for name, ranks in curves.items():
        style = {"color": "C3", "linestyle": "--"} if name == "control" else {}
        style["label"] = "control: q at half its spread" if name == "control" else name
        density = torch.histogram(ranks.cpu().flatten(), edges, density=True).hist
        histogram.stairs(density.numpy(), edges.numpy(), **style)
        levels.plot(grid, [covered(ranks, level).mean().item() for level in grid], **style)
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
    return figure


@validated
def predictive_checks(
    subject: Subject, num_draws: PositiveInt = 100, num_datapoints: PositiveInt = 1000
) -> Measurement:
    r"""Posterior predictive p-values of statistics T of a datapoint, at λ_K.

    .. math:: p = P(T(x_{rep}, z) > T(x, z)) + \tfrac12 P(T(x_{rep}, z) = T(x, z)), \qquad
        z \sim q(z \mid x), \quad x_{rep} \sim p(x \mid z)

    T: `mean` and `contrast`, mean and standard deviation of the entries; `roughness`, of images, the mean squared
    difference of neighbours; `log_likelihood`, log p(x | z) in nats, whose p is near 1 where data fit worse than
    replications. Under the true model p is less spread than uniform, for z has seen x: a share of extreme p well above
    5% says that model or q is wrong (Gelman, Meng & Stern 1996, Statistica Sinica 6). `prior_ks` is the
    Kolmogorov-Smirnov distance between T of the data and of samples from the prior on.

    Checked are the first `num_datapoints`, with `num_draws` replications each; p-values of the rest are NaN.
    """
    if not can_decode(subject.model):
        return Measurement(warnings=[f"predictive_checks: {NO_DECODE}"])
    x, params = subject.x[:num_datapoints], subject.params[:num_datapoints]
    size = max(1, CHUNK_ENTRIES // (num_draws * x[0].numel()))
    chunks = zip(x.split(size), params.split(size), strict=True)
    parts = [_p_values(subject, *chunk, num_draws) for chunk in chunks]
    p_values = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    simulated = simulate(subject.model, x, len(x))[1]
    data = {name: (of(x), of(simulated)) for name, of in statistics(x).items()}
    checks = {name: _numbers(p, data.get(name)) for name, p in p_values.items()}
    rest = params.new_full((len(subject.x) - len(x),), torch.nan).double()
    found = Measurement(
        {"predictive_checks": {"num_datapoints": len(x), "num_draws": num_draws, **checks}},
        {f"predictive_p_{name}": torch.cat([p, rest]) for name, p in p_values.items()},
    )
    found.draw("predictive_checks", predictive_figure, p_values, data, subject.amount())
    return found


def statistics(x: Tensor) -> dict[str, Callable[[Tensor], Tensor]]:
    """Functions of data (..., B, *x_shape) to numbers (..., B), by name; `roughness` for images (C, H, W) alone."""
    entries = tuple(range(1 - x.dim(), 0))
    found: dict[str, Callable[[Tensor], Tensor]] = {
        "mean": lambda x: x.mean(entries),
        "contrast": lambda x: x.std(entries, correction=0),
    }
    if x.dim() == 4 and min(x.shape[-2:]) > 1:
        rough = lambda x, dim: x.diff(dim=dim).square().mean(entries)  # noqa: E731
        found["roughness"] = lambda x: 0.5 * (rough(x, -2) + rough(x, -1))
    return found


@torch.no_grad()
def _p_values(subject: Subject, x: Tensor, params: Tensor, num_draws: int) -> dict[str, Tensor]:
    """p of each statistic, (B,)."""
    likelihood = subject.model.decode(posterior_draws(subject.family, params, num_draws))
    replicated = likelihood.sample()  # (L, B, *x_shape)
    pairs = {name: (of(replicated), of(x)) for name, of in statistics(x).items()}
    pairs["log_likelihood"] = likelihood.log_prob(replicated), likelihood.log_prob(x)
    # Ties, which binary data and counts have, by half.
    return {name: ((rep > own).double() + 0.5 * (rep == own).double()).mean(0) for name, (rep, own) in pairs.items()}


def _numbers(p: Tensor, data: tuple[Tensor, Tensor] | None) -> dict[str, float]:
    extreme = (p < EXTREME) | (p > 1 - EXTREME)
    numbers = {"p_mean": p.mean().item(), "share_extreme": extreme.double().mean().item()}
    if data is not None:
        own, simulated = (values.double().cpu().numpy() for values in data)
        ks = float(ks_2samp(own, simulated).statistic)
        numbers |= {"data_mean": float(own.mean()), "prior_mean": float(simulated.mean()), "prior_ks": ks}
    return numbers


def predictive_figure(p_values: dict[str, Tensor], data: dict[str, tuple[Tensor, Tensor]], words: Amount) -> Figure:
    """Histograms of p by statistic, and of the data's statistics beside those of data from the prior."""
    figure, (tails, *others) = panels(8, 3.2, 3)
    for name, p in p_values.items():
        style = "--" if name == "contrast" else "-"  # in binary data it follows from the mean
        tails.hist(p.cpu().numpy(), bins=20, range=(0, 1), histtype="step", linestyle=style, label=NAMES[name])
    tails.set(xlabel="posterior predictive p", xlim=(0, 1), title="Ends: unlike its replications")
    for axes, name in zip(others, ("mean", "roughness" if "roughness" in data else "contrast"), strict=True):
        own, simulated = (values.cpu().numpy() for values in data[name])
        edges = np.histogram_bin_edges(np.concatenate([own, simulated]), 30)
        axes.hist(own, edges, histtype="stepfilled", alpha=0.4, label="data")
        axes.hist(simulated, edges, histtype="step", label="model, z from the prior")
        label = f"rate (mean count a {words.entry})" if (name, words.name) == ("mean", "rate") else f"{name} of x"
        axes.set(xlabel=label, title="Data and the model's samples")
    for axes in (tails, *others):
        axes.set(ylabel=f"{words.datapoint}s", ylim=(0, 1.35 * axes.get_ylim()[1]))  # room for the legend
        axes.legend(fontsize=7, loc="upper center", ncols=2 if axes is tails else 1)
        axes.title.set_fontsize(9)
    return figure
