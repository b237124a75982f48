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
    above the best before; from then on both step at once, as always.

    What belongs to both, the encoder of a `VampPrior`, is the guide's: the method is about a guide that catches up with
    a model that stands still, and it stands as still as it can.

    (In the paper each of the model's steps has a loop of the guide's on batches drawn for it, so that an epoch is a
    model step on every batch. Here one stream of batches feeds both, and an epoch costs what it always costs. With
    few batches an epoch holds one or two steps of the model's, and the information may fail to rise by chance alone:
    raise `patience`.)

    Args:
        max_steps: Most steps of the guide for one of the model's.
        window: Steps whose losses are averaged.
        patience: Epochs in a row without a rise that end it; one in the paper.

    Raises:
        ValueError: A number below 1.

    Reference:
        Lagging Inference Networks and Posterior Collapse in Variational Autoencoders (He et al., 2019),
        arXiv:1901.05534

    >>> import pyrovae as pv
    >>> model, family = pv.models.mlp((1, 6, 5), 3), pv.DiagonalNormal(3)
    >>> guide = pv.AmortizedGuide(family, pv.nets.MLP((1, 6, 5), (family.num_params,)))
    >>> module = pv.LitVAE(model, guide, aggressive=AggressiveTraining(max_steps=20))
    """

    @validated
    def __init__(self, *, max_steps: PositiveInt = 100, window: PositiveInt = 10, patience: PositiveInt = 1) -> None:
        self.max_steps, self.window, self.patience = max_steps, window, patience


class Turns:
    """Whose turn it is, model or guide, under `AggressiveTraining`.

    Attributes:
        active: Whether they take turns at all.
    """

    def __init__(self, settings: AggressiveTraining | None) -> None:
        self.settings = settings
        self.active = settings is not None
        self.information = -math.inf  # the most so far
        self.num_stale = 0  # epochs in a row without a rise
        self._restart()

    def _restart(self) -> None:
        self.num_steps = 0  # of the guide, since the model's last
        self.sum = torch.zeros(())  # of the losses in this window
        self.before = math.inf  # the mean of the window before
        self.models = False  # whether this is the model's turn

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
        if self.settings is None:
            return
        if information > self.information:
            self.information, self.num_stale = information, 0
        else:
            self.num_stale += 1
        self.active = self.active and self.num_stale < self.settings.patience

    def state_dict(self) -> dict[str, Any]:
        """All but the settings; nothing where there are none."""
        return {} if self.settings is None else {k: v for k, v in vars(self).items() if k != "settings"}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a `state_dict`, if there are settings now too."""
        if self.settings is not None:
            vars(self).update(state)
