"""Distributions made of others: side by side, given another draw, carried to another support."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal, constraints
from torch.distributions.transforms import ComposeTransform, ReshapeTransform

from .numerics import held_fixed

NUM_NODES = 64  # of the quadrature: exp(s ε) up to s = 3 in single precision


class Concatenated(dist.TorchDistribution):
    r"""Independent parts, of one batch shape and any event shapes, their values flattened and side by side.

    .. math:: q(z) = \prod_l q_l(z_l), \qquad z = (z_1, \ldots, z_L)

    >>> q = Concatenated([dist.Normal(torch.zeros(4, 3), 1.0).to_event(1), dist.Gamma(torch.ones(4), 1.0)])
    >>> q.event_shape, q.rsample((5,)).shape
    (torch.Size([4]), torch.Size([5, 4, 4]))
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.dependent(is_discrete=False, event_dim=1)  # each part has its own

    def __init__(self, parts: Sequence[Any]) -> None:
        self.parts = list(parts)
        self.sizes = [part.event_shape.numel() for part in self.parts]
        super().__init__(self.parts[0].batch_shape, torch.Size([sum(self.sizes)]), validate_args=False)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        return all(part.has_rsample for part in self.parts)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self._joined(part.rsample(torch.Size(sample_shape)) for part in self.parts)

    def log_prob(self, value: Tensor) -> Tensor:
        blocks = zip(self.parts, value.split(self.sizes, -1), strict=True)
        return sum(part.log_prob(z.reshape(*z.shape[:-1], *part.event_shape)) for part, z in blocks)

    @property
    def mean(self) -> Tensor:
        return self._joined(part.mean for part in self.parts)

    @property
    def variance(self) -> Tensor:
        return self._joined(part.variance for part in self.parts)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "Concatenated":
        return Concatenated([part.expand(batch_shape) for part in self.parts])

    def _joined(self, values: Iterable[Tensor]) -> Tensor:
        return joined(values, [len(part.event_shape) for part in self.parts])


def joined(values: Iterable[Tensor], event_dims: Sequence[int]) -> Tensor:
    """Values (..., *event_shape), each with its own number of event dimensions, as one (..., D).

    >>> joined([torch.zeros(7), torch.zeros(7, 3, 2)], [0, 2]).shape
    torch.Size([7, 7])
    """
    return torch.cat([z.reshape(*z.shape[: z.dim() - dim], -1) for z, dim in zip(values, event_dims, strict=True)], -1)


class Conditional(dist.Independent):
    r"""q(z_1 | z_2) of independent entries, which knows what is left of it when q is held fixed.

    A path gradient scores z under q with q's parameters held fixed, but z_2 is no parameter: log q(z_1 | z_2) still
    depends on it. Only so does the gradient's noise vanish at the exact posterior. `fixed` makes that distribution,
    `base` to event 1, from parameters that take no gradient and the attached z_2.

    Reference:
        Sticking the Landing (Roeder et al., 2017), arXiv:1703.09194

    >>> above, scale = (torch.ones(3, requires_grad=True) for _ in range(2))
    >>> q = Conditional(dist.Normal(above, scale), lambda: dist.Normal(above, scale.detach()).to_event(1))
    >>> z = q.rsample().detach()
    >>> [g is None for g in torch.autograd.grad(held_fixed(q).log_prob(z), (above, scale), allow_unused=True)]
    [False, True]
    """

    def __init__(self, base: Any, fixed: Callable[[], Any]) -> None:
        super().__init__(base, 1)
        self.held_fixed = fixed

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "Conditional":
        new: Any = super().expand(batch_shape, self.__new__(type(self)))
        new.held_fixed = self.held_fixed
        return new


class Transformed(dist.TransformedDistribution):
    r"""z = T(u) for fixed bijections T, with moments.

    Mean and variance are exact, by Gauss-Hermite quadrature, where T acts on each entry and u is normal. Elsewhere the
    mean is the plug-in T(E[u]), and there is no variance.

    >>> normal = dist.Normal(torch.zeros(3), 1.0).to_event(1)
    >>> Transformed(normal, [torch.distributions.ExpTransform()]).mean
    tensor([1.6487, 1.6487, 1.6487])
    """

    def held_fixed(self) -> Any:
        """A copy without gradient to the parameters; it shares T, which remembers where the last draw came from."""
        return dist.TransformedDistribution(held_fixed(self.base_dist), self.transforms)

    @property
    def mean(self) -> Tensor:
        return self._expectation(lambda z: z) if self._quadrature_is_exact else self._transform(self.base_dist.mean)

    @property
    def variance(self) -> Tensor:
        if not self._quadrature_is_exact:
            raise NotImplementedError("no variance in closed form; take that of draws")
        mean = self.mean
        return self._expectation(lambda z: (z - mean).square())

    @property
    def _quadrature_is_exact(self) -> bool:
        base = self.base_dist
        entries = base.base_dist if isinstance(base, Independent) else base
        return isinstance(entries, MultivariateNormal | Normal) and all(map(_is_elementwise, self.transforms))

    def _expectation(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        nodes, weights = np.polynomial.hermite_e.hermegauss(NUM_NODES)
        u = (self.base_dist.mean + node * self.base_dist.stddev for node in nodes)
        return sum(w * function(self._transform(each)) for w, each in zip(weights / weights.sum(), u, strict=True))

    def _transform(self, u: Tensor) -> Tensor:
        return ComposeTransform(self.transforms)(u)


def _is_elementwise(transform: Any) -> bool:
    try:
        return isinstance(transform, ReshapeTransform) or transform.sign is not None  # which what is monotone has
    except NotImplementedError:
        return False
