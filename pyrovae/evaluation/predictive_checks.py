"""Do the model's data look like the data?"""

from collections.abc import Callable

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.stats import ks_2samp
from torch import Tensor

from ..inference import simulate
from ..models import can_decode
from ..validation import ArgumentError
from .measurement import Measurement
from .subject import Amount, Subject, posterior_draws

EXTREME = 0.025  # of either tail
CHUNK_ENTRIES = 2**23  # of replicated data held at a time
NAMES = {"mean": "mean", "contrast": "contrast (sd)", "log_likelihood": "log p(x | z)", "roughness": "roughness"}


def predictive_checks(subject: Subject, num_draws: int = 100, num_datapoints: int = 1000) -> Measurement:
    r"""Posterior predictive p-values of statistics T of a datapoint, at λ_K.

    .. math:: p = P(T(x_{rep}, z) > T(x, z)) + \tfrac12 P(T(x_{rep}, z) = T(x, z)), \qquad
        z \sim q(z \mid x), \quad x_{rep} \sim p(x \mid z)

    T: `mean` and `contrast`, mean and standard deviation of the entries; `roughness`, of images, the mean squared
    difference of neighbours; `log_likelihood`, log p(x | z) in nats, whose p is near 1 where data
    fit worse than replications. Under the true model p is less spread than uniform, for z has seen x: a share
    of extreme p well above 5% says that model or q is wrong. `prior_ks` is the Kolmogorov-Smirnov distance between T of
    the data and of samples from the prior on.

    Checked are the first `num_datapoints`, with `num_draws` replications each; p-values of the rest are NaN.

    Reference:
        Posterior Predictive Assessment of Model Fitness via Realized Discrepancies (Gelman, Meng & Stern, 1996),
        Statistica Sinica 6
    """
    for name, value in (("num_draws", num_draws), ("num_datapoints", num_datapoints)):
        if value < 1:
            raise ArgumentError(f"{name} must be >= 1, got {value}")
    if not can_decode(subject.model):
        text = "predictive_checks: left out, for the model has no `decode`; write one, z to p(x | z)"
        return Measurement(warnings=[text])
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
        along = lambda x, dim: x.diff(dim=dim).square().mean((-3, -2, -1))  # noqa: E731
        found["roughness"] = lambda x: 0.5 * (along(x, -2) + along(x, -1))
    return found


def _p_values(subject: Subject, x: Tensor, params: Tensor, num_draws: int) -> dict[str, Tensor]:
    """p of each statistic, (B,)."""
    with torch.no_grad():
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
        own, simulated = (values.double().cpu() for values in data)
        ks = float(ks_2samp(own.numpy(), simulated.numpy()).statistic)
        numbers |= {"data_mean": own.mean().item(), "prior_mean": simulated.mean().item(), "prior_ks": ks}
    return numbers


def predictive_figure(p_values: dict[str, Tensor], data: dict[str, tuple[Tensor, Tensor]], words: Amount) -> Figure:
    """Histograms of p by statistic, and of the data's statistics beside those of data from the prior."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    panels = figure.subplots(1, 3)
    for name, p in p_values.items():
        style = "--" if name == "contrast" else "-"  # in binary data it follows from the mean
        panels[0].hist(p.cpu().numpy(), bins=20, range=(0, 1), histtype="step", linestyle=style, label=NAMES[name])
    panels[0].set(xlabel="posterior predictive p", xlim=(0, 1), title="Ends: unlike its replications")
    panels[0].legend(fontsize=7, loc="upper center", ncols=2)
    for axes, name in zip(panels[1:], ("mean", "roughness" if "roughness" in data else "contrast"), strict=True):
        own, simulated = (values.cpu().numpy() for values in data[name])
        edges = np.histogram_bin_edges(np.concatenate([own, simulated]), 30)
        axes.hist(own, edges, histtype="stepfilled", alpha=0.4, label="data")
        axes.hist(simulated, edges, histtype="step", label="model, z from the prior")
        label = f"rate (mean count a {words.entry})" if (name, words.name) == ("mean", "rate") else f"{name} of x"
        axes.set(xlabel=label, title="Data and the model's samples")
        axes.legend(fontsize=7, loc="upper right")
    for axes in panels:
        axes.set(ylabel=f"{words.datapoint}s", ylim=(0, 1.35 * axes.get_ylim()[1]))  # room for the legend
        axes.title.set_fontsize(9)
    return figure
