"""The loss of a batch, eager or with its backward pass in one graph."""

import copy
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

    Compiled, guide, model, objective and backward pass are one graph, and the gradients wait for `backward`, which
    scales them and hands them on: precision plugins, DDP and optimizers see what they always see. Refinement, with what
    proposes λ₀, runs before; λ₀ and λ_K are inputs, and the gradient of the one that teaches the proposal is handed on.

    Args:
        elbo: An objective applied to model and guide.

    >>> import pyrovae as pv
    >>> model, family = pv.models.mlp((30,), 3), pv.DiagonalNormal(3)
    >>> guide = pv.AmortizedGuide(family, pv.nets.MLP((30,), (family.num_params,)))
    >>> loss, inferred = BatchLoss(pv.ELBO()(model, guide))(torch.ones(5, 30), beta=1.0)
    >>> loss.backward()
    >>> inferred.params.shape
    torch.Size([5, 6])
    """

    def __init__(self, elbo: ELBOModule) -> None:
        self.elbo = elbo
        self._gradients = Capture(self.gradients, elbo.model, elbo.guide, name="the training loss")

    def __call__(
        self, x: Tensor, beta: float, refine: bool = True, start: Tensor | None = None
    ) -> tuple[Tensor, Inferred]:
        """The loss, and what was inferred.

        Args:
            x: Data (B, *x_shape).
            beta: Factor on the objective's own β.
            refine: Whether a guide that refines does; otherwise its proposal is trained as an amortized guide's.
            start: Where refinement starts instead of at the proposal (B, P).
        """
        guide, own = self.elbo.guide, self.elbo.elbo.beta
        inferred = None
        if isinstance(guide, RefinedGuide) and refine:
            inferred = guide.infer(x, own * beta, start=start)
        args = [x, x.new_full((), beta) * own]
        if inferred is not None and inferred.attached:
            args.append(inferred.params)
        elif inferred is not None:
            args += [inferred.init, inferred.params, *([] if inferred.slope is None else [inferred.slope])]
        args = [arg.detach() for arg in args]
        gradients = self._gradients.bind(*args)
        if gradients is self._gradients.function:
            inferred = inferred or self.propose(x, own * beta)
            return self.loss(x, own * beta, inferred), inferred
        taught: list[Tensor] = self._parameters()
        if inferred is not None:
            taught = [inferred.params if inferred.attached else inferred.init, *taught]
        loss, *results = gradients(*args)
        ends, grads = results[: -len(taught)], results[-len(taught) :]
        given = [grad if grad.shape == of.shape else None for grad, of in zip(grads, taught, strict=True)]
        return _Known.apply(loss, given, *taught), inferred or Inferred(ends[0], ends[-1])

    def propose(self, x: Tensor, beta: float | Tensor = 1.0) -> Inferred:
        """λ without refinement."""
        guide: Any = self.elbo.guide
        if not isinstance(guide, RefinedGuide):
            return guide.infer(x, beta)
        init = guide.initial(x)
        return Inferred(init, init)

    def loss(self, x: Tensor, beta: float | Tensor, inferred: Inferred) -> Tensor:
        """The loss, given λ and β, the objective's own included."""
        objective = copy.copy(self.elbo.elbo)
        objective.beta = beta
        guide = partial(self.elbo.guide, inferred=inferred, beta=beta)
        return objective.differentiable_loss(self.elbo.model, guide, x) / x.shape[0]

    def gradients(self, x: Tensor, beta: Tensor, *ends: Tensor) -> tuple[Tensor, ...]:
        """The loss, λ₀ and λ_K (or the one that is both; unless given), the gradient of `ends[0]`, of each parameter.

        `ends` is λ_K, where it is attached to λ₀ and alone teaches it; or λ₀, λ_K and the slope, if there is one. An
        empty gradient stands for none.
        """
        found: list[Tensor] = []
        if ends:
            first = ends[0].detach().requires_grad_()
            params, slope, *_ = *ends[1:], None, None
            inferred = Inferred(first, first if params is None else params, slope=slope)
        else:
            inferred = self.propose(x, beta)
            found = [inferred.init] if inferred.params is inferred.init else [inferred.init, inferred.params]
        loss = self.loss(x, beta, inferred)
        inputs = [*([first] if ends else []), *self._parameters()]
        grads = torch.autograd.grad(loss, inputs, allow_unused=True)
        filled = [loss.new_zeros(0) if grad is None else grad for grad in grads]
        return loss.detach(), *(end.detach() for end in found), *filled

    def _parameters(self) -> list[Tensor]:
        return [p for p in self.elbo.parameters() if p.requires_grad]


class LastRows:
    """A row of λ per training datapoint, from which refinement of it may start; NaN for those not visited yet.

    >>> rows = LastRows()
    >>> rows.put(torch.tensor([2, 0]), torch.ones(2, 6), num_rows=4)
    >>> rows.get(torch.tensor([0, 1]))[:, 0]
    tensor([1., nan])
    """

    def __init__(self) -> None:
        self.rows: Tensor | None = None  # (N, P)

    def get(self, numbers: Tensor) -> Tensor | None:
        """λ (B, P) of the datapoints numbered `numbers`; None before the first visit."""
        return None if self.rows is None else self.rows[numbers]

    def put(self, numbers: Tensor, params: Tensor, num_rows: int) -> None:
        """Keeps λ (B, P) of the datapoints numbered `numbers`, of at most `num_rows` in all."""
        if self.rows is None:
            self.rows = params.new_full((num_rows, params.shape[1]), torch.nan)
        self.rows[numbers] = params.detach()


class _Known(torch.autograd.Function):
    """A loss whose gradients are known before its backward pass; None for what is to have none."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, grads: list[Tensor | None], *inputs: Tensor) -> Tensor:
        ctx.grads = grads
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> Any:  # type: ignore[override]
        scaled = iter(torch._foreach_mul([grad for grad in ctx.grads if grad is not None], scale))
        return None, None, *(None if grad is None else next(scaled) for grad in ctx.grads)
