"""A low-rank normal that is well conditioned by construction."""

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor


class ConditionedLowRankNormal(dist.LowRankMultivariateNormal):
    r"""A normal of covariance A (I + U Uᵀ) A with diagonal A and a well conditioned I + UᵀU.

    Only the factorisation of the capacitance is not `LowRankMultivariateNormal`'s: it comes from U, as torch's would
    from A U and A², and is not checked. A check waits for a GPU at every step, and keeps a compiled graph from being
    cached on disk.

    Args:
        loc: Mean (..., D).
        factor: U (..., D, R), of a norm that float32 can square and add 1 to.
        scale: The diagonal of A (..., D).
    """

    def __init__(self, loc: Tensor, factor: Tensor, scale: Tensor) -> None:
        self.loc, self.cov_factor, self.cov_diag = loc, scale.unsqueeze(-1) * factor, scale.square()
        self._unbroadcasted_cov_factor, self._unbroadcasted_cov_diag = self.cov_factor, self.cov_diag
        capacitance = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device) + factor.mT @ factor
        self._capacitance_tril = torch.linalg.cholesky_ex(capacitance).L  # (..., R, R)
        torch.distributions.Distribution.__init__(self, loc.shape[:-1], loc.shape[-1:])

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        return super().expand(batch_shape, self._get_checked_instance(ConditionedLowRankNormal, _instance))
