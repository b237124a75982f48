"""What the posterior keeps of the data, and in which form."""

import math
from typing import Any

from torch import Tensor

from ..training.figures import kl_per_dim
from ..training.scores import ACTIVE_VARIANCE
from .aggregate_posterior import elbo_surgery
from .draws import posterior_mean
from .findings import Findings, estimate
from .probes import probe_correct
from .reconstruction import data_range, reconstruction_errors, reconstruction_quality
from .representation_figures import aggregate_posterior_figure, kl_figure
from .sparsity import sparsity
from .subject import Subject

CHUNK_SIZE = 500  # datapoints whose KL is taken at a time
ZERO = 0.05  # a posterior mean below it in size counts as zero; the prior's standard deviation is mostly 1


def representation(subject: Subject, probe_train: Subject | None = None, surgery_datapoints: int = 2000) -> Findings:
    """Active units, information, sparsity, reconstruction and probes, of λ_K and, by names with `_init`, of λ₀.

    Refined means jitter by the noise of the inner loop, so units that mean nothing may count as active at λ_K;
    `active_units_init` does not suffer from it.

    Args:
        subject: What is measured.
        probe_train: Other datapoints with labels, which probes are fitted to.
        surgery_datapoints: The first so many make up the aggregate posterior, or all; the work grows by their square.

    Raises:
        ValueError: `surgery_datapoints` below 1.

    References:
        Importance Weighted Autoencoders (Burda et al., 2016), arXiv:1509.00519 (active units)
        ELBO surgery (Hoffman & Johnson, 2016), approximateinference.org/accepted/HoffmanJohnson2016.pdf
    """
    if surgery_datapoints < 1:
        raise ValueError(f"surgery_datapoints must be >= 1, got {surgery_datapoints}")
    states = {"": subject.params, "_init": subject.init}
    means = {suffix: posterior_mean(subject.family, params) for suffix, params in states.items()}
    kls = {suffix: _kl(subject, params) for suffix, params in states.items()}
    numbers: dict[str, Any] = {"active_variance": ACTIVE_VARIANCE, "zero_threshold": ZERO}
    for suffix, mean in means.items():
        numbers |= {name + suffix: value for name, value in _shape_of(mean).items()}
        numbers["kl_per_dim" + suffix] = None if (kl := kls[suffix]) is None else kl.tolist()
    numbers |= _information(subject, surgery_datapoints)
    numbers["reconstruction"], values = _reconstruction(subject, means)
    numbers["probe"], found = _probe(subject, probe_train, means)
    figures = {"aggregate_posterior": aggregate_posterior_figure(means[""], subject.labels, subject.class_names)}
    if (kl := kls[""]) is not None:
        figures["kl_per_dim"] = kl_figure(kl, kls["_init"] if subject.refines else None)
    drawn = {name: figure for name, figure in figures.items() if figure is not None}
    return Findings(numbers, values | found, drawn)


def _shape_of(mean: Tensor) -> dict[str, Any]:
    """Of posterior means (N, D)."""
    lifetime, population = sparsity(mean.flatten(1).T), sparsity(mean.flatten(1))
    return {
        "active_units": int((mean.var(0, correction=0) > ACTIVE_VARIANCE).sum()),
        "lifetime_sparsity": _known(lifetime),
        "population_sparsity": _known(population),
        "share_of_zeros": estimate((mean.abs() < ZERO).double().mean(1)),
    }


def _known(values: Tensor) -> dict[str, float] | None:
    """The estimate over those that are defined, if any is."""
    values = values[~values.isnan()]
    return estimate(values) if len(values) else None


def _kl(subject: Subject, params: Tensor) -> Tensor | None:
    pairs = zip(subject.x.split(CHUNK_SIZE), params.split(CHUNK_SIZE), strict=True)
    parts = [(len(x), kl_per_dim(subject.model, subject.family, x, row)) for x, row in pairs]
    sums = [count * kl for count, kl in parts if kl is not None]
    return sum(sums[1:], sums[0]) / len(subject.x) if sums else None


def _information(subject: Subject, num: int) -> dict[str, Any]:
    """ELBO surgery at λ_K; None for families that cannot score any draw."""
    count = min(num, len(subject.x))
    found: dict[str, Any] = {"mutual_information": None, "aggregate_kl": None, "mutual_information_bound": None}
    if subject.family.density == "any":
        terms = elbo_surgery(subject.model, subject.family, subject.x[:num], subject.params[:num])
        found["mutual_information"] = estimate(terms.information)
        found["aggregate_kl"] = estimate(terms.aggregate_kl)
        found["mutual_information_bound"] = math.log(count)
    return found


def _reconstruction(subject: Subject, means: dict[str, Tensor]) -> tuple[dict[str, Any] | None, dict[str, Tensor]]:
    if not hasattr(subject.model, "decode"):
        return None, {}  # a Pyro model of one's own
    quality: dict[str, Any] = {"data_range": data_range(subject.x)}
    values = {}
    for suffix, mean in means.items():
        values["mse" + suffix] = mse = reconstruction_errors(subject.model, subject.x, mean)
        quality |= {name + suffix: value for name, value in reconstruction_quality(subject.x, mse).items()}
    return quality, values


def _probe(
    subject: Subject, train: Subject | None, means: dict[str, Tensor]
) -> tuple[dict[str, Any] | None, dict[str, Tensor]]:
    if train is None or train.labels is None or subject.labels is None:
        return None, {}
    numbers: dict[str, Any] = {"num_train": len(train.x)}
    values: dict[str, Tensor] = {}
    for suffix, params in (("", train.params), ("_init", train.init)):
        features = posterior_mean(train.family, params)
        found = probe_correct(features, train.labels, means[suffix], subject.labels)
        numbers |= {name + suffix: estimate(correct) for name, correct in found.items()}
        values |= {f"{name}_correct{suffix}": correct for name, correct in found.items()}
    return numbers, values
