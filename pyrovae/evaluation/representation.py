"""What the posterior keeps of the data, and in which form."""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from sklearn.dummy import DummyClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from ..inference import elbo_terms, mutual_information
from ..models import can_decode
from ..training.figures import IN_USE, kl_bars, kl_per_dim
from ..validation import PositiveInt, validated
from .subject import CHUNK_SIZE, Measurement, Subject, attempt, estimate, panels, posterior_mean
from .traversals import most_active

ZERO = 0.05  # a posterior mean below it in size counts as zero; the prior's standard deviation is mostly 1
MAX_PSNR = 120.0  # dB; of a perfect reconstruction, where it has no end
MAX_CLASSES = 20  # in a legend


@validated
def representation(
    subject: Subject, probe_train: Subject | None = None, surgery_datapoints: PositiveInt = 2000
) -> Measurement:
    """Dimensions in use, information, sparsity, reconstruction and probes, at λ_K and, by names with `_init`, at λ₀.

    A latent dimension is in use if its KL to the prior, averaged over datapoints, is above 0.1 nats: a loop's noise on
    one that tells nothing stays below, though its mean may vary by more than the 0.01 at which units are called active.
    Probes are fitted to `probe_train`, other datapoints with labels. The first `surgery_datapoints`, or all, make up
    the aggregate posterior; the work grows by their square.
    """
    found = Measurement({"in_use_above": IN_USE, "zero_below": ZERO, "reconstruction": None, "probe": None})
    params = {"": subject.params, "_init": subject.init}
    means = {suffix: posterior_mean(subject.family, rows) for suffix, rows in params.items()}
    kls = {suffix: _kl(subject, rows) for suffix, rows in params.items()}
    for suffix, z in means.items():
        mean, kl = z.flatten(1), kls[suffix]  # (N, D), of latent arrays too
        lifetime = sparsity(mean.T)
        found.numbers |= {
            "dims_in_use" + suffix: None if kl is None else int((kl > IN_USE).sum()),
            "kl_per_dim" + suffix: None if kl is None else kl.tolist(),
            "lifetime_sparsity" + suffix: estimate(lifetime[lifetime.isfinite()]),
            "population_sparsity" + suffix: subject.estimate(sparsity(mean)),
            "share_of_zeros" + suffix: subject.estimate((mean.abs() < ZERO).double().mean(1)),
        }
    found.numbers |= dict.fromkeys(("mutual_information", "aggregate_kl", "mutual_information_bound"))
    if subject.family.density == "any":
        with attempt(found.failed, "mutual information"):
            first = slice(surgery_datapoints)
            x, few = subject.x[first], subject.params[first]
            information = mutual_information(subject.family, few)
            rest = elbo_terms(subject.model, subject.family, x, few).kl - information  # in the mean KL(q(z) ‖ p)
            found.numbers |= {
                "mutual_information": subject.estimate(information, first),
                "aggregate_kl": subject.estimate(rest, first),
                "mutual_information_bound": math.log(len(x)),
            }
    if can_decode(subject.model):
        with attempt(found.failed, "reconstruction"):
            _reconstruction(found, subject, means)
    if probe_train is not None and probe_train.labels is not None and subject.labels is not None:
        with attempt(found.failed, "probe"):
            _probe(found, subject, probe_train, means)
    found.draw(
        "aggregate_posterior", aggregate_posterior_figure, means[""].flatten(1), subject.labels, subject.class_names
    )
    if kls[""] is not None:
        found.draw("kl_per_dim", kl_bars, kls[""], kls["_init"] if subject.refines else None)
    return found


def _kl(subject: Subject, params: Tensor) -> Tensor | None:
    """KL to the prior by dimension, (D,), over datapoints with finite λ."""
    x, params = (part[params.isfinite().all(1)].split(CHUNK_SIZE) for part in (subject.x, params))
    kls = [kl_per_dim(subject.model, subject.family, *pair) for pair in zip(x, params, strict=True)]
    known = [len(part) * kl for part, kl in zip(x, kls, strict=True) if kl is not None]
    return torch.stack(known).sum(0) / sum(map(len, x)) if known else None


def sparsity(responses: Tensor) -> Tensor:
    r"""Of responses (..., n), between 0 (all equal in size) and 1 (only one is not zero); NaN where all are zero.

    .. math:: S = \frac{1 - (\sum_i |r_i| / n)^2 / (\sum_i r_i^2 / n)}{1 - 1 / n}

    Signs are left out; normal responses of mean zero have 1 - 2 / π = 0.36. Population sparsity is that of a datapoint
    over dimensions, lifetime sparsity that of a dimension over datapoints (Vinje & Gallant 2000, Science 287).
    """
    n, r = responses.shape[-1], responses.double().abs()
    return (1 - r.mean(-1).square() / r.square().mean(-1)) / (1 - 1 / n if n > 1 else math.nan)


