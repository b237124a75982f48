"""A mixture of the guide's own posteriors."""

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from pydantic import PositiveInt
from torch import Tensor, nn


class VampPrior(nn.Module):
    r"""The mixture of the posteriors that the guide's encoder gives for C learned pseudo-inputs.

    .. math:: p(z) = \frac1C \sum_c q(z \mid u_c)

    Encoder and family are the guide's own, so the model learns them too. Pseudo-inputs stay within [0, 1].

    Args:
        x_shape: Of a datapoint.
        family: The guide's family.
        encoder: The guide's encoder, from (..., *x_shape) to (..., P).
        num_components: C.

    Raises:
        ValueError: `num_components` below 1.

    Reference:
        VAE with a VampPrior (Tomczak & Welling, 2018), arXiv:1705.07120
    """

    def __init__(
        self, x_shape: Sequence[int], family: nn.Module, encoder: nn.Module, *, num_components: PositiveInt = 500
    ) -> None:
        super().__init__()
        if num_components < 1:
            raise ValueError(f"num_components must be >= 1, got {num_components}")
        self.family = family
        self.encoder = encoder
        # Apart from each other and mostly dark, as images of things on a dark ground are.
        self.pseudo_inputs = nn.Parameter(torch.randn(num_components, *x_shape) - 2.0)  # (C, *x_shape), logits
        self.logits: Tensor
        self.register_buffer("logits", torch.zeros(num_components), persistent=False)

    def forward(self) -> dist.TorchDistribution:
        params = self.encoder(self.pseudo_inputs.sigmoid()).to(self.logits.dtype)  # (C, P)
        return dist.MixtureSameFamily(dist.Categorical(logits=self.logits), self.family(params))
