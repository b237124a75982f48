"""Validation and test: scores of a whole split."""

from contextlib import AbstractContextManager
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pyro.infer.elbo import ELBOModule
from torch import Tensor

from ..capture import Engine, engine
from ..guides import Guide
from ..inference import Inferred, Terms, common_noise_terms, evaluating, mutual_information
from .figures import IN_USE, kl_per_dim
from .noise import seed_noise

_LOOKED_AT = 500  # datapoints of a split and rank whose KL is taken by dimension


def mean_of(q: Any) -> Tensor | None:
    """E_q[z]; None for a q that does not know it.

    >>> mean_of(torch.distributions.Normal(torch.zeros(3), 1.0))
    tensor([0., 0., 0.])
    """
    try:
        return q.mean
    except NotImplementedError:
        return None


class SplitStatistics:
    """Sums of values per datapoint, batch by batch, on any number of ranks.

    Of KL by dimension there are `z_dim` entries at most. All ranks must agree whether `add` is `informed`, also one
    that gets no batch.

    >>> statistics, terms = SplitStatistics(3, torch.device("cpu")), Terms(recon=-torch.ones(5), kl=torch.zeros(5))
    >>> statistics.add(terms, terms, kl_per_dim=torch.zeros(3), reverted=None, information=None)
    >>> statistics.sums["count"]
    tensor(5., dtype=torch.float64)
    """

    NAMES = ("elbo", "elbo_init", "refinement_gain", "recon", "kl")

    def __init__(self, z_dim: int, device: torch.device, informed: bool = False) -> None:
        dtype = torch.float32 if device.type == "mps" else torch.float64
        shapes: dict[str, tuple[int, ...]] = {"count": (), "reverted": (), "num_split": (), "kl_per_dim": (z_dim,)}
        shapes |= {"values": (2, len(self.NAMES))}  # of themselves and of their squares
        shapes |= {"information": ()} if informed else {}
        self.num_split = 0  # of this rank
        self.sums = {name: torch.zeros(shape, dtype=dtype, device=device) for name, shape in shapes.items()}

    def add(
        self,
        terms_init: Terms,
        terms: Terms,
        kl_per_dim: Tensor | None,
        reverted: Tensor | None,
        information: Tensor | None,
    ) -> None:
        """Adds a batch: scores at λ₀ and λ_K, `kl_per_dim` (D,) if known, which datapoints kept λ₀, and information."""
        elbo, elbo_init = terms.elbo(), terms_init.elbo()
        values = torch.stack([elbo, elbo_init, elbo - elbo_init, terms.recon, terms.kl]).T  # (B, 5)
        for name, each in {"values": values, "reverted": reverted, "information": information}.items():
            if each is not None:
                rows = each.to(self.sums[name])
                self.sums[name] += torch.stack([rows.sum(0), rows.square().sum(0)]) if name == "values" else rows.sum()
        if kl_per_dim is not None:
            self.sums["kl_per_dim"][: len(kl_per_dim)] += len(elbo) * kl_per_dim.to(self.sums["kl_per_dim"])
            self.sums["num_split"] += len(elbo)
            self.num_split += len(elbo)
        self.sums["count"] += len(elbo)

    @property
    def is_split(self) -> bool:
        """Whether enough datapoints have told their KL by dimension."""
        return self.num_split >= _LOOKED_AT

    def summary(self, strategy: Any) -> dict[str, float]:
        """Means over all ranks, in nats a datapoint, with standard errors of the ELBO and of the gain."""
        sums = {name: strategy.reduce(each, reduce_op="sum") for name, each in self.sums.items()}
        n = float(sums["count"])
        average, square = sums["values"] / n
        error = ((square - average.square()).clamp_min(0) / max(n - 1, 1)).sqrt()
        result = dict(zip(self.NAMES, average.tolist(), strict=True))
        result["elbo_se"], result["refinement_gain_se"] = error[0].item(), error[2].item()
        if num_split := float(sums["num_split"]):
            # Not by the posterior mean's variance (Burda et al. 2016), which a loop's noise passes too.
            result["dims_in_use"] = float((sums["kl_per_dim"] / num_split > IN_USE).sum())
        result["num_reverted"] = float(sums["reverted"])
        if "information" in sums:
            result["mutual_information"] = float(sums["information"]) / n
        return result


class EvaluatedModule(pl.LightningModule):
    """Scores λ₀ and λ_K of whole splits: with fresh draws, so that the choice of a safeguard does not flatter itself,
    and in evaluation mode, so that looking at training does not change it. A final class sets the attributes."""

    elbo: ELBOModule  # an objective applied to model and guide
    seed: int
    eval_particles: int
    engine: Engine
    measures_information: bool  # whether to estimate I(x; z) within each batch, too
    _num_batches: int | None = None  # to come in all

    @property
    def model(self) -> Any:
        return self.elbo.model

    @property
    def guide(self) -> Guide:
        return cast(Guide, self.elbo.guide)

    def chosen_engine(self) -> AbstractContextManager[None]:
        """The engine to run under, as a context."""
        # A float16 scaler acts between forward and backward, which a graph has behind it.
        return engine("eager" if self.trainer.precision == "16-mixed" else self.engine, self._num_batches)

    def score(self, x: Tensor, inferred: Inferred, num_particles: int) -> Any:
        """The terms at λ₀ and λ_K under fresh common noise."""
        params = [inferred.init] if inferred.params is inferred.init else [inferred.init, inferred.params]
        with evaluating(self):
            terms = common_noise_terms(self.model, self.guide.family, x, *params, num_particles=num_particles)
        return terms[0], terms[-1]

    def on_validation_epoch_start(self) -> None:
        size = max(self.guide.family.z_dim, self.guide.family.num_params)  # the same on a rank without any batch
        self.statistics = SplitStatistics(size, self.device, self.measures_information)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x = batch[0] if isinstance(batch, tuple | list) else batch
        if len(x) == 0:  # the last batch may have nothing for this rank
            return
        seed_noise(self.device, self.seed, "eval", batch_idx, self.global_rank)  # the same at every epoch
        with self.chosen_engine():
            inferred = self.guide.infer(x)
        terms_init, terms = self.score(x, inferred, self.eval_particles)
        split = None if self.statistics.is_split else self._kl_per_dim(x, inferred.params)
        information = mutual_information(self.guide.family, inferred.params) if self.measures_information else None
        self.statistics.add(terms_init, terms, split, inferred.reverted, information)

    def _kl_per_dim(self, x: Tensor, params: Tensor) -> Tensor | None:
        with evaluating(self):
            return kl_per_dim(self.model, self.guide.family, x, params)

    def on_validation_epoch_end(self) -> None:
        self.log_statistics("val")

    def on_test_epoch_end(self) -> None:
        self.log_statistics("test")

    on_test_epoch_start, test_step = on_validation_epoch_start, validation_step

    def log_statistics(self, split: str) -> dict[str, float]:
        """Logs the summary of a split, and returns it."""
        summary = self.statistics.summary(self.trainer.strategy)
        for name, value in summary.items():
            self.log(f"{split}/{name}", value, prog_bar=(split, name) == ("val", "elbo"), rank_zero_only=False)
        return summary
