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
from .noise import seed_noise

ACTIVE_VARIANCE = 0.01


def posterior_mean(q: Any) -> Tensor | None:
    """E_q[z] (B, D), the event flattened; None for a q that does not know it.

    >>> import pyrovae as pv
    >>> posterior_mean(pv.DiagonalNormal(3)(torch.zeros(5, 6))).shape
    torch.Size([5, 3])
    """
    try:
        return q.mean.reshape(q.batch_shape.numel(), -1)
    except NotImplementedError:
        return None


class SplitStatistics:
    """Accumulates per-datapoint values batch by batch, on any number of ranks.

    Args:
        z_dim: Entries of E_q[z]; 0 if q does not know it.
        device: Where the sums live.
        informed: Whether `add` gets `information`; all ranks must agree, also one that gets no batch.

    >>> statistics = SplitStatistics(z_dim=3, device=torch.device("cpu"))
    >>> terms = Terms(recon=-torch.ones(5), kl=torch.zeros(5))
    >>> statistics.add(terms, terms, mean=torch.zeros(5, 3), reverted=None)
    >>> statistics.count
    tensor(5., dtype=torch.float64)
    """

    NAMES = ("elbo", "elbo_init", "refinement_gain", "recon", "kl")

    def __init__(self, z_dim: int, device: torch.device, informed: bool = False) -> None:
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self.count = torch.zeros((), dtype=dtype, device=device)
        self.reverted = torch.zeros((), dtype=dtype, device=device)
        self.values = torch.zeros(2, len(self.NAMES), dtype=dtype, device=device)  # sums, sums of squares
        self.information = torch.zeros((), dtype=dtype, device=device) if informed else None
        self.means = torch.zeros(2, z_dim, dtype=dtype, device=device)  # the same of E_q[z]

    def add(
        self,
        terms_init: Terms,
        terms: Terms,
        mean: Tensor | None,
        reverted: Tensor | None,
        information: Tensor | None = None,
    ) -> None:
        """Adds a batch: scores at λ₀ and λ_K, E_q[z] (B, D), which datapoints kept λ₀, and `mutual_information`."""
        elbo, elbo_init = terms.elbo(), terms_init.elbo()
        rows = torch.stack([elbo, elbo_init, elbo - elbo_init, terms.recon, terms.kl]).to(self.values)  # (5, B)
        self.values += torch.stack([rows.sum(1), rows.square().sum(1)])
        if mean is not None:
            mean = mean.to(self.means)
            self.means += torch.stack([mean.sum(0), mean.square().sum(0)])
        self.count += len(elbo)
        if reverted is not None:
            self.reverted += reverted.sum()
        if self.information is not None and information is not None:
            self.information += information.to(self.values).sum()

    def summary(self, strategy: Any) -> dict[str, float]:
        """Means over all ranks, in nats a datapoint, with standard errors of the ELBO and of the gain."""
        values, means, count, reverted = (
            strategy.reduce(sums, reduce_op="sum") for sums in (self.values, self.means, self.count, self.reverted)
        )
        n = float(count)
        average, variance = values[0] / n, (values[1] / n - (values[0] / n).square()).clamp_min(0)
        error = (variance / max(n - 1, 1)).sqrt()
        result = dict(zip(self.NAMES, average.tolist(), strict=True))
        result["elbo_se"], result["refinement_gain_se"] = error[0].item(), error[2].item()
        if means.shape[1]:
            # Burda et al. (2016), arXiv:1509.00519: a unit is active if its posterior mean varies over the data.
            spread = means[1] / n - (means[0] / n).square()
            result["active_units"] = float((spread > ACTIVE_VARIANCE).sum())
        result["num_reverted"] = float(reverted)
        if self.information is not None:
            result["mutual_information"] = float(strategy.reduce(self.information, reduce_op="sum")) / n
        return result


class EvaluatedModule(pl.LightningModule):
    """Scores λ₀ and λ_K of whole splits.

    With fresh draws, so that the choice that a safeguard made by its own does not flatter it, and in evaluation mode,
    so that looking at training does not change it.

    Args:
        elbo: An objective applied to model and guide, which it registers.
        seed: Of the noise.
        eval_particles: Draws of z a datapoint.
        engine: As of `pyrovae.engine`.
        measures_information: Whether to estimate I(x; z) within each batch, too.
    """

    def __init__(
        self, elbo: ELBOModule, *, seed: int, eval_particles: int, engine: Engine, measures_information: bool
    ) -> None:
        super().__init__()
        self.elbo, self.seed, self.eval_particles, self.engine = elbo, seed, eval_particles, engine
        self.measures_information = measures_information
        self._num_batches: int | None = None  # to come in all

    @property
    def model(self) -> Any:
        """The generative model."""
        return self.elbo.model

    @property
    def guide(self) -> Guide:
        """The guide."""
        return cast(Guide, self.elbo.guide)

    def chosen_engine(self) -> AbstractContextManager[None]:
        """The engine to run under, as a context."""
        # A float16 scaler acts between forward and backward, which a graph has behind it.
        choice: Engine = "eager" if self.trainer.precision == "16-mixed" else self.engine
        return engine(choice, self._num_batches)

    def score(self, x: Tensor, inferred: Inferred, num_particles: int) -> Any:
        """The terms at λ₀ and λ_K under fresh common noise."""
        params = [inferred.init] if inferred.params is inferred.init else [inferred.init, inferred.params]
        with evaluating(self):
            terms = common_noise_terms(self.model, self.guide.family, x, *params, num_particles=num_particles)
        return terms[0], terms[-1]

    def on_validation_epoch_start(self) -> None:
        family = self.guide.family
        mean = posterior_mean(family(family.init_params().to(self.device)[None]))  # here, for a rank without any batch
        size = 0 if mean is None else mean.shape[1]
        self._statistics = SplitStatistics(size, self.device, self.measures_information)

    on_test_epoch_start = on_validation_epoch_start

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x = batch[0] if isinstance(batch, tuple | list) else batch
        if len(x) == 0:  # the last batch may have nothing for this rank
            return
        seed_noise(self.device, self.seed, "eval", batch_idx, self.global_rank)  # the same at every epoch
        with self.chosen_engine():
            inferred = self.guide.infer(x)
        terms_init, terms = self.score(x, inferred, self.eval_particles)
        mean = posterior_mean(self.guide.family(inferred.params))
        information = mutual_information(self.guide.family, inferred.params) if self.measures_information else None
        self._statistics.add(terms_init, terms, mean, inferred.reverted, information)

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        self._log_statistics("val")

    def on_test_epoch_end(self) -> None:
        self._log_statistics("test")

    def _log_statistics(self, split: str) -> dict[str, float]:
        summary = self._statistics.summary(self.trainer.strategy)
        for name, value in summary.items():
            self.log(f"{split}/{name}", value, prog_bar=(split, name) == ("val", "elbo"), rank_zero_only=False)
        return summary
