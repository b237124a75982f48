"""A picture of refinement far beyond the steps of training."""

from typing import Any

from matplotlib.figure import Figure


def trajectory_figure(numbers: dict[str, Any]) -> Figure:
    """ELBO, reconstruction and KL against inner steps, and the ELBO against time.

    Args:
        numbers: `numbers["trajectory"]` of `trajectory`.
    """
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    steps, trained = numbers["step"], numbers["trained_num_steps"]
    recon = [value - numbers["recon"][0] for value in numbers["recon"]]
    kl = [numbers["kl"][0] - value for value in numbers["kl"]]
    elbo = [value - numbers["elbo"][0] for value in numbers["elbo"]]
    left.plot(steps, elbo, "C0o-", markersize=3, label="ELBO")
    left.plot(steps, recon, "C1--", label="reconstruction")
    left.plot(steps, kl, "C2:", label="−KL")
    left.set_xscale("symlog", linthresh=1, linscale=0.3)
    ticks = [0, *(mantissa * 10**power for power in range(6) for mantissa in (1, 2, 5))]
    left.set_xticks(shown := [tick for tick in ticks if tick <= steps[-1]], map(str, shown))
    left.minorticks_off()
    left.set(xlabel="inner step k", ylabel=f"change from {numbers['start']} (nats a datapoint)", title=_title(numbers))
    time = [1000 * value for value in numbers["seconds_per_image"]]
    right.errorbar(time, numbers["elbo"], None, fmt="C0o-", markersize=3)
    right.set(
        xlabel="time from x to λ_k (ms a datapoint)", ylabel="ELBO at λ_k (nats a datapoint)", title="What it costs"
    )
    if trained in steps:
        at = steps.index(trained)
        left.axvline(trained, color="grey", linewidth=1, label=f"K = {trained} of training")
        right.axvline(time[at], color="grey", linewidth=1, label=f"K = {trained} of training")
        right.legend(fontsize=8)
    left.legend(fontsize=8)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    return figure


def _title(numbers: dict[str, Any]) -> str:
    found = f"Refinement gains {numbers['elbo'][-1] - numbers['elbo'][0]:.2f} nats in {numbers['step'][-1]} steps"
    if numbers["steps_to_99"] is not None:
        found += f";\n99 % of it in {numbers['steps_to_99']}"
    return found