@torch.no_grad()
def _reconstruction(found: Measurement, subject: Subject, means: dict[str, Tensor]) -> None:
    quality: dict[str, Any] = {"data_range": data_range(subject.x)}
    for suffix, mean in means.items():
        pairs = zip(subject.x.split(CHUNK_SIZE), mean.split(CHUNK_SIZE), strict=True)
        mse = torch.cat([(subject.model.decode(z).mean - x).square().flatten(1).mean(1) for x, z in pairs])
        found.values["mse" + suffix] = mse
        part = reconstruction_quality(subject.x, mse, subject.groups)
        quality |= {name + suffix: value for name, value in part.items()}
    found.numbers["reconstruction"] = quality


def reconstruction_quality(x: Tensor, mse: Tensor, groups: Tensor | None = None) -> dict[str, dict[str, float]]:
    r"""`mse`, `psnr` (dB) and `r2` from the errors (N,) of data x (N, *x_shape).

    .. math:: \mathrm{PSNR} = 10 \log_{10} \frac{R^2}{\mathrm{mse}}, \qquad
        R^2 = 1 - \frac{\sum_n \mathrm{mse}_n}{\sum_n \mathrm{mean}_j (x_{nj} - \bar x_j)^2}

    with x̄ the mean datapoint; the standard error of R² is that of a ratio of sums. PSNR is the mean over datapoints, at
    most 120 dB each. What is not finite is left out.
    """
    good = mse.isfinite()
    x, mse, groups = x[good], mse[good].double(), None if groups is None else groups[good.cpu()]
    spread = (x - x.mean(0)).square().flatten(1).mean(1).double()
    psnr = (20 * math.log10(data_range(x)) - 10 * mse.log10()).clamp(max=MAX_PSNR)
    r2 = (1 - mse.sum() / spread.sum()).item() if spread.sum() > 0 else math.nan
    error = estimate(((1 - r2) * spread - mse) / spread.mean(), groups)["se"]
    return {"mse": estimate(mse, groups), "psnr": estimate(psnr, groups), "r2": {"mean": r2, "se": error}}


def data_range(x: Tensor) -> float:
    """1 for data in [0, 1]; else the largest entry less the smallest."""
    low, high = x[x.isfinite()].aminmax()
    return 1.0 if low >= 0 and high <= 1 else (high - low).item()


def _probe(found: Measurement, subject: Subject, train: Subject, means: dict[str, Tensor]) -> None:
    numbers: dict[str, Any] = {"num_train": len(train.x)}
    for suffix, params in (("", train.params), ("_init", train.init)):
        features = posterior_mean(train.family, params)
        correct = probe_correct(features, train.labels, means[suffix], subject.labels)
        numbers |= {name + suffix: subject.estimate(right) for name, right in correct.items()}
        found.values |= {f"{name}_correct{suffix}": right for name, right in correct.items()}
    found.numbers["probe"] = numbers


def probe_correct(train: Tensor, train_labels: Any, test: Tensor, test_labels: Any) -> dict[str, Tensor]:
    """Whether classifiers fitted to features (M, D) name the class of each test row (N, D): zeros and ones, by name.

    `knn`, the five nearest neighbours' vote, and `linear`, logistic regression, on features standardised by the
    training ones. With one training class both say that class.
    """
    features, rows = (part.detach().cpu().double().numpy() for part in (train, test))
    classes, truth = train_labels.cpu().numpy(), test_labels.cpu().numpy()
    probes = {"knn": KNeighborsClassifier(min(5, len(classes))), "linear": LogisticRegression(max_iter=1000)}
    if len(np.unique(classes)) < 2:
        probes = dict.fromkeys(probes, DummyClassifier(strategy="prior"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a step short of the optimum is no news
        fitted = {name: make_pipeline(StandardScaler(), probe).fit(features, classes) for name, probe in probes.items()}
    return {name: torch.from_numpy(probe.predict(rows) == truth).double() for name, probe in fitted.items()}


def aggregate_posterior_figure(means: Tensor, labels: Tensor | None, class_names: Sequence[str]) -> Figure | None:
    """Posterior means (N, D) in their two most active dimensions, coloured by class; None for one dimension."""
    if means.shape[1] < 2:
        return None
    first, second = most_active(means, 2)
    points = means[:, [first, second]].float().cpu().numpy()
    classes = np.zeros(len(points), int) if labels is None else labels.cpu().numpy()
    figure, (axes,) = panels(6, 5)
    present = np.unique(classes)
    for place, k in enumerate(present):
        name = class_names[k] if k < len(class_names) else str(k)
        colour = colormaps["tab20" if len(present) > 10 else "tab10"](place % 20)
        axes.plot(*points[classes == k].T, ".", markersize=4, alpha=0.6, color=colour, label=name)
    if labels is not None and len(present) <= MAX_CLASSES:
        axes.legend(fontsize=8, markerscale=2, title="class")
    title = "Posterior means, two most active dimensions"
    axes.set(xlabel=f"E[z_{first} | x]", ylabel=f"E[z_{second} | x]", title=title)
    axes.set_aspect("equal", adjustable="datalim")
    return figure
