"""The guide runs ahead of the model until z tells of x."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..validation import PositiveInt, validated


class AggressiveTraining:
    """At first the guide takes many steps for each of the model's, so that it does not lag behind the true posterior.

    The guide steps, batch after batch, until the mean loss of `window` steps is no lower than that of the `window`
    before, or for `max_steps`; then the model takes one step, on the next batch. That ends for good after the first
    epoch, or `patience` epochs in a row, whose mutual information between x and z, on the validation split, is not
    above the best before; from then on both step at once. What belongs to both, a `VampPrior`'s encoder, is the
    guide's: the model stands as still as it can.

    (In the paper the guide's loop draws its own batches. Here one stream feeds both, so that an epoch of few batches
    holds one or two steps of the model's, and the information may fail to rise by chance alone: raise `patience`.)

    Args:
        max_steps: Most steps of the guide for one of the model's.
        window: Steps whose losses are averaged.
        patience: Epochs in a row without a rise that end it; one in the paper.

    Reference:
        Lagging Inference Networks and Posterior Collapse in Variational Autoencoders (He et al., 2019),
        arXiv:1901.05534

    >>> settings = AggressiveTraining(max_steps=20, patience=3)  # for pv.fit(model, guide, data, aggressive=settings)
    """

    @validated
    def __init__(self, *, max_steps: PositiveInt = 100, window: PositiveInt = 10, patience: PositiveInt = 1) -> None:
        self.max_steps, self.window, self.patience = max_steps, window, patience


class Turns:
    """Whose turn it is, model or guide, under `AggressiveTraining`; `active` while they take turns at all."""

    def __init__(self, settings: AggressiveTraining | None) -> None:
        self.settings, self.active = settings, settings is not None
        self.information, self.num_stale = -math.inf, 0  # the most so far, and epochs in a row without a rise
        self._restart()

    def _restart(self) -> None:
        self.models, self.num_steps = False, 0  # whether it is the model's turn; steps of the guide since its last
        self.sum, self.before = torch.zeros(()), math.inf  # of the losses in this window; mean of the window before

    def keep(self, model: nn.Module, guide: nn.Module) -> None:
        """Drops the gradients of the side whose turn it is not: its parameters, and their moments, stay as they are."""
        if self.active:
            guides = set(guide.parameters())
            for param in guides if self.models else set(model.parameters()) - guides:
                param.grad = None

    def after_step(self, loss: Tensor, mean_of_ranks: Callable[[Tensor], Tensor]) -> None:
        """Passes the turn on after a step with this loss."""
        if self.settings is None or not self.active:
            return
        if self.models:
            return self._restart()
        self.num_steps += 1
        self.sum = self.sum.to(loss) + loss
        if self.num_steps % self.settings.window == 0:  # the one look at losses, which waits for a GPU
            mean = float(mean_of_ranks(self.sum)) / self.settings.window
            self.models = not mean < self.before
            self.sum, self.before = torch.zeros_like(loss), mean
        self.models = self.models or self.num_steps >= self.settings.max_steps

    def after_epoch(self, information: float) -> None:
        """Ends the turns if the mutual information has not risen for long enough."""
        self.num_stale = 0 if information > self.information else self.num_stale + 1
        self.information = self.information if self.num_stale else information
        self.active = self.settings is not None and self.active and self.num_stale < self.settings.patience

    def state_dict(self) -> dict[str, Any]:
        """All but the settings; nothing where there are none."""
        return {} if self.settings is None else {k: v for k, v in vars(self).items() if k != "settings"}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a `state_dict`, if there are settings now too."""
        if self.settings is not None:
            vars(self).update(state)
