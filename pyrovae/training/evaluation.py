"""Validation and test of a LightningModule."""

from abc import abstractmethod
from contextlib import AbstractContextManager
from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from ..guides import Guide
from ..inference import Inferred, common_noise_terms, mutual_information
from .noise import seed_noise
from .statistics import SplitStatistics


class EvaluatedModule(pl.LightningModule):
    """Scores λ₀ and λ_K of a whole split.

    With fresh draws, so that the choice that a safeguard made by its own does not flatter it.

    Attributes:
        seed: Of the noise.
        eval_particles: Draws of z a datapoint.
        measures_information: Whether to estimate I(x; z) within each batch, too.
    """

    seed: int
    eval_particles: int
    measures_information: bool

    @property
    @abstractmethod
    def model(self) -> Any:
        """The generative model."""

    @property
    @abstractmethod
    def guide(self) -> Guide:
        """The guide."""

    @abstractmethod
    def chosen_engine(self) -> AbstractContextManager[None]:
        """The engine to run under, as a context."""

    def score(self, x: Tensor, inferred: Inferred, num_particles: int) -> Any:
        """The terms at λ₀ and λ_K under fresh common noise."""
        params = [inferred.init] if inferred.params is inferred.init else [inferred.init, inferred.params]
        terms = common_noise_terms(self.model, self.guide.family, x, *params, num_particles=num_particles)
        return terms[0], terms[-1]

    # Validation and test: scored with fresh draws, so the choice that a safeguard made by its own does not flatter it.

    def on_validation_epoch_start(self) -> None:
        self._statistics = SplitStatistics(self.guide.family.z_dim, self.device, self.measures_information)

    on_test_epoch_start = on_validation_epoch_start

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x = batch[0] if isinstance(batch, tuple | list) else batch
        if len(x) == 0:  # the last batch may have nothing for this rank
            return
        seed_noise(self.device, self.seed, "eval", batch_idx, self.global_rank)  # the same at every epoch
        with self.chosen_engine():
            inferred = self.guide.infer(x)
        terms_init, terms = self.score(x, inferred, self.eval_particles)
        mean = self.guide.family(inferred.params).mean  # (B, D)
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
