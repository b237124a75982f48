"""A network that has learned to take the steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import pyro
import torch
from torch import Tensor, nn

from ..families import Family
from ..inference import ELBO, Inferred, Refiner, Step, scored_sites
from ..inference.elbo import sampler
from ..inference.steps import Settings
from ..nets import MLP
from ..nets.mlp import Activation
from ..validation import PositiveInt, Sizes, validated
from .base import Beta, Guide, Rows

Input = Literal["params", "gradient", "errors"]


class LearnedIterativeGuide(Guide):
    r"""λ₀ is one learned row; a network reads what λ_k does to the ELBO, and takes it to λ_{k+1}, K times.

    .. math:: \lambda_{k+1} = g_k \odot \lambda_k + (1 - g_k) \odot u_k, \qquad
        (u_k, g_k) = f(\lambda_k, \operatorname{asinh} \nabla_\lambda L_\beta(\lambda_k),
        e(\operatorname{asinh}(x - E[x \mid z_k])))

    with f the update head, e the encoder, and z_k the draws that the gradient comes from; asinh because gradients, and
    errors of counts, vary over orders of magnitude. What is taught is the sum of the ELBOs at λ₀ ... λ_K. That at λ_K
    is the reported one and alone teaches the model; the others teach by :math:`\langle -\nabla L(\lambda_k), \lambda_k
    \rangle`, whose gradient the steps have already estimated, so they cost no pass.

    Args:
        model: The model that λ is found under; held fixed meanwhile. `family` gives λ₀ its first value.
        encoder: Network from (..., *x_shape) to (..., P).
        num_steps: K.
        widths, activation: Hidden units of the head, `()` is affine, and their nonlinearity.
        inputs: What the head reads; without `errors` there is no encoder.
        num_particles: Draws of z a datapoint and step.
        gradient: `stopped`, as published: each step learns what it is worth by itself. `unrolled`: gradients run
            through the whole loop, second derivatives included, and a step also learns what it is worth to later ones.

    Raises:
        ValueError: No inputs or one twice; when called, a model without one observed site for x.

    References:
        Iterative Amortized Inference (Marino et al., 2018), arXiv:1807.09356
        Learning to learn by gradient descent by gradient descent (Andrychowicz et al., 2016), arXiv:1606.04474

    >>> import pyrovae as pv
    >>> model, family = pv.models.mlp((4,), z_dim=2), pv.DiagonalNormal(2)
    >>> guide = pv.LearnedIterativeGuide(model, family, pv.nets.MLP((4,), (family.num_params,)), num_steps=3)
    >>> len(guide.infer(torch.ones(8, 4)).teaching)
    3
    """

    @validated
    def __init__(
        self, model: nn.Module, family: Family, encoder: nn.Module, *,
        num_steps: PositiveInt = 5, widths: Sizes = (256,), activation: Activation = "elu",
        inputs: Sequence[Input] = ("params", "gradient", "errors"),
        num_particles: PositiveInt = 1, gradient: Literal["stopped", "unrolled"] = "stopped",
    ) -> None:  # fmt: skip
        super().__init__(family)
        if not inputs or len({*inputs}) < len(inputs):
            raise ValueError(f"inputs must be some of params, gradient, errors, each once, got {list(inputs)}")
        self.init_params = nn.Parameter(family.init_params())
        size = family.num_params
        head = MLP((len(inputs) * size,), (2, size), widths=widths, activation=activation)
        self.update = _Update(head, encoder if "errors" in inputs else None, inputs)
        # In tuples: no submodules of the guide.
        self._loop = (_LearnedLoop(self.update, num_steps, num_particles, gradient == "unrolled"),)
        self._model = (model,)

    @property
    def refiner(self) -> Refiner:
        return self._loop[0]

    def initial(self, x: Tensor) -> Tensor:
        """λ₀ (B, P)."""
        return self.init_params.expand(x.shape[0], -1)

    def infer(
        self, x: Tensor, beta: Beta = 1.0, record: bool = False, start: Rows = None, prior: Rows = None
    ) -> Inferred:
        init = self.initial(x)
        first = init if start is None else torch.where(start.isnan(), init, start)
        return self.refiner(self._model[0], self.family, x, first, beta, record, prior)._replace(init=init)


class _Update(nn.Module):
    """From λ_k, the gradient there and the errors to λ_{k+1}."""

    def __init__(self, head: nn.Module, encoder: nn.Module | None, inputs: Sequence[Input]) -> None:
        super().__init__()
        self.head = head
        self.encoder = encoder
        self.inputs = tuple(inputs)

    def forward(self, params: Tensor, gradient: Tensor, error: Tensor | None) -> Tensor:
        read = {"params": params, "gradient": gradient.asinh()}
        if self.encoder is not None and error is not None:
            read["errors"] = self.encoder(error.asinh()).to(params.dtype)  # back from bfloat16 under autocast
        h = torch.cat([read[name] for name in self.inputs], -1)
        update, gate = self.head(h).to(params.dtype).unbind(-2)
        return torch.lerp(params, update, gate.sigmoid())


@dataclass(eq=False, repr=False)
class _LearnedLoop(Refiner):
    """K steps of an `_Update`."""

    update: _Update
    num_steps: int
    num_particles: int
    through: bool

    def make_step(self, model: nn.Module, family: Family) -> "_LearnedStep":
        # A q held fixed would hide how the gradient itself changes with λ.
        objective = ELBO(num_particles=self.num_particles, path_gradient=not self.through)
        return _LearnedStep(model, family, objective, self.through, self.update)


class _LearnedState(NamedTuple):
    params: Tensor  # (B, P) λ
    gradient: Tensor  # (B, P) that of -L_β before the last step


@dataclass(eq=False, repr=False)
class _LearnedStep(Step[_LearnedState]):
    """A step of the loop; attached to the network's weights, and to the state if gradients run through."""

    model: nn.Module
    family: Family
    objective: ELBO
    through: bool
    learned: Any  # the `_Update`

    def init(self, params: Tensor) -> _LearnedState:
        return _LearnedState(params, torch.zeros_like(params))

    def __call__(self, x: Tensor, settings: Settings, state: _LearnedState, prior: Rows = None) -> _LearnedState:
        through = self.through and torch.is_grad_enabled() and state.params.requires_grad
        params = state.params if through else state.params.detach()
        with torch.enable_grad(), pyro.validation_enabled(False):
            point = params if through else params.clone().requires_grad_()
            objective: Any = self.objective.scaled(settings.beta, prior=sampler(self.family, prior))
            traces = objective.traces(self.model, sampler(self.family, point), x)
            (gradient,) = torch.autograd.grad(objective.loss_of(*traces), point, create_graph=through)
            error = None if self.learned.encoder is None else _error(traces[0], x)
        error = error if through or error is None else error.detach()
        return _LearnedState(self.learned(params, gradient, error), gradient)


def _error(model_trace: Any, x: Tensor) -> Tensor:
    """x - E[x | z], mean over draws of z."""
    observed = {name: site for name, site in scored_sites(model_trace) if site["is_observed"]}
    matching = [site for site in observed.values() if site["value"].shape == x.shape]
    if len(matching) != 1:
        raise ValueError(
            f"errors need one observed site of the shape of x, {tuple(x.shape)}, got "
            f"{ {name: tuple(site['value'].shape) for name, site in observed.items()} }; set inputs: [params, gradient]"
        )
    return x - matching[0]["fn"].mean.reshape(-1, *x.shape).mean(0)
