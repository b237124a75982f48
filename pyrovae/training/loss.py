"""The loss of a batch, eager or with its backward pass in one graph."""

from functools import partial
from typing import Any

import torch
from pyro.infer.elbo import ELBOModule
from torch import Tensor

from ..capture import Capture
from ..guides import RefinedGuide
from ..inference import Inferred


class BatchLoss:
    """The negative β-ELBO of a batch, in nats a datapoint, as something to call `backward` on.

    Compiled, guide, model, ELBO and backward pass are one graph, and the gradients wait for `backward`, which scales
    them and hands them on: precision plugins, DDP and optimizers see what they always see. Refinement runs before, in
    its own graphs; λ_K is an input. Where λ_K is attached to λ₀, as an `UnrolledRefiner` leaves it, its gradient is one
    of those handed on.

    Args:
        elbo: An `ELBO` applied to model and guide.
    """

    def __init__(self, elbo: ELBOModule) -> None:
        self.elbo = elbo
        self._gradients = Capture(self.gradients, elbo.model, elbo.guide, name="the training loss")
        self._gradients_at = Capture(self.gradients_at, elbo.model, elbo.guide, name="the training loss")

    def __call__(
        self, x: Tensor, beta: float, refine: bool = True, start: Tensor | None = None
    ) -> tuple[Tensor, Inferred]:
        """The loss, and what was inferred.

        Args:
            x: Data (B, *x_shape).
            beta: Weight of the KL term.
            refine: Whether a guide that refines does; otherwise its proposal is trained as an amortized guide's.
            start: Where refinement starts instead of at the proposal (B, P).
        """
        guide: Any = self.elbo.guide
        scale = x.new_full((), beta)
        refined = isinstance(guide, RefinedGuide) and refine
        inferred = guide.infer(x, beta, start=start) if refined else None
        args = [x, scale]
        if inferred is not None:
            args += [inferred.params.detach(), *([] if inferred.slope is None else [inferred.slope])]
        through = inferred is not None and inferred.attached
        capture = self._gradients_at if through else self._gradients
        gradients = capture.bind(*args)
        if gradients is capture.function:
            inferred = inferred or self._propose(x, beta)
            return self.loss(x, beta, inferred), inferred
        parameters = [p for p in self.elbo.parameters() if p.requires_grad]
        if inferred is not None and through:
            loss, *grads = gradients(*args)
            return _Known.apply(loss, grads, inferred.params, *parameters), inferred
        loss, *results = gradients(*args)
        ends, grads = results[: -len(parameters)], results[-len(parameters) :]
        return _Known.apply(loss, grads, *parameters), inferred or Inferred(ends[0], ends[-1])

    def _propose(self, x: Tensor, beta: float | Tensor) -> Inferred:
        guide: Any = self.elbo.guide
        if not isinstance(guide, RefinedGuide):
            return guide.infer(x, beta)
        init = guide.initial(x)
        return Inferred(init, init)

    def loss(self, x: Tensor, beta: float | Tensor, inferred: Inferred) -> Tensor:
        """The loss, given λ."""
        elbo: Any = self.elbo.elbo
        elbo.beta = beta
        guide = partial(self.elbo.guide, inferred=inferred, beta=beta)
        return elbo.differentiable_loss(self.elbo.model, guide, x) / x.shape[0]

    def gradients(self, x: Tensor, beta: Tensor, *refined: Tensor) -> tuple[Tensor, ...]:
        """The loss, λ₀ and λ_K or the one that is both, and the gradient of each parameter.

        `refined`, if given, is λ_K, and the slope.
        """
        guide: Any = self.elbo.guide
        if refined:
            inferred = Inferred(guide.initial(x), refined[0], slope=refined[1] if len(refined) > 1 else None)
            inferred = guide.taught(x, inferred, beta)
        else:
            inferred = self._propose(x, beta)
        loss = self.loss(x, beta, inferred)
        parameters = [p for p in self.elbo.parameters() if p.requires_grad]
        grads = torch.autograd.grad(loss, parameters, materialize_grads=True)
        ends = [inferred.params] if inferred.params is inferred.init else [inferred.init, inferred.params]
        return loss.detach(), *(end.detach() for end in ends), *grads

    def gradients_at(self, x: Tensor, beta: Tensor, refined: Tensor) -> tuple[Tensor, ...]:
        """The loss, and the gradients of λ_K = `refined`, which alone teaches the proposal, and of each parameter."""
        params = refined.detach().requires_grad_()
        loss = self.loss(x, beta, Inferred(params, params))
        parameters = [p for p in self.elbo.parameters() if p.requires_grad]
        grads = torch.autograd.grad(loss, [params, *parameters], materialize_grads=True)
        return loss.detach(), *grads


class _Known(torch.autograd.Function):
    """A loss whose gradients are known before its backward pass."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, grads: list[Tensor], *parameters: Tensor) -> Tensor:
        ctx.grads = grads
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> Any:  # type: ignore[override]
        return None, None, *torch._foreach_mul(ctx.grads, scale)
