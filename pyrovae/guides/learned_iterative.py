"""A network that has learned to take the steps."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import pyro
import torch
from pydantic import PositiveInt
from pyro.poutine.runtime import am_i_wrapped
from torch import Tensor, nn

from ..families import Family
from ..inference import ELBO, Inferred, frozen
from ..inference.elbo import scored_sites
from ..nets import MLP
from ..nets.mlp import Activation
from .base import Guide

Input = Literal["params", "gradient", "errors"]


class LearnedIterativeGuide(Guide):
    r"""λ₀ is one learned row; a network reads what λ_k does to the ELBO, and takes it to λ_{k+1}, K times.

    .. math:: \lambda_{k+1} = g_k \odot \lambda_k + (1 - g_k) \odot u_k, \qquad
        (u_k, g_k) = f(\lambda_k, \operatorname{asinh} \nabla_\lambda L_\beta(\lambda_k),
        e(\operatorname{asinh}(x - E[x \mid z_k])))

    with f the update head, e the encoder, and z_k the draws that the gradient comes from; asinh because gradients, and
    errors of counts, vary over orders of magnitude. What is taught is the sum of the ELBOs at λ₀ ... λ_K. That at λ_K
    is the reported one and alone teaches the model; what the others teach enters as a `pyro.factor` of value zero,
    whose gradient the steps have already estimated, so it costs no pass.

    Args:
        model: The model that λ is found under; held fixed meanwhile.
        family: Turns λ into q; gives λ₀ its first value.
        encoder: Network from (..., *x_shape) to (..., P).
        num_steps: K.
        widths: Hidden units of the head; `()` is affine.
        activation: Nonlinearity of the head.
        inputs: What the head reads; without `errors` there is no encoder.
        num_particles: Draws of z a datapoint and step.
        detach: As published: each step learns what it is worth by itself. Otherwise gradients run through the whole
            loop, second derivatives of the ELBO included, and a step also learns what it is worth to later ones.

    Raises:
        ValueError: A number below 1, unknown or no inputs; when called, a model without one observed site for x.

    References:
        Iterative Amortized Inference (Marino et al., 2018), arXiv:1807.09356
        Learning to learn by gradient descent by gradient descent (Andrychowicz et al., 2016), arXiv:1606.04474
    """

    def __init__(
        self,
        model: nn.Module,
        family: Family,
        encoder: nn.Module,
        *,
        num_steps: PositiveInt = 5,
        widths: Sequence[PositiveInt] = (256,),
        activation: Activation = "elu",
        inputs: Sequence[Input] = ("params", "gradient", "errors"),
        num_particles: PositiveInt = 1,
        detach: bool = True,
    ) -> None:
        super().__init__(family)
        if num_steps < 1:
            raise ValueError(f"num_steps must be >= 1, got {num_steps}; use AmortizedGuide for no iteration")
        if num_particles < 1:
            raise ValueError(f"num_particles must be >= 1, got {num_particles}")
        if not inputs or len({*inputs}) < len(inputs) or not {*inputs} <= {*get_args(Input)}:
            raise ValueError(f"inputs must be some of {', '.join(get_args(Input))}, each once, got {list(inputs)}")
        self._model = (model,)  # in a tuple: known to the guide, but no submodule of it
        self.num_steps = num_steps
        self.inputs = tuple(inputs)
        self.num_particles = num_particles
        self.detach = detach
        self.init_params = nn.Parameter(family.init_params())
        self.encoder = encoder if "errors" in inputs else None
        size = family.num_params
        self.head = MLP((len(inputs) * size,), (2, size), widths=widths, activation=activation)

    def infer(self, x: Tensor, beta: float | Tensor = 1.0, record: bool = False) -> Inferred:
        learns = torch.is_grad_enabled()
        # Lightning validates under inference mode, where there would be no gradient to read.
        with torch.inference_mode(False), torch.set_grad_enabled(learns):
            x = x.clone() if x.is_inference() else x
            params = self.init_params.expand(x.shape[0], -1)  # (B, P)
            path, gradients = [params], []
            for _ in range(self.num_steps):
                gradient, error = self._look(x, params, beta)
                params = self._step(params, gradient, error)
                path.append(params)
                gradients.append(gradient.detach())
            # Its gradient is that of -L_β at λ₀ ... λ_{K-1}, whatever those are attached to.
            surrogate = torch.stack([(g * p).sum(-1) for g, p in zip(gradients, path, strict=False)]).sum(0)  # (B,)
        return Inferred(
            path[0],
            params,
            path=torch.stack(path).detach() if record else None,
            slope=gradients[0],
            surrogate=surrogate if learns else None,
        )

    def teach(self, x: Tensor, inferred: Inferred, beta: float | Tensor) -> None:
        if inferred.surrogate is not None and torch.is_grad_enabled() and am_i_wrapped():  # within inference, that is
            loss = inferred.surrogate.sum()
            pyro.factor("steps", loss - loss.detach(), has_rsample=True)

    def _look(self, x: Tensor, params: Tensor, beta: float | Tensor) -> tuple[Tensor, Tensor | None]:
        """The gradient of -L_β at λ (B, P), and the error x - E[x | z] from the same draws."""
        (model,), attached = self._model, torch.is_grad_enabled() and not self.detach and params.requires_grad
        with torch.enable_grad(), frozen(model), frozen(self.family), pyro.validation_enabled(False):
            point = params if attached else params.detach().requires_grad_()
            # A q held fixed would hide how the gradient itself changes with λ.
            elbo = ELBO(beta, num_particles=self.num_particles, path_gradient=self.detach)
            traces = elbo.traces(model, lambda x: self.family.sample(point), x)
            (gradient,) = torch.autograd.grad(elbo.loss_of(*traces), point, create_graph=attached)
            error = None if self.encoder is None else _error(traces[0], x)
        return gradient, error if attached or error is None else error.detach()

    def _step(self, params: Tensor, gradient: Tensor, error: Tensor | None) -> Tensor:
        """λ_{k+1} (B, P)."""
        params = params.detach() if self.detach else params
        read = {"params": params, "gradient": gradient.asinh()}
        if self.encoder is not None and error is not None:
            read["errors"] = self.encoder(error.asinh()).to(params.dtype)  # back from bfloat16 under autocast
        h = torch.cat([read[name] for name in self.inputs], -1)
        update, gate = self.head(h).to(params.dtype).unbind(-2)
        return torch.lerp(params, update, gate.sigmoid())


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
