"""One pass of an encoder."""

from torch import Tensor, nn

from ..families import Family
from ..inference import Inferred
from ..validation import validated
from .base import Beta, Guide, Rows


class AmortizedGuide(Guide):
    r"""λ = encoder(x): the inference network of a standard VAE.

    Args:
        encoder: Network from (..., *x_shape) to (..., P); `family` turns λ into q.

    Reference:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014), arXiv:1312.6114

    >>> import torch, pyrovae as pv
    >>> family = pv.DiagonalNormal(z_dim=2)
    >>> guide = pv.AmortizedGuide(family, pv.nets.MLP((4,), (family.num_params,)))
    >>> guide.infer(torch.ones(8, 4)).params.shape
    torch.Size([8, 4])
    """

    @validated
    def __init__(self, family: Family, encoder: nn.Module) -> None:
        super().__init__(family)
        self.encoder = encoder

    def infer(
        self, x: Tensor, beta: Beta = 1.0, record: bool = False, start: Rows = None, prior: Rows = None
    ) -> Inferred:
        params = self.encoder(x).to(x.dtype)  # (B, P), back from bfloat16 under autocast
        return Inferred(params, params)
