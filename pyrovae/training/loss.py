"""The loss of a batch, eager or with its backward pass in one graph."""

from functools import partial
from typing import Any, cast

import torch
from pyro.infer.elbo import ELBOModule
from torch import Tensor

from ..capture import Capture
from ..guides import Guide, RefinedGuide
from ..inference import Inferred, Objective


class BatchLoss:
    """The negative β-ELBO of a batch, in nats a datapoint, as something to call `backward` on.

    Compiled, guide, model, objective and backward pass are one graph, and the gradients wait for `backward`, which
    scales them and hands them on: precision plugins, DDP and optimizers see what they always see. What refines has run
    before, in graphs of its own; λ_K is an input, and its gradient, where it is attached to λ₀, one of those handed on.

    Args:
        elbo: An objective applied to model and guide.

    >>> import pyrovae as pv
    >>> model, guide = pv.models.mlp((4,), 3), pv.AmortizedGuide(pv.DiagonalNormal(3), pv.nets.MLP((4,), (6,)))
    >>> loss, inferred = BatchLoss(pv.ELBO()(model, guide))(torch.ones(8, 4))
    >>> loss.backward()
    """

    def __init__(self, elbo: ELBOModule) -> None:
        self.elbo = elbo
        self.guide, self.objective = cast(Guide, elbo.guide), cast(Objective, elbo.elbo)
        self._gradients = Capture(self.gradients, elbo.model, elbo.guide, name="the training loss")

    def __call__(
        self, x: Tensor, beta: float = 1.0, refine: bool = True, start: Tensor | None = None
    ) -> tuple[Tensor, Inferred]:
        """The loss for data x (B, *x_shape), and what was inferred.

        `beta` is a factor on the objective's own β. Unless `refine`, the proposal of a guide that refines is trained as
        an amortized guide's. Refinement starts at `start` (B, P), or at the proposal.
        """
        inferred = fixed = free = None
        if refine and isinstance(self.guide, RefinedGuide):
            inferred = self.guide.infer(x, self.objective.beta * beta, start=start)
            params = inferred.params.detach()
            fixed, free = (None, params) if inferred.attached else (params, None)
        args = x, x.new_full((), beta), fixed, free
        gradients = self._gradients.bind(*args)
        if gradients is self._gradients.function:
            inferred = inferred or self.propose(x, self.objective.beta * beta)
            return self.loss(x, beta, inferred), inferred
        loss, found, grads = gradients(*args)
        inferred = inferred or Inferred(found[0], found[-1])
        loss = _Known.apply(loss, grads, inferred.params, *self._parameters())
        for taught in inferred.teaching:
            loss = loss + (taught - taught.detach()).sum() / x.shape[0]
        return loss, inferred

    def propose(self, x: Tensor, beta: float | Tensor = 1.0) -> Inferred:
        """λ without refinement."""
        if not isinstance(self.guide, RefinedGuide):
            return self.guide.infer(x, beta)
        init = self.guide.initial(x)
        return Inferred(init, init)

    def loss(self, x: Tensor, beta: float | Tensor, inferred: Inferred) -> Tensor:
        """The loss, given λ."""
        guide = partial(self.guide, inferred=inferred)
        return self.objective.scaled(beta).differentiable_loss(self.elbo.model, guide, x) / x.shape[0]

    def gradients(self, x: Tensor, beta: Tensor, fixed: Tensor | None, free: Tensor | None) -> tuple[Any, ...]:
        """The loss; λ₀ and λ_K, or the one that is both; and the gradients of λ_K and of each parameter, or None.

        λ_K is `fixed` or `free`, which is to have a gradient, if either is given.
        """
        if free is not None:
            fixed = free = free.detach().requires_grad_()
        inferred = self.propose(x, self.objective.beta * beta) if fixed is None else Inferred(fixed, fixed)
        loss = self.loss(x, beta, inferred)
        inputs = self._parameters() if free is None else [free, *self._parameters()]
        grads = torch.autograd.grad(loss, inputs, allow_unused=True)
        found = (inferred.init, inferred.params)[inferred.params is inferred.init :]
        return loss.detach(), tuple(end.detach() for end in found), (None, *grads) if free is None else grads

    def _parameters(self) -> list[Tensor]:
        return [p for p in self.elbo.parameters() if p.requires_grad]


class _Known(torch.autograd.Function):
    """A loss whose gradients are known before its backward pass; None for what is to have none."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, grads: tuple[Tensor | None, ...], *inputs: Tensor) -> Tensor:
        ctx.grads = grads
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> Any:  # type: ignore[override]
        scaled = iter(torch._foreach_mul([grad for grad in ctx.grads if grad is not None], scale))
        return None, None, *(None if grad is None else next(scaled) for grad in ctx.grads)
