"""The bounds on log p(x), drawn."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure


def bounds_figure(numbers: Mapping[str, Any]) -> Figure:
    """The importance-weighted bound against k between the ELBOs and, if there is one, the annealed estimate.

    Args:
        numbers: Those of `bounds`, and of `annealed`.
    """
    figure = Figure(figsize=(7, 4.2), layout="constrained", dpi=150)
    axes = figure.subplots()
    ks = np.array([int(k) for k in numbers["iwae_k"]])
    mean, error = (np.array([bound[key] for bound in numbers["iwae_k"].values()]) for key in ("mean", "se"))
    axes.fill_between(ks, mean - error, mean + error, color="C0", alpha=0.2, linewidth=0)
    axes.plot(ks, mean, "o-", color="C0", markersize=4, label=f"IWAE at λ_K, {mean[-1]:.2f} at k = {ks[-1]:,}")
    refined = numbers["elbo_init"] != numbers["elbo"]
    for name, label, style in (("elbo_init", "ELBO at λ₀", ":"), ("elbo", "ELBO at λ_K", "--"))[0 if refined else 1 :]:
        value = numbers[name]["mean"]
        axes.axhline(value, color="0.3", linestyle=style, label=f"{label}, {value:.2f}")
    difference = numbers.get("ais", {}).get("minus_iwae")
    if difference is not None:  # of the same datapoints, which may be fewer than the bound's
        value, se = mean[-1] + difference["mean"], difference["se"]
        axes.axhspan(value - se, value + se, color="C1", alpha=0.2, linewidth=0)
        num = numbers["ais"]["num_data"]
        text = f"IWAE + paired AIS difference {difference['mean']:+.2f} ± {se:.2f} (n = {num})"
        axes.axhline(value, color="C1", label=f"{text}, {value:.2f}")
    axes.set(xscale="log", xlabel="draws k of a datapoint", ylabel="bound on log p(x) (nats a datapoint)")
    axes.set_title("How much is left above the ELBO? Bands: one standard error over datapoints", fontsize="medium")
    axes.grid(alpha=0.3)
    figure.legend(fontsize="small", loc="outside lower center", ncols=2)
    return figure
