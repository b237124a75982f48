"""An inner step that can be differentiated."""

from collections.abc import Sequence

import pyro
import torch
from torch import Tensor, nn

from .elbo import ELBO
from .frozen import evaluating
from .row_optimizers import Slots
from .svi_step import SVIStep


class UnrolledStep:
    r"""`SVIStep`, attached to λ_k, to the optimizer's slots and to the weights of model and family.

    .. math:: \lambda_{k+1} = \lambda_k - \eta_k \, d(g(\lambda_k, \theta)), \qquad g = -\nabla_\lambda \sum_i L_\beta

    has derivatives with respect to λ_k and θ, which take second derivatives of L. (SVI itself has none: it takes its
    gradient with respect to a leaf.) Same arguments, noise and values as `SVIStep`, for gradients from outside.

    Args:
        step: The step to differentiate.
    """

    def __init__(self, step: SVIStep) -> None:
        self.step = step

    def __call__(self, x: Tensor, beta: Tensor, lr: Tensor, num_steps: Tensor, *state: Tensor) -> Slots:
        """The next state, attached to `state`."""
        k, params, _, *slots = state
        with evaluating(self.step.model), evaluating(self.step.family):
            grad = self._gradient(x, beta, params)
        return self.step.move(params, grad, lr, num_steps, k, tuple(slots))

    def _gradient(self, x: Tensor, beta: Tensor, params: Tensor) -> Tensor:
        """∇ of -L_β at λ (B, P), attached to λ."""
        family = self.step.family
        # The gradient is taken with respect to a view, of which z is made. A path gradient holds fixed the q that z is
        # scored under; here λ stands for it, which is no function of the view, yet has its part in the next derivative.
        path = (params if params.requires_grad else params.detach().requires_grad_()).view_as(params)
        elbo = ELBO(beta, num_particles=self.step.num_particles, path_gradient=self.step.path_gradient)
        if self.step.path_gradient:
            elbo.scorer = lambda x: family.sample(params)
        with pyro.validation_enabled(False):
            loss = elbo.differentiable_loss(self.step.model, lambda x: family.sample(path), x)
        return torch.autograd.grad(loss, path, create_graph=True)[0]

    def pull(self, x: Tensor, beta: Tensor, lr: Tensor, num_steps: Tensor, *rest: Tensor) -> Slots:
        """The step's vector-Jacobian product, a function of tensors to capture.

        `rest` is a state, then the gradients of something with respect to λ and slots after the step; returned are its
        gradients with respect to λ and slots before it, and to each of `weights`.
        """
        num = 3 + self.step.optimizer.num_slots
        (k, params, last, *slots), after = rest[:num], rest[num:]
        with torch.enable_grad():
            before = [part.detach().requires_grad_() for part in (params, *slots)]
            _, moved, _, *kept = self(x, beta, lr, num_steps, k, before[0], last, *before[1:])
            inputs = [*before, *weights(self.step.model, self.step.family)]
            return torch.autograd.grad([moved, *kept], inputs, after, materialize_grads=True)


def weights(*modules: nn.Module) -> Sequence[Tensor]:
    """The parameters that want gradient, each once."""
    return list(dict.fromkeys(p for module in modules for p in module.parameters() if p.requires_grad))
