"""A distribution given another draw."""

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch


class Conditional(dist.Independent):
    r"""q(z_1 | z_2) of independent entries, which knows what is left of it when q is held fixed.

    A path gradient scores z under q with q's parameters held fixed, but z_2 is no parameter: log q(z_1 | z_2) still
    depends on it. Only so does the gradient's noise vanish at the exact posterior.

    Args:
        base: The entries' distribution.
        fixed: Makes the same distribution again, from parameters that take no gradient and the attached z_2.

    Reference:
        Sticking the Landing (Roeder et al., 2017), arXiv:1703.09194
    """

    def __init__(self, base: Any, fixed: Callable[[], Any]) -> None:
        super().__init__(base, 1)
        self.held_fixed = fixed

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> "Conditional":
        new: Any = super().expand(batch_shape, self.__new__(type(self)))
        new.held_fixed = self.held_fixed
        return new
