"""Several independent distributions as one."""

from collections.abc import Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints


class Concatenated(dist.TorchDistribution):
    r"""Independent parts, their values flattened and side by side.

    .. math:: q(z) = \prod_l q_l(z_l), \qquad z = (z_1, \ldots, z_L)

    Args:
        parts: Distributions of one batch shape, and of any event shapes.
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
        return self._joined([part.rsample(torch.Size(sample_shape)) for part in self.parts])

    def log_prob(self, value: Tensor) -> Tensor:
        blocks = zip(self.parts, value.split(self.sizes, -1), strict=True)
        return sum(part.log_prob(z.reshape(*z.shape[:-1], *part.event_shape)) for part, z in blocks)

    @property
    def mean(self) -> Tensor:
        return self._joined([part.mean for part in self.parts])

    @property
    def variance(self) -> Tensor:
        return self._joined([part.variance for part in self.parts])

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> "Concatenated":
        return Concatenated([part.expand(batch_shape) for part in self.parts])

    def _joined(self, values: Sequence[Tensor]) -> Tensor:
        return joined(values, [len(part.event_shape) for part in self.parts])


def joined(values: Sequence[Tensor], event_dims: Sequence[int]) -> Tensor:
    """Values (..., *event_shape), each with its own number of event dimensions, as one (..., D)."""
    return torch.cat([z.reshape(*z.shape[: z.dim() - dim], -1) for z, dim in zip(values, event_dims, strict=True)], -1)
